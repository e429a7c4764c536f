"""The marks of a run: each as a figure and its bound. Calls of the warm-up do not count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatchmethod
from itertools import pairwise

import numpy as np

from loadtest.latency import scenarios as wanted
from loadtest.latency.laws import Data
from loadtest.latency.play import DEADLINE
from loadtest.latency.references import Reference
from loadtest.latency.results import Asked, Outcome, Run
from loadtest.latency.scenarios import Scenario

Times = Mapping[int, float]  # seconds to the first token by call


@dataclass(frozen=True)
class Reached:
    """One mark of a run. `figure` is None if no call of the run concerns the mark; then it is not reached."""

    mark: str
    figure: float | None
    bound: float
    at_least: bool = False

    @property
    def ok(self) -> bool:
        if self.figure is None:
            return False
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound


def times(calls: Sequence[Outcome]) -> Times:
    """First-token times by call; the deadline for calls without a first token."""
    return {call.k: DEADLINE if call.first_token is None else min(call.first_token, DEADLINE) for call in calls}


def times_of(reference: Reference) -> Times:
    return {played.k: min(played.first_token, DEADLINE) for played in reference.played}


def marks(
    scenario: Scenario,
    run: Run,
    references: Mapping[str, Reference],
    without: Mapping[str, Times],
    data: Data | None = None,
) -> list[Reached]:
    """The marks in the scenario's order; `without` has the times of the same router without an endpoint, by name."""
    judge = Judge(scenario, run, references, without, data)
    return [judge.reached(mark) for mark in scenario.marks]


def hedges(asked: Sequence[Asked]) -> int:
    """The number of extra attempts of a call: attempts after the first that do not follow a failure.

    `asked` has the call's attempts in order.
    """
    extra = failures = 0
    for number, attempt in enumerate(asked):
        if number and failures:
            failures -= 1
        elif number:
            extra += 1
        failures += attempt.failed
    return extra


