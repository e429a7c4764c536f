"""How long one endpoint takes to its first token: what one more call of a size would wait, and what is late.

The expected wait is the evidence weighted by its age, beside a prior of fixed weight, and a line for the prompt's size:

    mean(now) = (w0 * prior + sum(y_i * e^-(age_i / TAU))) / (w0 + sum(e^-(age_i / TAU)))
    expected(size, now) = mean(now) + slope * (size - the same mean of the sizes)

so a newcomer stands at the prior until the first evidence takes its place, new evidence always moves the mean towards
it, and an idle endpoint drifts back to its prior, which is its own long-run mean, formed in the same way. Decay is by
time and not by count, so that it means the same at one request a minute and at a hundred a second.

A mean of many waits is slow to see that things have changed. So each wait is also held against the distribution of
those before it: what `Run` finds to be no chance any more replaces all evidence from before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, sqrt

from router.core.endpoint.change import ChangeDetector, surprise
from router.core.endpoint.histogram import SHORTEST_WAIT, Curve, Histogram, bucket
from router.core.endpoint.regression import Regression

PRIOR_WEIGHT = 0.25  # of one fresh observation: alone, that has drifted half way to the prior after 42 s, TAU * ln 4
TAU = 30.0  # seconds; three requests a minute still count for something, last hour's outage does not
LONG_RUN_TAU = 600.0
MAX_EVIDENCE = 100.0  # fresh observations that all evidence weighs at most: where waits vary by a third, to a thirtieth
LATE_QUANTILE = (
    0.93  # one wait says nothing before it is beyond this quantile: -ln(2 * 0.07) = 2, as it is usual in a run
)
TROUBLE_FACTOR = 5.0  # times the mean: what a call waits where there is trouble, if nobody waits for longer yet
TROUBLE_THRESHOLD = 0.15  # how likely trouble is, from which on nobody is sent there who is late already
SETTLE_TIME = 20.0  # seconds after it became slower, until it is known how slow: who has ended by then was quick
BATCH = 8  # requests that a server of weight 1 takes side by side before one more makes the others wait: they batch
LOAD_DEVIATIONS = (
    1.0  # standard deviation of a count: more than so many above what was there when it was measured is no chance
)
BOUND_WEIGHT = (
    1.0  # observation, that weighs what was expected where things have changed and the run would say less: a bound
)
KEPT_SHARE = 0.1  # of the distribution, where things have changed: how long the longest take is not unlearned at once


class Latency:
    """What has been seen of one kind of wait at one endpoint; times in seconds, sizes in tokens of the prompt."""

    __slots__ = (
        "_at",
        "_changes",
        "_default",
        "_fresh",
        "_histogram",
        "_loads",
        "_long_run",
        "_prior",
        "_prior_rest",
        "_prior_size",
        "_rest",
        "_sizes",
        "_slower_at",
        "_total",
        "_weight",
        "curve",
        "expected_load",
        "late_after",
        "load",
        "reach",
        "seen_at",
        "slope",
        "unknown",
    )

    def __init__(self, prior: float) -> None:
        self._default = prior
        self.forget()

    def forget(self) -> None:
        """Back to the default prior: what was seen before an outage says little about after it."""
        self._prior, self._prior_size = self._default, 0.0
        self._total = self._sizes = self._loads = self._weight = self._at = 0.0
        self._long_run, self._histogram, self._changes = Regression(LONG_RUN_TAU), Histogram(), ChangeDetector()
        self.curve: Curve | None = None  # of the waits, for a prompt of the mean size
        self.late_after = 0.0  # seconds after which one that waits is unusual; where nobody knows, at once
        self.load = 0.0  # the mean of the loads under which its evidence was seen
        self.expected_load = 0.0  # a load that is no more than that, but by chance
        self.slope = 0.0  # seconds a token of the prompt; 0 where it does not show
        self.reach = 0.0  # tokens: of longer prompts is known only that they take no less
        self._fresh = False
        self._update_line()
        self.unknown, self.seen_at, self._slower_at = True, -inf, -inf

    # What is to be expected.

    def mean(self, now: float) -> float:
        decay = exp((self._at - now) / TAU)
        return (PRIOR_WEIGHT * self._prior + self._total * decay) / (PRIOR_WEIGHT + self._weight * decay)

    def mean_size(self, now: float) -> float:
        decay = exp((self._at - now) / TAU)
        return (PRIOR_WEIGHT * self._prior_size + self._sizes * decay) / (PRIOR_WEIGHT + self._weight * decay)

    def shift(self, size: float, now: float) -> float:
        """How much longer than the mean a prompt of this size takes."""
        return self.slope * (min(size, self.reach) - self.mean_size(now)) if self.slope else 0.0

    def expected(self, size: float, now: float, pending_surprise: float = 0.0, age: float = 0.0) -> float:
        """Expected wait of a prompt of `size`, given the surprise of pending attempts and the age of the oldest."""
        decay = exp((self._at - now) / TAU)  # mean + shift, spelt out: this is asked of every endpoint for every call
        mean = (self._prior_rest + self._rest * decay) / (PRIOR_WEIGHT + self._weight * decay) + self.slope * (
            size if size < self.reach else self.reach
        )
        if mean < SHORTEST_WAIT:
            mean = SHORTEST_WAIT
        run = self._changes
        if not pending_surprise and not (run.excess and run.long):
            return mean
        return mean + run.trouble(now, pending_surprise) * (max(TROUBLE_FACTOR * mean, age) - mean)

    def load_factor(self, load: float) -> float:
        """How many times as long a call waits under such a load as under the one that the evidence was seen under."""
        return (BATCH + load) / (BATCH + self.expected_load) if load > self.expected_load else 1.0

    def trouble(self, now: float, pending_surprise: float = 0.0) -> float:
        """How likely it is by now; `pending_surprise` is that of those that wait."""
        return self._changes.trouble(now, pending_surprise)

    def settled(self, now: float, pending_surprise: float = 0.0) -> bool:
        """Nothing speaks for trouble, and if it has become slower, it was seen since how slow."""
        return now >= self._slower_at + SETTLE_TIME and self._changes.trouble(now, pending_surprise) < TROUBLE_THRESHOLD

    @property
    def typical(self) -> float:
        """The median; where too little is known for one the long-run mean, or what nobody knows better than."""
        if self.curve is not None:
            return self.curve.median
        return self._long_run.mean_y if self._long_run.weight else self._default

    @property
    def weight(self) -> float:
        """How many fresh observations its evidence weighed at the last one."""
        return self._weight

    def evidence(self, now: float) -> float:
        """How many fresh observations all evidence weighs now: how sure the mean is."""
        return self._weight * exp((self._at - now) / TAU)

    def quantile(self, q: float) -> float | None:
        """The wait that a share q of them does not exceed; None while there are too few."""
        return None if self.curve is None else self.curve.quantile(q)

    # What has happened.

    def observe(self, seconds: float, now: float, size: float = 0.0, load: float = 0.0) -> None:
        """A wait that ended with a token.

        The first one is all that is known: beside the default prior a quick newcomer would look slower than it is, and
        be passed over for one that is known better.
        """
        where = self._bucket(seconds, size, now)
        if self._long_run.weight == 0.0:
            self._total = self._sizes = self._loads = self._weight = 0.0
            self._at = now
            self._prior, self._prior_size = seconds, size
        self._long_run.add(size, seconds, now)
        self._histogram.add(where, now)
        self._add(seconds, size, load, now)
        self._detect_change(where, seconds, size, load, now)
        self._update_prior(now)

    def penalise(self, seconds: float, now: float) -> None:
        """A wait that ended with a failure, and counts for so long at least: soon, but not in the long run."""
        self._add(max(seconds, self.mean(now)), self.mean_size(now), self.load, now)
        self.unknown = False

    def observe_at_least(self, seconds: float, now: float, size: float = 0.0, load: float = 0.0) -> None:
        """A wait that was broken off after `seconds`: evidence where it had outlasted what is usual.

        Left out, the slowest endpoint looks fastest: only its quick answers would be counted.
        """
        where = self._bucket(seconds, size, now)
        if seconds > self.expected(size, now):
            load = min(load, self.load)  # what it would have waited under less nobody knows
            if self.curve is None:
                self._set_mean(seconds, size, load, 1.0, now)  # a bound, where little is known besides
            else:
                self._add(seconds, size, load, now)
                if surprise(self.curve.tail(where)) > 0.0:  # that it was not longer is no sign of anything
                    self._detect_change(where, seconds, size, load, now)
            self.unknown = False
        if not self.unknown:
            self._histogram.add_censored(where, now)
            self._update_prior(now)

    def draw(self) -> bool:
        """Draw the curve anew, where there is fresh evidence; True where there is a curve."""
        if self._fresh:
            self._draw_curve()
        return self.curve is not None

    def curve_with(self, waiting: Sequence[tuple[float, float]], now: float) -> Curve | None:
        """As `curve`, with those that wait now, each for how long and with a prompt of which size.

        When things have just become slower those that ended are the quick ones, and half of the truth.
        """
        return self._histogram.curve([self._bucket(seconds, size, now) for seconds, size in waiting])

    def _draw_curve(self) -> None:
        self.curve, self._fresh = self._histogram.curve(), False
        self.late_after = 0.0 if self.curve is None else self.curve.quantile(LATE_QUANTILE)

    def pending_surprise(self, seconds: float, size: float, now: float) -> float:
        """What one that has waited for so long, and waits, says of trouble here: a log-likelihood."""
        return 0.0 if self.curve is None else max(0.0, surprise(self.curve.survival(seconds - self.shift(size, now))))

    def _bucket(self, seconds: float, size: float, now: float) -> int:
        return bucket(max(SHORTEST_WAIT, seconds - self.shift(size, now)))

    def _add(self, seconds: float, size: float, load: float, now: float) -> None:
        decay = exp((self._at - now) / TAU)
        if self._weight * decay > MAX_EVIDENCE - 1.0:
            self._cap_evidence(now)
            decay = 1.0
        self._total = self._total * decay + seconds
        self._sizes = self._sizes * decay + size
        self._loads = self._loads * decay + load
        self._weight = self._weight * decay + 1.0
        self.load = self._loads / self._weight
        self._at = now
        self._update_line()

    def _cap_evidence(self, now: float) -> None:
        """For one more, by making less of all others; the means stay, beside a prior that weighs what it did."""
        weight = MAX_EVIDENCE - 1.0
        self._loads *= weight / self._weight
        self._total = (PRIOR_WEIGHT + weight) * self.mean(now) - PRIOR_WEIGHT * self._prior
        self._sizes = (PRIOR_WEIGHT + weight) * self.mean_size(now) - PRIOR_WEIGHT * self._prior_size
        self._weight = weight

    def _set_mean(self, seconds: float, size: float, load: float, weight: float, now: float) -> None:
        """With the weight of so many observations, and drift from there."""
        self._total = weight * seconds + PRIOR_WEIGHT * (seconds - self._prior)
        self._sizes = weight * size + PRIOR_WEIGHT * (size - self._prior_size)
        self._loads, self._weight, self.load, self._at = weight * load, weight, load, now
        self._update_line()

    def _detect_change(self, where: int, seconds: float, size: float, load: float, now: float) -> None:
        """Start again, where this wait shows that things have changed: a long one for the worse, a short one for the
        better.
        """
        if self.curve is None:
            return
        changed = self._changes.add(self.curve.tail(where), seconds, size, load, now)
        if changed and self._changes.long is (seconds > self.mean(now) + self.shift(size, now)):
            self._restart(now)

    def _restart(self, now: float) -> None:
        """From the run, which is all that is known of how things are now.

        That it is long makes nothing look better than before, nor the other way round: then what was expected holds,
        until there is a little evidence.
        """
        run = self._changes
        seconds, size, load = (total / run.count for total in (run.total, run.sizes, run.loads))
        before, weight = self.expected(size, now), float(run.count)
        if run.long:
            before *= self.load_factor(_expected_load(load))
        if (seconds < before) is run.long:
            seconds, weight = before, min(weight, BOUND_WEIGHT)
        self._set_mean(seconds, size, load, weight, now)
        self._histogram.fade(KEPT_SHARE)
        self._slower_at = now if run.long else -inf
        self._changes = ChangeDetector()
        self._draw_curve()

    def _update_prior(self, now: float) -> None:
        long_run = self._long_run
        if long_run.weight:
            prior, size = long_run.mean_y, long_run.mean_x
            self._total += PRIOR_WEIGHT * (self._prior - prior)  # the mean stays, and drifts elsewhere
            self._sizes += PRIOR_WEIGHT * (self._prior_size - size)
            self._prior, self._prior_size = prior, size
            self._update_line()
        self.unknown, self.seen_at, self._fresh = False, now, True

    def _update_line(self) -> None:
        """What `expected` is reckoned from: sums of what is left of each wait without what its prompt's size adds."""
        self.expected_load = _expected_load(self.load)
        slope, self.reach = self._long_run.slope, self._long_run.reach
        self.slope = slope
        self._rest = self._total - slope * self._sizes
        self._prior_rest = PRIOR_WEIGHT * (self._prior - slope * self._prior_size)


def _expected_load(load: float) -> float:
    return load + LOAD_DEVIATIONS * sqrt(load)
