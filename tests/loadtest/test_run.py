"""run plays a scenario with the real router and writes the results; compare shows such runs side by side."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from loadtest.__main__ import main
from loadtest.latency import figures, medians, plots, report
from loadtest.latency.marks import Reached, hedges
from loadtest.latency.report import Report
from loadtest.latency.results import Asked, Outcome, Run
from loadtest.latency.routers import Router
from loadtest.latency.run import Order
from loadtest.latency.scenarios import load
from tests.loadtest.stands import endpoint as an_endpoint
from tests.loadtest.stands import run_story, standing

CALLS = 400  # the silence begins after call 300
RESERVE = 3 + 60 / 10  # hedges that the budget allows at once, plus those of one minute


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


# ---- A whole run, with the real router


@pytest.fixture(scope="module", params=["mixed", "one-silent"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a shortened run."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    done = invoke("run", request.param, "--calls", CALLS, "--speed", 10, "--out", folder)
    assert done.exit_code in (0, 1), done.output
    assert "measured / informed" in done.output
    assert "answered, of the answerable calls" in done.output
    return folder


def test_every_call_is_answered_and_attempts_stay_within_the_budget(kept: Path) -> None:
    told_of = report.read(kept)
    run = told_of.run
    assert [call.k for call in run.calls] == list(range(CALLS))
    assert [call.error for call in run.calls if call.error] == []
    asked = run.by_call()
    assert all(asked.values())
    assert sum(map(hedges, asked.values())) <= 0.1 * CALLS + RESERVE
    for call in run.calls:
        assert call.endpoint in {attempt.endpoint for attempt in asked[call.k] if attempt.became == "served"}
        assert call.first_token is not None
        assert call.first_token >= min(each.first_token for each in asked[call.k] if each.first_token is not None)
    assert min(told_of.overhead) >= 0
    assert {each.name for each in told_of.references} == {"random", "best fixed", "informed", "clairvoyant"}


def test_the_results_are_written(kept: Path) -> None:
    with (kept / "calls.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["k"]) for row in rows] == list(range(CALLS))
    assert all(int(row["attempts"]) >= 1 for row in rows)
    for picture in report.PICTURES:
        with Image.open(kept / picture) as image:
            assert image.width > 500


def test_runs_are_shown_side_by_side(kept: Path, tmp_path: Path) -> None:
    picture = tmp_path / "beside.png"
    done = invoke("compare", f"one={kept}", kept, "--out", picture)
    assert done.exit_code == 0, done.output
    assert picture.stat().st_size > 0
    rows = invoke("compare", f"one={kept}", "--markdown", "--medians").output.splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| run", "| ---", "| one"]


def test_no_figure_is_cut_in_a_narrow_window(kept: Path) -> None:
    shown = CliRunner(env={"FORCE_COLOR": "1", "COLUMNS": "80"}).invoke(main, ["compare", str(kept)]).output
    assert "p99 / informed" in shown
    assert "…" not in shown


# ---- Any router


def test_the_configuration_for_a_running_router_can_be_printed() -> None:
    text = invoke("run", "mixed", "--target", "http://127.0.0.1:1/v1", "--print-config").output
    assert "base_url: http://127.0.0.1:9201/v1" in text
    assert text.count("models:") == 5


def test_a_router_that_does_not_serve_the_model_is_an_error_with_the_configuration() -> None:
    done = invoke("run", "one-slow", "--calls", 2, "--target", "http://127.0.0.1:1/v1")
    assert done.exit_code == 1
    assert "does not serve the model 'm'" in done.output
    assert "http://127.0.0.1:9202/v1" in done.output


def test_a_single_endpoint_can_be_measured_without_a_router(tmp_path: Path) -> None:
    """The driver calls the first endpoint directly, so only the overhead of measuring is left."""
    file = tmp_path / "scenarios.yaml"
    file.write_text(json.dumps({"still": still(calls=20)}))
    done = invoke(
        "run", "still", "--scenarios", file, "--calls", 20, "--speed", 10, "--port", 9301,
        "--target", "http://127.0.0.1:9301/v1", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code in (0, 1), done.output
    assert "are as long as they are set" in done.output
    assert [call.endpoint for call in report.read(tmp_path / "out").run.calls] == ["alpha"] * 20


def still(**more: Any) -> dict[str, Any]:
    constant = {"kind": "constant", "seconds": 0.5}
    return {
        "story": "Nothing happens.",
        "arrivals": {"kind": "poisson", "rate": 20},
        "endpoints": [{"name": "alpha", "law": constant}, {"name": "beta", "law": constant}],
        **more,
        "calls": 300,
    }


# ---- Errors of the command line


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "mixde"), "no scenario mixde"),
        (("run", "azure"), "--trace FILE"),
        (("run", "mixed", "--without", "unknown"), "no endpoint unknown"),
        (("run", "mixed", "--target", "http://x/v1", "--router", "x"), "not both"),
        (("run", "mixed", "--router", "x {prot}"), "the allowed fields are {port}, {config}, {endpoints}"),
        (("run", "mixed", "one-slow", "--print-config"), "for one scenario"),
        (("compare", "."), "no run.json"),
        (("compare", ".", "--out", "picture.txt"), "ends with .png or .svg"),
        (("hammer", "https://127.0.0.1/v1"), "not an http:// URL"),
        (("hammer", "http://127.0.0.1:1/v1"), "name one with --model"),
    ],
)
def test_a_wrong_command_line_is_an_error_that_says_what_to_do(
    words: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*words)
    assert done.exit_code in (1, 2)
    assert text in done.output


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"alpha": {"ttft_s": [0.5]}}, "the data has no first-token times of together_13b; it has alpha"),
        ({"together_13b": {"ttft_s": [0.5, -1]}}, "-1 is not a first-token time"),
        ({"together_13b": [0.5]}, "first-token times have the form"),
    ],
)
def test_unusable_data_is_an_error_before_any_process_starts(data: Any, text: str, tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    file.write_text(json.dumps(data))
    done = invoke("run", "mixed", "--data", file)
    assert (done.exit_code, text in done.output) == (1, True), done.output


def test_a_folder_that_cannot_be_written_is_an_error_before_the_run(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = invoke("run", "one-slow", "--router", "x {prot}", "--out", file / "runs")
    assert "Not a directory" in done.output


def test_a_port_in_use_is_an_error_with_its_number() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = invoke("run", "one-slow", "--port", port)
    assert done.exit_code == 1
    assert f"cannot listen on port {port}" in done.output


def test_hammer_is_a_command() -> None:
    async def story() -> None:
        import asyncio

        async with standing(an_endpoint()) as fakes:
            url = f"http://127.0.0.1:{fakes.stand.ports['alpha']}/v1"
            done = await asyncio.to_thread(invoke, "hammer", url, "--calls", 5, "--concurrency", 2)
            assert done.exit_code == 0, done.output
            assert "5 calls" in done.output

    run_story(story)


# ---- The figures


def call(k: int, first_token: float | None, endpoint: str | None = "alpha", error: str | None = None) -> Outcome:
    return Outcome(k, float(k), 10, first_token, 9.0, 200, error, endpoint, 0.0)


def seen(*calls: Outcome, attempts: list[Asked]) -> Run:
    return Run("some", 1, 10.0, "firsttoken", calls, attempts)


def test_a_call_without_a_first_token_counts_with_the_whole_deadline() -> None:
    run = seen(call(0, 1.0), call(1, None, None, "502"), attempts=[Asked(0, "alpha", 0.0, 1.0, "served")])
    measured = figures.measured(run, 0)
    assert (measured.mean, measured.failed, measured.shares) == (60.5, 1, {"alpha": 0.5})


def test_extra_attempts_and_retries_are_counted_separately_without_the_warm_up() -> None:
    attempts = [
        Asked(0, "alpha", 0.0, 1.0, "cancelled"),
        Asked(0, "beta", 0.5, 1.0, "served"),
        Asked(1, "alpha", 1.0, 1.0, "cancelled"),
        Asked(1, "beta", 1.5, 1.0, "served"),
        Asked(2, "alpha", 2.0, None, "503"),
        Asked(2, "beta", 2.1, 1.0, "served"),
    ]
    measured = figures.measured(seen(call(0, 1.0), call(1, 1.0), call(2, 1.0), attempts=attempts), warmup=1)
    assert (measured.extra, measured.retries) == (0.5, 0.5)


def test_overhead_is_of_calls_whose_only_attempt_answered() -> None:
    attempts = [
        Asked(0, "alpha", 0.0, 1.0, "served"),
        Asked(1, "alpha", 1.0, 5.0, "cancelled"),
        Asked(1, "beta", 1.5, 1.0, "served"),
    ]
    assert figures.overhead(seen(call(0, 1.25), call(1, 1.6), attempts=attempts), 0) == [0.25]


def a_report(times: list[float], mark: float | None) -> Report:
    run = seen(*(call(k, time) for k, time in enumerate(times)), attempts=[])
    measured = figures.measured(run, 0)
    return Report("some", run, 0, measured, [measured], {"informed": times}, [Reached("it", mark, 1.0)], [])


def test_medians_are_taken_figure_by_figure() -> None:
    reports = [a_report([1.0], 0.5), a_report([2.0], 0.9), a_report([9.0], 4.0)]
    assert medians.of_figures(reports)[0].mean == 2.0
    assert medians.of_ratios(reports) == {"measured": [1.0] * 5}
    assert [(mark.figure, mark.ok) for mark in medians.of_marks(reports)] == [(0.9, True)]


def test_a_mark_without_a_figure_in_one_run_has_none() -> None:
    assert medians.of_marks([a_report([1.0], 0.5), a_report([1.0], None)])[0].ok is False


def test_a_report_is_the_same_after_a_round_trip_through_json() -> None:
    text = json.dumps(a_report([1.0, 2.0], 0.5).as_json())
    assert json.dumps(Report.from_json(json.loads(text)).as_json()) == text


@pytest.mark.parametrize(
    ("name", "ill"),
    [
        ("roadmap", ["hosted"]),
        ("one-slow", ["alpha"]),
        ("one-silent", ["alpha"]),
        ("flapping", ["alpha"]),
        ("all-slow", ["alpha", "beta", "gamma"]),
        ("newcomer-good", ["newcomer"]),
    ],
)
def test_the_timeline_shades_the_troubles_of_the_story(name: str, ill: list[str]) -> None:
    servers = load()[name].servers(1)
    assert [each for each, server in servers.items() if list(plots.troubles(server, 200.0))] == ill


@pytest.mark.parametrize("name", load())
def test_every_scenario_has_a_story_and_marks(name: str) -> None:
    assert load()[name].story


def test_an_omitted_endpoint_leaves_a_gap_in_the_ports() -> None:
    scenario = load()["one-slow"]
    order = Order(scenario, scenario.arriving(1), 1, 10.0, Router(), port=9201)
    assert order.compared_without == ["alpha"]
    without = order.without("alpha")
    assert without.ports() == {"beta": 9202, "gamma": 9203}
    assert "alpha" not in without.config(without.ports())
