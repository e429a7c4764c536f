"""Marks: each figure of a run with a few calls, computed by hand; and the marks that the references reach."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isinf
from pathlib import Path
from typing import Any

import pytest

from loadtest.latency import scenarios
from loadtest.latency.arrivals import Call
from loadtest.latency.marks import Reached, hedges, marks
from loadtest.latency.play import Played
from loadtest.latency.references import Reference, clairvoyant, informed
from loadtest.latency.results import Asked, Outcome, Run
from loadtest.latency.scenarios import Scenario
from tests.loadtest.fleets import constant, endpoint, fleet

SMALL = endpoint("small", {"kind": "linear", "per_token": 0.001, "base": constant(0.1)})
LARGE = endpoint("large", constant(1))


def call(k: int, first_token: float | None = 1.0, source: str | None = "a", **keys: Any) -> Outcome:
    usual = {"at": float(k), "tokens": 100, "ended": 2.0, "status": 200, "error": None, "late": 0.0}
    return Outcome(k=k, first_token=first_token, endpoint=source, **(usual | keys))


def asked(k: int, source: str = "a", became: str = "served", at: float | None = None) -> Asked:
    return Asked(k, source, float(k) if at is None else at, 1.0, became)


def reached(
    mark: dict[str, Any],
    calls: Sequence[Outcome],
    attempts: Sequence[Asked] = (),
    fleet_of: Sequence[dict[str, Any]] = (endpoint("a"), endpoint("b")),
    theirs: Sequence[Played] | None = None,
    **without: dict[int, float],
) -> Reached:
    """One mark of a run. By default the references have every first token after a second, from `a`."""
    scenario = fleet(*fleet_of, marks=[mark])
    played = theirs or [Played(each.k, 1.0, "a", ("a",), 0) for each in calls]
    references = {name: Reference(name, played) for name in ("informed", "clairvoyant")}
    run = Run("small", 1, 1.0, "tested", calls, attempts)
    (found,) = [
        each
        for each, goal in zip(marks(scenario, run, references, without), scenario.marks, strict=True)
        if goal.kind == mark["kind"]
    ]
    return found


def test_calls_that_no_endpoint_could_answer_in_time_do_not_count() -> None:
    theirs = [Played(k, 1.0 if k < 3 else float("inf"), "a", ("a",), 0) for k in range(5)]
    calls = [call(0), call(1, None, None), call(2, error="cut"), call(3), call(4, None, None)]
    found = reached({"kind": "answered"}, calls, theirs=theirs)
    assert found.figure == pytest.approx(1 / 3)
    assert not found.ok
    assert reached({"kind": "answered"}, calls[:1] + calls[3:], theirs=theirs).ok


def test_an_attempt_after_a_failure_is_not_an_extra_attempt() -> None:
    failed = asked(0, "a", "503")
    assert hedges([asked(0)]) == hedges([failed, asked(0, "b")]) == hedges([failed, failed, asked(0)]) == 0
    assert hedges([asked(0, became="cancelled"), asked(0, "b")]) == 1
    assert hedges([failed, asked(0, became="cancelled"), asked(0, "b")]) == 1
    assert hedges([asked(0), failed]) == 1
    assert hedges([]) == 0
    attempts = [asked(0, "b", at=0.5), asked(0, became="cancelled"), asked(1), asked(2), asked(3)]
    found = reached({"kind": "extra"}, [call(k) for k in range(4)], attempts)
    assert (found.figure, found.bound, found.ok) == (0.25, 0.1, False)


def test_the_share_within_some_seconds_excludes_calls_without_a_first_token() -> None:
    found = reached({"kind": "within", "seconds": 5, "at_least": 0.5}, [call(0, 5.0), call(1, 5.1), call(2, None)])
    assert found.figure == pytest.approx(1 / 3)
    assert not found.ok


def test_mean_and_p99_are_multiples_of_those_of_informed() -> None:
    calls = [call(k, 1.0 if k else 11.0) for k in range(10)]
    assert reached({"kind": "mean", "at_most": 1.5}, calls).figure == pytest.approx(2.0)
    assert reached({"kind": "p99", "at_most": 20}, calls).figure == pytest.approx(1 + 10 * 0.91)


def test_the_warm_up_does_not_count() -> None:
    scenario = fleet(endpoint("a"), warmup=2, marks=[{"kind": "within", "seconds": 1, "at_least": 1}])
    calls = [call(0, 9.0), call(1, None), call(2, 1.0)]
    references = {name: Reference(name, [Played(k, 1.0, "a", ("a",), 0) for k in range(3)])
                  for name in ("informed", "clairvoyant")}  # fmt: skip
    found = marks(scenario, Run("small", 1, 1.0, "tested", calls, [asked(k) for k in range(3)]), references, {})
    assert [each.ok for each in found] == [True, True, True]


def test_the_cost_of_an_endpoint_is_measured_by_a_run_without_it() -> None:
    calls = [call(k, 30.0 if k < 5 else 2.0) for k in range(10)]
    mark = {"kind": "p99-without", "endpoint": "a", "after": 5, "at_most": 1.3}
    found = reached(mark, calls, a=dict.fromkeys(range(10), 1.0))
    assert (found.figure, found.ok) == (2.0, False)
    assert reached(mark, calls, a=dict.fromkeys(range(10), 1.6)).ok
    assert reached({**mark, "after": 0, "until": 5}, calls, a=dict.fromkeys(range(10), 1.0)).figure == 30.0
    unknown = reached(mark, calls)
    assert (unknown.figure, unknown.ok) == (None, False)


def test_refusals_are_a_share_of_the_attempts() -> None:
    attempts = [asked(k, became="429 1302" if k % 2 else "served") for k in range(10)] + [asked(9, became="503")]
    found = reached({"kind": "refused", "after": 5, "at_most": 0.5}, [call(k) for k in range(10)], attempts)
    assert (found.figure, found.ok) == (0.5, True)


def test_the_first_attempt_decides_which_endpoint_a_call_goes_to() -> None:
    calls = [call(k, source="b") for k in range(10)]
    attempts = [asked(k, "a" if k == 9 else "b") for k in range(10)] + [asked(3, "a", at=3.5)]
    mark = {"kind": "goes", "endpoint": "a", "after": 5, "at_most": 0.03}
    assert reached(mark, calls, attempts).figure == 0.2
    assert reached({**mark, "until": 9}, calls, attempts).ok


def test_the_share_of_an_endpoint_is_a_multiple_of_its_share_under_informed() -> None:
    theirs = [Played(k, 1.0, "a" if k < 8 else "b", ("a",), 0) for k in range(10)]
    calls = [call(k, source="a" if k < 6 else "b") for k in range(10)]
    found = reached({"kind": "serves", "endpoint": "a", "after": 2, "at_least": 0.8}, calls, theirs=theirs)
    assert found.figure == pytest.approx(4 / 6)
    assert not found.ok


def test_calls_go_to_the_quickest_endpoint_for_their_size() -> None:
    sizes = [100, 100, 5000, 5000]
    calls = [call(k, tokens=tokens) for k, tokens in enumerate(sizes)]
    attempts = [asked(0, "small"), asked(1, "large"), asked(2, "large"), asked(3, "large")]
    found = reached({"kind": "soonest", "at_least": 0.9}, calls, attempts, fleet_of=(SMALL, LARGE))
    assert (found.figure, found.ok) == (0.75, False)


def test_most_calls_leave_and_find_an_endpoint_in_time() -> None:
    turns = endpoint("a", {"kind": "schedule", "laws": [{"at": 0, "law": constant(1)}, {"at": 60, "law": constant(9)}]})
    calls = [call(k) for k in range(120)]
    attempts = [asked(k, "a" if k < 64 or k == 100 else "b") for k in range(120)]
    fleet_of = (turns, endpoint("b", constant(2)))
    assert reached({"kind": "leaves", "within": 5}, calls, attempts, fleet_of).figure == 1.0
    assert reached({"kind": "leaves", "within": 2}, calls, attempts, fleet_of).figure == 0.0
    assert reached({"kind": "finds", "within": 30}, calls, attempts, fleet_of).figure == pytest.approx(29 / 30)


# ---- The marks that references reach


def as_run(scenario: Scenario, calls: Sequence[Call], reference: Reference) -> Run:
    """The result of a reference as the run of a router."""
    outcomes = [
        call(each.k, None if isinf(each.first_token) else each.first_token, each.endpoint, at=one.at, tokens=one.tokens)
        for one, each in zip(calls, reference.played, strict=True)
    ]
    attempts = [asked(each.k, source, at=one.at + number) for one, each in zip(calls, reference.played, strict=True)
                for number, source in enumerate(each.asked)]  # fmt: skip
    return Run(scenario.name, 1, 1.0, reference.name, outcomes, attempts)


@pytest.mark.parametrize(
    "name", ["switching", "throttled", "all-slow", "long-prompts", "newcomer-good", "newcomer-bad"]
)
def test_informed_without_hedges_reaches_the_marks_of_a_scenario(name: str) -> None:
    scenario = scenarios.find(name)
    calls = scenario.arriving(1)
    known = informed(scenario, 1, calls, budget=0.0)
    references = {"informed": known, "clairvoyant": clairvoyant(scenario, 1, calls)}
    found = marks(scenario, as_run(scenario, calls, known), references, {})
    assert [each.mark for each in found if not each.ok] == []


# ---- Results


def test_a_run_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    calls = [call(0), call(1, None, None, status=None, error="no connection")]
    run = Run("small", 1, 10.0, "tested", calls, [asked(0), asked(1, became="503"), asked(0, "b", at=0.5)])
    assert Run.from_json(json.loads(json.dumps(run.as_json()))) == run
    assert [each.endpoint for each in run.by_call()[0]] == ["a", "b"]
    run.write_csv(tmp_path / "calls.csv")
    lines = (tmp_path / "calls.csv").read_text().splitlines()
    assert lines[0].split(",")[:4] == ["k", "at", "tokens", "first_token"]
    assert [line.split(",")[-1] for line in lines] == ["attempts", "2", "1"]
