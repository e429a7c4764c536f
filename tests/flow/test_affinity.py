"""Affinity: conversations that stay at one endpoint."""

from __future__ import annotations

from typing import Any

from tests.core.helpers import busy
from tests.flow.timelines import text_of_call, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import fails_with, streams


def conversation(number: int, turns: int = 1) -> list[dict[str, str]]:
    begun = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Tell me of {number}."}]
    return begun + [{"role": "assistant", "content": "…"}, {"role": "user", "content": "Go on."}] * (turns - 1)


def three(**policy: Any) -> Player:
    """Three endpoints with measurements, all equally quick."""
    play = Player(*(endpoint(name, streams(name)) for name in "abc"), models={"chat": policy}, hedge="off")
    for _ in range(30):
        play.call()
        play.run()
    assert not any(each.forecast.latency("first_token").unknown for each in play.table.endpoints)
    return play


def test_a_conversation_stays_at_one_endpoint_and_different_ones_are_spread() -> None:
    play = three(affinity="prefix")
    first = [text_of_call(play, messages=conversation(number)) for number in range(30)]
    assert set(first) == {"a", "b", "c"}
    later = [text_of_call(play, messages=conversation(number, turns=3)) for number in range(30)]
    assert sum(one != other for one, other in zip(first, later, strict=True)) <= 2  # exploration sends 1 % anywhere


def test_without_affinity_a_conversation_is_spread_as_well() -> None:
    play = three()
    assert len({text_of_call(play, messages=conversation(1)) for _ in range(30)}) > 1


def test_a_header_may_identify_the_conversation() -> None:
    play = three(affinity="header:X-Session-Id")
    sessions = [[(b"x-session-id", b"%d" % number)] for number in range(10)]
    first = [text_of_call(play, messages=conversation(number), headers=each) for number, each in enumerate(sessions)]
    later = [text_of_call(play, messages=conversation(99), headers=each) for each in sessions]
    assert len(set(first)) > 1
    assert sum(one != other for one, other in zip(first, later, strict=True)) <= 1


def test_a_conversation_leaves_an_endpoint_that_is_out_or_later_than_the_margin_and_comes_back() -> None:
    play = three(affinity="prefix", affinity_margin="1s")
    chat = conversation(1)
    own = text_of_call(play, messages=chat)
    now, endpoint = play.scheduler.now(), play.endpoint(own)
    busy(endpoint, 5.0, now)
    assert text_of_call(play, messages=chat) != own
    play.run_until(now + 6.0)
    assert text_of_call(play, messages=chat) == own
    for _ in range(40):
        endpoint.forecast.latency("first_token").observe(8.0, play.scheduler.now())
    assert text_of_call(play, messages=chat) != own


def test_affinity_does_not_change_where_retries_go() -> None:
    play = three(affinity="prefix")
    chat = conversation(1)
    own = text_of_call(play, messages=chat)
    play[own].plays(fails_with(500, 0.1), streams(own))
    call = play.call(messages=chat)
    play.run()
    assert [role for _, role, _ in verdicts(call)] == ["first", "retry"]
    assert verdicts(call)[0][0] == own
    assert call.text != own
    assert call.done
