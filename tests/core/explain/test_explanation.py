"""Why a call would go where it would: what is told agrees with what is done, and telling changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import parse
from router.core.choice.hedge_delay import MAX_PRICE
from router.core.choice.race import Race
from router.core.choice.route import Route
from router.core.choice.table import rebuild
from router.core.demand import FIRST_TOKEN, Demand
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.latency import TROUBLE_FACTOR
from router.core.endpoint.server_load import ServerLoad
from router.core.explain.explanation import Explanation, explain, why_asked
from router.core.explain.rows import in_words
from router.core.verdict import Cause, Outcome, Verdict
from tests.core.helpers import Steady, T, busy, full, learn, properties, recover, trip

SOON = T + 1.0


def route(*names: str, second: Iterable[str] = (), limit: int | None = None, load: float = 0.0, **policy: Any) -> Route:
    """One with endpoints of these names in its first and second tier."""
    told = [{"name": name, "tier": 1} for name in names] + [{"name": name, "tier": 2} for name in second]
    more = {"models": ["chat"]} | ({"concurrency": limit} if limit else {})
    entries = [more | {"base_url": f"http://{each['name']}/v1"} | each for each in told]
    return rebuild(parse(json.dumps({"defaults": policy, "endpoints": entries})), utilization=lambda: load).routes[
        "chat"
    ]


def named(of: Route, name: str) -> Endpoint:
    return next(endpoint for endpoint in of.endpoints if endpoint.name == name)


def knowing(
    *names: str,
    second: Iterable[str] = (),
    limit: int | None = None,
    load: float = 0.0,
    hedge: Any = "auto",
    **seconds: float,
) -> Route:
    """One whose endpoints have taken so long, always."""
    of = route(*names, second=second, limit=limit, load=load, hedge=hedge)
    for name, value in seconds.items():
        learn(named(of, name), *[value] * 100)
    of.replan(T)
    return of


def why(of: Route, now: float = T) -> str:
    return explain(of, "first_token", 0.0, now).why


# What is told agrees with what is done.

STATES = [
    "fine",
    "newcomer",
    "on trial",
    "waited for",
    "busy",
    "tripped",
    "half open",
    "down",
    "full",
    "hot",
    "crowded",
]


def bring(endpoint: Endpoint, state: str, seconds: float) -> None:
    if state not in ("newcomer", "on trial"):
        learn(endpoint, *[seconds, 1.5 * seconds] * 20)
    if state in ("on trial", "waited for"):
        endpoint.begin(T - 5.0 * seconds)
    elif state == "busy":
        busy(endpoint, 5.0)
    elif state == "tripped":
        trip(endpoint)
    elif state == "half open":
        trip(endpoint, T - 10.0)
        endpoint.begin(T)
    elif state == "down":
        endpoint.availability.probed(False, T)
    elif state == "full":
        full(endpoint)
    elif state == "hot":
        endpoint.forecast.report(ServerLoad(waiting=3.0), T, T + 5.0)
    elif state == "crowded":
        for _ in range(3):
            endpoint.begin(T)


rows = st.lists(st.tuples(st.sampled_from(STATES), st.floats(0.1, 10.0)), min_size=1, max_size=5)


def a_fleet(first: list[tuple[str, float]], second: list[tuple[str, float]]) -> Route:
    names = [f"a{i}" for i in range(len(first))], [f"b{i}" for i in range(len(second))]
    of = route(*names[0], second=names[1], limit=5)
    for name, (state, seconds) in zip((*names[0], *names[1]), (*first, *second), strict=True):
        bring(named(of, name), state, seconds)
    of.replan(T)
    return of


@properties
@given(first=rows, second=rows, size=st.floats(0.0, 1e5))
def test_who_is_told_to_be_picked_is_picked_and_telling_changes_nothing(
    first: list[tuple[str, float]], second: list[tuple[str, float]], size: float
) -> None:
    of = a_fleet(first, second)
    before = everything(of)
    told = explain(of, "first_token", size, T)
    assert explain(of, "first_token", size, T) == told
    assert everything(of) == before
    attempt = Race(of, Demand("first_token", size), T, Steady()).next_attempt(T)
    assert told.picked == (attempt.endpoint.name if attempt else None)
    assert len(told.candidates) == len(first) + len(second)
    assert told.picked in (None, told.candidates[0].endpoint)
    if attempt is not None:
        assert told.candidates[0].near == (attempt.endpoint.name in {e.endpoint for e in told.candidates if e.near})


def everything(of: Any, seen: frozenset[int] = frozenset()) -> Any:
    """All that an object holds, as values."""
    if id(of) in seen:
        return "…"
    seen |= {id(of)}
    if isinstance(of, dict):
        return [(everything(key, seen), everything(value, seen)) for key, value in of.items()]
    if isinstance(of, list | tuple | set):
        return [everything(each, seen) for each in of]
    names: Any = getattr(of, "__slots__", None) or getattr(of, "__struct_fields__", ()) or getattr(of, "__dict__", ())
    return [(name, everything(getattr(of, name), seen)) for name in names if hasattr(of, name)] or repr(of)


@properties
@given(first=rows, size=st.floats(0.0, 1e5))
def test_a_cost_is_made_of_what_is_told(first: list[tuple[str, float]], size: float) -> None:
    of = a_fleet([row for row in first if row[0] != "on trial"], [("fine", 1.0)])
    for endpoint, told in zip(of.endpoints, sorted_as(of, explain(of, "first_token", size, T)), strict=True):
        age = max((T - attempt.began for attempt in endpoint.forecast.pending), default=0.0)
        wait = told.expected + told.trouble * (max(TROUBLE_FACTOR * told.expected, age) - told.expected)
        assert told.cost == round(endpoint.forecast.cost(Demand("first_token", size), T), 4)
        assert wait * told.crowding == pytest.approx(told.cost, rel=0.02, abs=0.002)


def sorted_as(of: Route, told: Explanation) -> list[Any]:
    by_name = {each.endpoint: each for each in told.candidates}
    return [by_name[endpoint.name] for endpoint in of.endpoints]


def test_the_rival_and_its_delay_are_those_of_the_race() -> None:
    of = knowing("a", "b", "c", a=0.5, b=0.6, c=0.61)
    for _ in range(20):  # a stalls now and then, so a rival is worth something
        learn(named(of, "a"), *[0.5] * 9, 30.0)
    of.replan(T)
    told = explain(of, "first_token", 0.0, SOON)
    race = Race(of, FIRST_TOKEN, SOON, Steady())
    first = race.next_attempt(SOON)
    assert first is not None
    assert first.endpoint.name == told.picked
    assert told.hedge_after == pytest.approx(race.wake_at - SOON, abs=1e-4)
    rival = race.next_attempt(race.wake_at)
    assert rival is not None
    assert rival.endpoint.name == told.hedge_target
    assert f"it would be hedged with {told.hedge_target} after {in_words(told.hedge_after or inf)}" in told.why


def test_without_a_size_it_is_the_usual_one() -> None:
    of = route("a", "b")
    assert explain(of, "first_token", None, T).size == 0.0
    for size in (100.0, 300.0) * 100:
        named(of, "a").forecast.latency("first_token").observe(1.0, T, size)
    assert explain(of, "first_token", None, T).size == pytest.approx(200.0, abs=0.5)


def test_a_size_counts_where_it_costs() -> None:
    of = route("local", "hosted")
    rng = Random(1)
    for _ in range(200):
        size = rng.uniform(0.0, 10_000.0)
        named(of, "local").forecast.latency("first_token").observe(0.1 + size * 3e-4, T, size)
        named(of, "hosted").forecast.latency("first_token").observe(rng.uniform(0.9, 1.1), T, size)
    assert explain(of, "first_token", 100.0, T).picked == "local"
    told = explain(of, "first_token", 9_000.0, T)
    assert told.picked == "hosted"
    assert {each.endpoint: each.slope for each in told.candidates} == {"local": pytest.approx(3e-4), "hosted": 0.0}


def test_of_very_many_it_tells_the_first_and_how_many_are_left_out() -> None:
    of = route(*(f"e{i}" for i in range(40)))
    learn(named(of, "e17"), 0.5)
    told = explain(of, "first_token", 0.0, T, 10)
    assert (len(told.candidates), told.omitted) == (10, 30)
    assert "; 30 more are not shown; " in told.why
    assert "not looked at" not in why(of)
    assert told.candidates[0].endpoint == told.picked


# In words.


def test_the_lowest_is_told_with_what_the_others_cost() -> None:
    assert why(knowing("gpu", "zhipu", "slow", hedge=0.82, gpu=0.31, zhipu=0.54, slow=4.2)) == (
        "gpu: 0.31 s expected, the lowest; zhipu costs 0.54 s; slow costs 4.2 s; "
        "it would be hedged with zhipu after 0.82 s"
    )


def test_where_a_rival_is_not_worth_its_price_that_is_told() -> None:
    of = knowing("a", "b", a=0.3, b=60.0)
    assert (
        why(of) == "a: 0.30 s expected, the lowest; b costs 60 s; it would not be hedged: no hedge is worth its price"
    )


def test_a_newcomer_gets_its_trial_and_says_so() -> None:
    of = knowing("a", "b", a=0.3)
    assert why(of).startswith("a: 0.30 s expected, about as low as b") or why(of).startswith("b is not measured yet")
    named(of, "b").begin(T)
    assert "b is being measured" in why(of)


def test_near_ties_are_told_with_what_decides() -> None:
    of = knowing("a", "b", a=1.0, b=1.0)
    assert why(of).startswith("b: 1.0 s expected, about as low as a; drawn at random; ")
    named(of, "b").begin(T).first_token(T + 1.0)
    assert why(of, SOON).startswith("a: 1.0 s expected, about as low as b; the least loaded; ")


OUT = {
    "down": "down by its probes",
    "busy": "cooling down for 5.0 s, it reported: throttled",
    "tripped": "breaker open for 2.0 s",
    "half open": "breaker half open while its trial is running",
    "full": "no free slot: 3 of 3 taken",
}


@pytest.mark.parametrize("state", OUT)
def test_who_is_out_is_told_with_the_reason(state: str) -> None:
    of = knowing("a", "b", limit=3, a=0.3, b=0.5)
    if state == "busy":
        named(of, "a").begin(T).end(Outcome(Verdict.BUSY, retry_after=5.0, cause=Cause.THROTTLED), T)
    else:
        bring(named(of, "a"), state, 0.3)
    told = explain(of, "first_token", 0.0, T)
    assert told.why.startswith("b: 0.50 s expected, the only available endpoint of its tier; ")
    assert f"a is out: {OUT[state]}" in told.why
    assert {each.endpoint: each.out for each in told.candidates} == {"a": OUT[state], "b": None}


def test_a_limit_that_was_found_out_is_told_as_such() -> None:
    of = knowing("a", "b", a=0.3, b=0.5)
    throttled = [named(of, "a").begin(T) for _ in range(4)]
    throttled[0].end(Outcome(Verdict.BUSY, cause=Cause.THROTTLED), T)
    assert "a is out: no free slot: 3 of the learned limit of 2 taken" in why(of)


def test_a_hot_one_is_left_alone_though_it_is_cheaper() -> None:
    of = knowing("a", "b", a=0.3, b=0.5)
    named(of, "a").forecast.report(ServerLoad(waiting=3.0), T, T + 5.0)
    assert why(of).startswith("b: 0.50 s expected, the lowest of those that are not hot; a costs 0.30 s but is hot; ")


def test_a_tier_that_is_passed_over_is_told() -> None:
    of = knowing("a", second=["b"], a=0.3, b=0.5)
    named(of, "a").availability.probed(False, T)
    assert "; no endpoint of tier 1 is available; a is out: down by its probes; " in why(of)
    of = knowing("a", second=["b"], a=0.3, b=0.5)
    named(of, "a").begin(T)
    assert "; tier 1 is late; a (tier 1) costs" in why(of, T + 3.0)


def test_the_last_one_is_asked_though_it_is_out() -> None:
    of = knowing("a", "b", a=0.3, b=0.5)
    for each in of.endpoints:
        trip(each)
    assert why(of).startswith(
        "a is out (breaker open for 2.0 s), but so are all others, and then one is asked all the "
    )


def test_where_all_are_full_a_call_waits_in_line() -> None:
    of = knowing("a", "b", limit=2, a=0.3, b=0.5)
    for each in of.endpoints:
        full(each)
    told = explain(of, "first_token", 0.0, T)
    assert (told.picked, told.queued_for, told.retry_in) == (None, ["a", "b"], 10.0)
    assert told.why.startswith("a call would be queued for a slot at a, b; a is out: no free slot: 2 of 2 taken; ")


def test_where_nobody_may_be_asked_a_call_would_be_refused_or_wait() -> None:
    of = knowing("a", a=0.3)
    busy(named(of, "a"), 30.0)
    assert why(of) == "no endpoint is available: a call would be refused; a is out: cooling down for 30 s"
    told = explain(of, "first_token", 0.0, T + 28.5)
    assert told.retry_in == 1.5
    assert told.why.startswith("no endpoint is available now: a call would wait 1.5 s; ")


def test_beside_whom_nobody_is_asked_and_why() -> None:
    assert (
        why(knowing("a", a=0.3))
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


def test_tiers_are_told_as_the_file_numbers_them_and_none_that_it_has_not() -> None:
    entries = [
        {"name": name, "tier": tier, "models": ["chat"], "base_url": f"http://{name}/v1"}
        for name, tier in (("a", 3), ("b", 7))
    ]
    of = rebuild(parse(json.dumps({"endpoints": entries}))).routes["chat"]
    for name in "ab":
        learn(named(of, name), *[1.0] * 20)
    assert {each.endpoint: each.tier for each in explain(of, "first_token", 0.0, T).candidates} == {"a": 3, "b": 7}
    named(of, "a").availability.probed(False, T)
    assert "no endpoint of tier 3 is available" in why(of)
    assert "tier 1" not in why(of)


def test_a_budget_that_is_spent_is_told() -> None:
    of = knowing("a", "b", a=0.3, b=0.5, load=1.0)
    told = explain(of, "first_token", 0.0, T)
    assert told.price == MAX_PRICE
    assert told.why.endswith("if the budget could pay for it")


def test_many_others_are_counted_and_not_named() -> None:
    of = knowing("a", "b", "c", "d", "e", "f", a=0.1, b=1.0, c=2.0, d=3.0, e=4.0, f=5.0)
    assert "; d costs 3.0 s; 2 more cost more or are in a less preferred tier; " in why(of)
    of = knowing("a", "b", "c", "d", "e", a=0.1, b=1.0, c=2.0, d=3.0, e=4.0)
    for name in "bcde":
        named(of, name).availability.probed(False, T)
    assert "; 1 more are out; " in why(of)


def test_many_tiers_that_are_passed_over_are_counted_and_not_named() -> None:
    told = [{"name": f"e{tier}", "tier": tier, "base_url": f"http://e{tier}/v1"} for tier in range(1, 201)]
    entries = [{"models": ["chat"]} | each for each in told]
    of = rebuild(parse(json.dumps({"endpoints": entries}))).routes["chat"]
    for endpoint in list(of.endpoints)[:-1]:
        endpoint.availability.probed(False, T)
    assert "; no endpoint of tier 3 is available; nor is one of 196 more tiers; " in why(of)
    assert len(why(of)) < 500  # it goes into a header of a bounded length


def test_who_was_asked_instead_is_told_with_what_led_there() -> None:
    told = explain(knowing("a", "b", a=1.0, b=1.0), "first_token", 0.0, T)
    assert why_asked(told, "b", affinity=False) == told.why
    assert why_asked(told, "a", affinity=False).startswith(
        "a was asked: at random, among endpoints of about equal cost; otherwise b: "
    )
    assert why_asked(told, "a", affinity=True).startswith("a was asked: its conversation stays there, or ")
    told = explain(knowing("a", "b", a=1.0, b=2.0), "first_token", 0.0, T)
    assert why_asked(told, "b", affinity=False).startswith(
        "b was asked: one call in a hundred goes to the endpoint that was measured "
    )


def test_one_that_has_just_recovered_gets_its_share_and_the_others_are_told_of_it() -> None:
    of = knowing("a", "b", a=0.3, b=0.5)
    recover(named(of, "a"), T)
    told = explain(of, "first_token", 0.0, T + 3.0)
    assert told.why.startswith("b: 0.50 s expected, the lowest of those that are not in slow start; a costs ")
    assert why_asked(told, "a", affinity=False).startswith(
        "a was asked: it has just recovered, and takes a growing share of the calls; "
    )


@pytest.mark.parametrize(("seconds", "words"), [(0.0451, "45 ms"), (0.314, "0.31 s"), (4.24, "4.2 s"), (120, "120 s")])
def test_times_are_told_as_people_say_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_one_that_has_become_slower_is_told_as_such() -> None:
    of = knowing("a", "b", a=0.3, b=0.5)
    learn(named(of, "a"), 3.0, 3.0)
    told = explain(of, "first_token", 0.0, T).candidates[-1]
    assert told.endpoint == "a"
    assert told.notes[0].startswith("in trouble, ")
    learn(named(of, "a"), 3.0, 3.0)
    told = explain(of, "first_token", 0.0, T).candidates[-1]
    assert told.notes == ["has become slower, not known yet by how much"]


def test_what_its_server_says_and_a_slow_start_are_told() -> None:
    of = knowing("a", "b", a=0.3, b=0.5)
    a = named(of, "a")
    a.forecast.report(ServerLoad(running=3.0, kv=0.25), T, T + 5.0)
    trip(a, T - 10.0)
    a.begin(T).end(Outcome(Verdict.SERVED), T)
    (told,) = (each for each in explain(of, "first_token", 0.0, T).candidates if each.endpoint == "a")
    assert told.server is not None
    assert (told.server.running, told.server.waiting, told.server.kv, told.server.hot) == (3.0, None, 0.25, False)
    assert "slow start: 10% of its share" in told.notes
