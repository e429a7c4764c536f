"""An endpoint and its attempts: every counter returns to its value from before, and what each end of one teaches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.demand import KINDS, Demand, DemandKind
from router.core.endpoint.breaker import FIRST_WAIT, State
from router.core.endpoint.cooldown import MAX_RETRY_AFTER
from router.core.endpoint.endpoint import PENALTY, Attempt, Endpoint
from router.core.endpoint.slots import Slots
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import T, endpoint, properties


def counters(of: Endpoint) -> tuple[int, int, int]:
    """Attempts in flight, pending attempts, and slots in use."""
    return of.availability.in_flight, len(of.forecast.pending), of.availability.slots.used


# Counters.


# What happens, to which attempt, with which verdict, after how many seconds, for which kind, with which Retry-After.
Step = tuple[str, int, Verdict, float, DemandKind, float | None]

steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "first_token", "end"]),
        st.integers(0, 30),  # index of the attempt
        st.sampled_from(list(Verdict)),
        st.sampled_from([0.0, 0.3, 20.0]),  # seconds since the step before
        st.sampled_from(KINDS),
        st.sampled_from([None, 0.0, 2.0, 1e9]),
    ),
    max_size=60,
)


@properties
@given(steps=steps)
def test_every_attempt_counts_once_and_leaves_no_counter_changed(steps: list[Step]) -> None:
    subject = Endpoint("a", slots=Slots(3))
    attempts: list[Attempt] = []
    now = T
    for step, which, verdict, gap, kind, retry_after in steps:
        now += gap
        if step == "begin":
            attempts.append(subject.begin(now, Demand(kind)))
        elif attempts and step == "first_token":
            attempts[which % len(attempts)].first_token(now)
        elif attempts:
            attempts[which % len(attempts)].end(Outcome(verdict, retry_after=retry_after), now)
        running = [attempt for attempt in attempts if attempt.ended is None]
        pending = [attempt for attempt in running if attempt.first_token_at is None]
        assert counters(subject) == (len(running), len(pending), len(running))
        assert list(subject.forecast.pending) == pending  # oldest first
        assert sum(attempt.trial for attempt in running) <= 1
    for attempt in attempts:
        attempt.end(Outcome(Verdict.ABANDONED), now)
        attempt.end(Outcome(Verdict.FAULT), now)
    assert counters(subject) == (0, 0, 0)
    assert not any(subject.forecast._evidence.values())
    assert not any(subject.forecast._pending_count.values())
    assert subject.availability.allows(now + MAX_RETRY_AFTER)


def test_only_the_first_end_of_an_attempt_counts() -> None:
    subject = endpoint(seconds=None)
    attempt = subject.begin(T)
    attempt.end(Outcome(Verdict.REFUSED), T + 1.0)
    attempt.end(Outcome(Verdict.FAULT), T + 2.0)
    attempt.end(Outcome(Verdict.BUSY, retry_after=30.0), T + 2.0)
    attempt.first_token(T + 2.0)
    assert (attempt.verdict, attempt.ended, attempt.first_token_at) == (Verdict.REFUSED, T + 1.0, None)
    assert subject.availability.allows(T + 2.0)
    assert subject.availability.breaker.failures_in_a_row == 0
    assert subject.forecast.unmeasured("first_token")


def test_only_the_first_report_of_a_first_token_counts() -> None:
    subject = endpoint(seconds=None)
    attempt = subject.begin(T)
    attempt.first_token(T + 1.0)
    attempt.first_token(T + 9.0)
    assert attempt.first_token_at == T + 1.0
    assert subject.forecast.latency("first_token").mean(T) == 1.0


def test_an_attempt_releases_the_slot_that_it_took_after_a_reload_has_replaced_the_slots() -> None:
    subject = endpoint(limit=1)
    before, after = subject.availability.slots, Slots(5)
    attempt = subject.begin(T)
    subject.availability.slots = after
    attempt.end(Outcome(Verdict.SERVED), T)
    assert (before.used, after.used) == (0, 0)


# What an attempt teaches.


@pytest.mark.parametrize("verdict", [Verdict.SERVED, Verdict.REFUSED, Verdict.BUSY])
def test_an_end_that_measures_nothing_leaves_the_estimate_unchanged(verdict: Verdict) -> None:
    subject = endpoint(seconds=0.5)
    subject.begin(T).end(Outcome(verdict), T + 30.0)
    assert subject.forecast.latency("first_token").mean(T) == endpoint(seconds=0.5).forecast.latency(
        "first_token"
    ).mean(T)


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_token_is_recorded_for_the_demand_kind_of_its_call_only(kind: DemandKind) -> None:
    subject = endpoint(seconds=None)
    subject.begin(T, Demand(kind)).first_token(T + 3.0)
    assert [other for other in KINDS if not subject.forecast.unmeasured(other)] == [kind]
    assert subject.forecast.latency(kind).mean(T + 3.0) == pytest.approx(3.0)


def test_a_quick_failure_counts_as_a_wait_of_the_penalty_and_a_slow_one_as_its_duration() -> None:
    quick, slow = endpoint(seconds=None), endpoint(seconds=None)
    quick.begin(T).end(Outcome(Verdict.FAULT), T + 0.001)
    slow.begin(T).end(Outcome(Verdict.FAULT), T + 12.0)
    assert quick.forecast.latency("first_token").mean(T + 0.001) == pytest.approx(0.2 * 1.0 + 0.8 * PENALTY)
    assert slow.forecast.latency("first_token").mean(T + 12.0) == pytest.approx(0.2 * 1.0 + 0.8 * 12.0)


def test_a_broken_stream_is_penalised_but_not_for_the_time_that_it_streamed() -> None:
    subject = endpoint(seconds=None)
    attempt = subject.begin(T)
    attempt.first_token(T + 1.0)
    attempt.end(Outcome(Verdict.FAULT), T + 600.0)
    learned, expected = subject.forecast.latency("first_token"), endpoint(seconds=None).forecast.latency("first_token")
    expected.observe(1.0, T + 1.0)
    expected.observe(PENALTY, T + 600.0)
    assert learned.mean(T + 600.0) == expected.mean(T + 600.0)


def test_a_lost_attempt_counts_as_a_wait_of_at_least_its_duration() -> None:
    late, early, answered = (endpoint(seconds=1.0) for _ in range(3))
    late.begin(T).end(Outcome(Verdict.ABANDONED), T + 4.0)
    early.begin(T).end(Outcome(Verdict.ABANDONED), T + 0.2)
    attempt = answered.begin(T)
    attempt.first_token(T + 1.0)
    # Its client has left. Its first token is known.
    attempt.end(Outcome(Verdict.ABANDONED), T + 60.0)
    assert late.forecast.latency("first_token").mean(T + 4.0) > 1.0
    assert early.forecast.latency("first_token").mean(T + 0.2) == 1.0
    assert answered.forecast.latency("first_token").mean(T + 60.0) == 1.0


def test_a_trial_that_closes_the_breaker_starts_the_estimate_anew() -> None:
    subject = endpoint(seconds=0.2)
    for _ in range(10):
        subject.begin(T).end(Outcome(Verdict.FAULT), T + 30.0)
    trial = subject.begin(T + 60.0)
    assert trial.trial
    trial.first_token(T + 60.5)
    trial.end(Outcome(Verdict.SERVED), T + 90.0)
    assert subject.availability.breaker.state(T + 90.0) is State.CLOSED
    assert subject.forecast.latency("first_token").mean(T + 90.0) == pytest.approx(0.5)


def test_the_repr_of_an_endpoint_and_of_an_attempt_names_their_state() -> None:
    subject = Endpoint("a", "m")
    attempt = subject.begin(T)
    assert repr(subject) == "<Endpoint a/m 1 in flight, 1 pending>"
    assert repr(attempt) == "<Attempt first at a running>"
    attempt.end(Outcome(Verdict.BUSY), T)
    assert repr(attempt) == "<Attempt first at a busy>"


# Late losses: hedges end the attempts at a frozen endpoint before any timeout makes them fail.


def lose(of: Endpoint, began: float, seconds: float) -> None:
    """An attempt loses its race after some seconds without a token."""
    of.begin(began).end(Outcome(Verdict.ABANDONED), began + seconds)


def test_three_late_losses_in_a_row_open_the_breaker_unless_a_token_comes_between_them() -> None:
    frozen, tail = endpoint(seconds=0.2), endpoint(seconds=0.2)
    for subject in (frozen, tail):
        lose(subject, T, 0.5)
        lose(subject, T + 1.0, 0.5)
    tail.begin(T + 2.0).first_token(T + 2.2)
    for subject in (frozen, tail):
        lose(subject, T + 3.0, 0.5)
    assert not frozen.availability.allows(T + 3.5)
    assert tail.availability.allows(T + 3.5)


def test_a_loss_that_was_not_late_does_not_count() -> None:
    subject = endpoint(seconds=0.2)
    for n in range(10):
        lose(subject, T + n, 0.3)
    assert subject.availability.allows(T + 10.0)


def test_a_trial_that_loses_late_has_failed_and_one_that_loses_early_may_be_repeated() -> None:
    subject = endpoint(seconds=0.2)
    for _ in range(30):
        subject.forecast.latency("first_token").observe(0.2, T)
    for n in range(3):
        lose(subject, T + n, 0.5)
    then = T + 2.5 + FIRST_WAIT
    assert subject.availability.allows(then)
    lose(subject, then, 0.125)
    assert subject.availability.allows(then + 0.125)
    lose(subject, then + 1.0, 0.3)
    assert not subject.availability.allows(then + 1.3 + FIRST_WAIT)
    assert subject.availability.allows(then + 1.3 + 2 * FIRST_WAIT)


def test_losses_with_long_prompts_count_as_late_only_beyond_the_wait_usual_for_that_size() -> None:
    by_size = endpoint(seconds=None)
    for size in range(0, 4000, 40):
        by_size.forecast.latency("first_token").observe(0.2 + 0.0003 * size, T, float(size))
    by_size.forecast.latency("first_token").draw()
    long = [by_size.begin(T, Demand("first_token", 8000.0)) for _ in range(3)]
    assert not by_size.forecast.late(T + 2.5)
    for attempt in long:
        attempt.end(Outcome(Verdict.ABANDONED), T + 2.5)
    assert by_size.availability.allows(T + 2.5)
    short = [by_size.begin(T + 3.0, Demand("first_token", 100.0)) for _ in range(3)]
    assert by_size.forecast.late(T + 5.5)
    for attempt in short:
        attempt.end(Outcome(Verdict.ABANDONED), T + 5.5)
    assert not by_size.availability.allows(T + 5.5)
