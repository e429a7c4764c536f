"""A run of waits that are all unusually long, or all unusually short, and whether it is chance.

Each wait of the run adds the log-likelihood that one so unusual comes by chance, less than what any wait adds (Page's
CUSUM: Continuous inspection schemes, 1954). One on the other side of the median ends the run. A run beyond ALARM is no
chance: what was seen before it is no longer evidence. And while a run of long waits builds up it says how likely it is
by now that the endpoint is in trouble: one wait beyond all that was ever seen says much, one in a stall that is usual
there says little.
"""

from __future__ import annotations

from math import exp, log

ALLOWANCE = 2.0  # that a wait adds by chance, in log-likelihood; the mean is 1
ALARM = 6.0  # with ALLOWANCE, by chance once in some 50,000 waits (counted, in 400,000 lognormal ones)
MAX_SURPRISE = 5.0  # that one wait says: no distribution is known to better than one in 150
TROUBLE_TAU = 30.0  # seconds: whether there is trouble still, nobody knows after a while
TROUBLE_ODDS = 0.03  # that an endpoint that has served a moment ago is in trouble now


def surprise(tail: float) -> float:
    """Beyond chance, in log-likelihood, of a wait so unusual that a share `tail` is more so."""
    return min(MAX_SURPRISE, -log(max(1e-3, 2.0 * tail))) - ALLOWANCE


class ChangeDetector:
    """`add` waits; `excess` is what the run has beyond chance, and `long` whether its waits are."""

    __slots__ = ("_at", "count", "excess", "loads", "long", "sizes", "total")

    def __init__(self) -> None:
        self._begin(False)

    def _begin(self, long: bool) -> None:
        self.long, self.excess, self._at = long, 0.0, 0.0
        self.count, self.total, self.sizes, self.loads = 0, 0.0, 0.0, 0.0

    def add(self, tail: float, seconds: float, size: float, load: float, now: float) -> bool:
        """A wait, and the share of those before that were longer; True where the run is no chance any more."""
        long = tail < 0.5
        if long is not self.long:
            self._begin(long)
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
