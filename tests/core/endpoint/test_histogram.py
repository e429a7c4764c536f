"""The decaying histogram and its survival curve: known distributions are recovered, also from censored waits."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import exp, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.endpoint.histogram import (
    BUCKETS,
    EDGES,
    GROWTH,
    LONGEST_WAIT,
    MIN_OBSERVATIONS,
    SHORTEST_WAIT,
    TAU,
    Curve,
    Histogram,
    bucket,
)
from tests.core.helpers import T, properties

NOISE = 1e-9
STEPS = [
    0.0,
    *(SHORTEST_WAIT * 1.02**i for i in range(560)),
    LONGEST_WAIT,
    1e4,
]  # finer than the buckets, and beyond them

waits = st.one_of(st.floats(0.0, 200.0), st.sampled_from([*EDGES, 1e6]))
gaps = st.sampled_from([0.0, 0.0, 0.0, 1.0, 60.0, 4000.0, 1e7])
lives = st.lists(st.tuples(gaps, waits, st.booleans()), max_size=60)


def observed(*waits: tuple[float, float, bool], now: float = T) -> tuple[Histogram, float]:
    """A histogram of waits, each after a gap, that ended or were broken off; and the time after them."""
    histogram = Histogram()
    for gap, seconds, ended in waits:
        now += gap
        (histogram.add if ended else histogram.add_censored)(bucket(seconds), now)
    return histogram, now


def drawn(ended: Iterable[float] = (), cut: Iterable[float] = ()) -> Curve:
    histogram, _ = observed(*((0.0, seconds, True) for seconds in ended), *((0.0, seconds, False) for seconds in cut))
    curve = histogram.curve()
    assert curve is not None
    return curve


lately = st.lists(st.tuples(st.just(0.0), waits, st.booleans()), min_size=int(MIN_OBSERVATIONS), max_size=40)
curves = st.builds(lambda life, lately: observed(*life, *lately)[0].curve(), lives, lately)


@given(seconds=st.floats(0.0, 1e6))
def test_a_wait_lies_between_the_edges_of_its_bucket_and_the_longest_in_the_last(seconds: float) -> None:
    where = bucket(seconds)
    assert 0 <= where < BUCKETS
    assert EDGES[where] * (1.0 - NOISE) <= seconds
    assert seconds <= EDGES[where + 1] * (1.0 + NOISE) or where == BUCKETS - 1
    assert EDGES[-1] == LONGEST_WAIT
    assert all(
        0.0 < longer - shorter <= (GROWTH - 1.0) * shorter + SHORTEST_WAIT for shorter, longer in pairwise(EDGES)
    )


@properties
@given(curve=curves)
def test_the_curve_begins_at_one_never_rises_and_is_zero_at_the_longest_wait(curve: Curve) -> None:
    shares = [curve.survival(seconds) for seconds in STEPS]
    assert shares[0] == 1.0
    assert all(earlier >= later - NOISE for earlier, later in pairwise(shares))
    assert shares[-1] == shares[-2] == curve.survival(LONGEST_WAIT) == 0.0
    assert all(0.0 <= curve.tail(i) <= 1.0 for i in range(BUCKETS))


@properties
@given(curve=curves, seconds=st.floats(0.0, 150.0))
def test_the_mean_up_to_a_time_is_the_area_under_the_curve_and_the_remaining_time_is_the_rest(
    curve: Curve, seconds: float
) -> None:
    end = min(seconds, LONGEST_WAIT)
    times = [end * i / 4000.0 for i in range(4001)]
    area = sum(
        (curve.survival(a) + min(curve.survival(a), curve.survival(b))) * 0.5 * (b - a) for a, b in pairwise(times)
    )
    assert curve.mean_up_to(seconds) == pytest.approx(area, rel=0.01, abs=0.02)
    assert 0.0 <= curve.mean_up_to(seconds) <= min(seconds, curve.mean) + NOISE
    assert curve.mean_up_to(LONGEST_WAIT) == curve.mean
    assert curve.remaining(seconds) >= 0.0
    assert curve.remaining(0.0) == curve.mean


@properties
@given(curve=curves, q=st.floats(0.0, 1.0))
def test_a_quantile_is_the_inverse_of_the_curve(curve: Curve, q: float) -> None:
    seconds = curve.quantile(q)
    assert 0.0 <= seconds <= LONGEST_WAIT
    if seconds < LONGEST_WAIT:
        assert curve.survival(seconds) == pytest.approx(1.0 - q, abs=1e-6)
    assert curve.survival(max(0.0, seconds * (1.0 - 1e-6) - 1e-9)) >= 1.0 - q - NOISE
    assert curve.median == curve.quantile(0.5)


@properties
@given(life=lives, seconds=waits)
def test_one_more_censored_wait_lowers_the_curve_nowhere(life: list[tuple[float, float, bool]], seconds: float) -> None:
    histogram, now = observed(*life)
    before = histogram.curve()
    histogram.add_censored(bucket(seconds), now)
    after = histogram.curve()
    if before is not None:
        assert after is not None
        assert all(after.survival(t) >= before.survival(t) - NOISE for t in STEPS)
        assert all(after.quantile(q) >= before.quantile(q) - NOISE for q in (0.1, 0.5, 0.9, 0.99))
        assert after.mean >= before.mean - NOISE


@properties
@given(lasted=st.lists(waits, max_size=60), one=waits, another=waits)
def test_a_longer_wait_gives_a_curve_that_is_nowhere_lower(lasted: list[float], one: float, another: float) -> None:
    """Without censored waits: among many of these one late end weighs much, as few were seen for so long."""
    (shorter, now), (longer, _) = (observed(*((0.0, seconds, True) for seconds in lasted)) for _ in range(2))
    shorter.add(bucket(min(one, another)), now)
    longer.add(bucket(max(one, another)), now)
    low, high = shorter.curve(), longer.curve()
    assert (low is None) == (high is None)
    if low is not None and high is not None:
        assert all(high.survival(t) >= low.survival(t) - NOISE for t in STEPS)


@properties
@given(values=st.lists(st.floats(0.001, 100.0), min_size=20, max_size=200))
def test_without_censored_waits_the_curve_is_the_share_of_longer_waits(values: list[float]) -> None:
    curve = drawn(values)
    edges = sorted({EDGES[bucket(value) + 1] for value in values})
    for edge in edges[:-1]:
        longer = sum(EDGES[bucket(value)] >= edge for value in values) / len(values)
        assert curve.survival(edge) == pytest.approx(longer, abs=0.5 / len(values) + NOISE)


@properties
@given(life=lives)
def test_reading_changes_nothing(life: list[tuple[float, float, bool]]) -> None:
    histogram, _ = observed(*life)
    first, second = histogram.curve(), histogram.curve()
    assert (first is None) == (second is None) == (histogram.count < MIN_OBSERVATIONS)
    if first is not None and second is not None:
        assert [first.survival(t) for t in STEPS] == [second.survival(t) for t in STEPS]


def test_a_known_distribution_is_recovered() -> None:
    rng = Random(1)
    curve = drawn(0.5 * exp(rng.gauss(0.0, 0.4)) for _ in range(5000))
    for q, deviations in ((0.05, -1.645), (0.5, 0.0), (0.9, 1.282), (0.99, 2.326)):
        assert curve.quantile(q) == pytest.approx(0.5 * exp(0.4 * deviations), rel=0.05)
    assert curve.mean == pytest.approx(0.5 * exp(0.08), rel=0.03)


def test_the_share_and_the_length_of_stalls_are_recovered() -> None:
    rng = Random(1)
    curve = drawn(
        rng.uniform(10.0, 20.0) if rng.random() < 0.05 else 0.5 * exp(rng.gauss(0.0, 0.3)) for _ in range(5000)
    )
    assert curve.survival(5.0) == pytest.approx(0.05, rel=0.15)
    assert curve.remaining(5.0) == pytest.approx(10.0, rel=0.1)
    assert curve.mean == pytest.approx(0.95 * 0.523 + 0.05 * 15.0, rel=0.1)


@pytest.mark.parametrize("limit", [0.6, 2.0])
def test_a_tail_that_is_censored_at_a_limit_is_not_assumed_to_end_there(limit: float) -> None:
    rng = Random(1)
    values = [rng.uniform(10.0, 20.0) if rng.random() < 0.05 else 0.5 * exp(rng.gauss(0.0, 0.3)) for _ in range(5000)]
    curve = drawn([v for v in values if v <= limit], [limit for v in values if v > limit])
    truth = sum(v > 0.5 for v in values) / len(values)
    assert curve.survival(0.5) == pytest.approx(truth, rel=0.1)
    beyond = sum(v > limit for v in values) / len(values)
    assert curve.survival(limit * GROWTH) == pytest.approx(beyond, rel=0.35)
    assert curve.remaining(limit * GROWTH) > limit  # a wait that lasted so long may last as long again
    assert curve.survival(4.0 * limit) > 0.15 * beyond


def test_with_censored_waits_only_no_wait_is_assumed_to_end() -> None:
    curve = drawn(cut=[3.0] * 20)
    assert curve.survival(3.0) == 1.0
    assert curve.median > 3.0


def test_observations_weigh_half_after_the_half_life_and_less_after_fading() -> None:
    histogram, now = observed(*((0.0, 1.0, True) for _ in range(400)))
    histogram.add(bucket(10.0), now + TAU * log(2.0))
    assert histogram.count == pytest.approx(201.0)
    histogram.fade(0.5)
    assert histogram.count == pytest.approx(100.5)


def test_there_is_no_curve_from_too_few_or_too_old_observations() -> None:
    histogram, now = observed(*((0.0, 1.0, True) for _ in range(int(MIN_OBSERVATIONS) - 1)))
    assert histogram.curve() is None
    histogram.add(bucket(1.0), now)
    assert histogram.curve() is not None
    histogram.add(bucket(1.0), now + 100.0 * TAU)
    assert histogram.curve() is None


@pytest.mark.parametrize("now", [0.0, 1e3, 1e9])
def test_weights_do_not_overflow_in_a_long_life(now: float) -> None:
    """The weight of a fresh observation grows as old ones fade, and is rescaled before it overflows."""
    rng, histogram = Random(1), Histogram()
    for _ in range(50_000):
        now += rng.choice((0.0, 0.05, 0.05, 2.0))
        histogram.add(bucket(0.5 * exp(rng.gauss(0.0, 0.3))), now)
    curve = histogram.curve()
    assert curve is not None
    assert curve.median == pytest.approx(0.5, rel=0.05)
    assert histogram.count == pytest.approx(TAU / 0.525, rel=0.2)


def test_the_curve_of_thousands_of_equal_waits_is_one_step() -> None:
    curve = drawn([0.3] * 20_000)
    assert EDGES[bucket(0.3)] <= curve.quantile(0.01) <= curve.quantile(0.999) <= EDGES[bucket(0.3) + 1]
    assert curve.mean == pytest.approx(0.3, rel=0.1)
