"""The objects behind a rescue: one dispatch for each race, and none while a stream runs."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

from router.core.call import Call, parse
from router.proxy.dispatch import Dispatch
from router.proxy.rescue import Rescue, method_of
from tests.support import Player, endpoint
from tests.support.endpoints import cuts, opens, says, streams

WORDS = ("The ", "quick ", "brown ", "fox")
CUT = opens(0.1) + says(0.2, *WORDS[:2]) + cuts(0.5)


def alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(each, kind) for each in gc.get_objects())


def call_with(**fields: Any) -> Call:
    body = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "Hi"}]} | fields
    return parse("chat/completions", json.dumps(body).encode(), b"")


@pytest.mark.parametrize(
    ("resume", "fields", "method"),
    [
        ("off", {"seed": 1}, None),
        ("replay", {}, "replay"),
        ("auto", {}, None),
        ("auto", {"seed": 1}, "replay"),
        ("auto", {"temperature": 0}, "replay"),
        ("continue", {}, "continue"),
        ("continue", {"n": 2}, None),
    ],
)
def test_the_method_follows_the_policy_and_the_call(resume: str, fields: dict[str, Any], method: str | None) -> None:
    play = Player(endpoint("a", streams("hi")), resume=resume)
    assert method_of(call_with(**fields), play.table.routes["chat"]) == method


def test_each_race_has_a_dispatch_of_its_own_which_ends_with_it() -> None:
    before = alive(Dispatch), alive(Rescue)
    play = Player(endpoint("a", CUT), endpoint("b", streams(*WORDS, first=0.3), tier=2), resume="replay")
    call = play.call(0.0)
    counted = []
    for at in (0.1, 0.3, 0.6, 0.85):  # before the first token, in the stream, in the rescue, in the second stream
        play.at(at, lambda: counted.append((alive(Dispatch) - before[0], alive(Rescue) - before[1])))
    play.run()
    assert call.text == "".join(WORDS)
    assert counted == [(1, 0), (0, 1), (1, 1), (0, 1)]
    assert (alive(Dispatch), alive(Rescue)) == before


def test_a_stream_that_may_not_be_rescued_has_no_rescue() -> None:
    before = alive(Rescue)
    play = Player(endpoint("a", streams(*WORDS, first=0.2)), resume="auto")
    play.call(0.0)
    counted: list[int] = []
    play.at(0.25, lambda: counted.append(alive(Rescue) - before))
    play.run()
    assert counted == [0]
