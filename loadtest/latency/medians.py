"""Several runs of one scenario as one: figure by figure, the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from loadtest.latency.figures import Figures
from loadtest.latency.marks import Reached
from loadtest.latency.report import Report


def of_figures(reports: Sequence[Report]) -> list[Figures]:
    """Of what was measured, and of each reference that all of them have."""
    together = zip(*([each.figures, *each.references] for each in reports), strict=True)
    return [of_some(several) for several in together]


def of_some(several: Sequence[Figures]) -> Figures:
    """`failed` is the sum: one is one too many."""
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
    """Medians of each run's own ratios: what its seed made hard for the router was as hard for the reference."""
    return {
        name: [median(column) for column in zip(*(each.ratios[name] for each in reports), strict=True)]
        for name in reports[0].ratios
    }


def of_marks(reports: Sequence[Report]) -> list[Reached]:
    """A mark that one of the runs has no figure for has none."""
    together = zip(*(each.marks for each in reports), strict=True)
    return [replace(several[0], figure=of_known([mark.figure for mark in several])) for several in together]


def of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if len(known) == len(values) else None
