"""A route: its tiers and policies, and the route over some of its endpoints only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.choice.budget import Budget
from router.core.choice.hedge_plan import HedgePlan
from router.core.choice.route import Policy, Route, Tier
from router.core.demand import FIRST_TOKEN
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.waiting_queue import QueueLimit
from tests.core.helpers import PassivePolicy, T, endpoint, make_route, properties


def names(of: Route) -> list[list[str]]:
    """The names of the endpoints, tier by tier."""
    return [[e.name for e in tier.endpoints] for tier in of.tiers]


def four() -> tuple[Route, list[Endpoint]]:
    """A route with tiers 1 (a, b), 2 (c) and 3 (d), and its endpoints."""
    endpoints = a, b, c, d = [Endpoint(name) for name in "abcd"]
    return make_route([[a, b], [c], [d]]), endpoints


# The whole route.


def test_endpoints_are_in_the_order_of_the_configuration_or_of_preference() -> None:
    a, b, c = (Endpoint(name) for name in "abc")
    policies = {e: PassivePolicy() for e in (c, a, b)}
    route = make_route([[a, b], [c]], policies)
    assert list(route.endpoints) == [c, a, b]
    assert route.by_preference == [a, b, c]


def test_the_tier_of_an_endpoint_is_the_one_that_holds_it() -> None:
    route, (a, b, c, d) = four()
    assert [route.tier_of(e).number for e in (a, b, c, d)] == [1, 1, 2, 3]
    with pytest.raises(StopIteration):
        route.tier_of(Endpoint("elsewhere"))


def test_a_route_a_tier_and_a_policy_cannot_be_changed() -> None:
    route, (a, *_) = four()
    for of, name in ((route, "deadline"), (route.tiers[0], "number"), (Policy(), "deadline")):
        with pytest.raises(FrozenInstanceError):
            setattr(of, name, 1)
    assert route.tiers[0] == Tier(1, route.tiers[0].endpoints)
    assert a in route.tiers[0].endpoints


def test_replanning_renews_the_plan_with_all_tiers_and_the_hedge_budget() -> None:
    a, b = endpoint("a", 2.0), endpoint("b", 0.1)
    budget, plan, expected = Budget(), HedgePlan(), HedgePlan()
    budget.withdraw(T)
    make_route([[a], [b]], hedges=budget, plan=plan).replan(T)
    expected.renew([(a,), (b,)], budget, T)
    assert plan.price == expected.price > HedgePlan().price
    assert plan.delay(a, FIRST_TOKEN, T) == expected.delay(a, FIRST_TOKEN, T) != HedgePlan().delay(a, FIRST_TOKEN, T)


# The route over some endpoints.


def test_a_restricted_route_keeps_the_numbers_of_its_tiers_and_leaves_out_empty_ones() -> None:
    route, (a, _, _, d) = four()
    restricted = route.restricted(lambda e: e in (a, d))
    assert restricted is not None
    assert names(restricted) == [["a"], ["d"]]
    assert [tier.number for tier in restricted.tiers] == [1, 3]
    assert list(restricted.policies) == [a, d]


def test_a_route_restricted_to_no_endpoint_is_none() -> None:
    route, _ = four()
    assert route.restricted(lambda _: False) is None


def test_a_route_restricted_to_all_its_endpoints_is_the_same_route() -> None:
    route, _ = four()
    assert route.restricted(lambda _: True) is route


def test_restricting_leaves_the_route_itself_unchanged() -> None:
    route, (a, *_) = four()
    before = names(route), dict(route.policies)
    route.restricted(lambda e: e is a)
    assert (names(route), dict(route.policies)) == before


def test_a_restricted_route_keeps_the_deadlines_budgets_queue_and_plan_of_the_model() -> None:
    a, b = Endpoint("a"), Endpoint("b")
    policies = {a: PassivePolicy(deadline=5.0), b: PassivePolicy(deadline=50.0)}
    route = make_route([[a], [b]], policies, patience=2.0, queue=QueueLimit(7, 3.0))
    restricted = route.restricted(lambda e: e is b)
    assert restricted is not None
    assert (restricted.deadline, restricted.shortest_deadline, restricted.patience) == (50.0, 5.0, 2.0)
    for field in fields(route):
        if field.name not in ("tiers", "policies"):
            kept, given = getattr(restricted, field.name), getattr(route, field.name)
            assert kept is given or (
                isinstance(kept, float) and kept == given
            )  # a compiled class holds no objects for these


def test_the_policies_of_a_restricted_route_cannot_be_changed() -> None:
    route, (a, b, *_) = four()
    restricted = route.restricted(lambda e: e is a)
    assert restricted is not None
    with pytest.raises(TypeError):
        restricted.policies[b] = PassivePolicy()  # type: ignore[index]


def check_consistent(route: Route) -> None:
    """Each endpoint with a policy is in one tier, no other endpoint is in any, and tiers are in ascending order."""
    assert sorted(e.name for e in route.by_preference) == sorted(e.name for e in route.policies)
    assert set(route.by_preference) == set(route.policies)
    assert all(tier.endpoints for tier in route.tiers)
    numbers = [tier.number for tier in route.tiers]
    assert numbers == sorted(set(numbers))


@properties
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    numbers=st.lists(st.integers(1, 99), min_size=5, max_size=5, unique=True).map(sorted),
    keeps=st.lists(st.sets(st.integers(0, 19)), min_size=1, max_size=3),
)
def test_after_any_restrictions_tiers_and_policies_hold_the_same_endpoints(
    sizes: list[int], numbers: Sequence[int], keeps: list[set[int]]
) -> None:
    tiers = [[Endpoint(f"{tier} {i}") for i in range(size)] for tier, size in enumerate(sizes)]
    whole = make_route(tiers)
    numbered = tuple(Tier(number, tier.endpoints) for number, tier in zip(numbers, whole.tiers, strict=False))
    route: Route = replace(whole, tiers=numbered)
    everything = route.by_preference
    left = everything
    for keep in keeps:
        kept = {e for index, e in enumerate(everything) if index in keep}
        left = [e for e in left if e in kept]
        restricted = route.restricted(kept.__contains__)
        if restricted is None:
            assert not left
            return
        check_consistent(restricted)
        assert restricted.by_preference == left
        assert all(restricted.policies[e] is whole.policies[e] for e in left)
        assert all(restricted.tier_of(e).number == route.tier_of(e).number for e in left)
        route = restricted
    assert left
