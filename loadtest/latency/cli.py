"""The subcommands of `python -m loadtest` that measure latency: run, compare, hammer."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest.latency import compare, hammer, medians, plots, punctual, report, run, scenarios, tables
from loadtest.latency.arrivals import TraceError
from loadtest.latency.client import Target
from loadtest.latency.laws import Data, DataError
from loadtest.latency.report import Report
from loadtest.latency.results import Run
from loadtest.latency.routers import Router
from loadtest.latency.run import Order
from loadtest.latency.scenarios import SCENARIOS, Scenario, ScenarioError
from loadtest.processes import BenchError

PORT = 9201  # port of the first fake endpoint, for a running router that must know it in advance
ALL = "all"
PICTURES = ".png", ".svg"
WRONG = (BenchError, ScenarioError, DataError, TraceError, OSError)
FILE = click.Path(exists=True, path_type=Path)


@click.command("run")
@click.argument("names", nargs=-1, required=True, metavar="SCENARIO…")
@click.option("--target", metavar="URL", help="a running router, as in http://127.0.0.1:8080/v1; see --print-config")
@click.option(
    "--router",
    "command",
    metavar="CMD",
    help="start another router; {port}, {config} (an endpoints.yaml) and {endpoints} (URLs, with commas) are filled in",
)
@click.option(
    "--speed",
    type=click.FloatRange(0.1, 100),
    default=10.0,
    show_default=True,
    help="how many times as fast; a busy scenario may bound it",
)
@click.option("--seed", type=int, default=1, show_default=True, help="random seed; the same seed gives the same fleet")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="number of consecutive seeds to run")
@click.option("--calls", type=click.IntRange(1), help="run only this many calls of the scenario")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="folder for run.json, calls.csv and pictures"
)
@click.option(
    "--data", type=FILE, help="measured first-token times: a JSON file in llmperf's form, or a folder of them"
)
@click.option("--trace", type=FILE, help="arrivals to replay: a CSV with TIMESTAMP, ContextTokens, GeneratedTokens")
@click.option("--without", metavar="ENDPOINT", help="leave this endpoint out of the fleet")
@click.option("--scenarios", "file", type=FILE, default=SCENARIOS, help="another file of scenarios")
@click.option(
    "--port",
    type=click.IntRange(1, 65_500),
    help=f"port of the first fake endpoint, the others follow ({PORT} with --target, else any)",
)
@click.option(
    "--nice",
    type=click.IntRange(-20, 19),
    default=0,
    show_default=True,
    help="niceness of all processes started; root may go below 0 on a busy machine",
)
@click.option("--print-config", is_flag=True, help="only print the endpoints.yaml that --target needs")
def run_scenarios(
    names: Sequence[str], target: str | None, command: str | None, speed: float, seed: int, runs: int,
    calls: int | None, out: Path | None, data: Path | None, trace: Path | None, without: str | None, file: Path,
    port: int | None, nice: int, print_config: bool,
) -> None:  # fmt: skip
    """Play scenarios over fake endpoints, drive a router through them, and report its clients' first-token times.

    `all` plays every scenario of the file. Without --target or --router, firsttoken is started with a clock that runs
    at --speed. The exit status is 0 if all marks are reached.
    """
    if target and command:
        raise click.UsageError("Either --target or --router, not both.")
    router = Router(target, command)
    port = port or (PORT if target or print_config else None)
    try:
        chosen = [fitted(each, calls, without) for each in wanted(names, file, trace)]
        measured = scenarios.read_data(data) if data else None
        order = partial(Order, router=router, data=measured, nice=nice, port=port)
        seeds = range(seed, seed + runs)
        plans = [
            [order(each, each.arriving(one, trace), one, min(speed, each.speed or speed)) for one in seeds]
            for each in chosen
        ]
        if print_config:
            if len(plans) > 1:
                raise click.UsageError("--print-config is for one scenario.")
            click.echo(plans[0][0].config(plans[0][0].ports()), nl=False)
            return
        must_be_possible(chosen, seed, measured, out)
        ok = [play(plan, out, len(plans) > 1, list(remarks(plan[0], data))) for plan in plans]
    except WRONG as error:
        raise click.ClickException(str(error)) from None
    sys.exit(not all(ok))


def wanted(names: Sequence[str], file: Path, trace: Path | None) -> Iterator[Scenario]:
    """The named scenarios; `all` gives every scenario, except those that need a trace if there is none."""
    if ALL in names:
        yield from (each for each in scenarios.load(file).values() if trace or not each.needs_a_trace)
    else:
        yield from (scenarios.find(name, file) for name in names)


def must_be_possible(chosen: Sequence[Scenario], seed: int, data: Data | None, out: Path | None) -> None:
    """Raise before the first run, which takes a while, if the data lacks an endpoint or `out` cannot be written."""
    for scenario in chosen:
        scenario.servers(seed, data)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)


def fitted(scenario: Scenario, calls: int | None, without: str | None) -> Scenario:
    scenario = scenario.without(without) if without else scenario
    if calls is None:
        return scenario
    return scenario.model_copy(update={"calls": calls, "warmup": min(scenario.warmup, calls // 2)})


def remarks(order: Order, data: Path | None) -> Iterator[str]:
    """Remarks that a reader needs to interpret the figures."""
    if not order.router.follows_speed and order.speed != 1:
        yield (
            f"The endpoints run {order.speed:g} times as fast; the waits of {order.router.name} are as long as they "
            "are set: divide them, or run at --speed 1."
        )
    if any(endpoint.law.kind == "empirical" for endpoint in order.scenario.endpoints):
        yield (
            f"First-token times are samples of {data.name}."
            if data
            else "First-token times follow distributions fitted to percentiles; use --data for measured ones."
        )


def play(plan: Sequence[Order], out: Path | None, several: bool, notes: Sequence[str]) -> bool:
    """Play all runs of one scenario; returns whether the medians reach every mark."""
    reports = []
    for order in plan:
        into = out
        if into is not None and several:
            into /= order.scenario.name
        if into is not None and len(plan) > 1:
            into /= f"seed-{order.seed}"
        reports.append(play_one(order, into, notes))
        tables.console().print(tables.of_report(reports[-1]))
    if len(plan) > 1:
        tables.console().print(tables.of_several(reports))
    return all(mark.ok for mark in medians.of_marks(reports))


def play_one(order: Order, out: Path | None, notes: Sequence[str]) -> Report:
    with tempfile.TemporaryDirectory(prefix="latency-") as folder, watched(order) as progress:

        def shown(each: Order, text: str) -> Run:
            task = progress.add_task(f"{each.scenario.name}, seed {each.seed}{text}", total=len(each.calls))
            return run.run(each, Path(folder), lambda over: progress.update(task, completed=over))

        seen = shown(order, "")
        # The same router without an endpoint that a mark names.
        without = {name: shown(order.without(name), f" without {name}") for name in order.compared_without}
        progress.add_task("computing the references", total=None)
        made = report.of(order, seen, without, notes)
    if out is not None:
        report.keep(made, order, out)
    return made


def watched(order: Order) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # A low refresh rate: this process runs beside the driver.
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=2, transient=True)


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.option("--medians", "together", is_flag=True, help="one row for all seeds of a scenario")
@click.option("--markdown", is_flag=True, help="print the table as Markdown")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="draw a picture of the runs: a PNG or an SVG"
)
def compare_runs(runs: Sequence[str], together: bool, markdown: bool, out: Path | None) -> None:
    """Show runs side by side, from the folders that `run --out` wrote: one table, and with --out one picture.

    RUN is such a folder, or a folder that contains several; NAME=RUN gives it a name.
    """
    if out is not None and out.suffix.lower() not in PICTURES:
        raise click.UsageError(f"--out {out}: must be a file name that ends with {' or '.join(PICTURES)}.")
    try:
        named = compare.read(runs)
    except WRONG as error:
        raise click.ClickException(str(error)) from None
    groups = (compare.together if together else compare.alone)(named)
    if markdown:
        click.echo(compare.markdown(groups))
    else:
        tables.console().print(compare.table(groups))
    if out is not None:
        try:
            plots.cdf(out, compare.title(groups), compare.pictured(groups))
        except OSError as error:
            raise click.ClickException(str(error)) from None


@click.command("hammer")
@click.argument("url", metavar="URL")
@click.option("--concurrency", type=click.IntRange(1), default=32, show_default=True, help="calls at once")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="open loop: calls per second, at random")
@click.option("--calls", type=click.IntRange(1), help="stop after this many calls")
@click.option(
    "--duration", type=click.FloatRange(min=0, min_open=True), help="stop after this many seconds (10 without --calls)"
)
@click.option("--stream/--no-stream", default=True, show_default=True, help="streams, or plain answers")
@click.option("--model", help="the model; by default the first that URL/models lists")
@click.option("--key", default="any", envvar="OPENAI_API_KEY", help="the API key; by default OPENAI_API_KEY")
@click.option(
    "--prompt-tokens", type=click.IntRange(1), default=16, show_default=True, help="approximate tokens of each prompt"
)
@click.option("--max-tokens", type=click.IntRange(1), help="most tokens of each answer")
def run_hammer(
    url: str, concurrency: int, rate: float | None, calls: int | None, duration: float | None, stream: bool,
    model: str | None, key: str, prompt_tokens: int, max_tokens: int | None,
) -> None:  # fmt: skip
    """Call any OpenAI-compatible URL as fast as it answers, or at a rate, and print throughput and latency.

    URL is the base without /chat/completions: http://127.0.0.1:8080/v1. The exit status is 0 if all calls are answered.
    """
    try:
        target = Target.of(url, key)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    seconds = duration or (None if calls else 10.0)
    try:
        load = hammer.Load(
            target, model or hammer.first_model(target.url, key), stream, prompt_tokens, max_tokens,
            concurrency, rate, calls, seconds,
        )  # fmt: skip
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    with Console(stderr=True).status("hammering", refresh_per_second=2):
        results = punctual.run(hammer.hammer(load))
    tables.console().print(hammer.report(results))
    sys.exit(bool(results.errors))
