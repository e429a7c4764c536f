"""Runs side by side, from the folders that `run --out` wrote: one row per run, or one for all seeds of a scenario."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from loadtest.latency import medians, report, tables
from loadtest.latency.report import RUN, Report
from loadtest.processes import BenchError

HEADINGS = ("run", "scenario", *tables.TIMES, *tables.COUNTS, "mean / informed", "p99 / informed", "marks")

Group = tuple[str, Sequence[Report]]  # a row's name and its runs


def read(runs: Sequence[str]) -> list[tuple[str, Report]]:
    """Read FOLDER or NAME=FOLDER; each run in a folder of runs is named by its path from there."""
    return [(name, report.read(folder)) for run in runs for name, folder in folders(run)]


def folders(run: str) -> Iterator[tuple[str, Path]]:
    name, _, path = run.rpartition("=")
    folder = Path(path)
    if folder.is_file() or (folder / RUN).is_file():
        yield name or folder.name, folder
        return
    found = sorted(file.parent for file in folder.rglob(RUN))
    if not found:
        raise BenchError(f"{path}: no {RUN} there or below; `loadtest run --out` writes this file")
    for each in found:
        yield "/".join((name or folder.name, *each.relative_to(folder).parts)), each


def alone(named: Sequence[tuple[str, Report]]) -> list[Group]:
    return [(name, [each]) for name, each in named]


def together(named: Sequence[tuple[str, Report]]) -> list[Group]:
    """One row for all seeds of a scenario, grouped by the part of their names before the first slash."""
    groups: dict[tuple[str, str], list[Report]] = {}
    for name, each in named:
        groups.setdefault((name.partition("/")[0], each.run.scenario), []).append(each)
    return [(name, reports) for (name, _), reports in groups.items()]


def rows(groups: Sequence[Group]) -> list[list[str]]:
    return [[name, *row(reports)] for name, reports in groups]


def row(reports: Sequence[Report]) -> Iterator[str]:
    figures = medians.of_figures(reports)[0]
    ratios = dict(zip(tables.TIMES, medians.of_ratios(reports)["informed"], strict=True))
    yield reports[0].run.scenario
    yield from tables.times(figures)
    yield from tables.counts(figures)
    yield from (f"{ratios[name]:.2f}" for name in ("mean", "p99"))
    marks = medians.of_marks(reports)
    yield f"{sum(mark.ok for mark in marks)} of {len(marks)}"


def title(groups: Sequence[Group]) -> str:
    """The title of the picture: the scenario, if all rows are of the same one."""
    scenarios = {each.run.scenario for _, reports in groups for each in reports}
    return f"{scenarios.pop()}: first tokens" if len(scenarios) == 1 else "first tokens"


def pictured(groups: Sequence[Group]) -> dict[str, Sequence[float]]:
    """The times of each row; those of `informed` too, if all rows are of one scenario and seed."""
    series: dict[str, Sequence[float]] = {
        name: [time for each in reports for time in each.times] for name, reports in groups
    }
    all_reports = [each for _, reports in groups for each in reports]
    if len({(each.run.scenario, each.run.seed) for each in all_reports}) == 1:
        series["informed"] = all_reports[0].reference_times["informed"]
    return series


def table(groups: Sequence[Group]) -> Table:
    shown = Table(title="first token, seconds of the scenario", title_justify="left")
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading in ("run", "scenario") else "right")
    for cells in rows(groups):
        shown.add_row(*map(escape, cells))
    return shown


def markdown(groups: Sequence[Group]) -> str:
    lines = [HEADINGS, ["---"] * len(HEADINGS), *rows(groups)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
