"""The forecast of what one more call would wait: measured waits, pending attempts and load."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from router.core.demand import FIRST_TOKEN
from router.core.endpoint.endpoint import Endpoint
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import ANSWER, T, endpoint, learn


def lines_run(of: Callable[[], object]) -> int:
    """The lines of the router's core that a call runs: unlike a time, the count does not depend on the machine."""
    lines = 0

    def count(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        lines += event == "line" and "/router/core/" in frame.f_code.co_filename
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        of()
    finally:
        sys.settrace(before)
    return lines


# The cost.


def test_the_cost_of_an_idle_endpoint_is_its_expected_wait() -> None:
    assert endpoint(seconds=0.5).forecast.cost(FIRST_TOKEN, T) == pytest.approx(0.5, rel=0.01)


def test_the_cost_rises_with_each_pending_attempt_and_less_with_each_stream() -> None:
    subject = endpoint(seconds=1.0)
    costs = [subject.forecast.cost(FIRST_TOKEN, T)]
    attempts = []
    for _ in range(3):
        attempts.append(subject.begin(T))
        costs.append(subject.forecast.cost(FIRST_TOKEN, T))
    assert costs == pytest.approx([1.0, 1.125, 1.25, 1.375])  # each adds an eighth: the server batches BATCH requests
    for attempt in attempts[:2]:
        attempt.first_token(T + 1.0)
    # One is pending, and three are in flight. The waits were measured under a little of that load.
    assert 1.1 < subject.forecast.cost(FIRST_TOKEN, T + 1.0) < 1.15


def test_the_load_under_which_the_waits_were_measured_adds_nothing_to_the_cost() -> None:
    subject = endpoint(seconds=None)
    for _ in range(50):
        beside = [subject.begin(T) for _ in range(3)]
        measured = subject.begin(T)
        measured.first_token(T + 1.0)
        for attempt in [measured, *beside]:
            attempt.end(Outcome(Verdict.REFUSED), T + 1.0)
    alone = subject.forecast.cost(FIRST_TOKEN, T + 1.0)
    subject.begin(T + 1.0), subject.begin(T + 1.0)
    assert subject.forecast.cost(FIRST_TOKEN, T + 1.0) == alone


# Pending attempts as evidence.


def test_a_late_attempt_raises_the_cost_while_it_is_pending() -> None:
    subject = endpoint(seconds=1.0)
    subject.begin(T)
    assert subject.forecast.cost(FIRST_TOKEN, T + 1.0) == pytest.approx(1.125)
    late = [subject.forecast.cost(FIRST_TOKEN, T + seconds) for seconds in (3.0, 6.0, 12.0)]
    assert 1.5 < late[0] < late[1] < late[2]  # no wait here was ever so long
    subject.begin(T + 0.5)
    assert subject.forecast.cost(FIRST_TOKEN, T + 12.0) > 10.0  # two at once are not chance


def test_without_a_curve_a_late_attempt_raises_the_cost_to_its_age() -> None:
    subject = endpoint(seconds=None)
    learn(subject, 1.0, 1.0)
    subject.begin(T)
    assert subject.forecast.cost(FIRST_TOKEN, T + 5.0) == pytest.approx(5.0 * 1.125)
    subject.begin(T + 5.0)
    assert subject.forecast.cost(FIRST_TOKEN, T + 5.0) == pytest.approx(5.0 * 1.25)  # the age of the oldest


def test_a_stall_of_a_usual_length_raises_the_cost_little() -> None:
    stalling = endpoint(seconds=None)
    learn(stalling, *([1.0] * 19 + [10.0]) * 10)
    before = stalling.forecast.cost(FIRST_TOKEN, T)
    stalling.begin(T)
    assert stalling.forecast.cost(FIRST_TOKEN, T + 5.0) < 1.5 * before


def test_a_first_token_does_not_clear_the_evidence_of_pending_answers() -> None:
    subject = endpoint(seconds=0.2)
    learn(subject, *[5.0] * 50, kind="answer")
    for _ in range(3):
        subject.begin(T, ANSWER)
    frozen = subject.forecast.cost(ANSWER, T + 60.0)
    subject.begin(T + 59.0).first_token(T + 59.2)
    assert subject.forecast.cost(ANSWER, T + 60.0) == pytest.approx(frozen, rel=0.1)
    assert frozen > 20.0


def test_a_pending_attempt_that_a_later_one_overtook_is_no_evidence() -> None:
    subject = endpoint(seconds=1.0)
    subject.begin(T), subject.begin(T + 0.1)
    assert subject.forecast.cost(FIRST_TOKEN, T + 8.0) > 5.0
    subject.begin(T + 7.0).first_token(T + 8.0)
    assert subject.forecast.cost(FIRST_TOKEN, T + 8.0) < 1.5


def test_a_late_attempt_counts_though_an_older_one_of_another_kind_is_pending() -> None:
    subject = endpoint(seconds=None)
    learn(subject, 1.0)
    subject.begin(T, ANSWER)
    subject.begin(T + 1.0, FIRST_TOKEN)
    assert subject.forecast.cost(FIRST_TOKEN, T + 11.0) == pytest.approx(10.0 * 1.25)


def test_the_age_of_an_attempt_is_no_evidence_for_another_kind() -> None:
    subject = endpoint(seconds=1.0)
    subject.begin(T, ANSWER)
    assert subject.forecast.cost(FIRST_TOKEN, T + 9.0) == pytest.approx(1.125, rel=0.01)


def test_an_endpoint_is_late_while_an_attempt_waits_for_much_longer_than_usual() -> None:
    subject = endpoint(seconds=0.2)
    attempt = subject.begin(T)
    assert not subject.forecast.late(T + 0.35)
    assert subject.forecast.late(T + 0.5)
    attempt.end(Outcome(Verdict.ABANDONED), T + 0.9)
    assert not subject.forecast.late(T + 0.9)


@pytest.mark.parametrize("overtaken", [False, True])
def test_the_work_of_a_forecast_does_not_grow_with_the_pending_attempts(overtaken: bool) -> None:
    few, many = endpoint(seconds=1.0), endpoint(seconds=1.0)
    for subject, pending in ((few, 10), (many, 300)):
        for _ in range(pending):
            subject.begin(T, FIRST_TOKEN if overtaken else ANSWER)
        if overtaken:
            subject.begin(T + 1.0).first_token(T + 2.0)

    def work(subject: Endpoint) -> int:
        now = T + 20.0
        return lines_run(
            lambda: (
                subject.forecast.cost(FIRST_TOKEN, now),
                subject.forecast.late(now),
                subject.forecast.trouble("answer", now),
            )
        )

    assert work(few) == work(many)
    assert few.forecast.trouble("first_token", T + 20.0) == 0.0  # all pending first tokens were overtaken


# The first measurement.


def test_a_newcomer_is_unmeasured_then_the_most_expensive_while_it_is_measured_then_known() -> None:
    subject = endpoint(seconds=None)
    assert subject.forecast.unmeasured("first_token")
    assert subject.forecast.cost(FIRST_TOKEN, T) == 1.0
    attempt = subject.begin(T)
    assert not subject.forecast.unmeasured("first_token")
    assert subject.forecast.cost(FIRST_TOKEN, T) > endpoint(seconds=100.0, weight=0.1).forecast.cost(FIRST_TOKEN, T)
    attempt.first_token(T + 1.0)
    assert not subject.forecast.unmeasured("first_token")
    assert subject.forecast.cost(FIRST_TOKEN, T + 1.0) == pytest.approx(1.0 + 0.1 / 8)


def test_a_newcomer_whose_first_call_measured_nothing_is_unmeasured_again() -> None:
    subject = endpoint(seconds=None)
    subject.begin(T).end(Outcome(Verdict.REFUSED), T)
    assert subject.forecast.unmeasured("first_token")
