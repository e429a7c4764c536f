"""The cooldown: how long after which report, to the second, and what ends it."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.endpoint.cooldown import (
    FIRST_BACKOFF,
    MAX_BACKOFF,
    MAX_RETRY_AFTER,
    OPERATOR_WAIT,
    RECENTLY,
    Cooldown,
)
from router.core.verdict import Cause
from tests.core.helpers import T, properties

HOURS = 5 * 3600.0


def test_a_new_endpoint_has_no_cooldown() -> None:
    cooldown = Cooldown()
    assert (cooldown.until, cooldown.quiet_until, cooldown.cause, cooldown.served_at) == (0.0, 0.0, None, -inf)


# Busy, without a time.


def test_the_backoff_doubles_with_each_busy_answer_up_to_its_maximum() -> None:
    cooldown, now, waits = Cooldown(), T, []
    for _ in range(7):
        cooldown.busy(now, None, Cause.OVERLOADED)
        waits.append(cooldown.until - now)
        now = cooldown.until
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]
    assert (waits[0], waits[-1]) == (FIRST_BACKOFF, MAX_BACKOFF)


def test_without_a_time_the_endpoint_may_be_asked_as_the_last_resort() -> None:
    cooldown = Cooldown()
    cooldown.busy(T, None, Cause.OVERLOADED)
    assert (cooldown.until, cooldown.quiet_until) == (T + FIRST_BACKOFF, 0.0)


def test_busy_answers_within_one_backoff_double_it_once() -> None:
    cooldown = Cooldown()
    for _ in range(5):
        cooldown.busy(T, None)
    assert cooldown.until == T + FIRST_BACKOFF
    cooldown.busy(T + 0.5, None)  # of an attempt that was sent before: prolongs the cooldown, but does not double it
    assert cooldown.until == T + 0.5 + FIRST_BACKOFF
    cooldown.busy(cooldown.until, None)
    assert cooldown.until == T + 0.5 + FIRST_BACKOFF + 2.0 * FIRST_BACKOFF


def test_after_a_served_call_the_backoff_begins_anew() -> None:
    cooldown = Cooldown()
    for at in (T, T + 1.0, T + 3.0):
        cooldown.busy(at, None)
    cooldown.served(T + 7.0, T + 8.0)
    cooldown.busy(T + 9.0, None)
    assert cooldown.until == T + 9.0 + FIRST_BACKOFF


# Busy, with a time.


@pytest.mark.parametrize(
    ("retry_after", "cause", "wait"),
    [
        (0.0, Cause.THROTTLED, 0.0),
        (7.0, Cause.THROTTLED, 7.0),
        (7.0, Cause.OVERLOADED, 7.0),
        (MAX_RETRY_AFTER, Cause.OVERLOADED, MAX_RETRY_AFTER),
        (HOURS, Cause.OVERLOADED, MAX_RETRY_AFTER),
        (HOURS, Cause.THROTTLED, MAX_RETRY_AFTER),
        (HOURS, None, MAX_RETRY_AFTER),
        (HOURS, Cause.QUOTA, HOURS),
    ],
)
def test_a_time_is_kept_up_to_the_maximum_and_a_quotas_to_its_end(
    retry_after: float, cause: Cause | None, wait: float
) -> None:
    cooldown = Cooldown()
    cooldown.busy(T, retry_after, cause)
    assert cooldown.until == cooldown.quiet_until == T + wait
    assert cooldown.cause is cause


def test_a_shorter_time_does_not_shorten_a_longer_one() -> None:
    cooldown = Cooldown()
    cooldown.busy(T, 30.0, Cause.OVERLOADED)
    cooldown.busy(T + 1.0, 2.0, Cause.THROTTLED)
    assert cooldown.until == cooldown.quiet_until == T + 30.0
    assert cooldown.cause is Cause.THROTTLED  # the last one


def test_a_time_leaves_the_backoff_as_it_was() -> None:
    cooldown = Cooldown()
    cooldown.busy(T, None)
    cooldown.busy(T + 1.0, 5.0)
    cooldown.busy(T + 6.0, None)
    assert cooldown.until == T + 6.0 + 2.0 * FIRST_BACKOFF


# Denied and misconfigured.


@pytest.mark.parametrize("cause", [Cause.DENIED, Cause.MISCONFIGURED])
def test_a_fault_of_ours_lasts_until_the_operator_may_have_corrected_it(cause: Cause) -> None:
    cooldown = Cooldown()
    cooldown.refused(cause, T)
    assert (cooldown.until, cooldown.quiet_until) == (T + OPERATOR_WAIT, 0.0)
    assert cooldown.cause is cause


@pytest.mark.parametrize(
    ("cause", "later", "until"),
    [
        (Cause.MISCONFIGURED, 0.0, 0.0),
        (Cause.MISCONFIGURED, RECENTLY - 0.001, 0.0),
        (Cause.MISCONFIGURED, RECENTLY, T + RECENTLY + OPERATOR_WAIT),
        (Cause.DENIED, 0.0, T + OPERATOR_WAIT),
    ],
)
def test_soon_after_a_served_call_a_misconfiguration_concerns_one_call_only(
    cause: Cause, later: float, until: float
) -> None:
    cooldown = Cooldown()
    cooldown.served(T - 1.0, T)
    cooldown.refused(cause, T + later)
    assert cooldown.until == until


# Served.


def test_a_served_call_that_began_within_the_cooldown_ends_it() -> None:
    cooldown = Cooldown()
    cooldown.busy(T, 30.0)
    cooldown.served(T, T + 2.0)
    assert cooldown.until == cooldown.quiet_until == cooldown.served_at == T + 2.0


def test_a_served_call_that_began_before_the_cooldown_does_not_end_it() -> None:
    cooldown = Cooldown()
    cooldown.busy(T, 30.0)
    cooldown.served(T - 0.001, T + 2.0)
    assert cooldown.until == cooldown.quiet_until == T + 30.0
    assert cooldown.served_at == T + 2.0


def test_a_served_call_does_not_begin_a_cooldown() -> None:
    cooldown = Cooldown()
    cooldown.busy(T, 5.0)
    cooldown.served(T + 6.0, T + 7.0)
    assert cooldown.until == cooldown.quiet_until == T + 5.0


reports = st.tuples(
    st.sampled_from(["busy", "refused", "served"]),
    st.sampled_from([0.0, 0.1, 1.0, 30.0, 400.0]),
    st.none() | st.floats(0.0, 100.0),
    st.sampled_from([Cause.THROTTLED, Cause.OVERLOADED, Cause.DENIED, Cause.MISCONFIGURED]),
)


@properties
@given(life=st.lists(reports, max_size=40))
def test_a_cooldown_is_bounded_and_only_a_served_call_shortens_it(
    life: list[tuple[str, float, float | None, Cause]],
) -> None:
    cooldown, now = Cooldown(), T
    for what, gap, retry_after, cause in life:
        now += gap
        before = cooldown.until
        if what == "busy":
            cooldown.busy(now, retry_after, cause)
        elif what == "refused":
            cooldown.refused(cause, now)
        else:
            cooldown.served(now, now)
            assert cooldown.until <= now
        assert cooldown.until >= before or what == "served"
        assert cooldown.until <= now + OPERATOR_WAIT
        assert cooldown.quiet_until <= max(cooldown.until, now + MAX_RETRY_AFTER)
