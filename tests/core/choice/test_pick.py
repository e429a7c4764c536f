"""The picked endpoint: the cheapest available one, and now and then the one measured longest ago."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.choice.pick import EXPLORE, MEASURE, NEAR, pick, recovers_first
from router.core.demand import FIRST_TOKEN
from router.core.endpoint.breaker import FIRST_WAIT, RAMP
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.latency import FEW, MAX_STALLS
from router.core.endpoint.server_load import ServerLoad
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import (
    ANSWER,
    EMBEDDING,
    Exploring,
    Steady,
    T,
    busy,
    endpoint,
    fill,
    learn,
    properties,
    recover,
    refuse,
    trip,
)

PICKS = 20_000

STATES = ["fine", "newcomer", "being measured", "busy", "tripped", "down", "full", "failing"]


def in_state(state: str, name: str, seconds: float) -> Endpoint:
    """An endpoint in one of these states."""
    made = endpoint(name, None if state in ("newcomer", "being measured") else seconds, limit=5)
    if state == "being measured":
        made.begin(T)
    elif state == "busy":
        busy(made, 5.0)
    elif state == "tripped":
        trip(made)
    elif state == "down":
        made.availability.probed(False, T)
    elif state == "full":
        fill(made)
    elif state == "failing":
        made.begin(T).end(Outcome(Verdict.FAULT), T)
    return made


groups = st.lists(st.tuples(st.sampled_from(STATES), st.floats(0.1, 10.0)), max_size=6).map(
    lambda rows: [in_state(state, f"{index} {state}", seconds) for index, (state, seconds) in enumerate(rows)]
)


def shares(endpoints: list[Endpoint], picks: int = PICKS) -> dict[str, float]:
    """The share of the picks that each endpoint gets."""
    rng = Random(7)
    counted = Counter(chosen.name for _ in range(picks) if (chosen := pick(endpoints, FIRST_TOKEN, T, rng)))
    return {name: count / picks for name, count in counted.items()}


@properties
@given(endpoints=groups, seed=st.integers(0, 1000))
def test_an_available_endpoint_is_picked_if_there_is_one_and_none_otherwise(
    endpoints: list[Endpoint], seed: int
) -> None:
    available = [e for e in endpoints if e.availability.allows(T)]
    rng = Random(seed)
    for _ in range(20):
        chosen = pick(endpoints, FIRST_TOKEN, T, rng)
        assert chosen in available if available else chosen is None


@properties
@given(endpoints=groups)
def test_without_exploration_the_pick_is_unmeasured_or_about_as_cheap_as_the_cheapest(
    endpoints: list[Endpoint],
) -> None:
    available = [e for e in endpoints if e.availability.allows(T)]
    measured = [e for e in available if "being measured" not in e.name] or available
    chosen = pick(endpoints, FIRST_TOKEN, T, Steady())
    if chosen is not None and len(available) > 1:
        assert chosen in measured
        cheapest = min(e.forecast.cost(FIRST_TOKEN, T) for e in measured)
        assert chosen.forecast.unmeasured("first_token") or chosen.forecast.cost(FIRST_TOKEN, T) <= NEAR * cheapest


def test_of_two_clearly_different_endpoints_the_cheaper_gets_all_calls_but_the_exploring_ones() -> None:
    share = shares([endpoint("quick", 0.2), endpoint("slow", 2.0)])
    assert share["slow"] == pytest.approx(EXPLORE / 2, abs=0.002)


def test_exploration_is_spread_evenly_over_available_endpoints_that_were_measured_at_the_same_time() -> None:
    out = endpoint("out", 5.0)
    trip(out)
    share = shares([endpoint("quick", 0.2), *(endpoint(f"slow {n}", 2.0 + n) for n in range(4)), out])
    assert "out" not in share
    assert [share[f"slow {n}"] for n in range(4)] == pytest.approx([EXPLORE / 5] * 4, abs=0.001)


def test_one_of_the_near_ties_is_drawn_at_random() -> None:
    share = shares([endpoint("a", 1.0), endpoint("b", 1.02), endpoint("c", 1.04), endpoint("d", 1.2)])
    assert [share[name] for name in "abc"] == pytest.approx([1 / 3] * 3, abs=0.02)
    assert share["d"] < EXPLORE


def test_of_near_ties_the_one_with_the_lowest_load_for_its_weight_is_picked() -> None:
    small, large = endpoint("small"), endpoint("large", weight=4.0)
    for each in (small, large):
        each.begin(T).first_token(T + 1.0)  # streams, which add little to the cost
    assert pick([small, large], FIRST_TOKEN, T + 1.0, Steady()) is large
    large.begin(T).first_token(T + 1.0)
    large.begin(T).first_token(T + 1.0)
    assert pick([small, large], FIRST_TOKEN, T + 1.0, Steady()) is large
    for _ in range(2):
        large.begin(T).first_token(T + 1.0)
    assert pick([small, large], FIRST_TOKEN, T + 1.0, Steady()) is small


def test_exploration_goes_to_the_endpoint_that_was_measured_longest_ago() -> None:
    old, older, newest = endpoint("old"), endpoint("older"), endpoint("newest")
    for each, when in ((older, T + 1.0), (old, T + 2.0), (newest, T + 3.0)):
        learn(each, 1.0, now=when)
    assert pick([newest, old, older], FIRST_TOKEN, T + 4.0, Exploring()) is older


def test_load_moves_calls_to_an_equal_endpoint() -> None:
    loaded, idle = endpoint("loaded"), endpoint("idle")
    loaded.begin(T)
    assert pick([loaded, idle], FIRST_TOKEN, T, Steady()) is idle


def test_a_newcomer_gets_one_call_at_once_and_no_second_before_the_first_has_ended() -> None:
    newcomer, known = endpoint("newcomer", None), endpoint("known", 0.01)  # far cheaper than the prior of a newcomer
    assert shares([newcomer, known])["newcomer"] == pytest.approx(0.5, abs=0.02)
    first_call = newcomer.begin(T)
    assert "newcomer" not in shares([newcomer, known])
    first_call.first_token(T + 0.02)
    learn(newcomer, *[0.02] * FEW)
    assert shares([newcomer, known]).get("newcomer", 0.0) < EXPLORE  # from now on by its cost


def test_of_an_endpoint_with_few_waits_one_call_in_ten_finds_out_if_it_is_quicker_than_it_looks() -> None:
    """An endpoint that is quick as a rule, but whose first wait was a stall, looks slow for half a minute."""
    unlucky, known = endpoint("unlucky", None), endpoint("known", 0.3)
    learn(unlucky, 1.2)
    assert shares([unlucky, known])["unlucky"] == pytest.approx(MEASURE - EXPLORE / 2, abs=0.01)
    unlucky.begin(T)  # one call at a time measures it
    assert shares([unlucky, known]).get("unlucky", 0.0) < EXPLORE


def test_an_endpoint_of_which_all_of_three_waits_were_longer_than_the_best_cost_is_no_longer_measured() -> None:
    slow, mixed, known = endpoint("slow", None), endpoint("mixed", None), endpoint("known", 0.3)
    learn(slow, *[1.2] * MAX_STALLS)
    learn(mixed, 1.2, 0.1, *[1.2] * (MAX_STALLS - 2))
    share = shares([slow, mixed, known])
    assert share["slow"] < EXPLORE < share["mixed"] == pytest.approx(MEASURE - EXPLORE, abs=0.01)
    learn(mixed, *[1.2] * 10)
    assert shares([slow, mixed, known])["mixed"] < EXPLORE  # most of its waits are longer


def test_an_endpoint_whose_stalls_alone_make_it_look_slow_is_measured_until_it_has_enough_waits() -> None:
    stalling, known = endpoint("stalling", None), endpoint("known", 0.3)
    learn(stalling, *[0.1, 0.1, 4.0] * 4)
    assert shares([stalling, known])["stalling"] == pytest.approx(MEASURE - EXPLORE / 2, abs=0.01)
    learn(stalling, *[0.1, 0.1, 4.0] * 3)
    assert shares([stalling, known])["stalling"] < EXPLORE


def test_a_trial_that_is_due_is_made_by_the_next_call_whatever_the_endpoint_looks_to_cost() -> None:
    broken, other = endpoint("broken", 5.0), endpoint("other", 0.2)
    trip(broken, T - FIRST_WAIT)
    assert pick([broken, other], FIRST_TOKEN, T - 0.01, Steady()) is other
    assert pick([broken, other], FIRST_TOKEN, T, Steady()) is broken
    assert pick([broken, other], FIRST_TOKEN, T, Steady(), first=False) is other  # no retry is an experiment
    trial = broken.begin(T)
    assert trial.trial
    assert pick([broken, other], FIRST_TOKEN, T, Steady()) is other


def test_a_recovered_endpoint_gets_a_growing_share_and_all_calls_if_there_is_no_other() -> None:
    back, other = endpoint("back", 0.2), endpoint("other", 1.0)
    recover(back, T - 0.5 * RAMP)
    learn(back, *[0.2] * FEW)
    assert shares([back, other])["back"] == pytest.approx(0.5, abs=0.02)
    assert shares([back])["back"] == 1.0
    recover(back, T - RAMP)
    learn(back, *[0.2] * FEW)
    assert shares([back, other])["back"] > 1.0 - 2 * EXPLORE


def test_an_endpoint_measured_for_another_kind_gets_its_first_call_though_calls_of_that_kind_are_pending() -> None:
    known, other = endpoint("known", 1.0), endpoint("other", 1.0, kind="answer")
    for each in (known, other):
        for _ in range(5):
            each.begin(T, ANSWER)  # answers are pending all the time
    assert shares([known, other])["other"] == pytest.approx(0.5, abs=0.02)
    first_call = other.begin(T)
    assert "other" not in shares([known, other])
    first_call.first_token(T + 0.1)
    assert shares([known, other])["other"] > 1.0 - 2 * EXPLORE  # from now on by its cost


def test_newcomers_alone_get_one_call_each_before_any_gets_a_second() -> None:
    newcomers = [endpoint(name, None) for name in "abcd"]
    for _ in newcomers:
        chosen = pick(newcomers, FIRST_TOKEN, T, Steady())
        assert chosen is not None
        chosen.begin(T)
    assert [e.availability.in_flight for e in newcomers] == [1, 1, 1, 1]
    assert pick(newcomers, FIRST_TOKEN, T, Steady()) is not None  # further calls are spread over all


def test_each_demand_kind_has_costs_of_its_own() -> None:
    talker, embedder = endpoint("talker", 0.1), endpoint("embedder", 5.0)
    for of, seconds in ((talker, 5.0), (embedder, 0.1)):
        for _ in range(20):
            of.forecast.latency("embedding").observe(seconds, T)
    assert pick([talker, embedder], FIRST_TOKEN, T, Steady()) is talker
    assert pick([talker, embedder], EMBEDDING, T, Steady()) is embedder


@properties
@given(endpoints=groups)
def test_the_last_resort_is_never_full_nor_quiet_and_recovers_no_later_than_any_other(
    endpoints: list[Endpoint],
) -> None:
    chosen = recovers_first(endpoints, FIRST_TOKEN, T)
    allowed = [e for e in endpoints if not e.availability.full and e.availability.trial_at() <= T]
    assert chosen in allowed if allowed else chosen is None
    if chosen is not None:
        assert chosen.availability.recovers_at(T) == min(e.availability.recovers_at(T) for e in allowed)


def test_the_last_resort_is_the_endpoint_that_recovers_first() -> None:
    down, later, soon = endpoint("down"), endpoint("later"), endpoint("soon")
    down.availability.probed(False, T)
    trip(later, T)
    trip(soon, T - 1.0)
    assert recovers_first([down, later, soon], FIRST_TOKEN, T) is soon


def test_an_endpoint_that_reported_a_quota_is_not_asked_before_even_as_the_last_resort() -> None:
    only = endpoint()
    busy(only, 30.0)
    assert recovers_first([only], FIRST_TOKEN, T) is None
    assert recovers_first([only], FIRST_TOKEN, T + 30.0) is only
    refused_once = endpoint()
    refuse(refused_once, Outcome(Verdict.BUSY, retry_after=30.0), calls=1)
    assert recovers_first([refused_once], FIRST_TOKEN, T) is refused_once


def test_one_call_at_a_time_is_the_trial_of_an_endpoint_that_is_cooling_down() -> None:
    only = endpoint()
    refuse(only, Outcome(Verdict.BUSY, retry_after=30.0), calls=5)  # cools down for 1, 2, 4, 8 s
    assert recovers_first([only], FIRST_TOKEN, T + 7.9) is None
    refuse(only, Outcome(Verdict.BUSY, retry_after=30.0), T + 8.0, calls=1)  # for 16 s, with a trial after 8
    assert recovers_first([only], FIRST_TOKEN, T + 15.9) is None
    assert recovers_first([only], FIRST_TOKEN, T + 16.0) is only
    trial = only.begin(T + 16.0)
    assert trial.cooldown_trial
    assert recovers_first([only], FIRST_TOKEN, T + 17.0) is None
    trial.first_token(T + 17.0)
    assert only.availability.allows(T + 17.0)


def test_weights_are_shares_among_near_ties_only() -> None:
    rng = Random(1)
    heavy, light, slow = endpoint("heavy", 1.0), endpoint("light", 1.05), endpoint("slow", 2.0)
    heavy.forecast.weight, slow.forecast.weight = 3.0, 100.0
    drawn = Counter(e.name for e in (pick([heavy, light, slow], FIRST_TOKEN, T, rng) for _ in range(4000)) if e)
    assert drawn["heavy"] / drawn["light"] == pytest.approx(3.0, rel=0.15)
    assert drawn["slow"] < 4000 * EXPLORE * 2


def test_an_endpoint_whose_connections_are_all_in_use_is_not_picked_but_queued_for() -> None:
    crowded, other = endpoint("crowded", 0.1), endpoint("other", 5.0)
    crowded.availability.slots.configure(None, connections=1)
    crowded.begin(T)
    assert pick([crowded, other], FIRST_TOKEN, T, Random(1)) is other
    assert recovers_first([crowded], FIRST_TOKEN, T) is None
    assert crowded.availability.lacks_only_a_slot(T)


def test_the_only_endpoint_is_never_excluded() -> None:
    only = endpoint(seconds=None)
    only.availability.probed(False, T)
    trip(only)
    assert recovers_first([only], FIRST_TOKEN, T) is only


# Hot endpoints: their servers have a queue.


def hot(name: str, seconds: float) -> Endpoint:
    """An endpoint whose server reports a queue until T + 5."""
    made = endpoint(name, seconds)
    made.forecast.report(ServerLoad(running=8.0, waiting=2.0), T, T + 5.0)
    return made


def test_a_hot_endpoint_is_not_picked_while_another_is_available_whatever_that_costs() -> None:
    assert shares([hot("quick", 0.1), endpoint("slow", 5.0)], 1000) == {"slow": 1.0}
    assert shares([hot("quick", 0.1), endpoint("a", 1.0), endpoint("b", 1.0)], 1000).keys() == {"a", "b"}


def test_if_all_endpoints_are_hot_the_cheapest_is_picked() -> None:
    share = shares([hot("quick", 0.1), hot("slow", 5.0)])
    assert share["quick"] > 1.0 - EXPLORE


def test_a_hot_endpoint_is_picked_if_the_other_is_unavailable() -> None:
    out = endpoint("out", 0.1)
    busy(out, 5.0)
    assert shares([out, hot("hot", 5.0)], 100) == {"hot": 1.0}


def test_an_endpoint_is_hot_only_until_its_report_expires() -> None:
    was_hot, other = hot("quick", 0.1), endpoint("slow", 5.0)
    assert pick([was_hot, other], FIRST_TOKEN, T + 4.9, Steady()) is other
    assert pick([was_hot, other], FIRST_TOKEN, T + 5.0, Steady()) is was_hot
