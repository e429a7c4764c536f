"""How the waits of one kind at one endpoint are distributed: a decaying histogram, and the survival curve in it.

Buckets grow by GROWTH, so that a wait is known to some seven per cent whether it took milliseconds or minutes. Waits
that were broken off (hedged away, cancelled) count apart: they say "at least this long", and the curve is Kaplan's and
Meier's product of what is left after each bucket, in which such a wait is at risk as long as it was seen and never
lowers anything. (Kaplan, Meier: Nonparametric estimation from incomplete observations, 1958)

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
LONGEST_WAIT = 120.0  # no call has more than its deadline, which is this unless somebody says otherwise
BUCKETS = 2 + int(log(LONGEST_WAIT / SHORTEST_WAIT) / log(GROWTH))  # 80; the last one takes all that is longer
EDGES = [
    0.0,
    *(SHORTEST_WAIT * GROWTH**i for i in range(BUCKETS - 1)),
    LONGEST_WAIT,
]  # bucket i is EDGES[i] to EDGES[i + 1]
TAU = 300.0  # seconds: a tail of one in a hundred needs some hundreds of waits to be seen
UNSEEN_WEIGHT = 0.5  # of an observation
MIN_SCALE = 1e-6  # how little a unit of the past may weigh, before all is weighed anew
MIN_OBSERVATIONS = 10.0  # observations, before a curve says more than a mean does
_PER_BUCKET = 1.0 / log(GROWTH)


def bucket(seconds: float) -> int:
    """The bucket of a wait."""
    if seconds <= SHORTEST_WAIT:
        return 0
    return min(BUCKETS - 1, 1 + int(log(seconds / SHORTEST_WAIT) * _PER_BUCKET))


class Curve:
    """The share of the waits that last for longer than t, and their means; immutable. Times in seconds."""

    __slots__ = ("_areas", "_tails", "mean", "median")

    def __init__(self, tails: list[float]) -> None:
        """`tails[i]` is the share that lasts for longer than EDGES[i]; the first is 1."""
        self._tails = tails
        areas, area = [0.0], 0.0
        for i in range(1, BUCKETS + 1):
            area += (tails[i - 1] + tails[i]) * 0.5 * (EDGES[i] - EDGES[i - 1])
            areas.append(area)
        self._areas = areas
        self.mean, self.median = area, self.quantile(0.5)

    def survival(self, seconds: float) -> float:
        """The share of the waits that last for longer than so many seconds."""
        if seconds >= EDGES[-1]:
            return 0.0
        i = bucket(seconds)
        share = (seconds - EDGES[i]) / (EDGES[i + 1] - EDGES[i])
        return self._tails[i] + share * (self._tails[i + 1] - self._tails[i])

    def tail(self, bucket: int) -> float:
        """The share that lasts for longer than a wait in the middle of the bucket."""
        return 0.5 * (self._tails[bucket] + self._tails[bucket + 1])

    def mean_up_to(self, seconds: float) -> float:
        """The mean wait where nobody waits for longer than that: E[min(X, seconds)]."""
        if seconds >= EDGES[-1]:
            return self._areas[-1]
        i = bucket(seconds)
        width = seconds - EDGES[i]
        fall = (self._tails[i + 1] - self._tails[i]) * width / (EDGES[i + 1] - EDGES[i])
        return self._areas[i] + width * (self._tails[i] + 0.5 * fall)

    def mean_hedged(self, delay: float, rival: Sequence[float]) -> float:
        """The mean wait where somebody else is asked after `delay`: E[min(X, delay + Y)], Y each of `rival` alike."""
        tails, areas, last, total = self._tails, self._areas, EDGES[-1], 0.0
        for seconds in rival:  # mean_up_to, spelt out: this is most of what a plan costs
            until = delay + seconds
            if until >= last:
                total += areas[-1]
                continue
            i = bucket(until)
            low = EDGES[i]
            width = until - low
            total += areas[i] + width * (tails[i] + 0.5 * (tails[i + 1] - tails[i]) * width / (EDGES[i + 1] - low))
        return total / len(rival)

    def remaining(self, seconds: float) -> float:
        """How much longer one takes, on average, that has taken so long: E[X - seconds | X > seconds]."""
        survival = self.survival(seconds)
        return (self.mean - self.mean_up_to(seconds)) / survival if survival > 0.0 else seconds

    def ends(self, share: float) -> list[float]:
        """The upper ends of the buckets in which more than such a share of the waits end."""
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
    """Told of waits that ended and of those that were broken off; both weigh e^-(age / TAU)."""

    __slots__ = ("_at", "_cut", "_ended", "_unit", "weight")

    def __init__(self) -> None:
        self._ended, self._cut = [0.0] * BUCKETS, [0.0] * BUCKETS
        self._unit, self._at, self.weight = 1.0, 0.0, 0.0  # a fresh one weighs `unit`, which grows as the old ones fade

    def add(self, bucket: int, now: float) -> None:
        self._ended[bucket] += self._next_unit(now)

    def add_censored(self, bucket: int, now: float) -> None:
        """It was broken off after so long."""
        self._cut[bucket] += self._next_unit(now)

    def fade(self, share: float) -> None:
        """What was seen until now counts for that share of what it did."""
        self._scale(share)

    def _next_unit(self, now: float) -> float:
        fading = exp((self._at - now) / TAU)
        self._at = now
        if fading < MIN_SCALE * self._unit:  # before it grows out of what a float holds
            self._scale(fading / self._unit)
            self._unit = 1.0
        else:
            self._unit /= fading
        self.weight += self._unit
        return self._unit

    def _scale(self, share: float) -> None:
        self._ended = [weight * share for weight in self._ended]
        self._cut = [weight * share for weight in self._cut]
        self.weight *= share

    @property
    def count(self) -> float:
        """How many fresh observations weigh as much as all of these did at the last one."""
        return self.weight / self._unit

    def curve(self, waiting: Sequence[int] = ()) -> Curve | None:
        """None while there is too little for one; `waiting` are the buckets of those that have not ended yet."""
        if self.count < MIN_OBSERVATIONS:
            return None
        unit = 1.0 / self._unit
        at_risk, left, last = self.count + len(waiting) + UNSEEN_WEIGHT, 1.0, 0
        tails, last_for = [1.0], Counter(waiting)
        for i in range(BUCKETS):
            ended, cut = self._ended[i] * unit, self._cut[i] * unit + last_for[i]
            if ended > 0.0:
                left *= 1.0 - ended / (at_risk - 0.5 * cut)
            if ended > 0.01 or cut > 0.01:
                last = i + 1
            at_risk -= ended + cut
            tails.append(left)
        for i in range(last + 1, BUCKETS + 1):
            tails[i] = left * max(0.0, (1.0 / EDGES[i] - 1.0 / LONGEST_WAIT) / (1.0 / EDGES[last] - 1.0 / LONGEST_WAIT))
        return Curve(tails)
