"""Change detection: seldom an alarm if nothing changes, and soon one after a change."""

from __future__ import annotations

from math import exp, log
from random import Random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.endpoint.change import ALARM, ALLOWANCE, MAX_SURPRISE, TROUBLE_TAU, ChangeDetector, surprise
from tests.core.helpers import T, properties

tails = st.one_of(st.floats(0.0, 1.0), st.floats(0.0, 0.01), st.floats(0.99, 1.0))
histories = st.lists(st.tuples(st.floats(0.0, 5.0), tails), max_size=30)

SIGMA = 0.4
TAIL = NormalDist()


def after(history: list[tuple[float, float]]) -> tuple[ChangeDetector, float]:
    changes, now = ChangeDetector(), T
    for gap, tail in history:
        now += gap
        changes.add(tail, 1.0, 0.0, 0.0, now)
    return changes, now


def tail(seconds: float) -> float:
    """The tail of a wait in a lognormal distribution around one second."""
    return 1.0 - TAIL.cdf(log(max(1e-9, seconds)) / SIGMA)


def waits_until_alarm(rng: Random, times: float, most: int) -> int:
    """The number of waits until the alarm, if all take `times` as long as before."""
    changes = ChangeDetector()
    for count in range(1, most + 1):
        seconds = times * exp(rng.gauss(0.0, SIGMA))
        if changes.add(tail(seconds), seconds, 0.0, 0.0, T + count):
            return count
    return most + 1


def test_steady_waits_hardly_ever_raise_an_alarm() -> None:
    rng, alarms, changes = Random(1), 0, ChangeDetector()
    for count in range(20_000):
        if changes.add(tail(exp(rng.gauss(0.0, SIGMA))), 1.0, 0.0, 0.0, T + count):
            alarms, changes = alarms + 1, ChangeDetector()
    assert alarms <= 2  # one in some 50,000


@pytest.mark.parametrize(("times", "within"), [(2.0, 15), (3.0, 5), (0.5, 15), (1 / 3, 5)])
def test_a_change_of_all_waits_is_detected_within_few(times: float, within: int) -> None:
    took = sorted(waits_until_alarm(Random(seed), times, 1000) for seed in range(100))
    assert took[50] <= within
    assert took[95] <= 5 * within


def test_one_very_long_wait_raises_no_alarm_and_three_do() -> None:
    changes = ChangeDetector()
    assert not changes.add(0.0, 1e3, 0.0, 0.0, T)
    assert changes.excess == MAX_SURPRISE - ALLOWANCE < ALARM
    assert not changes.add(0.0, 1e3, 0.0, 0.0, T)
    assert changes.add(0.0, 1e3, 0.0, 0.0, T)
    assert (changes.count, changes.total) == (3, 3e3)


def test_a_wait_on_the_other_side_of_the_median_starts_anew() -> None:
    changes, now = after([(0.0, 0.001)] * 2)
    assert (changes.long, changes.count) == (True, 2)
    changes.add(0.6, 1.0, 0.0, 0.0, now)
    assert (changes.long, changes.count, changes.excess) == (False, 1, 0.0)


@properties
@given(history=histories, later=st.floats(0.0, 1e6), pending_surprise=st.floats(0.0, 20.0))
def test_trouble_is_a_likelihood_that_fades_and_reading_it_changes_nothing(
    history: list[tuple[float, float]], later: float, pending_surprise: float
) -> None:
    changes, now = after(history)
    before = (changes.excess, changes.count, changes.long)
    likely = changes.trouble(now)
    assert 0.0 <= likely < 1.0
    assert changes.trouble(now + later) <= likely
    assert changes.trouble(now, pending_surprise) >= likely
    assert changes.trouble(now + 1e3 * TROUBLE_TAU) < 0.04
    assert (changes.excess, changes.count, changes.long) == before
    if not changes.long:
        assert likely == 0.0


@properties
@given(history=histories, one=tails, another=tails)
def test_a_longer_wait_makes_trouble_no_less_likely(
    history: list[tuple[float, float]], one: float, another: float
) -> None:
    (quicker, now), (slower, _) = after(history), after(history)
    quicker.add(max(one, another), 1.0, 0.0, 0.0, now)
    slower.add(min(one, another), 2.0, 0.0, 0.0, now)
    assert quicker.trouble(now) <= slower.trouble(now)


def test_a_usual_stall_raises_trouble_little_and_an_unprecedented_one_much() -> None:
    usual, never = ChangeDetector(), ChangeDetector()
    usual.add(0.025, 12.0, 0.0, 0.0, T)  # the middle one of five in a hundred
    never.add(0.0005, 12.0, 0.0, 0.0, T)
    assert usual.trouble(T) < 0.1
    assert never.trouble(T) > 0.35


def test_the_mean_surprise_is_below_zero_if_nothing_changes() -> None:
    """A wait's -ln(2 * tail) is 1 on average, and ALLOWANCE is more: so the sum returns to zero."""
    steps = 10_000
    mean = sum(surprise(0.5 * (i + 0.5) / steps) for i in range(steps)) / steps
    assert mean == pytest.approx(1.0 - ALLOWANCE, abs=0.02)
    assert surprise(0.0) == MAX_SURPRISE - ALLOWANCE
