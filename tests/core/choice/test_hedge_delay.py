"""When a rival is worth its price: never on light tails, just past the body on stalls however many, as is best."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import exp, inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.choice.hedge_delay import BASE_PRICE, MAX_PRICE, SCARCITY_PRICE, delay, price, samples
from router.core.endpoint.histogram import LONGEST_WAIT, Curve, Histogram, bucket
from tests.core.helpers import T, properties

LIGHT = 0.3  # sigma of a lognormal around half a second, of which one in a thousand takes 1.26 s
BODY = 1.3  # seconds, in which all are over that do not stall

laws = st.tuples(
    st.sampled_from([0.1, 0.5, 2.0]),
    st.sampled_from([0.1, LIGHT, 0.8, 1.5]),
    st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5]),
    st.sampled_from([3.0, 20.0, 100.0]),
)
Law = tuple[float, float, float, float]


@cache
def curve(median: float = 0.5, sigma: float = LIGHT, stalls: float = 0.0, stall: float = 15.0) -> Curve:
    """Of waits of which a share stalls, for about so long."""
    rng, sketch = Random(1), Histogram()
    for _ in range(3000):
        stalled = rng.random() < stalls
        wait = stall * rng.uniform(0.7, 1.3) if stalled else median * exp(rng.gauss(0.0, sigma))
        sketch.add(bucket(wait), T)
    drawn = sketch.curve()
    assert drawn is not None
    return drawn


def cost(of: Curve, rival: Sequence[float], price: float, after: float) -> float:
    """By the rule: what is waited, and what is paid."""
    if after == inf:
        return of.mean
    return sum(of.mean_up_to(after + wait) for wait in rival) / len(rival) + price * of.survival(after)


def found(of: Curve, rival: Curve, pressure: float = 0.0) -> float:
    return delay(of, samples(rival), price(pressure) * rival.mean)


def test_the_price_rises_with_what_is_spent_up_to_the_dearest() -> None:
    prices = [price(spent / 100.0) for spent in range(101)]
    assert prices == sorted(prices)
    assert prices[0] == BASE_PRICE
    assert prices[50] == pytest.approx(BASE_PRICE + SCARCITY_PRICE / 2.0)
    assert prices[100] == MAX_PRICE
    assert delay(curve(stalls=0.05), samples(curve()), inf) == inf


@pytest.mark.parametrize("rival", [0.4, 0.5, 0.6])
def test_on_light_tails_nobody_is_asked_beside_another_before_all_that_was_ever_seen_is_over(rival: float) -> None:
    usual = curve()
    assert usual.survival(found(usual, curve(rival))) < 0.001


@pytest.mark.parametrize("stalls", [0.01, 0.02, 0.05, 0.1, 0.2])
def test_on_stalls_a_rival_is_asked_just_past_the_body_however_many_stall(stalls: float) -> None:
    usual, stalling = curve(), curve(stalls=stalls)
    for rival in (usual, stalling):
        assert usual.quantile(0.8) < found(stalling, rival, pressure=0.6) < BODY


def test_where_very_many_stall_and_the_budget_is_unspent_both_are_asked_at_once() -> None:
    assert found(curve(stalls=0.2), curve()) == 0.0


def test_one_that_is_much_slower_as_a_rule_deserves_a_quick_rival_at_once() -> None:
    assert found(curve(5.0), curve(0.1)) < 0.5


@properties
@given(law=laws, rival=laws, pressures=st.lists(st.floats(0.0, 0.99), min_size=2, max_size=6))
def test_a_higher_price_never_makes_it_earlier(law: Law, rival: Law, pressures: list[float]) -> None:
    delays = [found(curve(*law), curve(*rival), pressure) for pressure in sorted(pressures)]
    assert delays == sorted(delays)


@properties
@given(law=laws, rival=laws, pressure=st.floats(0.0, 0.95))
def test_nothing_better_is_found_by_trying_everything(law: Law, rival: Law, pressure: float) -> None:
    of, beside = curve(*law), curve(*rival)
    dear = price(pressure) * beside.mean
    waits = samples(beside)
    best = min(cost(of, waits, dear, after) for after in (inf, *(0.01 * 1.04**i for i in range(240)), 0.0))
    assert cost(of, waits, dear, found(of, beside, pressure)) <= 1.02 * best


@properties
@given(law=laws, rival=laws, pressure=st.floats(0.0, 1.0), earliest=st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_it_is_a_time_or_never_not_before_it_may_and_never_worse_than_never(
    law: Law, rival: Law, pressure: float, earliest: float
) -> None:
    of, waits = curve(*law), samples(curve(*rival))
    dear = price(pressure) * curve(*rival).mean
    after = delay(of, waits, dear, earliest)
    assert after >= of.quantile(earliest)
    assert after == inf or after <= 3.0 * LONGEST_WAIT
    assert cost(of, waits, dear, after) <= of.mean
    assert after == delay(of, waits, dear, earliest)  # reading changes nothing


@properties
@given(law=laws)
def test_the_parts_are_the_whole(law: Law) -> None:
    waits = samples(curve(*law))
    assert list(waits) == sorted(waits)
    assert sum(waits) / len(waits) <= 1.6 * curve(*law).mean
    assert waits[0] >= 0.0
    assert waits[-1] <= LONGEST_WAIT
