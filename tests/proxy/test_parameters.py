"""Configured parameters reach the operations that know them."""

from __future__ import annotations

from typing import Any

import pytest

from router.proxy.parameters import takes
from tests.support import Player, endpoint
from tests.support.endpoints import answers, completion
from tests.support.player import CHAT, EMBEDDINGS

VECTORS = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}]}


@pytest.mark.parametrize("way", ["default", "force"])
def test_each_operation_gets_its_own_parameters(way: str) -> None:
    params: dict[str, Any] = {way: {"temperature": 0.5, "max_tokens": 2000, "dimensions": 8, "user": "u", "tools": []}}
    chat, embed = (
        Player(endpoint("a", answers(body, 0.1), models={"chat": "m"}, params=params))
        for body in (completion(), VECTORS)
    )
    chat.call(path=CHAT, stream=False)
    embed.call(path=EMBEDDINGS, input="hi", stream=False)
    chat.run()
    embed.run()
    sent = chat["a"].wires[0].json
    assert {name: sent.get(name) for name in params[way]} == params[way] | {"dimensions": None}
    assert embed["a"].wires[0].json == {"model": "m", "stream": False, "input": "hi", "dimensions": 8, "user": "u"}


def test_what_the_client_sends_stays_and_drop_holds_for_all() -> None:
    params = {"force": {"temperature": 1}, "drop": ["user"]}
    play = Player(endpoint("a", answers(VECTORS, 0.1), models={"chat": "m"}, params=params))
    play.call(path=EMBEDDINGS, input="hi", temperature=0.25, user="me")
    play.run()
    sent = play["a"].wires[0].json
    assert (sent["temperature"], "user" in sent) == (0.25, False)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("temperature", "chat/completions completions"),
        ("unknown_to_us", "chat/completions completions"),
        ("dimensions", "embeddings"),
        ("input_type", "embeddings"),
        ("encoding_format", "embeddings"),
        ("user", "chat/completions completions embeddings"),
        ("reasoning_effort", "chat/completions"),
        ("tools", "chat/completions"),
        ("echo", "completions"),
    ],
)
def test_which_operations_take_a_parameter(name: str, where: str) -> None:
    assert [o for o in ("chat/completions", "completions", "embeddings") if takes(o, name)] == where.split()
