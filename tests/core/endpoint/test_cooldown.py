"""The cooldown: after which refusals, for how long to the second, what tries it, and what ends it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.demand import Demand
from router.core.endpoint.cooldown import (
    FIRST_COOLDOWN,
    MAX_BACKOFF,
    MAX_RETRY_AFTER,
    MAX_TRIAL_WAIT,
    OPERATOR_WAIT,
    Cooldown,
)
from router.core.verdict import Cause, Doubt, Outcome, Verdict
from tests.core.helpers import CHAT, T, properties

HOURS = 5 * 3600.0
BUSY = Outcome(Verdict.BUSY, "", None, Cause.OVERLOADED)
BROKEN = Outcome(Verdict.FAULT, "", None, Cause.TRANSIENT, doubt=Doubt.REQUEST)


def busy_for(seconds: float | None, cause: Cause | None = Cause.OVERLOADED) -> Outcome:
    return Outcome(Verdict.BUSY, "", seconds, cause)


def request(body: bytes | int) -> Demand:
    return Demand("answer", 0.0, CHAT, b"%d" % body if isinstance(body, int) else body)


def lengths(outcome: Outcome, count: int) -> list[float]:
    """The seconds of the cooldowns that so many refusals begin, each as soon as the one before is over."""
    cooldown, now, found = Cooldown(), T, []
    for number in range(count + 1):
        if cooldown.refused(outcome, request(number), now, now):
            found.append(cooldown.until - now)
            now = cooldown.until
    return found


def test_nothing_is_held_against_a_new_endpoint() -> None:
    cooldown = Cooldown()
    assert (cooldown.until, cooldown.trial_at, cooldown.cause) == (0.0, 0.0, None)
    assert (cooldown.trusted, cooldown.suspected, cooldown.confirmed, cooldown.failing) == (True, False, False, False)


# The first refusal, and what confirms it.


def test_the_first_refusal_makes_the_endpoint_suspected_and_the_second_begins_the_cooldown() -> None:
    cooldown = Cooldown()
    assert not cooldown.refused(BUSY, request(1), T, T + 0.1)
    assert (cooldown.until, cooldown.suspected) == (0.0, True)
    assert cooldown.refused(BUSY, request(2), T + 0.1, T + 0.2)
    assert (cooldown.until, cooldown.suspected, cooldown.confirmed) == (T + 0.2 + FIRST_COOLDOWN, False, True)
    assert cooldown.cause is Cause.OVERLOADED


def test_a_call_that_began_before_the_first_refusal_confirms_nothing() -> None:
    cooldown = Cooldown()
    cooldown.refused(BUSY, request(1), T, T + 0.1)
    assert not cooldown.refused(BUSY, request(2), T + 0.099, T + 0.2)
    assert cooldown.until == 0.0


def test_a_second_attempt_of_the_same_call_confirms_nothing() -> None:
    cooldown, call = Cooldown(), request(1)
    for second in range(10):
        assert not cooldown.refused(BUSY, call, T + second, T + second)


def test_a_call_served_in_between_clears_the_suspicion_whenever_it_began() -> None:
    for began in (T - 5.0, T + 0.3):
        cooldown = Cooldown()
        cooldown.refused(BUSY, request(1), T, T + 0.2)
        cooldown.served(began, T + 0.5)
        assert cooldown.trusted
        assert not cooldown.refused(BUSY, request(2), T + 1.0, T + 1.0)


def test_the_same_request_sent_again_cools_down_for_that_request_alone() -> None:
    cooldown = Cooldown()
    cooldown.refused(BUSY, request(b"large"), T, T)
    assert cooldown.refused(BUSY, request(b"large"), T, T)
    assert cooldown.concerns(request(b"large"))
    assert cooldown.concerns(Demand("answer"))  # an unknown request
    assert not cooldown.concerns(request(b"other"))
    cooldown.refused(BUSY, request(b"large"), T + 1.0, T + 1.0)
    assert cooldown.until == T + 1.0 + 2.0
    cooldown.refused(BUSY, request(b"other"), T + 1.5, T + 1.5)  # a different one is refused too: now it is for all
    assert cooldown.until == T + 1.5 + FIRST_COOLDOWN
    assert cooldown.concerns(request(b"third"))


@pytest.mark.parametrize("first", [BUSY, BROKEN])
@pytest.mark.parametrize("second", [BUSY, BROKEN])
def test_an_error_that_may_be_the_requests_own_is_confirmed_by_a_different_request_only(
    first: Outcome, second: Outcome
) -> None:
    cooldown = Cooldown()
    cooldown.refused(first, request(b"image"), T, T)
    repeated = cooldown.refused(second, request(b"image"), T + 1.0, T + 1.0)
    assert repeated is (BROKEN not in (first, second))
    different = Cooldown()
    different.refused(first, request(b"image"), T, T)
    assert different.refused(second, request(b"text"), T + 1.0, T + 1.0)
    assert different.concerns(request(b"third"))


def test_the_bodies_of_refused_requests_are_not_kept() -> None:
    call = request(b"x" * 1000)
    Cooldown().refused(BUSY, call, T, T)
    assert call._body is None
    assert call.fingerprint == request(b"x" * 1000).fingerprint


# How long.


@pytest.mark.parametrize(
    ("outcome", "waits"),
    [
        (busy_for(None), [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]),
        (BROKEN, [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]),
        (busy_for(0.0), [0.0] * 4),
        (busy_for(0.3), [0.3] * 4),
        (busy_for(7.0, Cause.THROTTLED), [1.0, 2.0, 4.0, 7.0, 7.0]),
        (busy_for(60.0), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]),
        (busy_for(HOURS), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MAX_RETRY_AFTER, MAX_RETRY_AFTER]),
        (busy_for(HOURS, Cause.QUOTA), [HOURS, HOURS]),
        (busy_for(None, Cause.DENIED), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, OPERATOR_WAIT]),
        (busy_for(2.0, Cause.MISCONFIGURED), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, OPERATOR_WAIT]),
    ],
)
def test_a_cooldown_doubles_with_each_refusal_up_to_what_was_asked_for(outcome: Outcome, waits: list[float]) -> None:
    assert lengths(outcome, len(waits)) == pytest.approx(waits)
    assert waits[-1] <= max(MAX_BACKOFF, MAX_RETRY_AFTER, OPERATOR_WAIT, HOURS)


def test_refusals_for_days_are_counted_without_an_overflow() -> None:
    assert lengths(BUSY, 5000)[-1] == MAX_BACKOFF


def test_refusals_of_calls_from_before_the_cooldown_do_not_prolong_it() -> None:
    cooldown = Cooldown()
    for number in range(2):
        cooldown.refused(BUSY, request(number), T, T)
    assert not cooldown.refused(BUSY, request(3), T - 0.1, T + 0.5)
    assert cooldown.until == T + FIRST_COOLDOWN


def test_after_a_served_call_it_takes_two_refusals_again() -> None:
    cooldown = Cooldown()
    for number in range(5):
        cooldown.refused(BUSY, request(number), T, T)
    cooldown.served(T + 3.0, T + 4.0)
    assert (cooldown.until, cooldown.trusted) == (T + 4.0, True)
    assert not cooldown.refused(BUSY, request(6), T + 5.0, T + 5.0)
    assert cooldown.refused(BUSY, request(7), T + 6.0, T + 6.0)
    assert cooldown.until == T + 6.0 + FIRST_COOLDOWN


# Trials.


def test_the_trials_of_a_cooldown_come_after_1_2_4_8_8_seconds() -> None:
    cooldown, now, waits = Cooldown(), T, []
    cooldown.refused(busy_for(60.0), request(0), now, now)
    cooldown.refused(busy_for(60.0), request(1), now, now)
    for number in range(2, 9):
        waits.append(min(cooldown.trial_at, cooldown.until) - now)
        assert not cooldown.allows_trial(now + waits[-1] - 0.001)
        began = now + waits[-1]
        assert cooldown.allows_trial(began)
        assert cooldown.begin(began)
        assert not cooldown.allows_trial(began)  # one at a time
        cooldown.end_trial(began, began)
        now = began
        cooldown.refused(busy_for(60.0), request(number), began, now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]


def test_a_trial_that_stays_silent_is_not_the_only_one_for_ever() -> None:
    cooldown = Cooldown()
    for number in range(7):
        cooldown.refused(busy_for(60.0), request(number), T, T)
    assert (cooldown.trial_at, cooldown.until) == (T + 8.0, T + 32.0)
    assert cooldown.begin(T + 8.0)
    assert cooldown.trial_runs(T + 9.0)
    assert not cooldown.allows_trial(T + 8.0 + MAX_TRIAL_WAIT - 0.001)
    assert cooldown.allows_trial(T + 8.0 + MAX_TRIAL_WAIT)
    cooldown.end_trial(T + 8.0, T + 20.0)
    assert not cooldown.trial_runs(T + 20.0)


def test_the_first_call_after_a_cooldown_is_its_trial_for_a_second_at_most() -> None:
    cooldown = Cooldown()
    for number in range(4):
        cooldown.refused(busy_for(60.0), request(number), T, T)
    assert cooldown.until == T + 4.0
    assert cooldown.begin(T + 5.0)
    assert cooldown.until == T + 6.0
    cooldown.end_trial(T + 5.0, T + 5.5)  # without evidence
    assert cooldown.until == T + 5.5
    assert not cooldown.begin(T + 8.0)  # as long after the cooldown as it lasted


def test_a_quota_has_no_trial() -> None:
    cooldown = Cooldown()
    for number in range(2):
        cooldown.refused(busy_for(HOURS, Cause.QUOTA), request(number), T, T)
    assert cooldown.trial_at == cooldown.until == T + HOURS
    assert not cooldown.allows_trial(T + HOURS - 1.0)


# Served.


def test_a_served_call_that_began_before_the_cooldown_does_not_end_it() -> None:
    cooldown = Cooldown()
    for number in range(2):
        cooldown.refused(busy_for(30.0), request(number), T, T)
    cooldown.served(T - 0.001, T + 0.5)
    assert (cooldown.until, cooldown.trusted) == (T + 1.0, False)
    cooldown.served(T, T + 0.5)
    assert (cooldown.until, cooldown.trusted) == (T + 0.5, True)


def test_a_served_call_does_not_begin_a_cooldown() -> None:
    cooldown = Cooldown()
    for number in range(2):
        cooldown.refused(busy_for(1.0), request(number), T, T)
    cooldown.served(T + 6.0, T + 7.0)
    assert cooldown.until == T + 1.0


reports = st.tuples(
    st.sampled_from(["busy", "served"]),
    st.sampled_from([0.0, 0.1, 1.0, 30.0, 400.0]),
    st.none() | st.floats(0.0, 100.0),
    st.sampled_from([Cause.THROTTLED, Cause.OVERLOADED, Cause.DENIED, Cause.MISCONFIGURED, Cause.TRANSIENT]),
    st.integers(0, 2),
)


@properties
@given(life=st.lists(reports, max_size=40))
def test_a_cooldown_is_bounded_and_never_begins_with_one_refusal(
    life: list[tuple[str, float, float | None, Cause, int]],
) -> None:
    cooldown, now, refusals = Cooldown(), T, 0
    for what, gap, retry_after, cause, body in life:
        now += gap
        if what == "busy":
            doubt = Doubt.REQUEST if cause is Cause.TRANSIENT else None
            began = cooldown.refused(
                Outcome(cause.verdict, "", retry_after, cause, doubt=doubt), request(body), now, now
            )
            assert not began or refusals
            refusals += 1
        else:
            cooldown.served(now, now)
            assert cooldown.until <= now
            assert cooldown.trusted
            refusals = 0
        assert cooldown.trial_at <= now + MAX_TRIAL_WAIT
        assert cooldown.until <= now + OPERATOR_WAIT
