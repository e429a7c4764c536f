"""The tables of one run, or of several runs of a scenario, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtest.latency import medians
from loadtest.latency.figures import Figures
from loadtest.latency.marks import Reached
from loadtest.latency.report import Report

TIMES = ("p50", "p90", "p95", "p99", "mean")
COUNTS = ("extra", "retries", "failed")
LATE = 0.02  # share of the median first token above which the driver's lateness gets a remark
FEW = 0.0051  # share of the answers below which an endpoint is not named: it would show as 0 %
# Least width in columns, also for a pipe: wrapped lines are better than truncated figures.
WIDTH = 160


def console() -> Console:
    return Console(width=max(Console().width, WIDTH))


def of_report(report: Report) -> RenderableType:
    """The report of a run: figures, references, ratios, overhead; then the marks and the remarks."""
    table = of_figures(report.title, [report.figures, *report.references], report.ratios)
    if report.overhead:
        table.add_section()
        table.add_row("router and machine", *(seconds(value) for value in times_of(report.overhead)))
    return Group(table, of_marks(report.marks), Text("\n".join(remarks(report))))


def of_several(reports: Sequence[Report]) -> RenderableType:
    """The report of several seeds of a scenario: every figure, ratio and mark is the median over the runs."""
    first = reports[0].run
    title = f"{first.scenario}, medians of {len(reports)} runs: {first.router}"
    table = of_figures(title, medians.of_figures(reports), medians.of_ratios(reports))
    return Group(table, of_marks(medians.of_marks(reports)))


def of_figures(title: str, several: Sequence[Figures], ratios: Mapping[str, Sequence[float]]) -> Table:
    """A table of figures, the measured ones first, and of ratios."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("first token, seconds", no_wrap=True)
    for heading in (*TIMES, *COUNTS):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("answered by, %")
    for figures in several:
        style = "bold" if figures is several[0] else ""
        table.add_row(figures.name, *times(figures), *counts(figures), answered_by(figures), style=style)
    table.add_section()
    for name, each in ratios.items():
        table.add_row(f"measured / {name}", *(f"{ratio:.2f}" for ratio in each))
    return table


def times(figures: Figures) -> Iterator[str]:
    return map(seconds, figures.times)


def counts(figures: Figures) -> tuple[str, str, str]:
    return f"{figures.extra:.1%}", f"{figures.retries:.1%}", str(figures.failed)


def answered_by(figures: Figures) -> str:
    """The endpoints' shares of the answers, the largest first."""
    shares = sorted(figures.shares.items(), key=lambda each: -each[1])
    return ", ".join(f"{name} {100 * share:.0f}" for name, share in shares if share >= FEW)


def times_of(values: Sequence[float]) -> list[float]:
    return [*map(float, np.percentile(values, (50, 90, 95, 99))), float(np.mean(values))]


def seconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def of_marks(marks: Sequence[Reached]) -> Table:
    table = Table(title="to reach", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for mark in marks:
        figure = "–" if mark.figure is None else f"{mark.figure:.3f}"
        bound = f"at {'least' if mark.at_least else 'most'} {mark.bound:g}"
        table.add_row(escape(mark.mark), figure, bound, "[green]ok[/]" if mark.ok else "[bold red]short[/]")
    return table


def remarks(report: Report) -> Iterator[str]:
    usual, most = np.percentile(report.late, (50, 99))
    word = " (not negligible: the machine is too busy for this speed)" if most > LATE * report.figures.p50 else ""
    yield (
        f"The driver sent calls {seconds(usual)} s late in the median, {seconds(most)} s in the 99th percentile{word}; "
        "the figures include this."
    )
    yield from report.remarks
