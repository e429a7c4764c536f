"""A line through decaying evidence: how much longer a wait is for each token of the prompt.

Least squares over observations that weigh e^-(age / tau). The slope counts only where the evidence bears it out: hosted
models hardly care how long a prompt is and vary by half a second for other reasons, while a local one computes every
token of it.
"""

from __future__ import annotations

from math import exp, sqrt

MIN_OBSERVATIONS = 30.0  # fresh observations
STANDARD_ERRORS_TO_ACCEPT = 3.0  # standard errors that a slope must be away from nothing, to be believed
REACH_DEVIATIONS = 5.0  # standard deviations of the sizes seen, beyond which the line says nothing
STANDARD_ERRORS_TO_KEEP = 2.0  # and to be believed still, lest it come and go with every stall


class Regression:
    """Sums of y over x; `weight` fresh observations at the last one. Beyond `reach` nothing is known of x."""

    __slots__ = ("_at", "_tau", "_x", "_xx", "_xy", "_y", "_yy", "reach", "slope", "weight")

    def __init__(self, tau: float) -> None:
        self._tau, self._at = tau, 0.0
        self.weight = self._x = self._y = self._xx = self._xy = self._yy = 0.0
        self.reach = 0.0  # the largest x that it says something of
        self.slope = 0.0  # of y over x; never below 0, 0 until it is significant, and kept while there is too little

    def add(self, x: float, y: float, now: float) -> None:
        decay = exp((self._at - now) / self._tau)
        self._at = now
        counts = 1.0
        if x > self.reach > 0.0 and self.reach > (mean := self.mean_x):
            counts = (
                (self.reach - mean) / (x - mean)
            ) ** 2  # or one that is far from all others would be all that counts
        self.weight = self.weight * decay + counts
        self._x = self._x * decay + counts * x
        self._y = self._y * decay + counts * y
        self._xx = self._xx * decay + counts * x * x
        self._xy = self._xy * decay + counts * x * y
        self._yy = self._yy * decay + counts * y * y
        if self.weight >= MIN_OBSERVATIONS:
            self.slope = self._significant(STANDARD_ERRORS_TO_KEEP if self.slope else STANDARD_ERRORS_TO_ACCEPT)

    @property
    def mean_x(self) -> float:
        return self._x / self.weight

    @property
    def mean_y(self) -> float:
        return self._y / self.weight

    def _significant(self, standard_errors: float) -> float:
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
