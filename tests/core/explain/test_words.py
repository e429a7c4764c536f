"""The sentence of an explanation: why this endpoint, why not the others, and which would be asked beside it."""

from __future__ import annotations

import json

import pytest

from router.config import parse
from router.core.choice.hedge_delay import MAX_PRICE
from router.core.choice.table import rebuild
from router.core.endpoint.server_load import ServerLoad
from router.core.explain.explanation import explain
from tests.core.explain.routes import SOON, named, route, route_with, why
from tests.core.helpers import T, busy, fill, learn, trip

# The picked endpoint, and the others.


def test_the_cheapest_endpoint_is_named_with_the_costs_of_the_others() -> None:
    assert why(route_with("gpu", "zhipu", "slow", hedge=0.82, gpu=0.31, zhipu=0.54, slow=4.2)) == (
        "gpu: 0.31 s expected, the lowest; zhipu costs 0.54 s; slow costs 4.2 s; "
        "it would be hedged with zhipu after 0.82 s"
    )


def test_an_unmeasured_endpoint_is_named_as_such_and_then_as_being_measured() -> None:
    of = route_with("a", "b", a=0.3)
    assert why(of).startswith("a: 0.30 s expected, about as low as b") or why(of).startswith("b is not measured yet")
    named(of, "b").begin(T)
    assert "b is being measured" in why(of)


def test_near_ties_are_named_with_the_rule_that_decides() -> None:
    of = route_with("a", "b", a=1.0, b=1.0)
    assert why(of).startswith("b: 1.0 s expected, about as low as a; drawn at random; ")
    named(of, "b").begin(T).first_token(T + 1.0)
    assert why(of, SOON).startswith("a: 1.0 s expected, about as low as b; the least loaded; ")


def test_a_hot_endpoint_is_not_asked_though_it_is_cheaper() -> None:
    of = route_with("a", "b", a=0.3, b=0.5)
    named(of, "a").forecast.report(ServerLoad(waiting=3.0), T, T + 5.0)
    assert why(of).startswith("b: 0.50 s expected, the lowest of those that are not hot; a costs 0.30 s but is hot; ")


def test_a_tier_that_is_passed_over_is_named_with_the_reason() -> None:
    of = route_with("a", second=["b"], a=0.3, b=0.5)
    named(of, "a").availability.probed(False, T)
    assert "; no endpoint of tier 1 is available; a is out: down by its probes; " in why(of)
    of = route_with("a", second=["b"], a=0.3, b=0.5)
    named(of, "a").begin(T)
    assert "; tier 1 is late; a (tier 1) costs" in why(of, T + 3.0)


def test_of_many_other_endpoints_some_are_named_and_the_rest_are_counted() -> None:
    of = route_with("a", "b", "c", "d", "e", "f", a=0.1, b=1.0, c=2.0, d=3.0, e=4.0, f=5.0)
    assert "; d costs 3.0 s; 2 more cost more or are in a less preferred tier; " in why(of)
    of = route_with("a", "b", "c", "d", "e", a=0.1, b=1.0, c=2.0, d=3.0, e=4.0)
    for name in "bcde":
        named(of, name).availability.probed(False, T)
    assert "; 1 more is out; " in why(of)


def test_of_many_tiers_that_are_passed_over_some_are_named_and_the_rest_are_counted() -> None:
    tiers = [{"name": f"e{tier}", "tier": tier, "base_url": f"http://e{tier}/v1"} for tier in range(1, 201)]
    entries = [{"models": ["chat"]} | each for each in tiers]
    of = rebuild(parse(json.dumps({"endpoints": entries}))).routes["chat"]
    for endpoint in list(of.endpoints)[:-1]:
        endpoint.availability.probed(False, T)
    assert "; no endpoint of tier 3 is available; 196 more tiers are passed over; " in why(of)
    assert len(why(of)) < 500  # the sentence goes into a header of bounded length


# None available.


def test_if_all_endpoints_are_out_one_is_asked_all_the_same() -> None:
    of = route_with("a", "b", a=0.3, b=0.5)
    for each in of.endpoints:
        trip(each)
    assert why(of).startswith(
        "a is out (breaker open for 2.0 s), and so are all others: it is asked as the last resort; "
    )


