"""Linear regression over decaying evidence: a true slope is found, and noise gives none."""

from __future__ import annotations

from math import isfinite
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.endpoint.regression import MIN_OBSERVATIONS, Regression
from tests.core.helpers import T, properties

TAU = 600.0
SLOPE = 3e-4  # seconds a token

values = st.one_of(st.floats(0.0, 100.0), st.just(0.3))
sizes = st.one_of(st.floats(0.0, 1e7), st.sampled_from([0.0, 1e6, 1e6 + 1.0, 1e7]))
gaps = st.sampled_from([0.0, 0.1, 10.0, 1e4, 1e9])


def fitted(slope: float, noise: float, seed: int, count: int = 300, stalls: float = 0.0) -> Regression:
    rng, line, now = Random(seed), Regression(TAU), T
    for _ in range(count):
        now += 0.5
        size = min(30000.0, rng.lognormvariate(7.0, 1.2))
        stall = rng.uniform(5.0, 20.0) if rng.random() < stalls else 0.0
        line.add(size, 0.4 * rng.lognormvariate(0.0, noise) + slope * size + stall, now)
    return line


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 1.0])
def test_a_true_slope_is_found(noise: float) -> None:
    for seed in range(20):
        assert fitted(SLOPE, noise, seed).slope == pytest.approx(SLOPE, rel=0.02 + 0.15 * noise)


@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_noise_hardly_ever_gives_a_slope(noise: float) -> None:
    assert sum(fitted(0.0, noise, seed).slope > 0.0 for seed in range(100)) <= 3


def test_stalls_seldom_hide_a_slope_and_seldom_imitate_one() -> None:
    assert sum(fitted(SLOPE, 0.3, seed, stalls=0.05).slope > 0.5 * SLOPE for seed in range(50)) >= 45
    assert sum(fitted(0.0, 0.3, seed, stalls=0.05).slope > 0.5 * SLOPE for seed in range(50)) <= 3


def test_no_slope_is_negative() -> None:
    for seed in range(20):
        assert fitted(-1e-5, 0.01, seed).slope == 0.0


@properties
@given(history=st.lists(st.tuples(gaps, sizes, values), min_size=1, max_size=80))
def test_after_any_evidence_the_slope_is_finite_and_the_means_lie_within_the_values(
    history: list[tuple[float, float, float]],
) -> None:
    line, now = Regression(TAU), T
    for gap, size, value in history:
        now += gap
        line.add(size, value, now)
        assert line.slope >= 0.0
        assert isfinite(line.slope)
        assert line.weight >= 1.0
    xs, ys = [size for _, size, _ in history], [value for _, _, value in history]
    assert min(xs) * (1.0 - 1e-9) <= line.mean_x <= max(xs) * (1.0 + 1e-9)
    assert min(ys) * (1.0 - 1e-9) <= line.mean_y <= max(ys) * (1.0 + 1e-9)


@pytest.mark.parametrize("sizes", [(1e6, 1e6), (1e6, 1e6 + 1.0), (1e7, 1e7), (0.0, 0.0), (1e7, 1e7 + 1e-3)])
def test_sizes_that_hardly_differ_give_no_slope(sizes: tuple[float, float]) -> None:
    rng, line = Random(1), Regression(TAU)
    for i in range(5000):
        line.add(sizes[i % 2], 0.4 * rng.lognormvariate(0.0, 0.3), T + 0.1 * i)
    assert line.slope < 1e-6


def test_a_line_without_noise_is_found_at_large_sizes() -> None:
    line = Regression(TAU)
    for i in range(200):
        size = 1e6 + 1000.0 * (i % 7)
        line.add(size, SLOPE * size, 1e9 + i)
    assert line.slope == pytest.approx(SLOPE, rel=1e-3)


def test_a_slope_needs_the_minimum_of_observations_and_is_kept_below_it_afterwards() -> None:
    line = Regression(TAU)
    for i in range(int(MIN_OBSERVATIONS) - 1):
        line.add(1000.0 * i, SLOPE * 1000.0 * i, T)
    assert line.slope == 0.0
    line.add(0.0, 0.0, T)
    assert line.slope == pytest.approx(SLOPE)
    line.add(0.0, 5.0, T + 1e6)
    assert line.weight == 1.0
    assert line.slope == pytest.approx(SLOPE)


def test_a_slope_that_no_longer_holds_is_unlearned() -> None:
    rng, line, now = Random(1), fitted(SLOPE, 0.3, 1), T + 150.0
    for _ in range(4000):
        now += 0.5
        line.add(min(30000.0, rng.lognormvariate(7.0, 1.2)), 0.4 * rng.lognormvariate(0.0, 0.3), now)
    assert line.slope < 0.1 * SLOPE


def test_one_prompt_far_longer_than_all_others_does_not_determine_the_line() -> None:
    rng, line = Random(1), Regression(TAU)
    for i in range(400):
        size = rng.uniform(100.0, 4000.0)
        line.add(size, 0.1 + SLOPE * size + rng.gauss(0.0, 0.02), T + i)
    line.add(250_000.0, 0.5, T + 400.0)  # an audio clip, which is not read as text
    assert line.slope == pytest.approx(SLOPE, rel=0.1)


def test_a_line_through_nearly_equal_sizes_does_not_reach_far() -> None:
    for seed in range(100):
        rng, line = Random(seed), Regression(TAU)
        for i in range(100):
            line.add(rng.choice([20.0, 21.0]), rng.lognormvariate(-1.0, 0.5), T + i)
        assert line.slope * (min(10_000.0, line.reach) - 20.5) < 1.0
