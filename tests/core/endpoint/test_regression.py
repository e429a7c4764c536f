"""A line through decaying evidence: it is found where there is one, and not where there is none."""

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
    rng, fit, now = Random(seed), Regression(TAU), T
    for _ in range(count):
        now += 0.5
        size = min(30000.0, rng.lognormvariate(7.0, 1.2))
        stall = rng.uniform(5.0, 20.0) if rng.random() < stalls else 0.0
        fit.add(size, 0.4 * rng.lognormvariate(0.0, noise) + slope * size + stall, now)
    return fit


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 1.0])
def test_a_slope_is_found_where_there_is_one(noise: float) -> None:
    for seed in range(20):
        assert fitted(SLOPE, noise, seed).slope == pytest.approx(SLOPE, rel=0.02 + 0.15 * noise)


@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_hardly_one_is_found_where_there_is_none(noise: float) -> None:
    assert sum(fitted(0.0, noise, seed).slope > 0.0 for seed in range(100)) <= 3


def test_stalls_hide_it_seldom_and_make_up_none_that_is_as_steep() -> None:
    assert sum(fitted(SLOPE, 0.3, seed, stalls=0.05).slope > 0.5 * SLOPE for seed in range(50)) >= 45
    assert sum(fitted(0.0, 0.3, seed, stalls=0.05).slope > 0.5 * SLOPE for seed in range(50)) <= 3


def test_none_is_below_nothing() -> None:
    for seed in range(20):
        assert fitted(-1e-5, 0.01, seed).slope == 0.0


@properties
@given(told=st.lists(st.tuples(gaps, sizes, values), min_size=1, max_size=80))
def test_whatever_it_is_told_the_slope_is_a_slope_and_the_means_are_means(
    told: list[tuple[float, float, float]],
) -> None:
    fit, now = Regression(TAU), T
    for gap, size, value in told:
        now += gap
        fit.add(size, value, now)
        assert fit.slope >= 0.0
        assert isfinite(fit.slope)
        assert fit.weight >= 1.0
    xs, ys = [size for _, size, _ in told], [value for _, _, value in told]
    assert min(xs) * (1.0 - 1e-9) <= fit.mean_x <= max(xs) * (1.0 + 1e-9)
    assert min(ys) * (1.0 - 1e-9) <= fit.mean_y <= max(ys) * (1.0 + 1e-9)


@pytest.mark.parametrize("sizes", [(1e6, 1e6), (1e6, 1e6 + 1.0), (1e7, 1e7), (0.0, 0.0), (1e7, 1e7 + 1e-3)])
def test_sizes_that_are_all_the_same_or_nearly_say_nothing_of_it(sizes: tuple[float, float]) -> None:
    rng, fit = Random(1), Regression(TAU)
    for i in range(5000):
        fit.add(sizes[i % 2], 0.4 * rng.lognormvariate(0.0, 0.3), T + 0.1 * i)
    assert fit.slope < 1e-6


def test_a_line_without_noise_is_found_far_from_zero() -> None:
    fit = Regression(TAU)
    for i in range(200):
        size = 1e6 + 1000.0 * (i % 7)
        fit.add(size, SLOPE * size, 1e9 + i)
    assert fit.slope == pytest.approx(SLOPE, rel=1e-3)


def test_it_is_not_believed_before_there_is_enough_and_is_kept_while_there_is_too_little_again() -> None:
    fit = Regression(TAU)
    for i in range(int(MIN_OBSERVATIONS) - 1):
        fit.add(1000.0 * i, SLOPE * 1000.0 * i, T)
    assert fit.slope == 0.0
    fit.add(0.0, 0.0, T)
    assert fit.slope == pytest.approx(SLOPE)
    fit.add(0.0, 5.0, T + 1e6)
    assert fit.weight == 1.0
    assert fit.slope == pytest.approx(SLOPE)


def test_what_no_longer_holds_is_unlearned() -> None:
    rng, fit, now = Random(1), fitted(SLOPE, 0.3, 1), T + 150.0
    for _ in range(4000):
        now += 0.5
        fit.add(min(30000.0, rng.lognormvariate(7.0, 1.2)), 0.4 * rng.lognormvariate(0.0, 0.3), now)
    assert fit.slope < 0.1 * SLOPE


def test_one_prompt_that_is_far_longer_than_all_others_does_not_make_the_line() -> None:
    rng, fit = Random(1), Regression(TAU)
    for i in range(400):
        size = rng.uniform(100.0, 4000.0)
        fit.add(size, 0.1 + SLOPE * size + rng.gauss(0.0, 0.02), T + i)
    fit.add(250_000.0, 0.5, T + 400.0)  # a clip of sound, of which not a byte is read as text
    assert fit.slope == pytest.approx(SLOPE, rel=0.1)


def test_sizes_that_hardly_differ_say_nothing_of_others() -> None:
    for seed in range(100):
        rng, fit = Random(seed), Regression(TAU)
        for i in range(100):
            fit.add(rng.choice([20.0, 21.0]), rng.lognormvariate(-1.0, 0.5), T + i)
        assert fit.slope * (min(10_000.0, fit.reach) - 20.5) < 1.0
