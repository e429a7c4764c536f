"""How long one endpoint takes to its first token: a mean to compare by, and quantiles to know what is late.

The mean is the evidence weighted by its age, beside a prior of fixed weight:

    mean(now) = (w0 * prior + sum(x_i * e^-(age_i / TAU))) / (w0 + sum(e^-(age_i / TAU)))

so a newcomer stands at the prior until the first evidence takes its place, new evidence always moves the mean towards
it, and an idle endpoint drifts back to its prior, which is its own long-run mean, formed in the same way. Decay is by
time and not by count, so that it means the same at one request a minute and at a hundred a second.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import ceil, exp, inf

PRIOR_WEIGHT = 0.25  # of one fresh observation: alone, that has drifted half way to the prior after 42 s, TAU * ln 4
TAU = 30.0  # seconds; three requests a minute still count for something, last hour's outage does not
LONG_RUN_TAU = 600.0
# Fresh observations that all evidence weighs at most: those of a call a second. So a busy endpoint that turns slow is
# noticed within that many calls, and not after as many as it served well in the last half minute.
MOST = 30.0
WINDOW = 200  # observations that the quantiles look back on: the 99 % one still has two above it
TRUSTED = 10  # a 90 % quantile of fewer has no observation above it


class DecayedMean:
    """A mean in which an observation weighs e^-(age / tau), and all of them `most`, beside a prior of PRIOR_WEIGHT."""

    __slots__ = ("_at", "_most", "_prior", "_tau", "_total", "_weight")

    def __init__(self, prior: float, tau: float, most: float = inf) -> None:
        self._prior, self._tau, self._most = prior, tau, most
        self._total, self._weight, self._at = 0.0, 0.0, 0.0

    def read(self, now: float) -> float:
        decay = exp((self._at - now) / self._tau)
        return (PRIOR_WEIGHT * self._prior + self._total * decay) / (PRIOR_WEIGHT + self._weight * decay)

    def add(self, value: float, now: float) -> None:
        decay = exp((self._at - now) / self._tau)
        if self._weight * decay > self._most - 1.0:
            decay = (self._most - 1.0) / self._weight
        self._total = self._total * decay + value
        self._weight = self._weight * decay + 1.0
        self._at = now

    def jump(self, value: float, now: float) -> None:
        """Stand at `value` now, with the weight of one observation, and drift from there."""
        self._total, self._weight, self._at = value + PRIOR_WEIGHT * (value - self._prior), 1.0, now

    def aim(self, prior: float) -> None:
        """Drift to another prior from the last observation on; the mean there stays where it was."""
        self._total += PRIOR_WEIGHT * (self._prior - prior)
        self._prior = prior


class RecentValues:
    """The last WINDOW observations, kept in order."""

    __slots__ = ("_arrivals", "ordered")

    def __init__(self) -> None:
        self._arrivals: deque[float] = deque()
        self.ordered: list[float] = []

    def add(self, value: float) -> None:
        if len(self._arrivals) == WINDOW:
            del self.ordered[bisect_left(self.ordered, self._arrivals.popleft())]
        self._arrivals.append(value)
        insort(self.ordered, value)


class Latency:
    """What has been seen of one kind of wait at one endpoint; all times in seconds."""

    __slots__ = ("_default", "_long_run", "_recent", "_seeded", "_values", "unknown")

    def __init__(self, prior: float) -> None:
        self._default = prior
        self.forget()

    def forget(self) -> None:
        """Back to the default prior: what was seen before an outage says little about after it."""
        self._recent = DecayedMean(self._default, TAU, MOST)
        self._long_run = DecayedMean(self._default, LONG_RUN_TAU)
        self._values = RecentValues()
        self.unknown, self._seeded = True, False

    def mean(self, now: float) -> float:
        return self._recent.read(now)

    def observe(self, seconds: float, now: float) -> None:
        """A wait that ended with a token.

        The first one is all that is known: beside the default prior a quick newcomer would look slower than it is, and
        be passed over for one that is known better.
        """
        if self._seeded:
            self._long_run.add(seconds, now)
            self._recent.add(seconds, now)
        else:
            self._seeded = True
            self._long_run.jump(seconds, now)
            self._recent.jump(seconds, now)
        self._note(seconds, now)

    def penalise(self, seconds: float, now: float) -> None:
        """A wait that ended with a failure, and counts for so long: soon, but not in the long run."""
        self._recent.add(seconds, now)
        self._note(seconds, now)

    def observe_at_least(self, seconds: float, now: float) -> None:
        """A wait that was broken off after `seconds`: evidence only where it had outlasted the estimate already.

        Left out, the slowest endpoint looks fastest: only its quick answers would be counted. And it is a bound, not a
        sample to average: at once the mean is no less (the "peak" of Finagle's peak EWMA, for these waits only).
        """
        if seconds > self.mean(now):
            self._long_run.add(seconds, now)
            self._recent.jump(seconds, now)
            self._note(seconds, now)

    def _note(self, seconds: float, now: float) -> None:
        self._recent.aim(self._long_run.read(now))
        self._values.add(seconds)
        self.unknown = False

    def quantile(self, q: float) -> float | None:
        """The smallest recent value that at least a share q of them does not exceed; None while there are too few."""
        ordered = self._values.ordered
        count = len(ordered)
        return ordered[max(0, ceil(q * count) - 1)] if count >= TRUSTED else None
