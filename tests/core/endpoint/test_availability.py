"""Whether an endpoint may be asked, and when again: probes, cooldown, slots, learned limit and breaker together."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.demand import FIRST_TOKEN
from router.core.endpoint.breaker import FIRST_WAIT, State
from router.core.endpoint.cooldown import FIRST_BACKOFF, MAX_RETRY_AFTER, OPERATOR_WAIT, RECENTLY
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.health import FALL
from router.core.endpoint.slots import Slots
from router.core.verdict import OURS, Cause, Outcome, Verdict
from tests.core.helpers import T, busy, endpoint, fill, properties, trip

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
    assert subject.availability.cooldown.served_at == T + 1.0
    for _ in range(2):
        subject.begin(T).end(Outcome(Verdict.FAULT), T + 1.0)
    assert subject.availability.health.up


# Busy endpoints.


def test_a_busy_endpoint_cools_down_for_the_time_that_it_reported() -> None:
    subject = endpoint()
    busy(subject, 7.0)
    assert not subject.availability.allows(T + 6.999)
    assert subject.availability.recovers_at(T) == T + 7.0
    assert subject.availability.allows(T + 7.0)


def test_a_busy_endpoint_that_reports_no_time_cools_down_for_the_first_backoff() -> None:
    subject = endpoint()
    subject.begin(T).end(Outcome(Verdict.BUSY), T)
    assert subject.availability.recovers_at(T) == T + FIRST_BACKOFF


def test_the_cooldown_of_an_endpoint_that_stays_busy_doubles_until_it_serves() -> None:
    subject, now, waits = endpoint(), T, []
    for _ in range(6):
        subject.begin(now).end(Outcome(Verdict.BUSY), now)
        waits.append(subject.availability.recovers_at(now) - now)
        now += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]
    subject.begin(now).end(Outcome(Verdict.SERVED), now)
    subject.begin(now).end(Outcome(Verdict.BUSY), now)
    assert subject.availability.recovers_at(now) == now + FIRST_BACKOFF


def test_attempts_that_are_refused_as_busy_at_the_same_time_count_as_one() -> None:
    subject = endpoint()
    for attempt in [subject.begin(T) for _ in range(5)]:
        attempt.end(Outcome(Verdict.BUSY), T)
    assert subject.availability.recovers_at(T) == T + FIRST_BACKOFF


def test_a_reported_retry_after_counts_for_a_minute_at_most() -> None:
    subject = endpoint()
    busy(subject, 86400.0)
    assert subject.availability.recovers_at(T) == T + MAX_RETRY_AFTER


def test_a_later_shorter_retry_after_does_not_shorten_the_cooldown() -> None:
    subject = endpoint()
    busy(subject, 20.0)
    busy(subject, 1.0)
    assert subject.availability.recovers_at(T) == T + 20.0


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


def ends(subject: Endpoint, cause: Cause, now: float = T, retry_after: float | None = None) -> None:
    """An attempt ends with this cause."""
    subject.begin(now).end(Outcome(cause.verdict, "", retry_after, cause), now)


def test_a_throttled_endpoint_with_attempts_running_gets_a_lower_limit_and_no_cooldown() -> None:
    subject = endpoint()
    running = [subject.begin(T) for _ in range(9)]
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


def test_a_throttled_endpoint_cools_down_if_nothing_else_runs_or_it_reports_a_time() -> None:
    subject = endpoint()
    ends(subject, Cause.THROTTLED)
    assert subject.availability.recovers_at(T) == T + FIRST_BACKOFF
    named = endpoint()
    named.begin(T)
    ends(named, Cause.THROTTLED, retry_after=7.0)
    assert named.availability.cooldown.until == named.availability.cooldown.quiet_until == T + 7.0


def test_an_overloaded_endpoint_cools_down_and_keeps_its_limit() -> None:
    subject = endpoint()
    for _ in range(9):
        subject.begin(T)
    ends(subject, Cause.OVERLOADED)
    assert subject.availability.max_attempts == inf
    assert subject.availability.recovers_at(T) == T + FIRST_BACKOFF


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
    ends(large, Cause.THROTTLED)
    assert (small.availability.max_attempts, large.availability.max_attempts) == (50, 7)


def test_a_used_up_quota_excludes_the_endpoint_for_its_whole_time_even_as_the_last_resort() -> None:
    subject = endpoint()
    ends(subject, Cause.QUOTA, retry_after=5 * 3600.0)
    assert subject.availability.cooldown.until == subject.availability.cooldown.quiet_until == T + 5 * 3600.0
    assert not subject.availability.allows(T + 5 * 3600.0 - 1)
    assert subject.availability.allows(T + 5 * 3600.0)


@pytest.mark.parametrize("cause", sorted(OURS, key=str))
def test_an_endpoint_that_the_operator_must_correct_is_tried_every_five_minutes(cause: Cause) -> None:
    subject = endpoint()
    ends(subject, cause)
    assert subject.availability.cooldown.until == T + OPERATOR_WAIT
    assert subject.availability.cooldown.quiet_until == 0.0  # still the last resort
    assert subject.availability.allows(T + OPERATOR_WAIT)


def test_a_served_attempt_ends_the_cooldown_if_it_began_after_the_refusal() -> None:
    subject = endpoint()
    before = subject.begin(T)
    ends(subject, Cause.DENIED, T + 1)
    # Began before the refusal, so that it proves nothing about the key.
    before.end(Outcome(Verdict.SERVED), T + 2)
    assert not subject.availability.allows(T + 2)
    assert subject.availability.cooldown.cause is Cause.DENIED
    subject.begin(T + 3).end(Outcome(Verdict.SERVED), T + 4)
    assert subject.availability.allows(T + 4)


def test_misconfigured_begins_no_cooldown_just_after_a_served_call_and_denied_does() -> None:
    subject = endpoint()
    subject.begin(T).end(Outcome(Verdict.SERVED), T)
    ends(subject, Cause.MISCONFIGURED, T + RECENTLY - 1)
    assert subject.availability.allows(T + RECENTLY - 1)
    ends(subject, Cause.MISCONFIGURED, T + RECENTLY)
    assert not subject.availability.allows(T + RECENTLY)
    keyless = endpoint()
    keyless.begin(T).end(Outcome(Verdict.SERVED), T)
    ends(keyless, Cause.DENIED)
    assert not keyless.availability.allows(T)


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
        subject.availability.cooldown.until,
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