class Judge:
    """The facts from which the marks are computed."""

    def __init__(
        self,
        scenario: Scenario,
        run: Run,
        references: Mapping[str, Reference],
        without: Mapping[str, Times],
        data: Data | None,
    ) -> None:
        self.calls = [call for call in run.calls if call.k >= scenario.warmup]
        self.asked = run.by_call()
        self.attempts = run.attempts
        self.times = times(self.calls)
        self.references = {name: times_of(reference) for name, reference in references.items()}
        self.informed = {played.k: played for played in references["informed"].played}
        self.without = without
        self.servers = scenario.servers(run.seed, data)

    @singledispatchmethod
    def reached(self, mark: wanted.Mark) -> Reached:
        raise TypeError(f"unknown mark: {mark!r}")

    # ---- Marks of all scenarios

    @reached.register
    def _(self, mark: wanted.Answered) -> Reached:
        able = [call for call in self.calls if self.references["clairvoyant"].get(call.k, DEADLINE) < mark.within]
        done = [call for call in able if call.first_token is not None and call.error is None]
        return Reached("answered, of the answerable calls", share(len(done), len(able)), 1.0, at_least=True)

    @reached.register
    def _(self, mark: wanted.Extra) -> Reached:
        extra = sum(hedges(self.asked[call.k]) for call in self.calls)
        return Reached("extra attempts per call", share(extra, len(self.calls)), mark.at_most)

    # ---- Marks of first-token times

    @reached.register
    def _(self, mark: wanted.Within) -> Reached:
        quick = sum(time <= mark.seconds for time in self.times.values())
        return Reached(f"within {mark.seconds:g} s", share(quick, len(self.times)), mark.at_least, at_least=True)

    @reached.register
    def _(self, mark: wanted.Compared) -> Reached:
        figure = self.ratio(mean if mark.kind == "mean" else p99, self.times, self.references["informed"])
        return Reached(f"{mark.kind}, as a multiple of informed", figure, mark.at_most)

    @reached.register
    def _(self, mark: wanted.Without) -> Reached:
        later = {call.k: self.times[call.k] for call in self.between(mark.after, mark.until)}
        figure = self.ratio(p99, later, self.without.get(mark.endpoint, {}))
        text = f"p99 from {mark.after:g} s on, as a multiple of p99 without {mark.endpoint}"
        return Reached(text, figure, mark.at_most)

    # ---- Marks of the chosen endpoints

    @reached.register
    def _(self, mark: wanted.Refused) -> Reached:
        later = [each for each in self.attempts if each.at >= mark.after]
        refused = sum(each.became.startswith("429") for each in later)
        return Reached(f"attempts answered 429 from {mark.after:g} s on", share(refused, len(later)), mark.at_most)

    @reached.register
    def _(self, mark: wanted.Soonest) -> Reached:
        went = [(self.first(call), self.best(call.at, call.tokens)) for call in self.calls if self.asked[call.k]]
        right = sum(first == best for first, best in went)
        text = "calls that go to the quickest endpoint for their size"
        return Reached(text, share(right, len(went)), mark.at_least, at_least=True)

    @reached.register
    def _(self, mark: wanted.Goes) -> Reached:
        calls = list(self.between(mark.after, mark.until))
        went = sum(self.first(call) == mark.endpoint for call in calls)
        text = f"calls that go to {mark.endpoint} from {mark.after:g} s on"
        return Reached(text, share(went, len(calls)), mark.at_most)

    @reached.register
    def _(self, mark: wanted.Serves) -> Reached:
        calls = list(self.between(mark.after, mark.until))
        ours = sum(call.endpoint == mark.endpoint for call in calls)
        theirs = sum(self.informed[call.k].endpoint == mark.endpoint for call in calls)
        text = f"answers of {mark.endpoint} from {mark.after:g} s on, as a multiple of informed"
        return Reached(text, share(ours, theirs), mark.at_least, at_least=True)

    @reached.register
    def _(self, mark: wanted.Leaves) -> Reached:
        left = [self.first(call) != old for call, old, _ in self.after_switches(mark.within, 2 * mark.within)]
        text = f"calls that avoid the former best endpoint, {mark.within:g} s after the change"
        return Reached(text, share(sum(left), len(left)), 0.5, at_least=True)

    @reached.register
    def _(self, mark: wanted.Finds) -> Reached:
        found = [self.first(call) == new for call, _, new in self.after_switches(mark.within, None)]
        text = f"calls that go to the new best endpoint, {mark.within:g} s after the change"
        return Reached(text, share(sum(found), len(found)), 0.5, at_least=True)

    # ---- Steps

    def ratio(self, figure: Callable[[Times], float], ours: Times, theirs: Times) -> float | None:
        """The ratio of a figure, computed over the calls that both sides have."""
        both = ours.keys() & theirs.keys()
        if not both:
            return None
        return figure({k: ours[k] for k in both}) / figure({k: theirs[k] for k in both})

    def first(self, call: Outcome) -> str | None:
        asked = self.asked[call.k]
        return asked[0].endpoint if asked else None

    def best(self, at: float, tokens: int) -> str:
        return min(self.servers.values(), key=lambda server: server.law.mean(at, tokens)).name

    def between(self, after: float, until: float | None) -> Iterator[Outcome]:
        return (call for call in self.calls if after <= call.at and (until is None or call.at < until))

    def after_switches(self, since: float, until: float | None) -> Iterator[tuple[Outcome, str, str]]:
        """Calls `since` to `until` seconds after a change of the best endpoint, with the old and the new one."""
        seconds = range(int(max((call.at for call in self.calls), default=0)) + 2)
        tokens = int(np.median([call.tokens for call in self.calls])) if self.calls else 0
        best = [self.best(second, tokens) for second in seconds]
        switches = [now for now in seconds[1:] if best[now] != best[now - 1]]
        for switch, following in pairwise([*switches, seconds[-1]]):
            end = following if until is None else min(following, switch + until)
            for call in self.between(switch + since, end):
                yield call, best[switch - 1], best[switch]


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def mean(times: Times) -> float:
    return float(np.mean(list(times.values())))


def p99(times: Times) -> float:
    return float(np.quantile(list(times.values()), 0.99))
