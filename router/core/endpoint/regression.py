"""Linear regression over decaying evidence: how many seconds each token of the prompt adds to the wait.

Least squares over observations that weigh e^-(age / tau). The slope is used only if it is significant: the waits of
hosted models hardly depend on the prompt's length and vary by half a second for other reasons, while a local server
computes every token of the prompt.
"""

from __future__ import annotations

from math import exp, sqrt

MIN_OBSERVATIONS = 30.0  # weight, in fresh observations, below which the slope stays as it is
STANDARD_ERRORS_TO_ACCEPT = 3.0  # above zero, for a slope to be significant
STANDARD_ERRORS_TO_KEEP = 2.0  # above zero, for a slope to stay significant: it must not come and go with every stall
REACH_DEVIATIONS = 5.0  # standard deviations above the mean x, up to which the line is extrapolated


class Regression:
    """A line of y over x. `weight` is that of all evidence, in fresh observations, when the last one was made."""

    __slots__ = ("_at", "_tau", "_x", "_xx", "_xy", "_y", "_yy", "reach", "slope", "weight")

    def __init__(self, tau: float) -> None:
        self._tau, self._at = tau, 0.0
        self.weight = self._x = self._y = self._xx = self._xy = self._yy = 0.0
        self.reach = 0.0  # the largest x that the line applies to
        self.slope = 0.0  # of y over x; never below 0, 0 unless significant, kept below MIN_OBSERVATIONS

    def add(self, x: float, y: float, now: float) -> None:
        decay = exp((self._at - now) / self._tau)
        self._at = now
        weight = 1.0
        if x > self.reach > 0.0 and self.reach > (mean := self.mean_x):
            # Leverage grows with the square of the distance: without this one far outlier would determine the line.
            weight = ((self.reach - mean) / (x - mean)) ** 2
        self.weight = self.weight * decay + weight
        self._x = self._x * decay + weight * x
        self._y = self._y * decay + weight * y
        self._xx = self._xx * decay + weight * x * x
        self._xy = self._xy * decay + weight * x * y
        self._yy = self._yy * decay + weight * y * y
        if self.weight >= MIN_OBSERVATIONS:
            self.slope = self._significant(STANDARD_ERRORS_TO_KEEP if self.slope else STANDARD_ERRORS_TO_ACCEPT)

    @property
    def mean_x(self) -> float:
        return self._x / self.weight

    @property
    def mean_y(self) -> float:
        return self._y / self.weight

    def _significant(self, standard_errors: float) -> float:
        """The slope if it is positive and so many standard errors above zero, else 0; updates `reach`."""
        weight = self.weight
        xx = self._xx - self._x * self._x / weight
        xy = self._xy - self._x * self._y / weight
        if xy <= 0.0 or xx <= 1e-9 * self._xx:
            return 0.0
        self.reach = self._x / weight + REACH_DEVIATIONS * sqrt(xx / weight)
        slope = xy / xx
        yy = self._yy - self._y * self._y / weight
        variance = max(0.0, yy - slope * xy) / ((weight - 2.0) * xx)
        return slope if slope * slope > standard_errors * standard_errors * variance else 0.0
