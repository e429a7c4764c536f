"""Which endpoint to ask: the cheapest of those available, or any now and then."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.balance import EXPLORE, NEAR, least_bad, pick
from router.core.endpoint import Endpoint
from router.core.verdict import Verdict
from tests.core.helpers import Steady, T, busy, endpoint, full, properties, trip

PICKS = 20_000

STATES = ["fine", "newcomer", "on trial", "busy", "tripped", "down", "full", "failing"]


def in_state(state: str, name: str, seconds: float) -> Endpoint:
    made = endpoint(name, None if state in ("newcomer", "on trial") else seconds, limit=5)
    if state == "on trial":
        made.begin(T)
    elif state == "busy":
        busy(made, 5.0)
    elif state == "tripped":
        trip(made)
    elif state == "down":
        made.probed(False, T)
    elif state == "full":
        full(made)
    elif state == "failing":
        made.begin(T).end(Verdict.FAULT, T)
    return made


groups = st.lists(st.tuples(st.sampled_from(STATES), st.floats(0.1, 10.0)), max_size=6).map(
    lambda rows: [in_state(state, f"{index} {state}", seconds) for index, (state, seconds) in enumerate(rows)]
)


def shares(endpoints: list[Endpoint], picks: int = PICKS) -> dict[str, float]:
    rng = Random(7)
    counted = Counter(chosen.name for _ in range(picks) if (chosen := pick(endpoints, "first_token", T, rng)))
    return {name: count / picks for name, count in counted.items()}


@properties
@given(endpoints=groups, seed=st.integers(0, 1000))
def test_what_is_picked_is_available_and_something_is_picked_where_anything_is(
    endpoints: list[Endpoint], seed: int
) -> None:
    available = [e for e in endpoints if e.available(T)]
    rng = Random(seed)
    for _ in range(20):
        chosen = pick(endpoints, "first_token", T, rng)
        assert chosen in available if available else chosen is None


@properties
@given(endpoints=groups)
def test_nearly_always_it_is_a_newcomer_or_about_as_cheap_as_the_cheapest_of_those_not_on_trial(
    endpoints: list[Endpoint],
) -> None:
    available = [e for e in endpoints if e.available(T)]
    settled = [e for e in available if "on trial" not in e.name] or available
    chosen = pick(endpoints, "first_token", T, Steady())
    if chosen is not None and len(available) > 1:
        assert chosen in settled
        cheapest = min(e.cost("first_token", T) for e in settled)
        assert chosen.untried("first_token") or chosen.cost("first_token", T) <= NEAR * cheapest


def test_of_two_clearly_different_ones_the_cheaper_gets_all_but_the_exploration() -> None:
    share = shares([endpoint("quick", 0.2), endpoint("slow", 2.0)])
    assert share["slow"] == pytest.approx(EXPLORE / 2, abs=0.002)


def test_exploration_goes_to_any_available_one_alike() -> None:
    out = endpoint("out", 5.0)
    trip(out)
    share = shares([endpoint("quick", 0.2), *(endpoint(f"slow {n}", 2.0 + n) for n in range(4)), out])
    assert "out" not in share
    assert [share[f"slow {n}"] for n in range(4)] == pytest.approx([EXPLORE / 5] * 4, abs=0.001)


def test_near_ties_are_drawn_from_at_random() -> None:
    share = shares([endpoint("a", 1.0), endpoint("b", 1.05), endpoint("c", 1.09), endpoint("d", 1.2)])
    assert [share[name] for name in "abc"] == pytest.approx([1 / 3] * 3, abs=0.02)
    assert share["d"] < EXPLORE


def test_load_moves_calls_to_an_equal_one() -> None:
    loaded, idle = endpoint("loaded"), endpoint("idle")
    loaded.begin(T)
    assert pick([loaded, idle], "first_token", T, Steady()) is idle


def test_a_newcomer_gets_one_trial_at_once_and_no_second_before_the_first_has_ended() -> None:
    newcomer, known = endpoint("newcomer", None), endpoint("known", 0.01)  # far cheaper than a newcomer's prior
    assert shares([newcomer, known])["newcomer"] == pytest.approx(0.5, abs=0.02)
    trial = newcomer.begin(T)
    assert shares([newcomer, known])["newcomer"] < EXPLORE
    trial.first_token(T + 0.01)
    assert shares([newcomer, known])["newcomer"] < EXPLORE  # from now on by its cost


def test_newcomers_alone_get_one_call_each_before_any_gets_a_second() -> None:
    newcomers = [endpoint(name, None) for name in "abcd"]
    for _ in newcomers:
        chosen = pick(newcomers, "first_token", T, Steady())
        assert chosen is not None
        chosen.begin(T)
    assert [e.in_flight for e in newcomers] == [1, 1, 1, 1]
    assert pick(newcomers, "first_token", T, Steady()) is not None  # and then they share the flood


def test_each_kind_of_wait_has_costs_of_its_own() -> None:
    talker, embedder = endpoint("talker", 0.1), endpoint("embedder", 5.0)
    for of, seconds in ((talker, 5.0), (embedder, 0.1)):
        for _ in range(20):
            of.latency("embedding").observe(seconds, T)
    assert pick([talker, embedder], "first_token", T, Steady()) is talker
    assert pick([talker, embedder], "embedding", T, Steady()) is embedder


@properties
@given(endpoints=groups)
def test_the_least_bad_is_never_full_and_is_one_wherever_any_is_not(endpoints: list[Endpoint]) -> None:
    chosen = least_bad(endpoints, T)
    allowed = [e for e in endpoints if not e.full]
    assert chosen in allowed if allowed else chosen is None
    if chosen is not None:
        assert chosen.recovers_at(T) == min(e.recovers_at(T) for e in allowed)


def test_the_least_bad_is_the_one_that_recovers_soonest() -> None:
    rows = [("down", 0.0), ("later", 9.0), ("soon", 4.0)]
    endpoints = [endpoint(name) for name, _ in rows]
    endpoints[0].probed(False, T)
    for of, (_, seconds) in zip(endpoints[1:], rows[1:], strict=True):
        busy(of, seconds)
    chosen = least_bad(endpoints, T)
    assert chosen is not None
    assert chosen.name == "soon"


def test_the_last_endpoint_is_never_ejected() -> None:
    only = endpoint(seconds=None)
    only.probed(False, T)
    trip(only)
    busy(only, 60.0)
    assert least_bad([only], T) is only
