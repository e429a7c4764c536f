"""The distribution of one endpoint's waits: a decaying histogram, and the survival curve estimated from it.

Buckets grow by GROWTH, so that a wait is known to some seven per cent whether it took milliseconds or minutes. Waits
that were broken off (hedged away, cancelled) count apart, as censored observations: each proves only "at least this
long". The curve is the product of the shares left after each bucket, where a censored wait is at risk for as long as
it was seen and never lowers anything. (Kaplan, Meier: Nonparametric estimation from incomplete observations, 1958)

No finite evidence rules out an endless wait: UNSEEN_WEIGHT of an observation is at risk throughout. Beyond the last
bucket with evidence the curve falls as 1/t, to zero at LONGEST_WAIT: the longer a wait lasts beyond everything seen,
the longer its expected remainder.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import exp, log

GROWTH = 1.15
SHORTEST_WAIT = 0.002  # seconds: the upper end of the first bucket
LONGEST_WAIT = 120.0  # seconds: the default deadline of a call
BUCKETS = 2 + int(log(LONGEST_WAIT / SHORTEST_WAIT) / log(GROWTH))  # 80; the last one takes all longer waits
# Bucket i is EDGES[i] to EDGES[i + 1].
EDGES = [0.0, *(SHORTEST_WAIT * GROWTH**i for i in range(BUCKETS - 1)), LONGEST_WAIT]
TAU = 300.0  # seconds: a tail of one in a hundred needs some hundreds of waits to be seen
UNSEEN_WEIGHT = 0.5  # of an observation
MIN_SCALE = 1e-6  # weight of an old observation relative to a fresh one, below which all weights are rescaled
MIN_OBSERVATIONS = 10.0  # for a curve to say more than a mean does
_PER_BUCKET = 1.0 / log(GROWTH)


def bucket(seconds: float) -> int:
    """The index of the bucket that a wait lies in."""
    if seconds <= SHORTEST_WAIT:
        return 0
    return min(BUCKETS - 1, 1 + int(log(seconds / SHORTEST_WAIT) * _PER_BUCKET))


class Curve:
    """The survival curve of the waits, P(X > t), with means and quantiles; immutable. Times in seconds."""

    __slots__ = ("_areas", "_tails", "mean", "median")

    def __init__(self, tails: list[float]) -> None:
        """`tails[i]` is the share of the waits that last for longer than EDGES[i]; the first is 1."""
        self._tails = tails
        areas, area = [0.0], 0.0
        for i in range(1, BUCKETS + 1):
            area += (tails[i - 1] + tails[i]) * 0.5 * (EDGES[i] - EDGES[i - 1])
            areas.append(area)
        self._areas = areas
        self.mean, self.median = area, self.quantile(0.5)

    def survival(self, seconds: float) -> float:
        """The share of the waits that last for longer than `seconds`: P(X > seconds)."""
        if seconds >= EDGES[-1]:
            return 0.0
        i = bucket(seconds)
        share = (seconds - EDGES[i]) / (EDGES[i + 1] - EDGES[i])
        return self._tails[i] + share * (self._tails[i + 1] - self._tails[i])

    def tail(self, bucket: int) -> float:
        """The share of the waits that last for longer than one in the middle of the bucket."""
        return 0.5 * (self._tails[bucket] + self._tails[bucket + 1])

    def mean_up_to(self, seconds: float) -> float:
        """The mean of the waits, each cut off at `seconds`: E[min(X, seconds)]."""
        if seconds >= EDGES[-1]:
            return self._areas[-1]
        i = bucket(seconds)
        width = seconds - EDGES[i]
        fall = (self._tails[i + 1] - self._tails[i]) * width / (EDGES[i + 1] - EDGES[i])
        return self._areas[i] + width * (self._tails[i] + 0.5 * fall)

    def mean_hedged(self, delay: float, target: Sequence[float]) -> float:
        """The mean wait with a hedge after `delay`: E[min(X, delay + Y)], where Y is any of `target` alike."""
        tails, areas, last, total = self._tails, self._areas, EDGES[-1], 0.0
        for seconds in target:  # `mean_up_to`, inlined: most of a hedge plan's time is spent here
            until = delay + seconds
            if until >= last:
                total += areas[-1]
                continue
            i = bucket(until)
            low = EDGES[i]
            width = until - low
            total += areas[i] + width * (tails[i] + 0.5 * (tails[i + 1] - tails[i]) * width / (EDGES[i + 1] - low))
        return total / len(target)

    def remaining(self, seconds: float) -> float:
        """The mean time left of a wait that has lasted for `seconds`: E[X - seconds | X > seconds]."""
        survival = self.survival(seconds)
        return (self.mean - self.mean_up_to(seconds)) / survival if survival > 0.0 else seconds

    def ends(self, share: float) -> list[float]:
        """The upper ends of the buckets in which more than this share of the waits end."""
        return [
            end for end, (before, after) in zip(EDGES[1:], pairwise(self._tails), strict=True) if before - after > share
        ]

    def quantile(self, q: float) -> float:
        """The wait that a share q of the waits does not exceed."""
        tails, left = self._tails, 1.0 - q
        i = bisect_left(tails, -left, key=lambda tail: -tail)
        if i > BUCKETS:
            return EDGES[-1]
        if i == 0 or tails[i - 1] <= tails[i]:
            return EDGES[i]
        share = (tails[i - 1] - left) / (tails[i - 1] - tails[i])
        return EDGES[i - 1] + share * (EDGES[i] - EDGES[i - 1])


class Histogram:
    """Waits that ended and waits that were broken off, by bucket; each weighs e^-(age / TAU)."""

    __slots__ = ("_at", "_censored", "_ended", "_unit", "weight")

    def __init__(self) -> None:
        self._ended, self._censored = [0.0] * BUCKETS, [0.0] * BUCKETS
        # A fresh observation weighs `_unit`, which grows instead of every old weight shrinking.
        self._unit, self._at, self.weight = 1.0, 0.0, 0.0

    def add(self, bucket: int, now: float) -> None:
        """Count a wait that ended with a token."""
        self._ended[bucket] += self._next_unit(now)

    def add_censored(self, bucket: int, now: float) -> None:
        """Count a wait that was broken off in this bucket: it would have lasted at least as long."""
        self._censored[bucket] += self._next_unit(now)

    def fade(self, share: float) -> None:
        """Scale the weight of all observations so far by `share`."""
        self._rescale(share)

    def _next_unit(self, now: float) -> float:
        """The weight of a fresh observation, which is added to the total."""
        fading = exp((self._at - now) / TAU)
        self._at = now
        if fading < MIN_SCALE * self._unit:  # rescale before the unit overflows
            self._rescale(fading / self._unit)
            self._unit = 1.0
        else:
            self._unit /= fading
        self.weight += self._unit
        return self._unit

    def _rescale(self, share: float) -> None:
        self._ended = [weight * share for weight in self._ended]
        self._censored = [weight * share for weight in self._censored]
        self.weight *= share

    @property
    def count(self) -> float:
        """The weight of all observations in fresh ones, when the last one was made."""
        return self.weight / self._unit

    def curve(self, pending: Sequence[int] = ()) -> Curve | None:
        """The survival curve, None below MIN_OBSERVATIONS; `pending` are the buckets of waits that go on."""
        if self.count < MIN_OBSERVATIONS:
            return None
        unit = 1.0 / self._unit
        at_risk, left, last = self.count + len(pending) + UNSEEN_WEIGHT, 1.0, 0
        tails, unfinished = [1.0], Counter(pending)
        for i in range(BUCKETS):
            ended, censored = self._ended[i] * unit, self._censored[i] * unit + unfinished[i]
            if ended > 0.0:
                left *= 1.0 - ended / (at_risk - 0.5 * censored)
            if ended > 0.01 or censored > 0.01:
                last = i + 1
            at_risk -= ended + censored
            tails.append(left)
        for i in range(last + 1, BUCKETS + 1):
            tails[i] = left * max(0.0, (1.0 / EDGES[i] - 1.0 / LONGEST_WAIT) / (1.0 / EDGES[last] - 1.0 / LONGEST_WAIT))
        return Curve(tails)
