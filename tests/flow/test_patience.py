"""How long a call may last where its client says how long it waits."""

from __future__ import annotations

import pytest

from router.core.verdict import Verdict
from tests.flow.timelines import verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, answers, completion, fails_with, streams


def waits(seconds: float) -> list[tuple[bytes, bytes]]:
    return [(b"x-stainless-read-timeout", b"%g" % seconds)]


@pytest.mark.parametrize(("seconds", "ends_at"), [(0.5, 1.5), (1, 2), (60, 61), (119.5, 120.5), (120, 121)])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_sees_its_own_timeout_first(seconds: float, ends_at: float, stream: bool) -> None:
    play = Player(endpoint("a", SILENT), hedge="off")
    call = play.call(headers=waits(seconds), stream=stream)
    play.run()
    assert call.ended_at == ends_at
    assert call.record.error == "deadline_exceeded"
    assert call.pinged_at == ([10.0, 25.0, 40.0, 55.0, 70.0, 85.0, 100.0, 115.0] if stream and seconds == 120 else [])


def test_the_last_attempt_at_a_plain_answer_may_last_as_long_as_its_client_waits() -> None:
    play = Player(endpoint("a", answers(completion("long"), 160.0)))
    call = play.call(headers=waits(600), stream=False)
    play.run()
    assert (call.status, call.json, call.ended_at) == (200, completion("long"), 160.0)
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


@pytest.mark.parametrize(("seconds", "ends_at"), [(130, 131), (600, 601), (1000, 600), (1e9, 600)])
def test_a_plain_answer_has_at_most_ten_minutes(seconds: float, ends_at: float) -> None:
    play = Player(endpoint("a", SILENT))
    call = play.call(headers=waits(seconds), stream=False)
    play.run()
    assert (call.status, call.ended_at) == (504, ends_at)


def test_a_stream_and_a_client_that_says_nothing_have_the_deadline() -> None:
    for headers, stream in ((waits(600), True), ([], False), (waits(float("inf")), False)):
        play = Player(endpoint("a", SILENT))
        call = play.call(headers=headers, stream=stream)
        play.run()
        assert call.ended_at == 120.0


def test_no_attempt_begins_after_the_deadline() -> None:
    play = Player(endpoint("a", fails_with(500, 150.0)), endpoint("b", SILENT, tier=2), hedge="off")
    call = play.call(headers=waits(600), stream=False)
    play.run()
    assert (call.status, call.ended_at) == (502, 150.0)
    assert len(play["b"].wires) == 0


def test_an_endpoint_with_a_shorter_deadline_is_given_up_while_others_are_left() -> None:
    a, b = endpoint("a", SILENT, deadline=10), endpoint("b", answers(completion("b"), 150.0), tier=2)
    play = Player(a, b, hedge="off")
    call = play.call(headers=waits(600), stream=False)
    play.run()
    assert call.json == completion("b")
    assert play["a"].wires[0].closed_at == 10.0
    assert play["b"].wires[0].began == 10.0


def test_a_hedge_runs_on_too() -> None:
    play = Player(endpoint("a", SILENT), endpoint("b", answers(completion("hedge"), 140.0), tier=2), hedge=5)
    call = play.call(headers=waits(600), stream=False)
    play.run()
    assert (call.json, call.ended_at) == (completion("hedge"), 145.0)
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.SERVED)]


def test_pings_and_streams_keep_their_first_token_deadline() -> None:
    play = Player(endpoint("a", streams("late", first=119.0)))
    call = play.call(headers=waits(600))
    play.run()
    assert call.text == "late"
