"""Change detection in the waits at one endpoint: are the last ones too long, or too short, to be chance?

Each wait adds its surprise to a sum: -ln of the probability of a wait at least as unusual, less ALLOWANCE, so that
usual waits lower the sum (CUSUM; Page: Continuous inspection schemes, 1954). A wait on the other side of the median
starts a new sum. A sum above ALARM is a change: waits from before it are no evidence any more.

A growing sum of long waits also gives the likelihood that the endpoint is in trouble now: one wait beyond everything
seen says much, one in a stall that is usual there says little.
"""

from __future__ import annotations

from math import exp, log

# Taken off the -ln(2 * tail) of each wait, whose mean is 1 where nothing changes: 2 * tail is uniform on each side.
ALLOWANCE = 2.0
ALARM = 6.0  # with ALLOWANCE one false alarm in some 50,000 waits (counted, in 400,000 lognormal ones)
MAX_SURPRISE = 5.0  # of a single wait, before ALLOWANCE: no distribution is known to better than one in 150, e^-5
TROUBLE_TAU = 30.0  # seconds in which the suspicion of trouble fades
TROUBLE_ODDS = 0.03  # prior odds that an endpoint that served a moment ago is in trouble now


def surprise(tail: float) -> float:
    """Surprise of a wait that only a share `tail` of the waits exceeds; up to MAX_SURPRISE - ALLOWANCE."""
    return min(MAX_SURPRISE, -log(max(1e-3, 2.0 * tail))) - ALLOWANCE


class ChangeDetector:
    """The sum of surprise (`excess`) over the last waits on one side of the median; `long` is True for the upper side.

    `count`, `total`, `sizes` and `loads` are the number of these waits and the sums of their seconds, sizes and loads.
    """

    __slots__ = ("_at", "count", "excess", "loads", "long", "sizes", "total")

    def __init__(self) -> None:
        self._start(False)

    def _start(self, long: bool) -> None:
        self.long, self.excess, self._at = long, 0.0, 0.0
        self.count, self.total, self.sizes, self.loads = 0, 0.0, 0.0, 0.0

    def add(self, tail: float, seconds: float, size: float, load: float, now: float) -> bool:
        """Add a wait, of which `tail` is the share of earlier waits that were longer; True if it raises the alarm."""
        long = tail < 0.5
        if long is not self.long:
            self._start(long)
        self.excess = max(0.0, self.excess + surprise(tail if long else 1.0 - tail))
        self._at = now
        self.count += 1
        self.total += seconds
        self.sizes += size
        self.loads += load
        return self.excess > ALARM

    def trouble(self, now: float, pending_surprise: float = 0.0) -> float:
        """Likelihood, in [0, 1), that the endpoint is in trouble now, given the surprise of pending attempts."""
        excess = self.excess * exp((self._at - now) / TROUBLE_TAU) if self.long else 0.0
        if excess + pending_surprise <= 0.0:
            return 0.0
        return TROUBLE_ODDS / (TROUBLE_ODDS + exp(-excess - pending_surprise))
