"""The explanation of where a call would go: it agrees with the decision, and explaining changes nothing."""

from __future__ import annotations

from collections.abc import Generator
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.choice.race import Race
from router.core.choice.route import Route
from router.core.choice.shortlist import LARGE
from router.core.demand import FIRST_TOKEN, Demand
from router.core.endpoint.latency import TROUBLE_FACTOR
from router.core.explain.explanation import Explanation, explain, in_steps, why_asked
from router.core.explain.rows import in_words
from tests.core.explain.routes import SOON, STATES, bring, named, route, route_with, why
from tests.core.helpers import Steady, T, learn, properties, recover
from tests.support.attributes import attributes

# The explanation agrees with the decision.


endpoints = st.lists(st.tuples(st.sampled_from(STATES), st.floats(0.1, 10.0)), min_size=1, max_size=5)


def random_route(first: list[tuple[str, float]], second: list[tuple[str, float]]) -> Route:
    """A route of endpoints in these states, each with its usual wait."""
    names = [f"a{i}" for i in range(len(first))], [f"b{i}" for i in range(len(second))]
    of = route(*names[0], second=names[1], limit=5)
    for name, (state, seconds) in zip((*names[0], *names[1]), (*first, *second), strict=True):
        bring(named(of, name), state, seconds)
    of.replan(T)
    return of


@properties
@given(first=endpoints, second=endpoints, size=st.floats(0.0, 1e5))
def test_the_explained_endpoint_is_the_one_picked_and_explaining_changes_nothing(
    first: list[tuple[str, float]], second: list[tuple[str, float]], size: float
) -> None:
    of = random_route(first, second)
    before = settled(of)
    explained = explain(of, "first_token", size, T)
    assert explain(of, "first_token", size, T) == explained
    assert everything(of) == before
    attempt = Race(of, Demand("first_token", size), T, Steady()).next_attempt(T)
    assert explained.picked == (attempt.endpoint.name if attempt else None)
    assert len(explained.candidates) == len(first) + len(second)
    assert explained.picked in (None, explained.candidates[0].endpoint)
    if attempt is not None:
        near = {row.endpoint for row in explained.candidates if row.near}
        assert explained.candidates[0].near == (attempt.endpoint.name in near)


def test_explaining_a_large_tier_changes_nothing() -> None:
    of = route(*(f"a{number}" for number in range(LARGE + 1)))
    assert of.tiers[0].shortlist is not None
    Race(of, Demand("first_token", 10.0), T, Steady()).next_attempt(T)
    before = settled(of)
    assert explain(of, "first_token", 10.0, T + 60.0).picked
    assert everything(of) == before


def settled(of: Any) -> Any:
    """Everything, after a first look: a compiled class lists its properties too, of which some are computed once."""
    everything(of)
    return everything(of)


def everything(of: Any, seen: dict[int, tuple[int, Any]] | None = None) -> Any:
    """All values that an object holds, directly or through others; each object once, then by its number. What was seen
    is kept: a property's value is a new object each time, which could get the address of one that is gone.
    """
    seen = {} if seen is None else seen
    names = attributes(of)
    if not isinstance(of, dict | list | tuple | set) and not names:
        return repr(of)
    if id(of) in seen:
        return f"object {seen[id(of)][0]}"
    seen[id(of)] = (len(seen), of)
    if isinstance(of, dict):
        return [(everything(key, seen), everything(value, seen)) for key, value in of.items()]
    if isinstance(of, list | tuple | set):
        return [everything(each, seen) for each in of]
    held = [(name, value_of(of, name)) for name in names]
    return [(name, everything(value, seen)) for name, value in held if value is not ABSENT] or repr(of)


ABSENT = object()


def value_of(of: Any, name: str) -> Any:
    """The value of an attribute. A compiled class lists its properties too, of which some have no value yet."""
    try:
        return getattr(of, name)
    except (AttributeError, ZeroDivisionError):
        return ABSENT


@properties
@given(first=endpoints, size=st.floats(0.0, 1e5))
def test_the_cost_is_made_of_the_numbers_of_its_row(first: list[tuple[str, float]], size: float) -> None:
    of = random_route([each for each in first if each[0] != "being measured"], [("fine", 1.0)])
    for endpoint, row in zip(of.endpoints, in_order(of, explain(of, "first_token", size, T)), strict=True):
        age = max((T - attempt.began for attempt in endpoint.forecast.pending), default=0.0)
        wait = row.expected + row.trouble * (max(TROUBLE_FACTOR * row.expected, age) - row.expected)
        assert row.cost == round(endpoint.forecast.cost(Demand("first_token", size), T), 4)
        assert wait * row.crowding == pytest.approx(row.cost, rel=0.02, abs=0.002)


