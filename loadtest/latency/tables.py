"""What a run, or several, look like in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtest.latency.figures import Figures, medians
from loadtest.latency.marks import Reached
from loadtest.latency.report import Report

TIMES = ("p50", "p90", "p95", "p99", "mean")
COUNTS = ("extra", "retries", "failed")
LATE = 0.02  # of the median first token: from there on the driver's lateness is worth a word
WIDTH = 150  # columns where nobody says how many there are


def console() -> Console:
    wide = Console()
    return wide if wide.is_terminal else Console(width=WIDTH)


def of_report(report: Report) -> RenderableType:
    """Figures, references, ratios, overhead; then the marks, and what a reader should know of the run."""
    measured = report.figures
    names = sorted({name for each in (measured, *report.references) for name in each.shares})
    table = Table(title=escape(report.title), title_justify="left")
    table.add_column("first token, seconds")
    for heading in (*TIMES, *COUNTS, *names):
        table.add_column(heading, justify="right")
    table.add_row(*row(measured, names), style="bold")
    for reference in report.references:
        table.add_row(*row(reference, names))
    table.add_section()
    for reference in report.references:
        ratios = (mine / its for mine, its in zip(measured.times, reference.times, strict=True))
        table.add_row(f"measured / {reference.name}", *(f"{ratio:.2f}" for ratio in ratios))
    if report.overhead:
        table.add_section()
        table.add_row("router and machine", *(seconds(value) for value in times_of(report.overhead)))
    return Group(table, of_marks(report.marks), Text("\n".join(remarks(report))))


def row(figures: Figures, names: Sequence[str]) -> Iterator[str]:
    yield figures.name
    yield from map(seconds, figures.times)
    yield from counts(figures)
    yield from (f"{figures.shares.get(name, 0):.0%}" for name in names)


def counts(figures: Figures) -> tuple[str, str, str]:
    return f"{figures.extra:.1%}", f"{figures.retries:.1%}", str(figures.failed)


def times_of(values: Sequence[float]) -> list[float]:
    return [*map(float, np.percentile(values, (50, 90, 95, 99))), float(np.mean(values))]


def seconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def of_marks(marks: Sequence[Reached]) -> Table:
    table = Table(title="to reach", title_justify="left", show_header=False)
    for justify in ("left", "right", "left", "left"):
        table.add_column(justify=justify)
    for mark in marks:
        figure = "–" if mark.figure is None else f"{mark.figure:.3f}"
        bound = f"at {'least' if mark.at_least else 'most'} {mark.bound:g}"
        table.add_row(escape(mark.mark), figure, bound, "[green]ok[/]" if mark.ok else "[bold red]short[/]")
    return table


def remarks(report: Report) -> Iterator[str]:
    late = np.percentile(report.late, (50, 99))
    usual = report.figures.p50
    word = " (not negligible: the machine is too busy for this speed)" if late[1] > LATE * usual else ""
    yield (
        f"The driver asked {seconds(late[0])} s late in the median, {seconds(late[1])} s in the 99th percentile{word}; "
        "it is in the figures."
    )
    yield from report.remarks


def beside(reports: Sequence[tuple[str, Report]]) -> Table:
    """Runs side by side, and each one's informed reference."""
    table = Table(title="first token, seconds of the scenario", title_justify="left")
    for heading in ("run", "scenario", "seed", "router"):
        table.add_column(heading)
    for heading in (*TIMES, *COUNTS, "mean / informed", "p99 / informed"):
        table.add_column(heading, justify="right")
    for name, report in reports:
        run, figures = report.run, report.figures
        table.add_row(
            escape(name), run.scenario, str(run.seed), escape(run.router), *map(seconds, figures.times),
            *counts(figures), *ratios_to_informed(report),
        )  # fmt: skip
    return table


def ratios_to_informed(report: Report) -> tuple[str, str]:
    informed = next((each for each in report.references if each.name == "informed"), None)
    if informed is None:
        return "–", "–"
    return f"{report.figures.mean / informed.mean:.2f}", f"{report.figures.p99 / informed.p99:.2f}"


def of_medians(reports: Sequence[Report]) -> RenderableType:
    """Several seeds of one scenario: every figure is the median of the runs'."""
    first = reports[0]
    rows = [medians("measured", [each.figures for each in reports])]
    rows += [
        medians(name, [each.references[number] for each in reports])
        for number, name in enumerate(each.name for each in first.references)
    ]
    names = sorted({name for each in rows for name in each.shares})
    table = Table(title=f"{first.run.scenario}: medians of {len(reports)} runs", title_justify="left")
    table.add_column("first token, seconds")
    for heading in (*TIMES, *COUNTS, *names):
        table.add_column(heading, justify="right")
    for each in rows:
        table.add_row(*row(each, names))
    return Group(table, of_marks(median_marks(reports)))


def median_marks(reports: Sequence[Report]) -> list[Reached]:
    """A mark that one of the runs could not be reckoned for is not reached."""
    several = zip(*(each.marks for each in reports), strict=True)
    return [replace(marks[0], figure=median_of([mark.figure for mark in marks])) for marks in several]


def median_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if len(known) == len(values) else None
