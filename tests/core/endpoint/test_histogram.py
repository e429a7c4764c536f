"""A decaying histogram, and its curve: what lasted is found again, and what was broken off is believed to last."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
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


def told(*waits: tuple[float, float, bool], now: float = T) -> tuple[Histogram, float]:
    """Of waits, each after a gap, that ended or were broken off."""
    sketch = Histogram()
    for gap, seconds, ended in waits:
        now += gap
        (sketch.add if ended else sketch.add_censored)(bucket(seconds), now)
    return sketch, now


def drawn(ended: Iterable[float] = (), cut: Iterable[float] = ()) -> Curve:
    sketch, _ = told(*((0.0, seconds, True) for seconds in ended), *((0.0, seconds, False) for seconds in cut))
    curve = sketch.curve()
    assert curve is not None
    return curve


lately = st.lists(st.tuples(st.just(0.0), waits, st.booleans()), min_size=int(MIN_OBSERVATIONS), max_size=40)
curves = st.builds(lambda life, lately: told(*life, *lately)[0].curve(), lives, lately)


@given(seconds=st.floats(0.0, 1e6))
def test_a_wait_lies_in_its_bucket_and_the_longest_ones_in_the_last(seconds: float) -> None:
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
def test_the_curve_begins_at_one_never_rises_and_is_nothing_at_the_longest(curve: Curve) -> None:
    shares = [curve.survival(seconds) for seconds in STEPS]
    assert shares[0] == 1.0
    assert all(earlier >= later - NOISE for earlier, later in pairwise(shares))
    assert shares[-1] == shares[-2] == curve.survival(LONGEST_WAIT) == 0.0
    assert all(0.0 <= curve.tail(i) <= 1.0 for i in range(BUCKETS))


@properties
@given(curve=curves, seconds=st.floats(0.0, 150.0))
def test_the_mean_up_to_a_time_is_the_area_under_the_curve_and_what_remains_is_the_rest(
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
def test_a_quantile_is_where_that_share_is_over(curve: Curve, q: float) -> None:
    seconds = curve.quantile(q)
    assert 0.0 <= seconds <= LONGEST_WAIT
    if seconds < LONGEST_WAIT:
        assert curve.survival(seconds) == pytest.approx(1.0 - q, abs=1e-6)
    assert curve.survival(max(0.0, seconds * (1.0 - 1e-6) - 1e-9)) >= 1.0 - q - NOISE
    assert curve.median == curve.quantile(0.5)


@properties
@given(life=lives, seconds=waits)
def test_one_more_that_was_broken_off_lowers_the_curve_nowhere(
    life: list[tuple[float, float, bool]], seconds: float
) -> None:
    sketch, now = told(*life)
    before = sketch.curve()
    sketch.add_censored(bucket(seconds), now)
    after = sketch.curve()
    if before is not None:
        assert after is not None
        assert all(after.survival(t) >= before.survival(t) - NOISE for t in STEPS)
        assert all(after.quantile(q) >= before.quantile(q) - NOISE for q in (0.1, 0.5, 0.9, 0.99))
        assert after.mean >= before.mean - NOISE


@properties
@given(lasted=st.lists(waits, max_size=60), one=waits, another=waits)
def test_of_two_equal_ones_the_one_told_the_longer_wait_has_the_higher_curve(
    lasted: list[float], one: float, another: float
) -> None:
    """But where many were broken off: then one that ended late says much, for few were seen for so long."""
    shorter, now = told(*((0.0, seconds, True) for seconds in lasted))
    longer = deepcopy(shorter)
    shorter.add(bucket(min(one, another)), now)
    longer.add(bucket(max(one, another)), now)
    low, high = shorter.curve(), longer.curve()
    assert (low is None) == (high is None)
    if low is not None and high is not None:
        assert all(high.survival(t) >= low.survival(t) - NOISE for t in STEPS)


@properties
@given(values=st.lists(st.floats(0.001, 100.0), min_size=20, max_size=200))
def test_without_any_that_was_broken_off_it_is_the_share_of_those_that_lasted_longer(values: list[float]) -> None:
    curve = drawn(values)
    edges = sorted({EDGES[bucket(value) + 1] for value in values})
    for edge in edges[:-1]:
        longer = sum(EDGES[bucket(value)] >= edge for value in values) / len(values)
        assert curve.survival(edge) == pytest.approx(longer, abs=0.5 / len(values) + NOISE)


@properties
@given(life=lives)
def test_reading_changes_nothing(life: list[tuple[float, float, bool]]) -> None:
    sketch, _ = told(*life)
    first, second = sketch.curve(), sketch.curve()
    assert (first is None) == (second is None) == (sketch.count < MIN_OBSERVATIONS)
    if first is not None and second is not None:
        assert [first.survival(t) for t in STEPS] == [second.survival(t) for t in STEPS]


def test_a_known_distribution_comes_out_again() -> None:
    rng = Random(1)
    curve = drawn(0.5 * exp(rng.gauss(0.0, 0.4)) for _ in range(5000))
    for q, deviations in ((0.05, -1.645), (0.5, 0.0), (0.9, 1.282), (0.99, 2.326)):
        assert curve.quantile(q) == pytest.approx(0.5 * exp(0.4 * deviations), rel=0.05)
    assert curve.mean == pytest.approx(0.5 * exp(0.08), rel=0.03)


def test_stalls_come_out_as_frequent_and_as_long_as_they_are() -> None:
    rng = Random(1)
    curve = drawn(
        rng.uniform(10.0, 20.0) if rng.random() < 0.05 else 0.5 * exp(rng.gauss(0.0, 0.3)) for _ in range(5000)
    )
    assert curve.survival(5.0) == pytest.approx(0.05, rel=0.15)
    assert curve.remaining(5.0) == pytest.approx(10.0, rel=0.1)
    assert curve.mean == pytest.approx(0.95 * 0.523 + 0.05 * 15.0, rel=0.1)


@pytest.mark.parametrize("limit", [0.6, 2.0])
def test_where_everything_was_broken_off_after_a_while_the_tail_is_not_believed_to_end_there(limit: float) -> None:
    rng = Random(1)
    values = [rng.uniform(10.0, 20.0) if rng.random() < 0.05 else 0.5 * exp(rng.gauss(0.0, 0.3)) for _ in range(5000)]
    curve = drawn([v for v in values if v <= limit], [limit for v in values if v > limit])
    truth = sum(v > 0.5 for v in values) / len(values)
    assert curve.survival(0.5) == pytest.approx(truth, rel=0.1)
    beyond = sum(v > limit for v in values) / len(values)
    assert curve.survival(limit * GROWTH) == pytest.approx(beyond, rel=0.35)
    assert curve.remaining(limit * GROWTH) > limit  # what took so long may well take as long again
    assert curve.survival(4.0 * limit) > 0.15 * beyond


def test_where_all_that_was_seen_was_broken_off_nothing_was_seen_to_end() -> None:
    curve = drawn(cut=[3.0] * 20)
    assert curve.survival(3.0) == 1.0
    assert curve.median > 3.0


def test_what_was_seen_weighs_half_after_a_while() -> None:
    sketch, now = told(*((0.0, 1.0, True) for _ in range(400)))
    sketch.add(bucket(10.0), now + TAU * log(2.0))
    assert sketch.count == pytest.approx(201.0)
    sketch.fade(0.5)
    assert sketch.count == pytest.approx(100.5)


def test_there_is_no_curve_before_there_is_enough_nor_of_what_is_long_ago() -> None:
    sketch, now = told(*((0.0, 1.0, True) for _ in range(int(MIN_OBSERVATIONS) - 1)))
    assert sketch.curve() is None
    sketch.add(bucket(1.0), now)
    assert sketch.curve() is not None
    sketch.add(bucket(1.0), now + 100.0 * TAU)
    assert sketch.curve() is None


@pytest.mark.parametrize("now", [0.0, 1e3, 1e9])
def test_it_does_not_wear_out(now: float) -> None:
    """Weights grow beside those that fade, and are weighed anew before they are too large for a float."""
    rng, sketch = Random(1), Histogram()
    for _ in range(50_000):
        now += rng.choice((0.0, 0.05, 0.05, 2.0))
        sketch.add(bucket(0.5 * exp(rng.gauss(0.0, 0.3))), now)
    curve = sketch.curve()
    assert curve is not None
    assert curve.median == pytest.approx(0.5, rel=0.05)
    assert sketch.count == pytest.approx(TAU / 0.525, rel=0.2)


def test_thousands_of_equal_waits_are_one_wait() -> None:
    curve = drawn([0.3] * 20_000)
    assert EDGES[bucket(0.3)] <= curve.quantile(0.01) <= curve.quantile(0.999) <= EDGES[bucket(0.3) + 1]
    assert curve.mean == pytest.approx(0.3, rel=0.1)