def test_if_all_endpoints_are_full_a_call_would_be_queued() -> None:
    of = route_with("a", "b", limit=2, a=0.3, b=0.5)
    for each in of.endpoints:
        fill(each)
    explained = explain(of, "first_token", 0.0, T)
    assert (explained.picked, explained.queued_for, explained.retry_in) == (None, ["a", "b"], 10.0)
    assert explained.why.startswith("a call would be queued for a slot at a, b; a is out: no free slot: 2 of 2 taken; ")


def test_if_no_endpoint_is_available_a_call_would_be_refused_or_wait() -> None:
    of = route_with("a", a=0.3)
    busy(named(of, "a"), 30.0)
    assert (
        why(of)
        == "no endpoint is available: a call would be refused; a is out: cooling down for 30 s, it reported: quota"
    )
    explained = explain(of, "first_token", 0.0, T + 28.5)
    assert explained.retry_in == 1.5
    assert explained.why.startswith("no endpoint is available now: a call would wait 1.5 s; ")


# The hedge.


def test_a_hedge_that_is_not_worth_its_price_is_named_as_such() -> None:
    of = route_with("a", "b", a=0.3, b=60.0)
    assert (
        why(of) == "a: 0.30 s expected, the lowest; b costs 60 s; it would not be hedged: no hedge is worth its price"
    )


def test_the_reason_is_named_if_a_call_would_not_be_hedged() -> None:
    assert (
        why(route_with("a", a=0.3))
        == "a: 0.30 s expected, the only available endpoint; there is no other endpoint to hedge with"
    )
    assert why(route("a", "b", hedge="off")).endswith("it would not be hedged (hedge: off)")
    of = route("a", "b", hedge=0.5)
    assert why(of).endswith("; it would be hedged with a after 0.50 s")
    while of.hedges.withdraw(T):
        pass
    assert why(of).endswith("after 0.50 s, if the budget could pay for it")
    named(of, "a").availability.probed(False, T)
    assert why(of).endswith("it would not be hedged after 0.50 s: no other endpoint is expected to be faster")


def test_an_empty_hedge_budget_is_named() -> None:
    of = route_with("a", "b", a=0.3, b=0.5, load=1.0)
    explained = explain(of, "first_token", 0.0, T)
    assert explained.price == MAX_PRICE
    assert explained.why.endswith("if the budget could pay for it")


# Counts.


@pytest.mark.parametrize(("others", "text"), [(4, "1 more costs more or is"), (5, "2 more cost more or are")])
def test_one_more_endpoint_is_counted_in_the_singular(others: int, text: str) -> None:
    names = "abcdef"[: others + 1]
    of = route_with(*names, a=0.1)
    for index, name in enumerate(names[1:]):
        learn(named(of, name), *[2.0 + 0.5 * index] * 100)
    assert f"; {text} in a less preferred tier; " in why(of)


@pytest.mark.parametrize(("tiers", "text"), [(4, "1 more tier is passed over"), (5, "2 more tiers are passed over")])
def test_one_more_tier_is_counted_in_the_singular(tiers: int, text: str) -> None:
    entries = [
        {"name": f"e{tier}", "tier": tier, "models": ["chat"], "base_url": f"http://e{tier}/v1"}
        for tier in range(1, tiers + 2)
    ]
    of = rebuild(parse(json.dumps({"endpoints": entries}))).routes["chat"]
    for endpoint in list(of.endpoints)[:-1]:
        endpoint.availability.probed(False, T)
    assert f"; {text}; " in why(of)


@pytest.mark.parametrize(("shown", "text"), [(2, "; 1 more is not shown; "), (1, "; 2 more are not shown; ")])
def test_one_more_candidate_that_is_not_shown_is_counted_in_the_singular(shown: int, text: str) -> None:
    of = route_with("a", "b", "c", a=0.1, b=1.0, c=2.0)
    assert text in explain(of, "first_token", 0.0, T, shown).why


def test_of_many_near_ties_some_are_named_and_the_rest_are_counted() -> None:
    of = route_with(*"abcdef", a=1.0, b=1.0, c=1.0, d=1.0, e=1.0, f=1.0)
    assert why(of).startswith("d: 1.0 s expected, about as low as a, b, c and 2 more; drawn at random; ")


def test_the_effect_of_affinity_is_named() -> None:
    of = route("a", "b", affinity="prefix", affinity_margin=0.3)
    assert "; a conversation stays at its own endpoint if that costs at most 0.30 s more (affinity: prefix); " in why(
        of
    )
    assert "conversation" not in why(route("a", "b"))
