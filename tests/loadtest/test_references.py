"""The references: clairvoyant is never beaten, informed keeps its budget, and slots and queues count as in a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import inf
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.latency import scenarios
from loadtest.latency.arrivals import Call
from loadtest.latency.play import PATIENCE, PAUSE, Hedge, Play, Played
from loadtest.latency.references import BUDGET, Curve, Fixed, best_fixed, clairvoyant, informed, random, references
from loadtest.latency.scenarios import Scenario
from tests.loadtest.fleets import QUICK, STALLING, constant, endpoint, fleet

SLOWER = {"kind": "lognormal", "median": 1.0, "sigma": 0.4}
STALLS = fleet(endpoint("a", STALLING), endpoint("b", SLOWER), endpoint("c", SLOWER))


def played(scenario: Scenario, *times: float, order: Sequence[str] = (), hedge: Hedge | None = None) -> list[Played]:
    """The results of calls at these times, which try the endpoints in this order."""

    @dataclasses.dataclass
    class InOrder(Fixed):
        def hedge(self, call: Call, asked: str, now: float) -> Hedge | None:
            return hedge

    calls = [Call(k, at, 100, 10) for k, at in enumerate(times)]
    return Play(scenario.servers(1), calls, InOrder(order or scenario.names)).run()


# ---- One call, by a policy with a fixed order


def test_a_call_has_its_first_token_from_the_endpoint_that_it_tried() -> None:
    assert played(fleet(endpoint("a", constant(1))), 5.0) == [Played(0, 1.0, "a", ("a",), 0)]


def test_a_refused_call_tries_the_next_endpoint_at_once() -> None:
    scenario = fleet(endpoint("a", errors=[{"status": 500}], refuses_in=0.1), endpoint("b", constant(1)))
    assert played(scenario, 0.0) == [Played(0, 1.1, "b", ("a", "b"), 0)]


def test_a_silent_endpoint_is_given_up_and_all_are_tried_again_after_a_pause() -> None:
    scenario = fleet(
        endpoint("a", constant(1), silent=[{"until": 5}]), endpoint("b", errors=[{"until": 16}], refuses_in=0.1)
    )
    # Silent for 15 s, then refused at once. All are tried then; half a second later the first one answers.
    assert played(scenario, 0.0)[0].first_token == pytest.approx(PATIENCE + 0.1 + PAUSE + 1)


def test_a_call_that_no_endpoint_answers_is_given_up() -> None:
    assert played(fleet(endpoint("a", absent=[{}])), 0.0)[0].first_token == inf


def test_a_hedge_is_a_second_attempt_and_the_first_token_wins() -> None:
    slow, quick = endpoint("a", constant(5)), endpoint("b", constant(1))
    hedged = played(fleet(slow, quick), 0.0, hedge=Hedge(2.0, "b"))
    assert hedged == [Played(0, 3.0, "b", ("a", "b"), 1)]
    needless = played(fleet(slow, quick), 0.0, hedge=Hedge(4.5, "b"))
    assert needless == [Played(0, 5.0, "a", ("a", "b"), 1)]
    too_late = played(fleet(slow, quick), 0.0, hedge=Hedge(6, "b"))
    assert too_late == [Played(0, 5.0, "a", ("a",), 0)]


def test_the_losing_attempt_frees_its_slot() -> None:
    scenario = fleet(endpoint("a", constant(5), slots=1, rate=10), endpoint("b", constant(1)))
    first, second = played(scenario, 0.0, 4.0, hedge=Hedge(2.0, "b"))
    assert (first.endpoint, first.first_token) == ("b", 3.0)
    assert second.asked == ("a", "b")
    assert played(scenario, 0.0, 4.0)[1].first_token == 2 + 5  # no attempt was cancelled: the call was queued


def test_queued_calls_get_their_first_tokens_in_order() -> None:
    times = [each.first_token for each in played(fleet(endpoint("a", constant(1), slots=1, rate=10)), 0.0, 0.5, 0.6)]
    assert times == pytest.approx([1, 2.5, 4.4])  # each holds the slot for two seconds


# ---- The four policies


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_reference_beats_clairvoyant(seed: int) -> None:
    calls = STALLS.arriving(seed)
    four = references(STALLS, seed, calls)
    soonest = {each.k: each.first_token for each in four.pop("clairvoyant").played}
    for reference in four.values():
        assert all(each.first_token >= soonest[each.k] - 1e-9 for each in reference.played)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_informed_beats_random_and_best_fixed(seed: int) -> None:
    calls = STALLS.arriving(seed)
    means = {name: reference.mean(0) for name, reference in references(STALLS, seed, calls).items()}
    assert means["clairvoyant"] < means["informed"] < means["best fixed"] < means["random"]


@pytest.mark.parametrize("budget", [0.0, 0.02, BUDGET, 0.5])
def test_informed_keeps_any_budget_and_is_better_with_a_larger_one(budget: float) -> None:
    calls = STALLS.arriving(1)
    reference = informed(STALLS, 1, calls, budget=budget)
    assert reference.extra <= budget
    assert reference.mean(0) <= informed(STALLS, 1, calls, budget=budget / 2).mean(0) + 1e-9


def test_informed_does_not_hedge_a_law_without_a_tail() -> None:
    light = fleet(endpoint("a", QUICK), endpoint("b", SLOWER))
    reference = informed(light, 1, light.arriving(1))
    assert reference.extra < 0.02
    assert {each.endpoint for each in reference.played} <= {"a", "b"}


@pytest.mark.parametrize("name", ["roadmap", "throttled", "one-silent", "flapping", "cold", "newcomer-good"])
def test_informed_and_clairvoyant_meet_no_failure(name: str) -> None:
    scenario = scenarios.find(name)
    scenario = scenario.model_copy(update={"calls": 500})
    calls = scenario.arriving(1)
    for reference in (informed(scenario, 1, calls), clairvoyant(scenario, 1, calls)):
        assert all(len(each.asked) == 1 + each.hedges for each in reference.played)
        assert max(each.first_token for each in reference.played) < PATIENCE
        assert reference.extra <= BUDGET


def test_best_fixed_is_the_best_of_the_best_tier() -> None:
    scenario = fleet(endpoint("slow", constant(2)), endpoint("good", constant(1)), endpoint("dear", QUICK, tier=2))
    reference = best_fixed(scenario, 1, scenario.arriving(1))
    assert reference.note == "good"
    assert {each.endpoint for each in reference.played} == {"good"}
    assert {each.endpoint for each in random(scenario, 1, scenario.arriving(1)).played} == {"slow", "good"}


def test_informed_asks_endpoints_with_equal_means_in_turn() -> None:
    scenario = fleet(endpoint("slow", constant(2)), *(endpoint(name, constant(1)) for name in "abc"))
    played = informed(scenario, 1, scenario.arriving(1)[:6], budget=0.0).played
    assert [each.asked for each in played] == [("a",), ("b",), ("c",)] * 2


def test_informed_uses_a_lower_tier_only_if_the_best_takes_no_call() -> None:
    scenario = fleet(
        endpoint("cheap", constant(2), absent=[{"start": 10, "until": 20}]), endpoint("dear", constant(1), tier=2)
    )
    calls = scenario.arriving(1)
    reference = informed(scenario, 1, calls, budget=0.0)
    went = {each.k: each.endpoint for each in reference.played}
    assert all((went[call.k] == "dear") == (10 <= call.at < 20) for call in calls)


def test_the_same_seed_gives_the_same_references() -> None:
    calls = STALLS.arriving(1)[:100]
    one, again, other = (references(STALLS, seed, calls) for seed in (1, 1, 2))
    assert one == again != other


# ---- The delay


@st.composite
def laws(draw: Any) -> np.ndarray:
    times = draw(st.lists(st.floats(0.01, 30), min_size=20, max_size=60))
    return np.sort(np.array(times))


@given(waits=laws(), hedge_waits=laws())
def test_a_curve_is_the_mean_over_all_pairs(waits: np.ndarray, hedge_waits: np.ndarray) -> None:
    curve = Curve(waits, hedge_waits)
    for number in (0, len(curve.delays) // 2, len(curve.delays) - 1):
        delay = curve.delays[number]
        pairs = np.where(
            waits[:, None] > delay, np.minimum(waits[:, None], delay + hedge_waits[None, :]), waits[:, None]
        )  # fmt: skip
        assert curve.means[number] == pytest.approx(pairs.mean())
        assert curve.shares[number] == pytest.approx((waits > delay).mean())


@given(waits=laws(), hedge_waits=laws(), prices=st.tuples(st.floats(0, 100), st.floats(0, 100)))
def test_a_higher_price_gives_fewer_hedges(
    waits: np.ndarray, hedge_waits: np.ndarray, prices: tuple[float, float]
) -> None:
    curve = Curve(waits, hedge_waits)
    cheap, dear = (curve.best(price) for price in sorted(prices))
    assert cheap[0] <= dear[0] + 1e-9
    late_cheap, late_dear = ((waits > delay).mean() for _, delay in (cheap, dear))
    assert late_cheap >= late_dear - 1e-9


@given(waits=laws(), hedge_waits=laws(), price=st.floats(0, 10), seed=st.integers(0, 100))
@settings(max_examples=50)
def test_no_other_delay_is_better_by_more_than_a_step(
    waits: np.ndarray, hedge_waits: np.ndarray, price: float, seed: int
) -> None:
    best, _ = Curve(waits, hedge_waits).best(price)
    delay = Random(seed).choice(list(waits))
    late = waits > delay
    shorter = np.minimum(waits[:, None], delay + hedge_waits[None, :]).mean(axis=1)
    assert best <= np.where(late, shorter, waits).mean() + price * late.mean() + 1e-9


def test_stalls_are_hedged_after_the_usual_wait_and_light_tails_are_not_hedged() -> None:
    stalling = np.sort(np.concatenate([np.linspace(0.4, 0.6, 95), np.full(5, 100.0)]))
    quick = np.linspace(0.4, 0.6, 100)
    _, delay = Curve(stalling, quick).best(1.0)
    assert delay == pytest.approx(0.6)
    mean, delay = Curve(quick, quick).best(1.0)
    assert mean == pytest.approx(0.5)
    assert delay == inf


@pytest.mark.parametrize("price", [inf, 0.05])
def test_informed_expects_the_same_of_endpoints_that_differ_in_their_names_only(price: float) -> None:
    """With slots that are never all taken, each endpoint is looked at by itself."""
    several = [("a", 3, STALLING), ("b", 2, SLOWER)]
    grouped, single = (
        fleet(*(endpoint(name, law, copies=copies, **keys) for name, copies, law in several))
        for keys in ({}, {"slots": 1000})
    )
    calls = grouped.arriving(1)
    assert informed(grouped, 1, calls, price=price).played == informed(single, 1, calls, price=price).played
