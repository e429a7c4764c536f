"""scenarios.yaml is valid, and the errors of an invalid file name the place and the reason."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from loadtest.latency import scenarios
from loadtest.latency.arrivals import Sizes
from loadtest.latency.endpoints import Endpoint
from loadtest.latency.laws import AnyLaw, Empirical
from loadtest.latency.scenarios import WARM_UP, Mark, Scenario, ScenarioError
from tests.loadtest.fleets import QUICK, constant, endpoint, fleet

ALL = scenarios.load()
WANTED = {
    "roadmap", "mixed", "switching", "one-slow", "one-silent", "flapping", "throttled", "all-slow", "cold",
    "long-prompts", "newcomer-good", "newcomer-bad", "azure", "stalls", "stalls-rare", "stalls-busy", "stalls-plain",
    "stalls-half", "frozen", "burst", "thousand",
}  # fmt: skip
SPEEDS = {"stalls-busy": 1, "thousand": 2}  # of the scenarios with more than 20 calls per second
WARM_UPS = {"burst": 0, "thousand": 1500}
TWO = re.compile(r"^\| ([^|]+) \| ([^|]*) \|", re.MULTILINE)
WORD = re.compile(r"`([\w-]+)`")
FILE = """
small:
  story: two
  arrivals: {kind: poisson, rate: 10}
  endpoints:
    - {name: alpha, law: {kind: constant, seconds: 1}}
    - name: beta
      law: {kind: mixture, parts: [{share: 1, law: {kind: lognormal, median: 1, sigma: 1}}]}
