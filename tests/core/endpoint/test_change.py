"""Whether a run of unusual waits is chance: seldom an alarm where nothing changes, and soon one where it does."""

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
runs = st.lists(st.tuples(st.floats(0.0, 5.0), tails), max_size=30)

SIGMA = 0.4
TAIL = NormalDist()


def after(told: list[tuple[float, float]]) -> tuple[ChangeDetector, float]:
    run, now = ChangeDetector(), T
    for gap, tail in told:
        now += gap
        run.add(tail, 1.0, 0.0, 0.0, now)
    return run, now


def tail(seconds: float) -> float:
    """Of a lognormal around one second."""
    return 1.0 - TAIL.cdf(log(max(1e-9, seconds)) / SIGMA)


def waits_until_alarm(rng: Random, times: float, most: int) -> int:
    """Of waits that all take so many times as long as they did."""
    run = ChangeDetector()
    for count in range(1, most + 1):
        seconds = times * exp(rng.gauss(0.0, SIGMA))
        if run.add(tail(seconds), seconds, 0.0, 0.0, T + count):
            return count
    return most + 1


def test_steady_waits_hardly_ever_raise_an_alarm() -> None:
    rng, alarms, run = Random(1), 0, ChangeDetector()
    for count in range(20_000):
        if run.add(tail(exp(rng.gauss(0.0, SIGMA))), 1.0, 0.0, 0.0, T + count):
            alarms, run = alarms + 1, ChangeDetector()
    assert alarms <= 2  # one in some 50,000


@pytest.mark.parametrize(("times", "within"), [(2.0, 15), (3.0, 5), (0.5, 15), (1 / 3, 5)])
def test_a_change_of_all_waits_is_noticed_within_some(times: float, within: int) -> None:
    took = sorted(waits_until_alarm(Random(seed), times, 1000) for seed in range(100))
    assert took[50] <= within
    assert took[95] <= 5 * within


def test_one_wait_alone_is_no_alarm_however_long_and_three_are() -> None:
    run = ChangeDetector()
    assert not run.add(0.0, 1e3, 0.0, 0.0, T)
    assert run.excess == MAX_SURPRISE - ALLOWANCE < ALARM
    assert not run.add(0.0, 1e3, 0.0, 0.0, T)
    assert run.add(0.0, 1e3, 0.0, 0.0, T)
    assert (run.count, run.total) == (3, 3e3)


def test_a_wait_on_the_other_side_of_the_median_ends_the_run() -> None:
    run, now = after([(0.0, 0.001)] * 2)
    assert (run.long, run.count) == (True, 2)
    run.add(0.6, 1.0, 0.0, 0.0, now)
    assert (run.long, run.count, run.excess) == (False, 1, 0.0)


@properties
@given(told=runs, later=st.floats(0.0, 1e6), pending_surprise=st.floats(0.0, 20.0))
def test_trouble_is_a_likelihood_and_fades_and_reading_it_changes_nothing(
    told: list[tuple[float, float]], later: float, pending_surprise: float
) -> None:
    run, now = after(told)
    before = (run.excess, run.count, run.long)
    likely = run.trouble(now)
    assert 0.0 <= likely < 1.0
    assert run.trouble(now + later) <= likely
    assert run.trouble(now, pending_surprise) >= likely
    assert run.trouble(now + 1e3 * TROUBLE_TAU) < 0.04
    assert (run.excess, run.count, run.long) == before
    if not run.long:
        assert likely == 0.0


@properties
@given(told=runs, one=tails, another=tails)
def test_of_two_equal_ones_the_one_told_the_longer_wait_is_in_no_less_trouble(
    told: list[tuple[float, float]], one: float, another: float
) -> None:
    (quicker, now), (slower, _) = after(told), after(told)
    quicker.add(max(one, another), 1.0, 0.0, 0.0, now)
    slower.add(min(one, another), 2.0, 0.0, 0.0, now)
    assert quicker.trouble(now) <= slower.trouble(now)


def test_a_stall_that_is_usual_says_little_and_one_beyond_all_that_was_seen_says_much() -> None:
    usual, never = ChangeDetector(), ChangeDetector()
    usual.add(0.025, 12.0, 0.0, 0.0, T)  # the middle one of five in a hundred
    never.add(0.0005, 12.0, 0.0, 0.0, T)
    assert usual.trouble(T) < 0.1
    assert never.trouble(T) > 0.35


def test_what_any_wait_adds_is_nothing_on_the_whole() -> None:
    """In log-likelihood a wait says 1 on average, and ALLOWANCE is taken off: so runs end where nothing changes."""
    steps = 10_000
    mean = sum(surprise(0.5 * (i + 0.5) / steps) for i in range(steps)) / steps
    assert mean == pytest.approx(1.0 - ALLOWANCE, abs=0.02)
    assert surprise(0.0) == MAX_SURPRISE - ALLOWANCE
