"""One row of an explanation: the numbers of an endpoint, why it may not be asked, and notes for or against it."""

from __future__ import annotations

import json
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import parse
from router.core.choice.table import rebuild
from router.core.demand import FIRST_TOKEN
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.server_load import ServerLoad
from router.core.explain.explanation import explain
from router.core.explain.rows import HOT, UNMEASURED, finite, in_words, row
from router.core.verdict import Cause, Outcome, Verdict
from tests.core.explain.routes import STATES, bring, named, route_with, why
from tests.core.helpers import EMBEDDING, T, busy, endpoint, fill, learn, properties, recover, refuse, trip

OUT = {
    "down": "down by its probes",
    "busy": "cooling down for 4.0 s, it reported: throttled",
    "tripped": "breaker open for 2.0 s",
    "half open": "breaker half open while its trial is running",
    "full": "no free slot: 3 of 3 taken",
}


@pytest.mark.parametrize("state", OUT)
def test_an_endpoint_that_may_not_be_asked_has_the_reason_in_its_row_and_in_the_sentence(state: str) -> None:
    of = route_with("a", "b", limit=3, a=0.3, b=0.5)
    if state == "busy":
        refuse(named(of, "a"), Outcome(Verdict.BUSY, retry_after=5.0, cause=Cause.THROTTLED), calls=4)
    else:
        bring(named(of, "a"), state, 0.3)
    explained = explain(of, "first_token", 0.0, T)
    assert explained.why.startswith("b: 0.50 s expected, the only available endpoint of its tier; ")
    assert f"a is out: {OUT[state]}" in explained.why
    assert {each.endpoint: each.out for each in explained.candidates} == {"a": OUT[state], "b": None}


def test_a_learned_limit_is_named_as_learned() -> None:
    of = route_with("a", "b", a=0.3, b=0.5)
    for _ in range(3):
        named(of, "a").begin(T)
    refuse(named(of, "a"), Outcome(Verdict.BUSY, cause=Cause.THROTTLED))
    assert "a is out: no free slot: 3 of the learned limit of 2 taken" in why(of)


def test_tiers_have_the_numbers_of_the_configuration() -> None:
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


def test_a_slowdown_is_noted_first_as_trouble_and_then_as_of_unknown_extent() -> None:
    of = route_with("a", "b", a=0.3, b=0.5)
    learn(named(of, "a"), 3.0, 3.0)
    of_a = explain(of, "first_token", 0.0, T).candidates[-1]
    assert of_a.endpoint == "a"
    assert of_a.notes[0].startswith("in trouble, ")
    learn(named(of, "a"), 3.0, 3.0)
    of_a = explain(of, "first_token", 0.0, T).candidates[-1]
    assert of_a.notes == ["has become slower, not known yet by how much"]


def test_the_servers_report_and_a_slow_start_are_in_the_row() -> None:
    of = route_with("a", "b", a=0.3, b=0.5)
    a = named(of, "a")
    a.forecast.report(ServerLoad(running=3.0, kv=0.25), T, T + 5.0)
    trip(a, T - 10.0)
    a.begin(T).end(Outcome(Verdict.SERVED), T)
    (of_a,) = (each for each in explain(of, "first_token", 0.0, T).candidates if each.endpoint == "a")
    assert of_a.server is not None
    assert (of_a.server.running, of_a.server.waiting, of_a.server.kv, of_a.server.hot) == (3.0, None, 0.25, False)
    assert "slow start: 10% of its share" in of_a.notes


