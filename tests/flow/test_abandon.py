"""Abandoning: a silent attempt is abandoned if another endpoint can take over."""

from __future__ import annotations

from router.core.verdict import Verdict
from tests.flow.timelines import quick_and_slow, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, answers, completion, streams
from tests.support.outcomes import outcome_of


def test_a_silent_attempt_is_abandoned_if_a_later_tier_can_take_over() -> None:
    play = Player(*quick_and_slow(SILENT), hedge="off", abandon=4)
    call = play.call()
    play.run()
    assert play["a"].wires[0].closed_at == 4.0
    assert play["b"].asked_at == [4.0]
    assert call.first_token_at == 4.3
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "retry", Verdict.SERVED)]
    assert outcome_of(call.record.attempts[0]).reason == "no first token in time"


def test_the_last_live_attempt_keeps_the_whole_deadline() -> None:
    play = Player(endpoint("a", streams("at last", first=50.0)), hedge="off", abandon=4, deadline=60)
    call = play.call(stream=True)
    play.run()
    assert call.text == "at last"
    assert call.first_token_at == 50.0
    assert len(play["a"].wires) == 1


def test_the_oldest_attempt_makes_room_for_a_third() -> None:
    play = Player(
        endpoint("a", SILENT),
        endpoint("b", SILENT, tier=2),
        endpoint("c", streams("third", first=0.3), tier=3),
        abandon=5,
        hedge=1,
    )
    call = play.call()
    play.run()
    assert play["a"].wires[0].closed_at == 5.0
    assert play["b"].asked_at == [1.0]
    assert play["c"].asked_at == [5.0]
    assert call.first_token_at == 5.3
    assert play["b"].wires[0].closed_at == 5.3


def test_an_attempt_that_does_not_stream_is_not_abandoned_for_its_silence() -> None:
    play = Player(
        endpoint("a", answers(completion("long"), 40.0)),
        endpoint("b", answers(completion("b"), 60.0), tier=2),
        abandon=5,
    )
    call = play.call(stream=False)
    play.run()
    assert play["b"].asked_at == [5.0]  # as a hedge
    assert call.ended_at == 40.0
    assert verdicts(call) == [("a", "first", Verdict.SERVED), ("b", "hedge", Verdict.ABANDONED)]
