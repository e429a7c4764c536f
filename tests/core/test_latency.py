"""The first-token estimator: a mean between prior and evidence, and quantiles that are what the word says."""

from __future__ import annotations

from itertools import pairwise
from math import exp

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.core.latency import LONG_RUN_TAU, TAU, Latency
from tests.core.helpers import T, properties

NOISE = 1e-9  # of rounding; values here are at most 100 s

Waits = list[tuple[float, float]]  # after how long, how long

seconds = st.floats(0.001, 100.0)
gaps = st.one_of(st.just(0.0), st.floats(0.0, 10.0), st.floats(0.0, 5000.0))
waits = st.lists(st.tuples(gaps, seconds), max_size=30)
some_waits = st.lists(st.tuples(gaps, seconds), min_size=1, max_size=30)


def after(history: Waits, prior: float) -> tuple[Latency, float]:
    latency, now = Latency(prior), T
    for gap, value in history:
        now += gap
        latency.observe(value, now)
    return latency, now


@properties
@given(prior=seconds, idle=gaps)
def test_a_newcomer_stands_at_the_prior_however_long_it_is_not_asked(prior: float, idle: float) -> None:
    latency = Latency(prior)
    assert latency.unknown
    assert latency.mean(T + idle) == prior
    assert latency.quantile(0.5) is None


@properties
@given(prior=seconds, value=seconds)
def test_the_first_evidence_is_all_that_is_known(prior: float, value: float) -> None:
    latency, now = after([(0.0, value)], prior)
    assert latency.mean(now) == pytest.approx(value)

    assert not latency.unknown


def test_a_failure_counts_soon_but_not_in_the_long_run() -> None:
    latency = Latency(1.0)
    latency.penalise(5.0, T)
    assert latency.mean(T) == pytest.approx(4.2)
    assert latency.mean(T + 100 * TAU) == pytest.approx(1.0)
    latency.observe(0.2, T + 1.0)
    assert latency.mean(T + 1.0) == pytest.approx(0.2)  # the first that it served


@properties
@given(history=waits, prior=seconds, idle=gaps)
def test_the_mean_lies_between_the_prior_and_the_extremes_of_the_evidence(
    history: Waits, prior: float, idle: float
) -> None:
    latency, now = after(history, prior)
    values = [prior, *(value for _, value in history)]
    assert min(values) - NOISE <= latency.mean(now + idle) <= max(values) + NOISE


@properties
@given(history=waits, prior=seconds, idle=gaps, value=seconds)
def test_new_evidence_always_moves_the_mean_towards_it_and_never_beyond(
    history: Waits, prior: float, idle: float, value: float
) -> None:
    latency, now = after(history, prior)
    now += idle
    before = latency.mean(now)
    assume(abs(value - before) > 1e-3)
    latency.observe(value, now)
    moved = (latency.mean(now) - before) / (value - before)
    assert 0.0 < moved < 1.0 if history else moved == pytest.approx(1.0)


def test_new_evidence_counts_for_more_than_old() -> None:
    slower, now = after([(0.0, 1.0), (10.0, 2.0)], 1.5)
    faster, _ = after([(0.0, 2.0), (10.0, 1.0)], 1.5)
    assert slower.mean(now) > 1.5 > faster.mean(now)


def test_evidence_of_a_busy_minute_outweighs_the_prior() -> None:
    latency, now = after([(0.5, 0.2)] * 120, 10.0)
    assert latency.mean(now) == pytest.approx(0.2, rel=0.05)


@properties
@given(history=some_waits, prior=seconds, idles=st.lists(gaps, min_size=2, max_size=10))
def test_an_idle_endpoint_drifts_back_in_one_direction(history: Waits, prior: float, idles: list[float]) -> None:
    latency, now = after(history, prior)
    means = [latency.mean(now + idle) for idle in (0.0, *sorted(idles), 1e9)]
    direction = 1.0 if means[-1] >= means[0] else -1.0
    assert all((later - earlier) * direction >= -NOISE for earlier, later in pairwise(means))


@properties
@given(history=some_waits, prior=seconds)
def test_it_drifts_to_its_own_long_run_mean(history: Waits, prior: float) -> None:
    latency, now = after(history, prior)
    total, weight, then = 0.0, 0.0, T
    for gap, value in history:
        then += gap
        total += value * exp((then - now) / LONG_RUN_TAU)
        weight += exp((then - now) / LONG_RUN_TAU)
    assert latency.mean(now + 100 * TAU) == pytest.approx(total / weight)


def test_after_an_outage_an_idle_endpoint_is_believed_again() -> None:
    usual = [(5.0, 0.3)] * 200
    latency, now = after([*usual, (1.0, 30.0), (1.0, 30.0)], 1.0)
    assert latency.mean(now) > 5.0
    assert latency.mean(now + 10 * TAU) < 1.0


@properties
@given(history=waits, prior=seconds, idle=gaps, value=seconds)
def test_a_wait_that_was_broken_off_never_lowers_the_mean(
    history: Waits, prior: float, idle: float, value: float
) -> None:
    latency, now = after(history, prior)
    now += idle
    before = latency.mean(now)
    latency.observe_at_least(value, now)
    assert latency.mean(now) >= before


def test_a_wait_that_was_broken_off_counts_once_it_has_outlasted_the_estimate() -> None:
    told = Latency(1.0)
    told.observe_at_least(3.0, T)
    assert told.mean(T) == 3.0  # a bound, and no sample: it is no less
    assert not told.unknown
    told.observe(1.0, T)
    assert told.mean(T) < 2.2  # and it weighs no more than one


@properties
@given(history=waits, prior=seconds, idle=gaps, value=seconds)
def test_after_a_bound_the_mean_stands_between_it_and_the_prior(
    history: Waits, prior: float, idle: float, value: float
) -> None:
    latency, now = after(history, prior)
    latency.observe_at_least(value, now)
    stands, rests = latency.mean(now), latency.mean(now + 1e9)
    assert min(stands, rests) - NOISE <= latency.mean(now + idle) <= max(stands, rests) + NOISE


def test_a_wait_that_was_broken_off_early_says_nothing() -> None:
    latency = Latency(1.0)
    latency.observe_at_least(0.9, T)
    assert latency.mean(T) == 1.0
    assert latency.unknown


@properties
@given(history=waits, prior=seconds, reads=st.lists(st.tuples(st.integers(0, 30), gaps), max_size=20))
def test_reading_changes_nothing(history: Waits, prior: float, reads: list[tuple[int, float]]) -> None:
    untouched, now = after(history, prior)
    latency, then = Latency(prior), T
    for index, (gap, value) in enumerate(history):
        then += gap
        latency.observe(value, then)
        for _, ahead in (read for read in reads if read[0] == index):
            assert latency.mean(then + ahead) == latency.mean(then + ahead)
            latency.quantile(0.9)
    times = [now + ahead for _, ahead in reads] + [now]
    forwards = [latency.mean(time) for time in times]
    backwards = [latency.mean(time) for time in reversed(times)][::-1]
    assert forwards == backwards == [untouched.mean(time) for time in times]


def test_to_forget_makes_a_newcomer() -> None:
    latency, now = after([(1.0, 30.0)] * 50, 1.0)
    latency.forget()
    assert latency.unknown
    assert latency.mean(now) == latency.mean(now + 1e6) == 1.0
    assert latency.quantile(0.5) is None