@pytest.mark.parametrize(("seconds", "words"), [(0.0451, "45 ms"), (0.314, "0.31 s"), (4.24, "4.2 s"), (120, "120 s")])
def test_times_are_written_in_the_unit_and_precision_that_people_use(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


# A row by itself.


def test_unknown_and_infinite_numbers_of_a_row_are_none() -> None:
    unmeasured = row(Endpoint("a", "m"), FIRST_TOKEN, T, tier=3, near=False, hedge_after=inf)
    assert (unmeasured.endpoint, unmeasured.model, unmeasured.tier, unmeasured.near) == ("a", "m", 3, False)
    assert (unmeasured.age, unmeasured.p50, unmeasured.p90, unmeasured.p99) == (None, None, None, None)
    assert (unmeasured.slots, unmeasured.server, unmeasured.hedge_after, unmeasured.out) == (None, None, None, None)
    assert (unmeasured.known, unmeasured.available, unmeasured.notes) == (False, True, [UNMEASURED])


def test_the_numbers_of_a_row_are_those_of_the_endpoint() -> None:
    a = endpoint("a", 0.5, weight=2.0, limit=4)
    a.begin(T)
    a.begin(T).first_token(T + 0.5)
    now = T + 0.5
    of = row(a, FIRST_TOKEN, now, tier=1, near=True, hedge_after=0.75)
    latency = a.forecast.latency("first_token")
    assert (of.weight, of.slots, of.in_flight, of.waiting) == (2.0, 4, 2, 1)
    assert (of.near, of.hedge_after, of.known, of.age) == (True, 0.75, True, 0.0)
    assert of.cost == pytest.approx(a.forecast.cost(FIRST_TOKEN, now), abs=1e-4)
    assert of.mean == pytest.approx(latency.mean(now), abs=1e-4)
    assert of.p90 == pytest.approx(latency.quantile(0.9), abs=1e-4)
    assert of.crowding == pytest.approx(a.forecast.crowding("first_token", now), abs=1e-3)


def test_the_slots_of_a_row_are_the_learned_limit_if_that_is_lower() -> None:
    a = endpoint("a", limit=8)
    a.availability.limit.most = 3.0
    assert row(a, FIRST_TOKEN, T, tier=1, near=False, hedge_after=inf).slots == 3


def test_a_row_names_all_reasons_for_which_an_endpoint_may_not_be_asked() -> None:
    a = endpoint("a", limit=3)
    fill(a)
    busy(a, 5.0)
    trip(a)
    a.availability.probed(False, T)
    reasons = (
        "down by its probes, cooling down for 5.0 s, it reported: quota, breaker open for 2.0 s, "
        "no free slot: 3 of 3 taken"
    )
    assert row(a, FIRST_TOKEN, T, tier=1, near=False, hedge_after=inf).out == reasons


def test_an_endpoint_that_was_never_tripped_is_neither_hot_nor_in_slow_start() -> None:
    usual = row(endpoint("a"), FIRST_TOKEN, T, tier=1, near=False, hedge_after=inf)
    assert (usual.is_hot, usual.in_slow_start, usual.notes) == (False, False, [])


def test_a_hot_endpoint_in_slow_start_that_has_failed_is_noted_as_all_of_these() -> None:
    a = endpoint("a")
    recover(a, T)
    a.forecast.report(ServerLoad(waiting=1.0), T, T + 5.0)
    a.begin(T).end(Outcome(Verdict.FAULT), T)
    of = row(a, FIRST_TOKEN, T, tier=1, near=False, hedge_after=inf)
    assert (of.is_hot, of.in_slow_start) == (True, True)
    assert of.notes[0] == HOT
    assert of.notes[-1] == "1 failed in a row"


def test_a_row_notes_that_one_call_was_refused() -> None:
    a = endpoint("a")
    refuse(a, Outcome(Verdict.FAULT, cause=Cause.DENIED), calls=1)
    of = row(a, FIRST_TOKEN, T, tier=1, near=False, hedge_after=inf)
    assert (of.out, of.notes) == (None, ["suspected: one call was refused"])
    embedding = row(a, EMBEDDING, T, tier=1, near=False, hedge_after=inf)
    assert "suspected: one call was refused" not in embedding.notes
    refuse(a, Outcome(Verdict.FAULT, cause=Cause.DENIED), calls=1)
    of = row(a, FIRST_TOKEN, T, tier=1, near=False, hedge_after=inf)
    assert (of.out, of.notes) == ("cooling down for 1.0 s, it reported: denied", [])


@properties
@given(
    state=st.sampled_from(STATES), seconds=st.floats(0.1, 10.0), now=st.sampled_from([T, T + 1.0, T + 5.0, T + 100.0])
)
def test_an_endpoint_has_a_reason_to_be_out_exactly_if_it_may_not_be_asked(
    state: str, seconds: float, now: float
) -> None:
    a = endpoint("a", None, limit=5)
    bring(a, state, seconds)
    of = row(a, FIRST_TOKEN, now, tier=1, near=False, hedge_after=inf)
    assert (of.out is None) is of.available is a.availability.allows(now)


@pytest.mark.parametrize(("value", "rounded"), [(inf, None), (0.0, 0.0), (1.23456789, 1.2346)])
def test_an_infinite_value_is_none_and_others_are_rounded(value: float, rounded: float | None) -> None:
    assert finite(value) == rounded
