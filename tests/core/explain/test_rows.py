"""One row of an explanation: the numbers of an endpoint, why it may not be asked, and notes for or against it."""

from __future__ import annotations

import json

import pytest

from router.config import parse
from router.core.choice.table import rebuild
from router.core.endpoint.server_load import ServerLoad
from router.core.explain.explanation import explain
from router.core.explain.rows import in_words
from router.core.verdict import Cause, Outcome, Verdict
from tests.core.explain.routes import bring, named, route_with, why
from tests.core.helpers import T, learn, trip

OUT = {
    "down": "down by its probes",
    "busy": "cooling down for 5.0 s, it reported: throttled",
    "tripped": "breaker open for 2.0 s",
    "half open": "breaker half open while its trial is running",
    "full": "no free slot: 3 of 3 taken",
}


@pytest.mark.parametrize("state", OUT)
def test_an_endpoint_that_may_not_be_asked_has_the_reason_in_its_row_and_in_the_sentence(state: str) -> None:
    of = route_with("a", "b", limit=3, a=0.3, b=0.5)
    if state == "busy":
        named(of, "a").begin(T).end(Outcome(Verdict.BUSY, retry_after=5.0, cause=Cause.THROTTLED), T)
    else:
        bring(named(of, "a"), state, 0.3)
    explained = explain(of, "first_token", 0.0, T)
    assert explained.why.startswith("b: 0.50 s expected, the only available endpoint of its tier; ")
    assert f"a is out: {OUT[state]}" in explained.why
    assert {each.endpoint: each.out for each in explained.candidates} == {"a": OUT[state], "b": None}


def test_a_learned_limit_is_named_as_learned() -> None:
    of = route_with("a", "b", a=0.3, b=0.5)
    throttled = [named(of, "a").begin(T) for _ in range(4)]
    throttled[0].end(Outcome(Verdict.BUSY, cause=Cause.THROTTLED), T)
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
    row = explain(of, "first_token", 0.0, T).candidates[-1]
    assert row.endpoint == "a"
    assert row.notes[0].startswith("in trouble, ")
    learn(named(of, "a"), 3.0, 3.0)
    row = explain(of, "first_token", 0.0, T).candidates[-1]
    assert row.notes == ["has become slower, not known yet by how much"]


def test_the_servers_report_and_a_slow_start_are_in_the_row() -> None:
    of = route_with("a", "b", a=0.3, b=0.5)
    a = named(of, "a")
    a.forecast.report(ServerLoad(running=3.0, kv=0.25), T, T + 5.0)
    trip(a, T - 10.0)
    a.begin(T).end(Outcome(Verdict.SERVED), T)
    (row,) = (each for each in explain(of, "first_token", 0.0, T).candidates if each.endpoint == "a")
    assert row.server is not None
    assert (row.server.running, row.server.waiting, row.server.kv, row.server.hot) == (3.0, None, 0.25, False)
    assert "slow start: 10% of its share" in row.notes


@pytest.mark.parametrize(("seconds", "words"), [(0.0451, "45 ms"), (0.314, "0.31 s"), (4.24, "4.2 s"), (120, "120 s")])
def test_times_are_written_in_the_unit_and_precision_that_people_use(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
