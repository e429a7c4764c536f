"""`python -m tests.seeds SCENARIO…`: scenarios of the load test over many seeds, in virtual time.

Prints for each scenario the mean, the 99th percentile and the extra attempts of the counted calls, beside the same
figures of `informed` on the same draws; then each mark. Percentiles are of the calls of all seeds together, and ± is
the 95 % interval over the seeds. A scenario with a large tier is played a
second time with a full scan for each call, and has one more mark: the mean of the first as a multiple of the second.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import sqrt
from multiprocessing import get_context
from statistics import fmean, median, stdev

import numpy as np

from loadtest.latency.arrivals import Call
from loadtest.latency.marks import Reached, Times, hedges, marks, times, times_of
from loadtest.latency.play import DEADLINE
from loadtest.latency.references import Reference, clairvoyant, informed
from loadtest.latency.results import Run
from loadtest.latency.scenarios import Scenario, Without, load
from tests.support.fleet import Fleet

# Seconds per hedge at which `informed` spends the tenth of the calls that its budget allows, found by its own search.
PRICES = dict.fromkeys(("stalls", "stalls-rare", "stalls-busy", "stalls-plain", "stalls-half"), 0.04)
PRICES["thousand"] = 0.054  # at 0.05 it hedges far more than a tenth
# The budget with which `informed` searches. In other scenarios it does not hedge: a search would only take time.
BUDGETS = {"roadmap": 0.1, "long-prompts": 0.1}
FULL_SCAN = "mean, as a multiple of a full scan"
MOST_OF_FULL_SCAN = 1.02


@dataclass(frozen=True)
class Seed:
    """One seed: first-token times of the counted calls by kind, and those of `informed`; extra attempts per call."""

    ours: Mapping[str, Sequence[float]]
    theirs: Mapping[str, Sequence[float]]
    extra: float
    marks: Sequence[Reached]
    openings: int


def known(scenario: Scenario, seed: int, calls: Sequence[Call]) -> dict[str, Reference]:
    """The references that marks compare with.

    Marks ask `clairvoyant` only which calls could be answered. These are all if `informed` has answered all.
    """
    name = scenario.name
    best = informed(scenario, seed, calls, budget=BUDGETS.get(name, 0.0), price=PRICES.get(name))
    all_answered = max(times_of(best).values()) < DEADLINE
    return {"informed": best, "clairvoyant": best if all_answered else clairvoyant(scenario, seed, calls)}


def without(scenario: Scenario, name: str, seed: int) -> Times:
    """First-token times without one endpoint."""
    fewer = scenario.without(name)
    return times(Fleet(fewer, seed, fewer.arriving(seed)).play().calls)


def full_scan(scenario: Scenario, seed: int, calls: Sequence[Call], ours: Run) -> Reached:
    """The mark of a large tier: the mean, compared with that of a full scan for every call."""
    scanned = Fleet(scenario, seed, calls, shortlists=False).play()
    mean, full = (fmean(times(run.calls[scenario.warmup :]).values()) for run in (ours, scanned))
    return Reached(FULL_SCAN, mean / full, MOST_OF_FULL_SCAN)


def played(scenario: Scenario, seed: int) -> Seed:
    """Play one seed of a scenario and judge it."""
    calls = scenario.arriving(seed)
    fleet = Fleet(scenario, seed, calls)
    run, references = fleet.play(), known(scenario, seed, calls)
    compared = {mark.endpoint for mark in scenario.marks if isinstance(mark, Without)}
    reached = marks(scenario, run, references, {name: without(scenario, name, seed) for name in compared})
    if any(tier.shortlist for tier in fleet.route.tiers):
        reached.append(full_scan(scenario, seed, calls, run))
    counted, asked = calls[scenario.warmup :], run.by_call()
    ours, theirs = (by_kind(counted, of) for of in (times(run.calls), times_of(references["informed"])))
    return Seed(ours, theirs, fmean(hedges(asked[call.k]) for call in counted), reached, fleet.openings)


def by_kind(calls: Sequence[Call], of: Times) -> dict[str, list[float]]:
    """The first-token times of the calls, streams and plain answers apart."""
    kinds = {"streams": [of[call.k] for call in calls if not call.plain],
             "plain answers": [of[call.k] for call in calls if call.plain]}  # fmt: skip
    return {kind: found for kind, found in kinds.items() if found}


# ---- Printing


def over_seeds(figures: Sequence[float], digits: int = 1) -> str:
    """The mean of a figure with its 95 % interval."""
    interval = f" ± {1.96 * stdev(figures) / sqrt(len(figures)):.{digits}f}" if len(figures) > 1 else ""
    return f"{fmean(figures):.{digits}f}{interval}"


def report(scenario: Scenario, seeds: Sequence[Seed]) -> str:
    extra = over_seeds([100 * seed.extra for seed in seeds])
    openings = sum(seed.openings for seed in seeds)
    lines = [f"{scenario.name}: {len(seeds)} seeds, extra {extra} %, breakers opened {openings} times"]
    for kind in seeds[0].ours:
        for who, of in ("measured", [s.ours[kind] for s in seeds]), ("informed", [s.theirs[kind] for s in seeds]):
            p99 = 1000 * float(np.quantile(np.concatenate(of), 0.99))
            each = over_seeds([1000 * float(np.quantile(one, 0.99)) for one in of])
            mean = over_seeds([1000 * fmean(one) for one in of])
            lines.append(f"  {kind}, {who}: mean {mean} ms, p99 {p99:.0f} ms (by seed {each})")
    for reached in zip(*(seed.marks for seed in seeds), strict=True):
        found = sorted(mark.figure for mark in reached if mark.figure is not None)
        if found:
            spread = f"mean {fmean(found):.3f}, {found[0]:.3f} to {found[-1]:.3f}"
            bound = f"{'at least' if reached[0].at_least else 'at most'} {reached[0].bound:g}"
            ok = f"{sum(mark.ok for mark in reached)} of {len(reached)}"
            lines.append(f"  {reached[0].mark}: {median(found):.3f} ({spread}), {bound}: {ok}")
    return "\n".join(lines)


def main() -> None:
    scenarios = {name: scenario for name, scenario in load().items() if not scenario.needs_a_trace}
    parser = argparse.ArgumentParser("python -m tests.seeds", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="SCENARIO", choices=[*scenarios, "all"], help="or all")
    parser.add_argument("--seeds", type=int, default=30, help="number of seeds, from 1 on (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="seeds at a time (default: %(default)s)")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for name in scenarios if "all" in options.names else options.names:
            of = range(1, options.seeds + 1)
            print(report(scenarios[name], list(pool.map(partial(played, scenarios[name]), of))), flush=True)


if __name__ == "__main__":
    main()
