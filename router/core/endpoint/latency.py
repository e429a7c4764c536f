"""The expected wait of one more call at one endpoint, by prompt size and load, and the threshold for a late attempt.

The expected wait is the mean of the evidence, weighted by age, with a prior of fixed weight; a regression adds the
effect of the prompt's size:

    mean(now) = (w0 * prior + sum(y_i * e^-(age_i / TAU))) / (w0 + sum(e^-(age_i / TAU)))
    expected(size, now) = mean(now) + slope * (size - mean_size(now))        mean_size: the same mean of the sizes

A newcomer's estimate is the prior until the first evidence replaces it. New evidence always moves the mean towards
itself. The estimate of an idle endpoint drifts back to its prior, which is its own long-run mean, formed in the same
way. Decay is by time and not by count, so that it means the same at one request a minute and at a hundred a second.

A mean of many waits follows a change slowly. So each wait is also compared with the distribution of the waits before
it: the waits for which `ChangeDetector` raises an alarm replace all evidence from before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, sqrt

from router.core.endpoint.change import ChangeDetector, surprise
from router.core.endpoint.histogram import SHORTEST_WAIT, Curve, Histogram, bucket
from router.core.endpoint.regression import Regression

# Weight of the prior, in fresh observations. The mean of a single observation is half way back at the prior after 42 s,
# TAU * ln 4.
PRIOR_WEIGHT = 0.25
TAU = 30.0  # seconds; the calls of three a minute still count, an outage an hour ago does not
LONG_RUN_TAU = 600.0  # seconds
# Upper bound on the weight of all evidence, in fresh observations. If waits vary by a third, the mean is then known
# to a thirtieth.
MAX_EVIDENCE = 100.0
# A pending attempt is late beyond this quantile of the waits. Its surprise is above zero from about there on:
# -ln(2 * 0.07) is 2, the ALLOWANCE of change detection.
LATE_QUANTILE = 0.93
TROUBLE_FACTOR = 5.0  # expected wait in trouble, as a multiple of the mean, unless a pending attempt is older than that
TROUBLE_THRESHOLD = 0.15  # likelihood of trouble from which on the endpoint gets no call that is late elsewhere
# Seconds after a slowdown until its extent is known: the attempts that end before that are the quick ones.
SETTLE_TIME = 20.0
BATCH = 8  # requests that a server of weight 1 batches before one more delays the others
# Standard deviations of a count (its square root) by which the load may exceed the mean load of the evidence by chance.
LOAD_DEVIATIONS = 1.0
# Weight of the old estimate, in observations, if a detected change would otherwise move it the wrong way.
BOUND_WEIGHT = 1.0
# Waits, below which an endpoint is little known: a stall or two too many make it look slow. Where 6 % of the waits are
# 17 times as long as the others, the mean of 10 waits is known to 58 % (one standard deviation), that of 20 to 41 %.
FEW = 20
# Waits that may all be stalls: three in a row of an endpoint that stalls in 10 % of the calls are one in a thousand.
MAX_STALLS = 3
KEPT_SHARE = 0.1  # of the histogram after a change: the length of the longest waits is not unlearned at once


class Latency:
    """The observed waits of one demand kind at one endpoint; times in seconds, sizes in tokens of the prompt."""

    __slots__ = (
        "_at",
        "_changes",
        "_default",
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
        "fresh",
        "late_after",
        "load",
        "quickest",
        "reach",
        "seen",
        "seen_at",
        "slope",
        "unknown",
    )

    def __init__(self, prior: float) -> None:
        self._default = prior
        self.forget()

    def forget(self) -> None:
        """Return to the default prior: waits from before an outage say little about those after it."""
        self._prior, self._prior_size = self._default, 0.0
        self._total = self._sizes = self._loads = self._weight = self._at = 0.0
        self._long_run, self._histogram, self._changes = Regression(LONG_RUN_TAU), Histogram(), ChangeDetector()
        self.curve: Curve | None = None  # distribution of the waits, for a prompt of the mean size
        self.late_after = 0.0  # seconds after which a pending attempt is late; 0 without a curve
        self.load = 0.0  # mean load under which the evidence was measured
        self.expected_load = 0.0  # `load` and what chance adds to it: no reason to expect longer waits up to here
        self.slope = 0.0  # seconds per token of the prompt; 0 unless significant
        self.reach = 0.0  # tokens; a longer prompt is known only to take no less than one of this size
        # Waits that were measured, up to FEW, and the shortest of these; not weighted by age.
        self.seen, self.quickest = 0, inf
        self.fresh = False
        self._update_line()
        self.unknown, self.seen_at, self._slower_at = True, -inf, -inf

    # Estimates.

    def mean(self, now: float) -> float:
        """Expected wait of a prompt of the mean size."""
        decay = exp((self._at - now) / TAU)
        return (PRIOR_WEIGHT * self._prior + self._total * decay) / (PRIOR_WEIGHT + self._weight * decay)

    def mean_size(self, now: float) -> float:
        """Mean prompt size of the evidence, with the weights of `mean`."""
        decay = exp((self._at - now) / TAU)
        return (PRIOR_WEIGHT * self._prior_size + self._sizes * decay) / (PRIOR_WEIGHT + self._weight * decay)

    def shift(self, size: float, now: float) -> float:
        """Seconds that a prompt of this size takes longer than the mean; negative for a short one."""
        return self.slope * (min(size, self.reach) - self.mean_size(now)) if self.slope else 0.0

    def expected(self, size: float, now: float, pending_surprise: float = 0.0, age: float = 0.0) -> float:
        """Expected wait of a prompt of `size`, given the surprise of pending attempts and the age of the oldest."""
        # `mean` and `shift`, inlined: this runs for every endpoint and every call.
        decay = exp((self._at - now) / TAU)
        mean = (self._prior_rest + self._rest * decay) / (PRIOR_WEIGHT + self._weight * decay) + self.slope * (
            size if size < self.reach else self.reach
        )
        if mean < SHORTEST_WAIT:
            mean = SHORTEST_WAIT
        changes = self._changes
        if not pending_surprise and not (changes.excess and changes.long):
            return mean
        return mean + changes.trouble(now, pending_surprise) * (max(TROUBLE_FACTOR * mean, age) - mean)

    def load_factor(self, load: float) -> float:
        """Multiple of the expected wait under this load, relative to the load that the evidence was measured under."""
        return (BATCH + load) / (BATCH + self.expected_load) if load > self.expected_load else 1.0

    def trouble(self, now: float, pending_surprise: float = 0.0) -> float:
        """Likelihood that the endpoint is in trouble now, given the surprise of pending attempts."""
        return self._changes.trouble(now, pending_surprise)

    def settled(self, now: float, pending_surprise: float = 0.0) -> bool:
        """True if trouble is unlikely and the extent of the last slowdown, if any, is known."""
        return now >= self._slower_at + SETTLE_TIME and self._changes.trouble(now, pending_surprise) < TROUBLE_THRESHOLD

    def may_be_quicker(self, than: float) -> bool:
        """True if so little is known that the endpoint may be quicker than this, whatever the mean of its waits says.

        Half of its waits must be quicker, or one of the first ones while no distribution is known: then it is the
        number of stalls that makes the mean long, and that number is known worst.
        """
        if 0 < self.seen < MAX_STALLS:
            return True
        return 0 < self.seen < FEW and (self.quickest if self.curve is None else self.curve.median) < than

    @property
    def typical(self) -> float:
        """The median wait; without a curve the long-run mean, and without evidence the default prior."""
        if self.curve is not None:
            return self.curve.median
        return self._long_run.mean_y if self._long_run.weight else self._default

    @property
    def weight(self) -> float:
        """Weight of the evidence in fresh observations, when the last one was made."""
        return self._weight

    def evidence(self, now: float) -> float:
        """Weight of the evidence in fresh observations now: the certainty of the mean."""
        return self._weight * exp((self._at - now) / TAU)

    def quantile(self, q: float) -> float | None:
        """The wait that a share q of the waits does not exceed; None while there are too few."""
        return None if self.curve is None else self.curve.quantile(q)

    def chance(self, seconds: float, size: float, now: float) -> float:
        """The share of the waits that last for longer than this; 0 while that is unknown."""
        return 0.0 if self.curve is None else self.curve.survival(max(0.0, seconds - self.shift(size, now)))

    # Evidence.

    def observe(self, seconds: float, now: float, size: float = 0.0, load: float = 0.0) -> None:
        """Record a wait that ended with a token.

        The first one replaces the default prior: averaged with it a quick newcomer would look slower than it is, and
        lose calls to endpoints with more evidence.
        """
        index = self._bucket(seconds, size, now)
        if self.seen < FEW:
            self.seen, self.quickest = self.seen + 1, min(self.quickest, seconds)
        if self._long_run.weight == 0.0:
            self._total = self._sizes = self._loads = self._weight = 0.0
            self._at = now
            self._prior, self._prior_size = seconds, size
        self._long_run.add(size, seconds, now)
        self._histogram.add(index, now)
        self._add(seconds, size, load, now)
        self._detect_change(index, seconds, size, load, now)
        self._update_prior(now)

    def penalise(self, seconds: float, now: float) -> None:
        """Record a failed attempt as a wait of at least `seconds`, in the mean but not in the long-run mean."""
        self._add(max(seconds, self.mean(now)), self.mean_size(now), self.load, now)
        self.unknown = False

    def observe_at_least(self, seconds: float, now: float, size: float = 0.0, load: float = 0.0) -> None:
        """Record a wait that was broken off after `seconds`: evidence if it was longer than expected.

        Without such waits the slowest endpoint would look fastest: only its quick answers would be counted.
        """
        index = self._bucket(seconds, size, now)
        if self.seen < FEW:
            self.seen += 1
        if seconds > self.expected(size, now):
            load = min(load, self.load)  # the wait under a lower load is unknown
            if self.curve is None:
                self._set_mean(seconds, size, load, 1.0, now)  # a lower bound, and almost all that is known
            else:
                self._add(seconds, size, load, now)
                if surprise(self.curve.tail(index)) > 0.0:  # else nothing follows: it was broken off early
                    self._detect_change(index, seconds, size, load, now)
            self.unknown = False
        if not self.unknown:
            self._histogram.add_censored(index, now)
            self._update_prior(now)

    def draw(self) -> bool:
        """Recompute the curve if there is fresh evidence; True if there is a curve."""
        if self.fresh:
            self._draw_curve()
        return self.curve is not None

    def curve_with(self, pending: Sequence[tuple[float, float]], now: float) -> Curve | None:
        """The curve, with pending attempts (seconds so far, prompt size) counted as broken off.

        Just after a slowdown the waits that have ended are the quick ones.
        """
        return self._histogram.curve([self._bucket(seconds, size, now) for seconds, size in pending])

    def _draw_curve(self) -> None:
        self.curve, self.fresh = self._histogram.curve(), False
        self.late_after = 0.0 if self.curve is None else self.curve.quantile(LATE_QUANTILE)

    def pending_surprise(self, seconds: float, size: float, now: float) -> float:
        """Surprise (see `change.surprise`) of an attempt that is still pending after `seconds`; never below 0."""
        return 0.0 if self.curve is None else max(0.0, surprise(self.curve.survival(seconds - self.shift(size, now))))

    def _bucket(self, seconds: float, size: float, now: float) -> int:
        """The histogram's bucket of a wait, corrected to a prompt of the mean size."""
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
        """Scale the evidence down by one observation; the means and the weight of the prior stay."""
        weight = MAX_EVIDENCE - 1.0
        self._loads *= weight / self._weight
        self._total = (PRIOR_WEIGHT + weight) * self.mean(now) - PRIOR_WEIGHT * self._prior
        self._sizes = (PRIOR_WEIGHT + weight) * self.mean_size(now) - PRIOR_WEIGHT * self._prior_size
        self._weight = weight

    def _set_mean(self, seconds: float, size: float, load: float, weight: float, now: float) -> None:
        """Replace the evidence: the mean is `seconds` now, with the weight of so many observations."""
        self._total = weight * seconds + PRIOR_WEIGHT * (seconds - self._prior)
        self._sizes = weight * size + PRIOR_WEIGHT * (size - self._prior_size)
        self._loads, self._weight, self.load, self._at = weight * load, weight, load, now
        self._update_line()

    def _detect_change(self, index: int, seconds: float, size: float, load: float, now: float) -> None:
        """Restart if this wait confirms a change: a long one a slowdown, a short one a speedup."""
        if self.curve is None:
            return
        changed = self._changes.add(self.curve.tail(index), seconds, size, load, now)
        if changed and self._changes.long is (seconds > self.mean(now) + self.shift(size, now)):
            self._restart(now)

    def _restart(self, now: float) -> None:
        """Replace the evidence by the waits of the detected change.

        A slowdown lowers no estimate and a speedup raises none: then the estimate from before stays, with little
        weight.
        """
        changes = self._changes
        seconds, size, load = (total / changes.count for total in (changes.total, changes.sizes, changes.loads))
        before, weight = self.expected(size, now), float(changes.count)
        if changes.long:
            before *= self.load_factor(_expected_load(load))
        if (seconds < before) is changes.long:
            seconds, weight = before, min(weight, BOUND_WEIGHT)
        self._set_mean(seconds, size, load, weight, now)
        self._histogram.fade(KEPT_SHARE)
        self.seen, self.quickest = min(self.seen, int(self._histogram.count)), inf
        self._slower_at = now if changes.long else -inf
        self._changes = ChangeDetector()
        self._draw_curve()

    def _update_prior(self, now: float) -> None:
        """Take the long-run means as the prior."""
        long_run = self._long_run
        if long_run.weight:
            prior, size = long_run.mean_y, long_run.mean_x
            self._total += PRIOR_WEIGHT * (self._prior - prior)  # the mean of now stays; it drifts to the new prior
            self._sizes += PRIOR_WEIGHT * (self._prior_size - size)
            self._prior, self._prior_size = prior, size
            self._update_line()
        self.unknown, self.seen_at, self.fresh = False, now, True

    def _update_line(self) -> None:
        """Precompute the terms of `expected`: sums of the waits less what their prompt sizes add."""
        self.expected_load = _expected_load(self.load)
        slope, self.reach = self._long_run.slope, self._long_run.reach
        self.slope = slope
        self._rest = self._total - slope * self._sizes
        self._prior_rest = PRIOR_WEIGHT * (self._prior - slope * self._prior_size)


def _expected_load(load: float) -> float:
    """The highest load that chance explains where the mean load is `load`."""
    return load + LOAD_DEVIATIONS * sqrt(load)