"""


def test_all_documented_scenarios_exist() -> None:
    assert ALL.keys() >= WANTED


@pytest.mark.parametrize("name", ALL)
def test_every_scenario_suits_two_cores_at_the_speed_that_it_names(name: str) -> None:
    """The speed is ten, unless the scenario has more than 20 calls per second."""
    scenario = ALL[name]
    if name == "burst":  # ten bursts of sixty calls, from the first on
        assert scenario.calls == 600
    else:
        assert scenario.calls - scenario.warmup >= 2000
    assert scenario.warmup == WARM_UPS.get(name, WARM_UP)
    assert scenario.arrivals.mean_rate * (scenario.speed or 10) <= 200
    assert scenario.speed == SPEEDS.get(name)
    assert scenario.sizes.generated[1] <= 8
    assert {"answered", "extra"} <= {mark.kind for mark in scenario.marks}
    assert set(scenario.servers(1)) == set(scenario.names)


def test_switching_switches_at_least_six_times() -> None:
    scenario = ALL["switching"]
    servers = scenario.servers(1)
    best = [
        min(servers, key=lambda name: servers[name].law.mean(at))
        for at in range(20, int(scenario.arriving(1)[-1].at), 10)
    ]
    assert sum(one != other for one, other in pairwise(best)) >= 6


def test_copies_of_an_endpoint_are_endpoints_with_numbers_in_their_names() -> None:
    scenario = fleet(endpoint("gpu-", constant(1), copies=3), endpoint("hosted", tier=2))
    assert scenario.names == ["gpu-0", "gpu-1", "gpu-2", "hosted"]
    alone = fleet(*(endpoint(f"gpu-{number}", constant(1)) for number in range(3)), endpoint("hosted", tier=2))
    assert scenario == alone
    assert len(ALL["thousand"].endpoints) == 1000
    with pytest.raises(ValidationError, match="two endpoints have the same name: a0, a0"):
        fleet(endpoint("a", copies=1), endpoint("a0"))


def test_without_an_endpoint_the_calls_are_the_same_and_its_marks_are_gone() -> None:
    scenario = ALL["one-slow"]
    left = scenario.without("alpha")
    assert left.names == ["beta", "gamma"]
    assert left.arriving(3) == scenario.arriving(3)
    assert [mark.kind for mark in left.marks] == ["answered", "extra"]
    with pytest.raises(ScenarioError, match="one-slow has no endpoint delta; its endpoints are alpha, beta, gamma"):
        scenario.without("delta")
    with pytest.raises(ScenarioError, match="has no endpoint other than one"):
        fleet(endpoint("one")).without("one")


def test_a_trace_replaces_the_arrivals_and_some_scenarios_need_one(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,5000,44\n2023-11-16 18:15:47,7,1\n")
    with pytest.raises(ScenarioError, match="azure replays a trace: name one with --trace FILE"):
        ALL["azure"].arriving(1)
    assert [ALL[name].needs_a_trace for name in ("azure", "mixed")] == [True, False]
    for name in ("azure", "mixed", "cold"):
        calls = ALL[name].arriving(1, trace)
        assert len(calls) == ALL[name].calls
        assert {call.tokens for call in calls} == {5000, 7}
        assert max(call.generated for call in calls) == 8
    assert ALL["mixed"].arriving(1, trace)[-1].at == pytest.approx(219.9)


def test_data_is_read_from_a_file_or_a_folder_and_its_endpoints_are_those_of_mixed(tmp_path: Path) -> None:
    names = {endpoint.law.endpoint for endpoint in ALL["mixed"].endpoints if isinstance(endpoint.law, Empirical)}
    (tmp_path / "measured.json").write_text(json.dumps({name: {"ttft_s": [1, 2.5], "requests": 2} for name in names}))
    for path in (tmp_path, tmp_path / "measured.json"):
        data = scenarios.read_data(path)
        assert {server.law.mean() for server in ALL["mixed"].servers(1, data).values()} == {1.75}


@pytest.mark.parametrize("text", ["[1]", '{"a": {"times": [1]}}', '{"a": {"ttft_s": ["x"]}}', "nonsense", "{}"])
def test_data_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "measured.json"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=r"measured.json: .*first-token times"):
        scenarios.read_data(path)


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        ("seconds: 1", "secs: 1", "small.endpoints[0].law.seconds: field required"),
        ("seconds: 1", "seconds: 0", "small.endpoints[0].law.seconds: input should be greater than 0"),
        ("share: 1", "share: 0.5", "small.endpoints[1].law: the shares of the parts come to 0.5 instead of 1"),
        ("median: 1", "median: x", "small.endpoints[1].law.parts[0].law.median: input should be a valid number"),
        ("name: beta", "name: alpha", "small: two endpoints have the same name: alpha, alpha"),
        ("name: beta", "nam: beta", "small.endpoints[1].nam: unknown key"),
        ("name: beta", "name: b eta", "small.endpoints[1].name: string should match pattern"),
        ("name: beta", f"name: {65 * 'b'}", "small.endpoints[1].name: string should have at most 64 characters"),
        ("name: beta", "name: beta\n      copies: 0", "small.endpoints[1].copies: input should be greater than 0"),
        ("name: beta", f"name: {63 * 'b'}\n      copies: 11", "b10 of the last copy has more than 64 characters"),
        ("kind: constant", "kind: fixed", "endpoints[0].law: input tag 'fixed' found using 'kind' does not match"),
        ("story: two", "story: two\n  marks: [{kind: goes, endpoint: x, at_most: 1}]", "a mark names x, but the endp"),
        ("story: two", "story: two\n  calls: 100", "small.calls: input should be greater than 200"),
        ("story: two", "story: two\n  sizes: {generated: [9, 3]}", "sizes: generated is [least, most], not [9, 3]"),
        ("name: beta", "name: beta\n      absent: [{start: 9, until: 3}]", "absent[0]: until (3) must be more than st"),
        ("name: beta", "name: beta\n      caps: [{at: 9, most: 3}, {at: 1, most: 1}]", "the times of caps must rise"),
        ("small:", "small: 5\nother:", "must be a mapping from a scenario's name to its keys"),
        ("small:", "small", "mapping values are not allowed here"),
    ],
)  # fmt: skip
def test_the_error_of_a_bad_file_names_the_place_and_the_reason(
    tmp_path: Path, good: str, bad: str, expected: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.replace(good, bad, 1))
    with pytest.raises(ScenarioError) as error:
        scenarios.load(path)
    assert expected in str(error.value)
    assert str(error.value).startswith(str(path))


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.replace("seconds: 1", "seconds: 0").replace("median: 1", "median: 0"))
    with pytest.raises(ScenarioError) as error:
        scenarios.load(path)
    assert len(str(error.value).splitlines()) == 2


def test_an_unknown_scenario_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    assert scenarios.find("small", path).names == ["alpha", "beta"]
    with pytest.raises(ScenarioError, match=r"mine.yaml: no scenario big; the scenarios are small"):
        scenarios.find("big", path)
    with pytest.raises(ScenarioError, match=r"none.yaml"):
        scenarios.load(tmp_path / "none.yaml")


# ---- docs/scenarios.md


def columns(heading: str) -> dict[str, set[str]]:
    """The words in backticks of the first column under a heading, each with those of the second."""
    page = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE)
    return {name: set(WORD.findall(second)) for first, second in TWO.findall(section) for name in WORD.findall(first)}


@pytest.mark.parametrize(
    ("heading", "model", "omitted"),
    [("A scenario", Scenario, {"name"}), ("Arrivals", Sizes, set()), ("An endpoint", Endpoint, set())],
)
def test_every_key_is_explained(heading: str, model: type[BaseModel], omitted: set[str]) -> None:
    assert columns(heading).keys() == model.model_fields.keys() - omitted


@pytest.mark.parametrize(("heading", "kinds"), [("A law", AnyLaw), ("A mark", Mark)])
def test_every_kind_is_explained_with_its_keys(heading: str, kinds: Any) -> None:
    models: dict[str, type[BaseModel]] = {
        kind: model
        for model in get_args(get_args(kinds)[0])
        for kind in get_args(model.model_fields["kind"].annotation)
    }
    explained = columns(heading)
    assert explained.keys() == models.keys()
    for kind, model in models.items():
        assert model.model_fields.keys() - {"kind"} <= explained[kind], kind


def test_every_scenario_is_documented() -> None:
    assert columns("The scenarios").keys() == ALL.keys()


def test_marks_of_a_scenario_replace_those_of_all_scenarios() -> None:
    scenario = fleet(endpoint("a", QUICK), endpoint("b", constant(1)), marks=[{"kind": "extra", "at_most": 0.02}])
    assert {mark.kind: mark for mark in scenario.marks}.keys() == {"answered", "extra"}
    assert [mark.at_most for mark in scenario.marks if mark.kind == "extra"] == [0.02]
