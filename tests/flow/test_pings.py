"""Pings: comments that keep a waiting stream open."""

from __future__ import annotations

from tests.flow.timelines import quick_and_slow
from tests.support import Player, endpoint
from tests.support.endpoints import answers, completion, fails_with, streams


def test_a_client_that_waits_long_gets_pings_and_then_its_tokens() -> None:
    play = Player(endpoint("a", streams("at last", first=27.0)))
    call = play.call()
    play.run()
    assert call.pinged_at == [10.0, 25.0]
    assert call.status == 200
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert call.first_token_at == 27.0
    assert call.text == "at last"
    assert call.done
    assert call.body == b": ping\n\n" * 2 + play["a"].wires[0].sent
    assert b"id:" not in call.body  # openai-python would take the next ping for an empty event


def test_after_pings_a_failure_is_reported_inside_the_stream() -> None:
    play = Player(endpoint("a", fails_with(401, 12.0)))
    call = play.call()
    play.run()
    assert call.status == 200
    assert call.error["code"] == "endpoints_failed"
    assert call.body.count(b"data:") == 1
    assert not call.done
    assert call.ended_at == 12.0


def test_after_pings_another_endpoint_can_still_answer() -> None:
    play = Player(*quick_and_slow(fails_with(500, 12.0)), hedge="off")
    call = play.call()
    play.run()
    assert call.pinged_at == [10.0]
    assert call.text == "quick"
    assert call.first_token_at == 12.3


def test_a_client_that_does_not_stream_gets_no_pings() -> None:
    play = Player(endpoint("a", answers(completion(), 40.0)))
    call = play.call(stream=False)
    play.run()
    assert call.status == 200
    assert [at for at, _ in call.writes] == [40.0]
