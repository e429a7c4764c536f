"""The deadline: how long a call may wait for its first token."""

from __future__ import annotations

import pytest

from router.core.verdict import Verdict
from tests.flow.timelines import verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, fails_with, opens, streams


def test_no_first_token_in_time_is_a_504_that_is_not_to_be_retried() -> None:
    play = Player(endpoint("a", SILENT), endpoint("b", opens(0.1), tier=2), deadline=5)
    call = play.call()
    play.run()
    assert call.status == 504
    assert call.ended_at == 5.0
    assert call.error["code"] == "deadline_exceeded"
    assert call.headers["x-should-retry"] == "false"
    assert [play[name].wires[0].closed_at for name in "ab"] == [5.0, 5.0]
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.ABANDONED)]


def test_the_deadline_counts_from_the_arrival_over_all_attempts() -> None:
    play = Player(endpoint("a", fails_with(500, 3.0)), endpoint("b", SILENT, tier=2), deadline=5, hedge="off")
    call = play.call(1.0)
    play.run()
    assert call.ended_at == 6.0
    assert call.status == 504


def test_after_pings_the_deadline_is_reported_inside_the_stream() -> None:
    play = Player(endpoint("a", SILENT), deadline=30)
    call = play.call()
    play.run()
    assert call.status == 200
    assert call.pinged_at == [10.0, 25.0]
    assert call.ended_at == 30.0
    assert call.error["code"] == "deadline_exceeded"
    assert not call.done
    assert call.record.error == "deadline_exceeded"


def test_an_endpoint_may_have_a_shorter_deadline_of_its_own() -> None:
    play = Player(endpoint("a", SILENT, deadline=3), endpoint("b", SILENT, tier=2), deadline=6, hedge="off")
    call = play.call()
    play.run()
    assert play["a"].wires[0].closed_at == 3.0
    assert play["b"].asked_at == [3.0]
    assert call.ended_at == 6.0
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "retry", Verdict.ABANDONED)]


@pytest.mark.parametrize("start", [0.0, 5.224365126749774, 123456.789])
def test_an_endpoint_whose_own_deadline_has_passed_is_not_asked(start: float) -> None:
    play = Player(
        endpoint("a", SILENT, deadline=3),
        endpoint("b", SILENT, deadline=3, tier=2),
        endpoint("c", streams("c"), tier=3),
        hedge="off",
        deadline=6,
        start=start,
    )
    call = play.call()
    play.run()
    assert play["b"].wires == []
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("c", "retry", Verdict.SERVED)]


def test_the_time_a_request_took_to_arrive_counts() -> None:
    play = Player(endpoint("a", SILENT, deadline=1), endpoint("b", streams("b"), tier=2), deadline=10)
    late, too_late = play.call(20.0, took=1.5), play.call(30.0, took=11)
    play.run()
    assert verdicts(late) == [("b", "first", Verdict.SERVED)]
    assert late.first_token_at == 20.3
    assert too_late.ended_at == 30.0
    assert too_late.status == 504
    assert too_late.record.attempts == []
