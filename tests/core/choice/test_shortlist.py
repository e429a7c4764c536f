"""The shortlist of a large tier, compared with a scan of all its endpoints."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.choice.pick import EXPLORE, NEAR, pick
from router.core.choice.route import Tier
from router.core.choice.shortlist import CALLS_SHARE, FEWEST_NEXT, LARGE, LOOKED_AT, MAX_AGE, Shortlist
from router.core.demand import FIRST_TOKEN
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.server_load import ServerLoad
from router.core.verdict import Outcome, Verdict
from tests.core.choice.test_pick import STATES, in_state
from tests.core.choice.timelines import Call
from tests.core.helpers import Exploring, PassivePolicy, Steady, T, endpoint, fill, learn, make_route, properties, trip

fleets = st.lists(st.tuples(st.sampled_from(STATES), st.floats(0.1, 10.0)), min_size=LARGE, max_size=LARGE + 16).map(
    lambda rows: [in_state(state, f"{index} {state}", seconds) for index, (state, seconds) in enumerate(rows)]
)


def all_of(endpoints: list[Endpoint]) -> Shortlist:
    return Shortlist(tuple(endpoints))


def picked(shortlist: Shortlist, now: float, rng: Random) -> Endpoint | None:
    return shortlist.pick(FIRST_TOKEN, now, rng, lambda endpoints: endpoints)


def cheapest(endpoints: list[Endpoint], now: float) -> float:
    """The lowest cost of the endpoints that a full scan would ask, which passes over those in doubt last."""
    return min(e.forecast.cost(FIRST_TOKEN, now) for e in endpoints if e.availability.allows(now))


def good(chosen: Endpoint, endpoints: list[Endpoint], now: float) -> bool:
    """True if a full scan could pick it: about the cheapest, unmeasured, or a trial that is due."""
    if chosen.availability.breaker.trial_due(now):
        return True
    near = chosen.forecast.cost(FIRST_TOKEN, now) <= NEAR * cheapest(endpoints, now)
    return near or chosen.forecast.unmeasured("first_token")


@properties
@given(endpoints=fleets, seed=st.integers(0, 1000))
def test_a_pick_is_one_that_a_full_scan_could_make(endpoints: list[Endpoint], seed: int) -> None:
    shortlist, rng = all_of(endpoints), Steady(seed)
    for _ in range(6):
        chosen = picked(shortlist, T, rng)
        if chosen is None:
            assert pick(endpoints, FIRST_TOKEN, T, rng) is None
        else:
            assert chosen.availability.allows(T)
            assert good(chosen, endpoints, T)


@properties
@given(
    endpoints=fleets,
    events=st.lists(
        st.tuples(st.sampled_from(["begin", "token", "fail", "down", "up", "hot"]), st.integers(0, 999)), max_size=25
    ),
    seed=st.integers(0, 1000),
)
def test_whatever_has_happened_picks_are_available_at_once_and_as_good_as_of_a_scan_soon(
    endpoints: list[Endpoint], events: list[tuple[str, int]], seed: int
) -> None:
    shortlist, rng, now = all_of(endpoints), Steady(seed), T
    picked(shortlist, now, rng)
    for what, number in events:
        one, now = endpoints[number % len(endpoints)], now + 0.003
        if what == "begin":
            one.begin(now)
        elif what == "token":
            learn(one, 0.1 + number % 7, now=now)
        elif what == "fail":
            one.begin(now).end(Outcome(Verdict.FAULT), now)
        elif what == "hot":
            one.forecast.report(ServerLoad(waiting=3.0), now, now + 5.0)
        else:
            one.availability.probed(what == "up", now)
        chosen = picked(shortlist, now, rng)
        assert chosen.availability.allows(now) if chosen else not any(e.availability.allows(now) for e in endpoints)
    now += MAX_AGE
    chosen = picked(shortlist, now, rng)
    cool = [e for e in endpoints if e.availability.allows(now) and not e.forecast.hot(now)]
    if chosen is not None:
        assert good(chosen, cool or endpoints, now)
        assert not cool or chosen in cool


def test_the_least_loaded_of_equal_endpoints_share_the_calls_evenly() -> None:
    endpoints = [endpoint(f"e{number}", 0.5) for number in range(200)]
    shortlist, rng = all_of(endpoints), Random(7)
    counted = Counter(chosen.name for _ in range(40_000) if (chosen := picked(shortlist, T, rng)))
    assert len(counted) == 200
    assert max(counted.values()) < 1.6 * min(counted.values())
    running = [chosen.begin(T) for _ in range(100) if (chosen := picked(shortlist, T, rng))]
    assert len({attempt.endpoint for attempt in running}) >= 85  # 100 by a full scan, 79 at random


def test_if_the_near_endpoints_slow_down_one_of_the_next_is_picked_and_all_are_ranked_anew_soon() -> None:
    endpoints = [endpoint(f"e{number}", 0.5 + 0.1 * number) for number in range(100)]
    shortlist, rng = all_of(endpoints), Steady(7)
    assert picked(shortlist, T, rng) is endpoints[0]
    for one in endpoints[:LOOKED_AT]:
        learn(one, 60.0, 60.0, 60.0)
    for _ in range(len(endpoints) // CALLS_SHARE - 1):
        assert picked(shortlist, T, rng) in endpoints[LOOKED_AT : LOOKED_AT + FEWEST_NEXT]
    assert picked(shortlist, T, rng) is endpoints[LOOKED_AT]


def test_all_are_looked_at_if_none_of_the_shortlist_is_available() -> None:
    endpoints = [endpoint(f"e{number}", 0.5 + 0.1 * number, limit=1) for number in range(100)]
    shortlist, rng = all_of(endpoints), Steady(7)
    picked(shortlist, T, rng)
    for one in endpoints[:99]:
        fill(one)
    assert picked(shortlist, T, rng) is endpoints[99]
    fill(endpoints[99])
    assert picked(shortlist, T, rng) is None


def test_a_call_that_explores_asks_the_endpoint_that_was_measured_longest_ago() -> None:
    endpoints = [endpoint(f"e{number}", 0.5 + 0.1 * number) for number in range(100)]
    for number, one in enumerate(endpoints):
        learn(one, 0.5 + 0.1 * number, now=T + (0.0 if number == 77 else 1.0))
    assert picked(all_of(endpoints), T + 1.0, Exploring(7)) is endpoints[77]
    assert EXPLORE > 0.0


def test_one_call_in_a_hundred_explores() -> None:
    endpoints = [endpoint(f"e{number}", 0.5 + 0.1 * number) for number in range(100)]
    shortlist, rng = all_of(endpoints), Random(7)
    others = sum(picked(shortlist, T, rng) is not endpoints[0] for _ in range(8_000))
    assert 0.7 * EXPLORE < others / 8_000 < 1.3 * EXPLORE


def test_an_endpoint_whose_breaker_is_due_is_looked_at_by_every_call() -> None:
    endpoints = [endpoint(f"e{number}", 0.5 + 0.1 * number) for number in range(100)]
    trip(endpoints[90])
    shortlist, rng = all_of(endpoints), Steady(7)
    picked(shortlist, T, rng)
    assert endpoints[90] in shortlist.draw(FIRST_TOKEN, T, rng)


@pytest.mark.parametrize(("number", "large"), [(LARGE, False), (LARGE + 1, True)])
def test_only_a_large_tier_has_a_shortlist(number: int, large: bool) -> None:
    tier = Tier.of(1, (endpoint(f"e{each}") for each in range(number)))
    assert (tier.shortlist is not None) is large
    route = make_route([tier.endpoints])
    some = route.restricted(lambda each: each.name != "e0")
    assert some is not None
    assert some.tiers[0].shortlist is None


def test_a_retry_in_a_large_tier_asks_an_untried_endpoint() -> None:
    endpoints = [endpoint(f"e{number}", 0.5 + 0.1 * number) for number in range(LARGE + 1)]
    call = Call(endpoints, policy=PassivePolicy())
    assert call.at(0.0) == ["first e0"]
    assert call.fails("e0", 0.5) == ["retry e1"]


def test_a_hedge_in_a_large_tier_goes_to_a_quick_endpoint() -> None:
    endpoints = [endpoint(f"e{number}", 0.5 + 0.2 * number) for number in range(LARGE + 1)]
    call = Call(endpoints, policy=PassivePolicy(hedge="auto", hedge_budget=0.1))
    assert call.at(0.0) == ["first e0"]
    assert call.at(1.2) == ["hedge e1"]
