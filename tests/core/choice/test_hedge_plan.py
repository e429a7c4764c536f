"""The hedge plan: the delay after which each endpoint deserves a hedge, and the price of one."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.choice.budget import Budget
from router.core.choice.hedge_delay import price
from router.core.choice.hedge_plan import LATE_SHARE, MAX_ENDPOINTS, HedgePlan
from router.core.demand import FIRST_TOKEN, KINDS, Demand
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.forecast import LATE_FACTOR, MIN_LATE
from tests.core.helpers import ANSWER, T, endpoint, learn, properties, trip

STALLS = 0.05


def stalling(name: str, median: float = 0.5, stalls: float = STALLS, seed: int = 1) -> Endpoint:
    """An endpoint that has served a thousand calls, of which a share took about fifteen seconds."""
    rng, made = Random(seed), Endpoint(name)
    waits = [
        rng.uniform(10.0, 20.0) if rng.random() < stalls else median * exp(rng.gauss(0.0, 0.2)) for _ in range(999)
    ]
    learn(made, *waits, median)
    return made


def planned(*tiers: Sequence[Endpoint], budget: Budget | None = None, times: int = 1) -> HedgePlan:
    """A plan that was renewed so many times."""
    plan = HedgePlan()
    for _ in range(times):
        plan.renew(tiers, budget or Budget(), T)
    return plan


def test_without_a_curve_the_delay_is_twice_the_expected_wait() -> None:
    a, b = Endpoint("a"), Endpoint("b")
    a.forecast.latency("first_token").observe(0.7, T)
    plan = planned([a, b])
    assert plan.delay(a, FIRST_TOKEN, T) == pytest.approx(LATE_FACTOR * 0.7)
    assert plan.delay(b, FIRST_TOKEN, T) == LATE_FACTOR * 1.0
    a.forecast.latency("first_token").forget()
    a.forecast.latency("first_token").observe(0.001, T)
    assert plan.delay(a, FIRST_TOKEN, T) == MIN_LATE


def test_the_delay_at_a_stalling_endpoint_is_just_beyond_its_waits_without_stalls() -> None:
    a, b = stalling("a"), stalling("b", seed=2)
    plan = planned([a, b])
    for each in (a, b):
        assert 0.6 < plan.delay(each, FIRST_TOKEN, T) < 2.0
        assert plan.delay(each, ANSWER, T) == LATE_FACTOR * 10.0  # no answers were measured


@pytest.mark.parametrize("slower", [1.5, 3.0, 10.0])
def test_a_slower_target_does_not_delay_the_hedge_beyond_the_waits_that_do_not_stall(slower: float) -> None:
    own, target = stalling("own", 0.1), stalling("target", 0.1 * slower, stalls=0.02, seed=2)
    delay = planned([own, target]).delay(own, FIRST_TOKEN, T)
    usual = own.forecast.latency("first_token").quantile(1.0 - STALLS - 0.01)
    assert usual is not None
    assert delay < max(2.0 * usual, own.forecast.latency("first_token").expected(0.0, T) + 1e-9)


@properties
@given(mine=st.floats(0.02, 5.0), other=st.floats(0.02, 5.0), stalls=st.sampled_from([0.0, 0.02, 0.3]))
def test_no_hedge_is_planned_before_the_shorter_of_both_expected_waits(
    mine: float, other: float, stalls: float
) -> None:
    """Else each call that explores a slower endpoint would be sent twice."""
    a, b = stalling("a", mine, stalls), stalling("b", other, seed=2)
    plan = planned([a, b])
    expected = [each.forecast.latency("first_token").expected(0.0, T) for each in (a, b)]
    for each in (a, b):
        assert plan.delay(each, FIRST_TOKEN, T) >= min(expected)


def test_if_there_was_no_hedge_target_at_renewal_the_delay_is_as_without_a_plan() -> None:
    a, b, c = stalling("a"), stalling("b", seed=2), stalling("c", seed=3)
    trip(b)
    c.simulated = True
    late = LATE_FACTOR * a.forecast.latency("first_token").expected(0.0, T)
    for plan in (planned([a]), planned([a, b, c]), planned([a], [b], [c])):
        assert plan.delay(a, FIRST_TOKEN, T) == late


def test_a_less_preferred_tier_is_planned_with_if_much_quicker_and_only_after_most_waits_have_ended() -> None:
    a, quick, slow = stalling("a", median=2.0, stalls=0.08), endpoint("quick", 0.05), endpoint("slow", 3.0)
    usual = a.forecast.latency("first_token").quantile(LATE_SHARE)
    assert usual is not None
    assert planned([a, quick]).delay(a, FIRST_TOKEN, T) < 1.0
    assert usual <= planned([a], [quick]).delay(a, FIRST_TOKEN, T) < 4.0
    ignored = planned([a, endpoint("b", 2.5)], [slow]).delay(a, FIRST_TOKEN, T)
    assert ignored == planned([a, endpoint("b", 2.5)]).delay(a, FIRST_TOKEN, T)


def test_the_delay_is_longer_for_a_longer_prompt() -> None:
    rng, a, b = Random(1), Endpoint("a"), stalling("b", median=3.0)
    for i in range(400):
        size = rng.choice((100.0, 5000.0))
        wait = 15.0 if rng.random() < STALLS else 0.4 * exp(rng.gauss(0.0, 0.2))
        a.forecast.latency("first_token").observe(wait + 1e-3 * size, T + 0.01 * i, size)
    now, plan = T + 4.0, HedgePlan()
    plan.renew([[a, b]], Budget(), now)
    short, long = (plan.delay(a, Demand("first_token", size), now) for size in (100.0, 5000.0))
    assert long - short == pytest.approx(4.9, rel=0.3)
    assert plan.delay(a, FIRST_TOKEN, now) >= MIN_LATE


def test_the_price_follows_the_pressure_on_the_budget_and_an_empty_budget_leaves_the_delay_finite() -> None:
    a, b, budget = stalling("a"), stalling("b", seed=2), Budget()
    unspent = planned([a, b], budget=budget)
    assert unspent.price == price(0.0)
    budget.withdraw(T)
    spent = planned([a, b], budget=budget)
    assert spent.price == price(budget.pressure(T)) > unspent.price
    assert spent.delay(a, FIRST_TOKEN, T) >= unspent.delay(a, FIRST_TOKEN, T)
    while budget.withdraw(T):
        pass
    assert spent.delay(a, FIRST_TOKEN, T) <= planned([a, b], budget=budget).delay(a, FIRST_TOKEN, T) < inf


@pytest.mark.parametrize("many", [MAX_ENDPOINTS, MAX_ENDPOINTS + 1, 3 * MAX_ENDPOINTS])
def test_of_more_endpoints_than_one_renewal_plans_each_has_its_turn(many: int) -> None:
    endpoints = [endpoint(str(i), 0.5) for i in range(many)]
    for kind in KINDS:
        for each in endpoints:
            learn(each, *[0.5] * 20, kind=kind)
    plan = planned(endpoints, times=-(-many // MAX_ENDPOINTS))
    unplanned = [
        e
        for e in endpoints
        for kind in KINDS
        if plan.delay(e, Demand(kind), T) == HedgePlan().delay(e, Demand(kind), T)
    ]
    assert not unplanned


def test_a_forgotten_curve_is_no_longer_planned_with() -> None:
    a, b = stalling("a"), stalling("b", seed=2)
    plan = planned([a, b])
    a.forecast.latency("first_token").forget()
    a.forecast.latency("first_token").observe(4.0, T)
    plan.renew([[a, b]], Budget(), T)
    assert plan.delay(a, FIRST_TOKEN, T) == pytest.approx(LATE_FACTOR * 4.0)


def test_renewing_the_plan_changes_nothing_else() -> None:
    a, b, budget = stalling("a"), stalling("b", seed=2), Budget()
    plan = planned([a, b], budget=budget)
    before = [plan.delay(each, FIRST_TOKEN, T) for each in (a, b)], [e.forecast.cost(FIRST_TOKEN, T) for e in (a, b)]
    plan.renew([[a, b]], budget, T)
    after = [plan.delay(each, FIRST_TOKEN, T) for each in (a, b)], [e.forecast.cost(FIRST_TOKEN, T) for e in (a, b)]
    assert before == after
    assert budget.pressure(T) == 0.0
