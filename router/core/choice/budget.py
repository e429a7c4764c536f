"""A budget for extra attempts (hedges, retries), which ordinary calls pay for.

Each call pays a share of an attempt into a balance, each extra attempt costs one, and the balance decays to zero with
time constant TAU, from both sides; a reserve is added to it. So over a longer time the extra attempts are at most that
share of the calls, plus RESERVE / TAU a second, the rate at which the reserve grows back: one in ten seconds, so that a
lone caller always has it. A burst is at most the share of the calls of some TAU, plus the reserve.

While the router's utilization is above `max_utilization` the budget is empty: extra attempts are given up before
ordinary calls. (The idea is the retry budget of Finagle and tower; the decay replaces their ten windows.)
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf

TAU = 30.0  # seconds
RESERVE = 3.0  # extra attempts

Utilization = Callable[[], float]  # the share of the router's capacity that is in use


class Budget:
    """A balance of extra attempts; times are of the scheduler's clock."""

    __slots__ = ("_at", "_balance", "_max_utilization", "_paid", "_utilization", "reserve")

    def __init__(
        self, reserve: float = RESERVE, utilization: Utilization = lambda: 0.0, max_utilization: float = inf
    ) -> None:
        self.reserve, self._balance, self._paid, self._at = reserve, 0.0, 0.0, 0.0
        self._utilization, self._max_utilization = utilization, max_utilization

    def level(self, now: float) -> float:
        """The number of extra attempts that could be paid for now."""
        if self._utilization() > self._max_utilization:
            return 0.0
        return self.reserve + self._balance * exp((self._at - now) / TAU)

    def pressure(self, now: float) -> float:
        """The share of the budget that is spent: 0 if nothing was withdrawn lately, 1 if nothing is left."""
        unspent = self.reserve + self._paid * exp((self._at - now) / TAU)
        return 1.0 - min(1.0, max(0.0, self.level(now) / unspent)) if unspent > 0.0 else 1.0

    def deposit(self, share: float, now: float) -> None:
        """Pay in the share of one ordinary call."""
        self._move(share, now)
        self._paid += share

    def withdraw(self, now: float) -> bool:
        """Pay for one extra attempt; False if the budget does not cover it."""
        if self.level(now) < 1.0:
            return False
        self._move(-1.0, now)
        return True

    def _move(self, amount: float, now: float) -> None:
        decay = exp((self._at - now) / TAU)
        self._balance, self._paid = self._balance * decay + amount, self._paid * decay
        self._at = now
