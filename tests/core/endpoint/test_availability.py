"""Whether an endpoint may be asked, and when again: probes, cooldown, slots, learned limit and breaker together."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.demand import FIRST_TOKEN, Demand
from router.core.endpoint.breaker import FIRST_WAIT, State
from router.core.endpoint.cooldown import FIRST_COOLDOWN, MAX_RETRY_AFTER, OPERATOR_WAIT
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.health import FALL
from router.core.endpoint.slots import Slots
from router.core.verdict import OURS, Cause, Doubt, Outcome, Verdict
from tests.core.helpers import CHAT, T, busy, endpoint, fill, properties, refuse, trip

# Probes.


def test_a_probe_decides_whether_the_endpoint_is_up_and_closes_no_breaker() -> None:
    subject = endpoint(seconds=None)
    assert subject.availability.probed(False, T)
    trip(subject)
    assert subject.availability.probed(True, T + 0.5)
    assert not subject.availability.probed(True, T + 0.5)
    assert subject.availability.breaker.state(T + 0.5) is State.HALF_OPEN


def test_a_successful_probe_brings_the_trial_forward_only_after_a_failed_probe() -> None:
    frozen, restarted = endpoint(), endpoint()
    for subject in (frozen, restarted):
        subject.availability.probed(True, T)
        trip(subject)
    restarted.availability.probed(False, T + 0.1)
    for subject in (frozen, restarted):
        subject.availability.probed(True, T + 0.5)
    assert not frozen.availability.allows(T + 0.5)
    assert restarted.availability.allows(T + 0.5)


def test_a_served_attempt_marks_the_endpoint_up_and_failed_attempts_do_not_mark_it_down() -> None:
    subject = endpoint()
    for _ in range(FALL):
        subject.availability.probed(False, T)
    assert not subject.availability.allows(T)
    subject.begin(T).end(Outcome(Verdict.SERVED), T + 1.0)
    assert subject.availability.allows(T + 1.0)
    assert subject.availability.served_at == T + 1.0
    for _ in range(2):
        subject.begin(T).end(Outcome(Verdict.FAULT), T + 1.0)
    assert subject.availability.health.up


# Busy endpoints.


BUSY = Outcome(Verdict.BUSY)


def test_an_endpoint_with_a_quota_cools_down_for_the_time_that_it_reported() -> None:
    subject = endpoint()
    busy(subject, 7.0)
    assert not subject.availability.allows(T + 6.999)
    assert subject.availability.recovers_at(T) == T + 7.0
    assert subject.availability.allows(T + 7.0)


def test_the_first_refusal_begins_no_cooldown_and_the_second_one_of_a_second() -> None:
    subject = endpoint()
    refuse(subject, BUSY, calls=1)
    assert subject.availability.recovers_at(T) == T
    assert subject.availability.sound(T)
    refuse(subject, BUSY, calls=1)
    assert subject.availability.recovers_at(T) == T + FIRST_COOLDOWN


def test_the_cooldown_of_an_endpoint_that_stays_busy_doubles_until_it_serves() -> None:
    subject, now, waits = endpoint(), T, []
    for _ in range(7):
        refuse(subject, BUSY, now, calls=1)
        waits.append(subject.availability.recovers_at(now) - now)
        now += waits[-1]
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0]
    subject.begin(now).end(Outcome(Verdict.SERVED), now)
    assert not subject.availability.cooldowns
    refuse(subject, BUSY, now)
    assert subject.availability.recovers_at(now) == now + FIRST_COOLDOWN


def test_attempts_that_are_refused_as_busy_at_the_same_time_count_as_one() -> None:
    subject = endpoint()
    for attempt in [subject.begin(T, Demand("answer")) for _ in range(5)]:
        attempt.end(BUSY, T + 0.1)
    assert subject.availability.recovers_at(T + 0.1) == T + 0.1
    for attempt in [subject.begin(T + 0.2, Demand("answer")) for _ in range(5)]:
        attempt.end(BUSY, T + 0.3)
    assert subject.availability.recovers_at(T + 0.3) == T + 0.3 + FIRST_COOLDOWN


def test_two_attempts_of_one_call_count_as_one() -> None:
    subject, demand = endpoint(), Demand("answer", 0.0, CHAT, b"hi")
    for _ in range(5):
        subject.begin(T, demand).end(BUSY, T)
    assert subject.availability.allows(T, demand)


def test_a_reported_retry_after_counts_for_a_minute_at_most() -> None:
    subject = endpoint()
    refuse(subject, Outcome(Verdict.BUSY, retry_after=86400.0), calls=20)
    assert subject.availability.recovers_at(T) == T + MAX_RETRY_AFTER


def test_a_first_token_ends_the_cooldown_and_the_suspicion_of_its_operation_only() -> None:
    subject, embedding = endpoint(), Demand("embedding", 0.0, "embeddings")
    for operation in (CHAT, "embeddings"):
        refuse(subject, BUSY, operation=operation)
    assert not subject.availability.allows(T)
    subject.begin(T + 0.5).first_token(T + 0.6)
    assert subject.availability.allows(T + 0.6)
    assert not subject.availability.allows(T + 0.6, embedding)
    assert set(subject.availability.cooldowns) == {"embeddings"}
    assert subject.availability.longest_cooldown is not None
    assert subject.availability.longest_cooldown[0] == "embeddings"


def test_a_refused_operation_says_nothing_of_another() -> None:
    subject = endpoint()
    refuse(subject, Outcome(Verdict.FAULT, doubt=Doubt.REQUEST), calls=10, operation="embeddings")
    assert subject.availability.sound(T)
    assert not subject.availability.allows(T, Demand("embedding", 0.0, "embeddings"))
    assert subject.availability.breaker.failures_in_a_row == 0


def test_a_fault_in_doubt_costs_nothing_until_it_is_confirmed() -> None:
    subject, untouched = endpoint(seconds=0.5), endpoint(seconds=0.5)
    faults = Outcome(Verdict.FAULT, doubt=Doubt.REQUEST)
    refuse(subject, faults, calls=1)
    assert subject.forecast.cost(FIRST_TOKEN, T) == untouched.forecast.cost(FIRST_TOKEN, T)
    assert subject.availability.allows(T)
    assert not subject.availability.sound(T)  # no retry there for free
    refuse(subject, faults)
    assert subject.forecast.cost(FIRST_TOKEN, T) > untouched.forecast.cost(FIRST_TOKEN, T)
    assert not subject.availability.allows(T)


def test_an_error_after_the_first_token_concerns_the_endpoint_and_counts_at_once() -> None:
    subject = endpoint()
    attempt = subject.begin(T)
    attempt.first_token(T)
    attempt.end(Outcome(Verdict.FAULT, doubt=Doubt.REQUEST), T)
    assert subject.availability.breaker.failures_in_a_row == 1
    assert not subject.availability.cooldowns


def test_a_trial_that_ends_without_evidence_lets_the_next_one_begin() -> None:
    subject = endpoint()
    refuse(subject, Outcome(Verdict.BUSY, retry_after=60.0), calls=6)  # for 16 s, with a trial after 8 s
    trial = subject.begin(T + 8.0)
    assert not subject.availability.last_resort(T + 9.0)
    trial.end(Outcome(Verdict.REFUSED), T + 9.0)
    assert subject.availability.last_resort(T + 9.0)
    assert not subject.availability.allows(T + 9.0)


# Slots.


def test_an_endpoint_with_all_slots_taken_is_full_until_an_attempt_ends() -> None:
    subject = endpoint(limit=2)
    attempts = [subject.begin(T), subject.begin(T)]
    attempts[0].first_token(T)
    assert subject.availability.full
    assert not subject.availability.allows(T)
    assert subject.availability.recovers_at(T) == inf
    attempts[0].end(Outcome(Verdict.SERVED), T)
    assert subject.availability.allows(T)


def test_two_models_of_one_entry_share_its_slots() -> None:
    slots = Slots(1)
    one, other = Endpoint("a", "small", slots=slots), Endpoint("a", "large", slots=slots)
    attempt = one.begin(T)
    assert not other.availability.allows(T)
    attempt.end(Outcome(Verdict.SERVED), T)
    assert other.availability.allows(T)


# Errors that the endpoint reports.


def test_the_most_attempts_at_once_are_a_float_in_both_builds() -> None:
    """The configured concurrency is an int, which only the compiled build would convert by itself."""
    subject = Endpoint("a", slots=Slots(5))
    assert subject.availability.max_attempts == 5
    assert type(subject.availability.max_attempts) is float


def ends(subject: Endpoint, cause: Cause, now: float = T, retry_after: float | None = None) -> None:
    """A call ends with this cause."""
    subject.begin(now, Demand("first_token")).end(Outcome(cause.verdict, "", retry_after, cause), now)


def test_a_throttled_endpoint_with_attempts_running_gets_a_lower_limit_and_no_cooldown() -> None:
    subject = endpoint()
    running = [subject.begin(T) for _ in range(9)]
    ends(subject, Cause.THROTTLED)
    assert subject.availability.max_attempts == inf  # one request may be too large
    ends(subject, Cause.THROTTLED)
    assert subject.availability.max_attempts == 7
    assert subject.availability.full
    assert subject.availability.recovers_at(T) == inf
    assert not subject.availability.allows(T)
    for attempt in running[:3]:
        attempt.end(Outcome(Verdict.SERVED), T)
    assert subject.availability.allows(T)
    assert subject.begin(T)
    assert subject.availability.full


def test_one_refusal_lowers_the_limit_again_where_as_many_were_refused_before() -> None:
    subject = endpoint()
    running = [subject.begin(T) for _ in range(9)]
    for _ in range(2):
        ends(subject, Cause.THROTTLED)
    running[0].first_token(T + 1)  # nothing is held against it any more
    ends(subject, Cause.THROTTLED, T + 2)  # one of ten, as before
    assert subject.availability.max_attempts == 4


def test_a_call_that_is_refused_alone_lowers_no_limit() -> None:
    subject = endpoint()
    refuse(subject, Outcome(Verdict.BUSY, cause=Cause.THROTTLED), calls=5)
    assert subject.availability.max_attempts == inf


def test_a_throttled_endpoint_cools_down_if_nothing_else_runs_or_it_reports_a_time() -> None:
    subject = endpoint()
    refuse(subject, Outcome(Verdict.BUSY, cause=Cause.THROTTLED))
    assert subject.availability.recovers_at(T) == T + FIRST_COOLDOWN
    named = endpoint()
    named.begin(T)
    refuse(named, Outcome(Verdict.BUSY, retry_after=0.7, cause=Cause.THROTTLED))
    assert named.availability.cooling_until() == named.availability.trial_at() == T + 0.7


def test_an_overloaded_endpoint_cools_down_and_keeps_its_limit() -> None:
    subject = endpoint()
    for _ in range(9):
        subject.begin(T)
    refuse(subject, Outcome(Verdict.BUSY, cause=Cause.OVERLOADED))
    assert subject.availability.max_attempts == inf
    assert subject.availability.recovers_at(T) == T + FIRST_COOLDOWN


@properties
@given(
    configured=st.none() | st.integers(1, 20),
    steps=st.lists(st.sampled_from([*Cause, "served", "begins"]), max_size=80),
)
def test_the_configured_concurrency_is_never_exceeded(configured: int | None, steps: list[Cause | str]) -> None:
    subject, running, now = endpoint(limit=configured), [], T
    for step in steps:
        now += 1.0
        if step == "begins":
            if not subject.availability.full:
                running.append(subject.begin(now))
        elif running:
            attempt = running.pop(0)
            if isinstance(step, Cause):
                attempt.end(Outcome(step.verdict, "", None, step), now)
            else:
                attempt.end(Outcome(Verdict.SERVED), now)
        assert subject.availability.in_flight == len(running)
        assert 1 <= subject.availability.max_attempts <= (configured or inf)
        assert configured is None or subject.availability.in_flight <= configured
        assert subject.availability.full is (subject.availability.in_flight >= subject.availability.max_attempts)
        assert not subject.availability.full or not subject.availability.allows(now)


def test_two_models_of_one_entry_have_a_learned_limit_each() -> None:
    slots = Slots(50)
    small, large = Endpoint("a", "small", slots=slots), Endpoint("a", "large", slots=slots)
    for _ in range(9):
        small.begin(T)
        large.begin(T)
    for _ in range(2):
        ends(large, Cause.THROTTLED)
    assert (small.availability.max_attempts, large.availability.max_attempts) == (50, 7)


def test_a_used_up_quota_excludes_the_endpoint_for_its_whole_time_even_as_the_last_resort() -> None:
    subject = endpoint()
    busy(subject, 5 * 3600.0)
    assert subject.availability.cooling_until() == subject.availability.trial_at() == T + 5 * 3600.0
    assert not subject.availability.allows(T + 5 * 3600.0 - 1)
    assert not subject.availability.last_resort(T + 5 * 3600.0 - 1)
    assert subject.availability.allows(T + 5 * 3600.0)


@pytest.mark.parametrize("cause", sorted(OURS, key=str))
def test_an_endpoint_that_the_operator_must_correct_is_tried_every_five_minutes_in_the_end(cause: Cause) -> None:
    subject, now, waits = endpoint(), T, []
    for _ in range(12):
        ends(subject, cause, now)
        waits.append(subject.availability.cooling_until() - now if subject.availability.cooling_until() else 0.0)
        assert subject.availability.trial_at() <= now + 8.0  # still the last resort
        now = max(now, subject.availability.cooling_until())
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, OPERATOR_WAIT, OPERATOR_WAIT]


def test_a_served_attempt_ends_the_cooldown_if_it_began_after_the_refusal() -> None:
    subject = endpoint()
    before = subject.begin(T)
    for second in range(1, 5):
        ends(subject, Cause.DENIED, T + 4 * second)
    # Began before the last refusal, so that it proves nothing about the key.
    before.end(Outcome(Verdict.SERVED), T + 17)
    assert not subject.availability.allows(T + 17)
    assert subject.availability.cooldowns[CHAT].cause is Cause.DENIED
    subject.begin(T + 18).end(Outcome(Verdict.SERVED), T + 19)
    assert subject.availability.allows(T + 19)


@pytest.mark.parametrize("cause", sorted(OURS, key=str))
def test_a_served_call_between_two_refusals_means_that_they_concern_those_calls_only(cause: Cause) -> None:
    subject = endpoint()
    for second in range(10):
        ends(subject, cause, T + second)
        subject.begin(T + second).end(Outcome(Verdict.SERVED), T + second + 0.5)
        assert subject.availability.allows(T + second + 0.5)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause.verdict is Verdict.REFUSED])
def test_a_refused_request_changes_nothing_about_its_endpoint(cause: Cause) -> None:
    subject, untouched = endpoint(seconds=0.5), endpoint(seconds=0.5)
    for second in range(20):
        ends(subject, cause, T + second)
    now = T + 20
    assert subject.availability.allows(now)
    assert subject.availability.sound(now)
    assert subject.forecast.cost(FIRST_TOKEN, now) == untouched.forecast.cost(FIRST_TOKEN, now)
    assert (
        subject.availability.max_attempts,
        subject.availability.cooling_until(),
        subject.availability.breaker.failures_in_a_row,
    ) == (inf, 0.0, 0)
    assert subject.availability.health.up


# Breaker and health.


def test_an_open_breaker_allows_no_attempt_before_its_trial_nor_beside_it() -> None:
    subject = endpoint()
    trip(subject)
    then = T + FIRST_WAIT
    assert not subject.availability.allows(T)
    assert subject.availability.recovers_at(T) == then
    assert subject.availability.allows(then)
    trial = subject.begin(then)
    assert not subject.availability.allows(then)
    assert subject.availability.recovers_at(then) == inf  # the trial's result is unknown
    trial.end(Outcome(Verdict.ABANDONED), then)
    assert subject.availability.recovers_at(then) == then


@pytest.mark.parametrize("spoil", [trip, fill, lambda e: busy(e, 5.0), lambda e: e.availability.probed(False, T)])
def test_an_endpoint_that_may_not_be_asked_is_not_sound_and_recovers_later(
    spoil: Callable[[Endpoint], object],
) -> None:
    subject = endpoint(limit=3)
    assert subject.availability.sound(T)
    assert subject.availability.recovers_at(T) == T
    spoil(subject)
    assert not subject.availability.sound(T)
    assert not subject.availability.allows(T)
    assert subject.availability.recovers_at(T) > T


def test_one_failure_makes_an_available_endpoint_unsound_and_one_success_sound_again() -> None:
    subject = endpoint()
    subject.begin(T).end(Outcome(Verdict.FAULT), T)
    assert subject.availability.allows(T)
    assert not subject.availability.sound(T)
    subject.begin(T).end(Outcome(Verdict.SERVED), T)
    assert subject.availability.sound(T)
