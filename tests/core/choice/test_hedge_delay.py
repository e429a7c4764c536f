"""The hedge delay: beyond all waits on light tails, just beyond the usual ones if some stall, optimal by search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import exp, inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.choice.hedge_delay import BASE_PRICE, MAX_PRICE, SCARCITY_PRICE, STEEPNESS, delay, price, samples
from router.core.endpoint.histogram import LONGEST_WAIT, Curve, Histogram, bucket
from tests.core.helpers import T, properties

LIGHT = 0.3  # sigma of a lognormal with a median of 0.5 s, of which one in a thousand waits exceeds 1.26 s
BODY = 1.3  # seconds; all waits that do not stall end before

laws = st.tuples(
    st.sampled_from([0.1, 0.5, 2.0]),
    st.sampled_from([0.1, LIGHT, 0.8, 1.5]),
    st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5]),
    st.sampled_from([3.0, 20.0, 100.0]),
)
Law = tuple[float, float, float, float]


@cache
def curve(median: float = 0.5, sigma: float = LIGHT, stalls: float = 0.0, stall: float = 15.0) -> Curve:
    """A curve of lognormal waits, of which the share `stalls` takes about `stall` seconds instead."""
    rng, histogram = Random(1), Histogram()
    for _ in range(3000):
        stalled = rng.random() < stalls
        wait = stall * rng.uniform(0.7, 1.3) if stalled else median * exp(rng.gauss(0.0, sigma))
        histogram.add(bucket(wait), T)
    drawn = histogram.curve()
    assert drawn is not None
    return drawn


def cost(of: Curve, target: Sequence[float], price: float, after: float) -> float:
    """The objective: the expected wait plus the expected price, for a hedge after `after` seconds."""
    if after == inf:
        return of.mean
    return sum(of.mean_up_to(after + wait) for wait in target) / len(target) + price * of.survival(after)


def delay_for(of: Curve, target: Curve, pressure: float = 0.0) -> float:
    """The delay of a hedge with `target`, at the price for this pressure on the budget."""
    return delay(of, samples(target), price(pressure) * target.mean)


def test_the_price_rises_with_the_share_spent_up_to_its_maximum() -> None:
    prices = [price(spent / 100.0) for spent in range(101)]
    assert prices == sorted(prices)
    assert prices[0] == BASE_PRICE
    assert prices[50] == pytest.approx(BASE_PRICE, rel=0.001)  # half of the budget is there to be spent
    assert prices[90] == pytest.approx(BASE_PRICE + SCARCITY_PRICE * 0.9**STEEPNESS / 0.1)
    assert prices[100] == MAX_PRICE
    assert delay(curve(stalls=0.05), samples(curve()), inf) == inf


@pytest.mark.parametrize("target", [0.4, 0.5, 0.6])
def test_on_light_tails_no_hedge_is_sent_within_the_waits_seen(target: float) -> None:
    usual = curve()
    assert usual.survival(delay_for(usual, curve(target))) < 0.001


@pytest.mark.parametrize("stalls", [0.01, 0.02, 0.05, 0.1, 0.2])
def test_with_stalls_of_any_share_the_hedge_is_sent_just_beyond_the_usual_waits(stalls: float) -> None:
    usual, stalling = curve(), curve(stalls=stalls)
    for target in (usual, stalling):
        assert usual.quantile(0.8) < delay_for(stalling, target, pressure=0.92) < BODY


def test_with_very_many_stalls_and_an_unspent_budget_the_hedge_is_sent_at_once() -> None:
    assert delay_for(curve(stalls=0.2), curve()) == 0.0


def test_a_much_slower_endpoint_is_hedged_early() -> None:
    assert delay_for(curve(5.0), curve(0.1)) < 0.5


@properties
@given(law=laws, target=laws, pressures=st.lists(st.floats(0.0, 0.99), min_size=2, max_size=6))
def test_a_higher_price_never_makes_the_hedge_earlier(law: Law, target: Law, pressures: list[float]) -> None:
    delays = [delay_for(curve(*law), curve(*target), pressure) for pressure in sorted(pressures)]
    assert delays == sorted(delays)


@properties
@given(law=laws, target=laws, pressure=st.floats(0.0, 0.95))
def test_an_exhaustive_search_finds_no_better_delay(law: Law, target: Law, pressure: float) -> None:
    of, beside = curve(*law), curve(*target)
    price_paid = price(pressure) * beside.mean
    waits = samples(beside)
    best = min(cost(of, waits, price_paid, after) for after in (inf, *(0.01 * 1.04**i for i in range(240)), 0.0))
    assert cost(of, waits, price_paid, delay_for(of, beside, pressure)) <= 1.02 * best


@properties
@given(law=laws, target=laws, pressure=st.floats(0.0, 1.0), earliest=st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_the_delay_is_not_before_the_earliest_and_never_worse_than_no_hedge(
    law: Law, target: Law, pressure: float, earliest: float
) -> None:
    of, waits = curve(*law), samples(curve(*target))
    price_paid = price(pressure) * curve(*target).mean
    after = delay(of, waits, price_paid, earliest)
    assert after >= of.quantile(earliest)
    assert after == inf or after <= 3.0 * LONGEST_WAIT
    assert cost(of, waits, price_paid, after) <= of.mean
    assert after == delay(of, waits, price_paid, earliest)  # reading changes nothing


@properties
@given(law=laws)
def test_the_samples_represent_the_distribution(law: Law) -> None:
    waits = samples(curve(*law))
    assert list(waits) == sorted(waits)
    assert sum(waits) / len(waits) <= 1.6 * curve(*law).mean
    assert waits[0] >= 0.0
    assert waits[-1] <= LONGEST_WAIT
