"""Medians over several runs of one scenario, figure by figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from loadtest.latency.figures import Figures
from loadtest.latency.marks import Reached
from loadtest.latency.report import Report


def of_figures(reports: Sequence[Report]) -> list[Figures]:
    """The medians of the measured figures, then of each reference."""
    together = zip(*([each.figures, *each.references] for each in reports), strict=True)
    return [of_some(several) for several in together]


def of_some(several: Sequence[Figures]) -> Figures:
    """The medians of several figures; `failed` is their sum, because a single failed call matters."""
    endpoints = sorted({endpoint for each in several for endpoint in each.shares})
    p50, p90, p95, p99, mean = (median(column) for column in zip(*(each.times for each in several), strict=True))
    return Figures(
        several[0].name, p50, p90, p95, p99, mean,
        extra=median(each.extra for each in several),
        retries=median(each.retries for each in several),
        failed=sum(each.failed for each in several),
        shares={endpoint: median(each.shares.get(endpoint, 0.0) for each in several) for endpoint in endpoints},
    )  # fmt: skip


def of_ratios(reports: Sequence[Report]) -> dict[str, list[float]]:
    """The medians of the runs' own ratios: within a run, router and reference have the same seed."""
    return {
        name: [median(column) for column in zip(*(each.ratios[name] for each in reports), strict=True)]
        for name in reports[0].ratios
    }


def of_marks(reports: Sequence[Report]) -> list[Reached]:
    """The medians of the marks; a mark without a figure in any run has none."""
    together = zip(*(each.marks for each in reports), strict=True)
    return [replace(several[0], figure=of_known([mark.figure for mark in several])) for several in together]


def of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if len(known) == len(values) else None