def in_order(of: Route, explained: Explanation) -> list[Any]:
    """The rows in the order of the route's endpoints."""
    by_name = {each.endpoint: each for each in explained.candidates}
    return [by_name[endpoint.name] for endpoint in of.endpoints]


def test_the_explained_hedge_target_and_delay_are_those_of_the_race() -> None:
    of = route_with("a", "b", "c", a=0.5, b=0.6, c=0.61)
    for _ in range(20):  # a stalls now and then, so that a hedge is worth its price
        learn(named(of, "a"), *[0.5] * 9, 30.0)
    of.replan(T)
    explained = explain(of, "first_token", 0.0, SOON)
    race = Race(of, FIRST_TOKEN, SOON, Steady())
    first = race.next_attempt(SOON)
    assert first is not None
    assert first.endpoint.name == explained.picked
    assert explained.hedge_after == pytest.approx(race.wake_at - SOON, abs=1e-4)
    hedge = race.next_attempt(race.wake_at)
    assert hedge is not None
    assert hedge.endpoint.name == explained.hedge_target
    after = in_words(explained.hedge_after or inf)
    assert f"it would be hedged with {explained.hedge_target} after {after}" in explained.why


def test_without_a_size_the_mean_size_of_the_prompts_is_explained() -> None:
    of = route("a", "b")
    assert explain(of, "first_token", None, T).size == 0.0
    for size in (100.0, 300.0) * 100:
        named(of, "a").forecast.latency("first_token").observe(1.0, T, size)
    assert explain(of, "first_token", None, T).size == pytest.approx(200.0, abs=0.5)


def test_a_long_prompt_is_explained_to_go_where_its_size_costs_less() -> None:
    of = route("local", "hosted")
    rng = Random(1)
    for _ in range(200):
        size = rng.uniform(0.0, 10_000.0)
        named(of, "local").forecast.latency("first_token").observe(0.1 + size * 3e-4, T, size)
        named(of, "hosted").forecast.latency("first_token").observe(rng.uniform(0.9, 1.1), T, size)
    assert explain(of, "first_token", 100.0, T).picked == "local"
    explained = explain(of, "first_token", 9_000.0, T)
    assert explained.picked == "hosted"
    assert {each.endpoint: each.slope for each in explained.candidates} == {"local": pytest.approx(3e-4), "hosted": 0.0}


def test_of_many_candidates_the_first_are_shown_and_the_others_counted() -> None:
    of = route(*(f"e{i}" for i in range(40)))
    learn(named(of, "e17"), 0.5)
    explained = explain(of, "first_token", 0.0, T, 10)
    assert (len(explained.candidates), explained.omitted) == (10, 30)
    assert "; 30 more are not shown; " in explained.why
    assert "not looked at" not in why(of)
    assert explained.candidates[0].endpoint == explained.picked


def test_the_sentence_for_another_endpoint_than_the_picked_one_says_why_it_was_asked() -> None:
    explained = explain(route_with("a", "b", a=1.0, b=1.0), "first_token", 0.0, T)
    assert why_asked(explained, "b", affinity=False) == explained.why
    assert why_asked(explained, "a", affinity=False).startswith(
        "a was asked: at random, among endpoints of about equal cost; otherwise b: "
    )
    assert "hedged with a" in explained.why
    assert "hedged" not in why_asked(explained, "a", affinity=False)  # that is the plan of the picked endpoint
    assert why_asked(explained, "a", affinity=True).startswith("a was asked: its conversation stays there, or ")
    explained = explain(route_with("a", "b", a=1.0, b=2.0), "first_token", 0.0, T)
    assert why_asked(explained, "b", affinity=False).startswith(
        "b was asked: one call in a hundred goes to the endpoint that was measured "
    )


def test_an_endpoint_in_slow_start_is_named_as_such_whether_or_not_it_was_asked() -> None:
    of = route_with("a", "b", a=0.3, b=0.5)
    recover(named(of, "a"), T)
    explained = explain(of, "first_token", 0.0, T + 3.0)
    assert explained.why.startswith("b: 0.50 s expected, the lowest of those that are not in slow start; a costs ")
    assert why_asked(explained, "a", affinity=False).startswith(
        "a was asked: it has just recovered, and takes a growing share of the calls; "
    )


def test_many_endpoints_are_described_in_steps_and_the_result_is_the_same() -> None:
    of = route(*[f"a{number}" for number in range(50)])
    of.replan(T)
    explained: list[Explanation] = []

    def kept() -> Generator[None, None, None]:
        explained.append((yield from in_steps(of, "first_token", 10.0, lambda: T)))

    assert len(list(kept())) > 50
    assert explained == [explain(of, "first_token", 10.0, T)]
