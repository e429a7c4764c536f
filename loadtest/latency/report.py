"""The report of one run: its figures, those of the references, and the marks; written to a folder and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.latency import figures, marks, plots
from loadtest.latency.figures import Figures
from loadtest.latency.marks import Reached
from loadtest.latency.references import BUDGET, references
from loadtest.latency.results import Run
from loadtest.latency.run import Order
from loadtest.processes import BenchError

RUN = "run.json"
PICTURES = FIRST_TOKEN, TIMELINE, EXTRA = "first-token.png", "timeline.png", "extra.png"


@dataclass(frozen=True)
class Report:
    """The report of one run; `reference_times` has the first-token times of the counted calls, for the pictures."""

    title: str
    run: Run
    warmup: int
    figures: Figures
    references: Sequence[Figures]
    reference_times: Mapping[str, Sequence[float]]
    marks: Sequence[Reached]
    remarks: Sequence[str]

    @property
    def times(self) -> list[float]:
        return figures.first_tokens(figures.counted(self.run, self.warmup))

    @property
    def ratios(self) -> dict[str, list[float]]:
        """The measured times divided by those of each reference: the percentiles, then the mean."""
        mine = self.figures.times
        return {
            each.name: [ours / theirs for ours, theirs in zip(mine, each.times, strict=True)]
            for each in self.references
        }

    @property
    def overhead(self) -> list[float]:
        return figures.overhead(self.run, self.warmup)

    @property
    def late(self) -> list[float]:
        return [call.late for call in figures.counted(self.run, self.warmup)]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "run": self.run.as_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        return cls(
            **{
                **data,
                "run": Run.from_json(data["run"]),
                "figures": Figures(**data["figures"]),
                "references": [Figures(**each) for each in data["references"]],
                "marks": [Reached(**each) for each in data["marks"]],
            }
        )


def of(order: Order, run: Run, without: Mapping[str, Run], remarks: Sequence[str] = ()) -> Report:
    """The report of a run. Plays the references, which takes a while.

    `without` has the runs of the same router without an endpoint, by that endpoint's name.
    """
    scenario, warmup = order.scenario, order.scenario.warmup
    four = references(scenario, order.seed, order.calls, order.data)
    return Report(
        title=f"{scenario.name}, seed {run.seed}, {len(run.calls) - warmup} calls at speed {run.speed:g}: {run.router}",
        run=run,
        warmup=warmup,
        figures=figures.measured(run, warmup),
        references=[figures.referred(reference, warmup) for reference in four.values()],
        reference_times={
            name: [round(played.first_token, 4) for played in reference.played if played.k >= warmup]
            for name, reference in four.items()
        },
        marks=marks.marks(
            scenario, run, four, {name: marks.times(each.calls) for name, each in without.items()}, order.data
        ),
        remarks=list(remarks),
    )


def keep(report: Report, order: Order, folder: Path) -> None:
    """Write run.json, calls.csv and the three pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN).write_text(json.dumps(report.as_json()) + "\n")
    run = report.run
    run.write_csv(folder / "calls.csv")
    servers = order.scenario.servers(run.seed, order.data)
    plots.cdf(folder / FIRST_TOKEN, report.title, {"measured": report.times, **report.reference_times})
    plots.timeline(folder / TIMELINE, report.title, run.calls, servers, report.warmup)
    plots.extra(folder / EXTRA, report.title, run, BUDGET)


def read(path: Path) -> Report:
    """Read a report from the folder that --out wrote, or from its run.json."""
    file = path / RUN if path.is_dir() else path
    try:
        return Report.from_json(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{file}: not a file that `loadtest run --out` wrote ({error!r})") from None
