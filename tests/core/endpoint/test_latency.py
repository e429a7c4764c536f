"""The latency estimate: a mean between prior and evidence, quantiles, sizes, loads and changes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import exp, isfinite
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.core.endpoint.histogram import LONGEST_WAIT
from router.core.endpoint.latency import BOUND_WEIGHT, FEW, LONG_RUN_TAU, MAX_EVIDENCE, MAX_STALLS, TAU, Latency
from tests.core.helpers import T, properties
from tests.core.lives import lived

NOISE = 1e-9  # of rounding; values here are at most 100 s

Waits = list[tuple[float, float]]  # seconds since the last one, seconds it took

seconds = st.floats(0.001, 100.0)
gaps = st.one_of(st.just(0.0), st.floats(0.0, 10.0), st.floats(0.0, 5000.0))
waits = st.lists(st.tuples(gaps, seconds), max_size=30)
some_waits = st.lists(st.tuples(gaps, seconds), min_size=1, max_size=30)
seeds = st.integers(0, 2**32)
loads = st.sampled_from([0.0, 1.0, 10.0, 60.0])
shares = st.floats(0.1, 10.0)  # of the expected wait


def after(history: Waits, prior: float) -> tuple[Latency, float]:
    latency, now = Latency(prior), T
    for gap, value in history:
        now += gap
        latency.observe(value, now)
    return latency, now


@properties
@given(prior=seconds, idle=gaps)
def test_a_newcomers_estimate_is_the_prior_at_any_time(prior: float, idle: float) -> None:
    latency = Latency(prior)
    assert latency.unknown
    assert latency.mean(T + idle) == prior
    assert latency.quantile(0.5) is None


@properties
@given(prior=seconds, value=seconds)
def test_the_first_evidence_replaces_the_prior(prior: float, value: float) -> None:
    latency, now = after([(0.0, value)], prior)
    assert latency.mean(now) == pytest.approx(value)

    assert not latency.unknown


def test_a_failure_counts_in_the_mean_but_not_in_the_long_run_mean() -> None:
    latency = Latency(1.0)
    latency.penalise(5.0, T)
    assert latency.mean(T) == pytest.approx(4.2)
    assert latency.mean(T + 100 * TAU) == pytest.approx(1.0)
    latency.observe(0.2, T + 1.0)
    assert latency.mean(T + 1.0) == pytest.approx(0.2)  # the first one served replaces everything


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


def test_new_evidence_weighs_more_than_old() -> None:
    slower, now = after([(0.0, 1.0), (10.0, 2.0)], 1.5)
    faster, _ = after([(0.0, 2.0), (10.0, 1.0)], 1.5)
    assert slower.mean(now) > 1.5 > faster.mean(now)


def test_evidence_of_a_busy_minute_outweighs_the_prior() -> None:
    latency, now = after([(0.5, 0.2)] * 120, 10.0)
    assert latency.mean(now) == pytest.approx(0.2, rel=0.05)


@properties
@given(history=some_waits, prior=seconds, idles=st.lists(gaps, min_size=2, max_size=10))
def test_the_estimate_of_an_idle_endpoint_drifts_in_one_direction(
    history: Waits, prior: float, idles: list[float]
) -> None:
    latency, now = after(history, prior)
    means = [latency.mean(now + idle) for idle in (0.0, *sorted(idles), 1e9)]
    direction = 1.0 if means[-1] >= means[0] else -1.0
    assert all((later - earlier) * direction >= -NOISE for earlier, later in pairwise(means))


@properties
@given(history=some_waits, prior=seconds)
def test_the_estimate_drifts_to_the_long_run_mean(history: Waits, prior: float) -> None:
    latency, now = after(history, prior)
    total, weight, then = 0.0, 0.0, T
    for gap, value in history:
        then += gap
        total += value * exp((then - now) / LONG_RUN_TAU)
        weight += exp((then - now) / LONG_RUN_TAU)
    assert latency.mean(now + 100 * TAU) == pytest.approx(total / weight)


def test_after_an_outage_the_estimate_of_an_idle_endpoint_recovers() -> None:
    usual = [(5.0, 0.3)] * 200
    latency, now = after([*usual, (1.0, 30.0), (1.0, 30.0)], 1.0)
    assert latency.mean(now) > 5.0
    assert latency.mean(now + 10 * TAU) < 1.0


@properties
@given(history=waits, prior=seconds, idle=gaps, value=seconds)
def test_a_censored_wait_never_lowers_the_mean(history: Waits, prior: float, idle: float, value: float) -> None:
    latency, now = after(history, prior)
    now += idle
    before = latency.mean(now)
    latency.observe_at_least(value, now)
    assert latency.mean(now) >= before


def test_a_censored_wait_counts_if_it_is_longer_than_expected() -> None:
    latency = Latency(1.0)
    latency.observe_at_least(3.0, T)
    assert latency.mean(T) == 3.0  # a lower bound, which is not averaged with the prior
    assert not latency.unknown
    latency.observe(1.0, T)
    assert latency.mean(T) < 2.2  # with the weight of one observation


@properties
@given(history=waits, prior=seconds, idle=gaps, value=seconds)
def test_after_a_censored_wait_the_mean_drifts_between_it_and_the_prior(
    history: Waits, prior: float, idle: float, value: float
) -> None:
    latency, now = after(history, prior)
    latency.observe_at_least(value, now)
    first, last = latency.mean(now), latency.mean(now + 1e9)
    assert min(first, last) - NOISE <= latency.mean(now + idle) <= max(first, last) + NOISE


def test_a_wait_that_was_broken_off_early_is_no_evidence() -> None:
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


@properties
@given(seed=seeds, one=shares, another=shares, later=gaps, load=loads)
def test_a_quicker_wait_never_makes_the_endpoint_cost_more(
    seed: int, one: float, another: float, later: float, load: float
) -> None:
    with_quicker, now = lived(seed, loaded=True)
    with_slower, now = lived(seed, loaded=True)[0], now + later
    quicker, slower = sorted(share * with_quicker.expected(0.0, now) for share in (one, another))
    with_quicker.observe(quicker, now, load=load)
    with_slower.observe(slower, now, load=load)
    assert with_quicker.mean(now) <= with_slower.mean(now) * (1.0 + NOISE)
    for any_load in (0.0, load, 60.0):
        assert cost(with_quicker, 0.0, any_load, now) <= cost(with_slower, 0.0, any_load, now) * (1.0 + NOISE)


@properties
@given(seed=seeds, share=shares, later=gaps, load=loads)
def test_after_any_history_a_wait_below_the_mean_never_raises_it_nor_one_above_lowers_it(
    seed: int, share: float, later: float, load: float
) -> None:
    latency, now = lived(seed, loaded=True)
    now += later
    assume(latency.weight)
    before = latency.mean(now)
    latency.observe(share * before, now, load=load)
    assert (latency.mean(now) - before) * (share - 1.0) >= -NOISE * before


@properties
@given(seed=seeds, share=shares, later=gaps, size=st.sampled_from([0.0, 100.0, 20000.0]), load=loads)
def test_after_any_history_a_censored_wait_never_lowers_the_cost(
    seed: int, share: float, later: float, size: float, load: float
) -> None:
    latency, now = lived(seed, sized=True, loaded=True)
    now += later
    before = [cost(latency, size, any_load, now) for any_load in (0.0, load, 60.0)]
    latency.observe_at_least(share * before[0], now, size, load)
    after = [cost(latency, size, any_load, now) for any_load in (0.0, load, 60.0)]
    assert all(later >= earlier * (1.0 - NOISE) for earlier, later in zip(before, after, strict=True))


@properties
@given(seed=seeds, failures=st.integers(1, 300), seconds=st.floats(0.0, 10.0), later=gaps, load=loads)
def test_failures_never_lower_the_cost(seed: int, failures: int, seconds: float, later: float, load: float) -> None:
    latency, now = lived(seed, sized=True, loaded=True)
    now += later
    before = cost(latency, 100.0, load, now)
    for _ in range(failures):
        latency.penalise(seconds, now)
    assert cost(latency, 100.0, load, now) >= before * (1.0 - NOISE)


@properties
@given(seed=seeds, later=gaps, size=st.sampled_from([0.0, 1.0, 1e7]), value=st.sampled_from([0.0, 1e-9, 1.0, 1e5]))
def test_after_any_history_every_estimate_is_a_finite_time(seed: int, later: float, size: float, value: float) -> None:
    latency, now = lived(seed, sized=True, loaded=True)
    now += later
    for _ in range(3):
        for at in (now, now + 1e9):
            assert 0.0 < latency.expected(size, at) < 1e9
            assert isfinite(latency.shift(size, at))
            assert latency.pending_surprise(value, size, at) >= 0.0
        latency.observe(value, now, size)
        latency.draw()
        assert 0.0 <= latency.late_after <= LONGEST_WAIT
        latency.observe_at_least(value, now, size)


@properties
@given(seed=seeds, later=gaps)
def test_without_trouble_the_expected_wait_is_the_mean_plus_the_effect_of_the_size(seed: int, later: float) -> None:
    latency, now = lived(seed, sized=True)
    now += later
    assume(latency._changes.trouble(now) == 0.0)
    for size in (0.0, 1000.0, 1e5):
        usual = latency.mean(now) + latency.shift(size, now)
        assert latency.expected(size, now) == pytest.approx(max(0.002, usual), rel=1e-6, abs=1e-6)


@properties
@given(seed=seeds)
def test_the_weight_of_the_evidence_is_bounded(seed: int) -> None:
    latency, now = lived(seed)
    latency.observe(1.0, now)
    assert 0.0 < latency.weight <= MAX_EVIDENCE


@pytest.mark.parametrize("median", [0.15, 1.5])
def test_a_detected_change_replaces_the_evidence_from_before(median: float) -> None:
    latency, now = regular(Random(1), median=0.5, count=400)
    for wait in waits_of(Random(2), median, 12):
        now += 0.1
        latency.observe(wait, now)
    assert latency.mean(now) == pytest.approx(1.05 * median, rel=0.3)  # the mean of all 412 would be near 0.5
    assert latency.weight < 20.0


def test_a_single_usual_stall_raises_the_expected_wait_little() -> None:
    usual, now = regular(Random(1), median=0.5, count=2000, stalls=0.05)
    never, _ = regular(Random(1), median=0.5, count=2000)
    for latency in (usual, never):
        latency.observe(0.5, now)
        before = latency.mean(now)
        latency.observe(12.0, now)
        raised = latency.expected(0.0, now) - latency.mean(now)
        assert raised < 0.5 * before if latency is usual else raised > 1.5 * before


def test_a_detected_slowdown_does_not_lower_an_estimate_that_failures_had_raised() -> None:
    latency, now = regular(Random(1), median=0.3, count=400)
    for _ in range(100):
        latency.penalise(5.0, now)
    raised = latency.mean(now)
    for wait in (1.0, 1.0, 1.0):  # long, but below the estimate: they lower it as any wait does
        latency.observe(wait, now)
    assert 2.0 < latency.mean(now) < raised
    latency.observe(raised, now)  # now the alarm is raised
    assert latency.mean(now) >= 2.0
    assert latency.weight == BOUND_WEIGHT


def test_the_effect_of_a_prompt_token_is_learned_and_kept_while_idle() -> None:
    latency, now, rng = Latency(1.0), T, Random(1)
    for _ in range(200):
        now += 0.5
        size = rng.choice((100.0, 2000.0, 10000.0))
        latency.observe(0.4 * exp(rng.gauss(0.0, 0.3)) + 3e-4 * size, now, size)
    for size in (100.0, 10000.0):
        assert latency.expected(size, now) == pytest.approx(0.42 + 3e-4 * size, rel=0.15)
    now += 3600.0
    latency.observe(0.4 + 3e-4 * 100.0, now, 100.0)
    assert latency.expected(10000.0, now) == pytest.approx(3.4, rel=0.15)


def cost(latency: Latency, size: float, load: float, now: float) -> float:
    return latency.expected(size, now) * latency.load_factor(load)


def regular(rng: Random, median: float, count: int, stalls: float = 0.0) -> tuple[Latency, float]:
    """The latency of an endpoint that is asked ten times a second, and the time after the last call."""
    latency, now = Latency(1.0), T
    for wait in waits_of(rng, median, count):
        now += 0.1
        latency.observe(rng.uniform(8.0, 16.0) if rng.random() < stalls else wait, now)
        latency.draw()
    return latency, now


def waits_of(rng: Random, median: float, count: int) -> Iterator[float]:
    return (median * exp(rng.gauss(0.0, 0.3)) for _ in range(count))


@properties
@given(history=waits, than=seconds)
def test_an_endpoint_may_be_quicker_than_it_looks_only_while_it_has_few_waits(history: Waits, than: float) -> None:
    latency, _ = after(history, 1.0)
    if not history or len(history) >= FEW:
        assert not latency.may_be_quicker(than)
    elif len(history) < MAX_STALLS:
        assert latency.may_be_quicker(than)
    elif latency.curve is None and latency.seen == len(history):
        assert latency.may_be_quicker(than) is (min(value for _, value in history) < than)


@properties
@given(seed=seeds, later=st.floats(0.0, 1000.0))
def test_the_chance_of_a_wait_is_a_share_that_falls_with_its_length(seed: int, later: float) -> None:
    latency, now = lived(seed)
    chances = [latency.chance(length, 0.0, now + later) for length in (0.0, 0.1, 1.0, 10.0, 100.0, 1000.0)]
    assert chances == sorted(chances, reverse=True)
    assert all(0.0 <= chance <= 1.0 for chance in chances)
    if latency.curve is None:
        assert set(chances) == {0.0}


def test_forget_returns_to_the_state_of_a_newcomer() -> None:
    latency, now = after([(1.0, 30.0)] * 50, 1.0)
    latency.forget()
    assert latency.unknown
    assert latency.mean(now) == latency.mean(now + 1e6) == 1.0
    assert latency.quantile(0.5) is None
