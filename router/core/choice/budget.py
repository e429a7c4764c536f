"""Extra attempts are paid for by ordinary calls.

A balance that calls pay a share of an attempt into, extra attempts are drawn from, and that leaks back to zero within
TAU, from both sides; a reserve stands beside it. So over any longer time the extra attempts are at most that share of
the calls, and RESERVE / TAU a second beside, which is what grows back of the reserve: one in ten seconds, so that a
lone caller always has it. A burst is at most the share of some TAU of calls, and the reserve.

Under a load of more than `most` there is nothing to be had, whoever has paid: extra work goes before ordinary calls do.
(The idea is Finagle's and tower's retry budget; the leak stands in for their ten windows.)
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf

TAU = 30.0  # seconds
RESERVE = 3.0  # attempts

Utilization = Callable[[], float]  # what is in use of the room that there is, as a share


class Budget:
    __slots__ = ("_at", "_balance", "_max_utilization", "_paid", "_utilization", "reserve")

    def __init__(
        self, reserve: float = RESERVE, utilization: Utilization = lambda: 0.0, max_utilization: float = inf
    ) -> None:
        self.reserve, self._balance, self._paid, self._at = reserve, 0.0, 0.0, 0.0
        self._utilization, self._max_utilization = utilization, max_utilization

    def level(self, now: float) -> float:
        """How many extra attempts could be paid for now."""
        if self._utilization() > self._max_utilization:
            return 0.0
        return self.reserve + self._balance * exp((self._at - now) / TAU)

    def pressure(self, now: float) -> float:
        """The share of it that is spent: 0 where nothing was drawn lately, 1 where there is nothing left."""
        room = self.reserve + self._paid * exp((self._at - now) / TAU)
        return 1.0 - min(1.0, max(0.0, self.level(now) / room)) if room > 0.0 else 1.0

    def deposit(self, share: float, now: float) -> None:
        """One ordinary call pays in."""
        self._move(share, now)
        self._paid += share

    def withdraw(self, now: float) -> bool:
        """Pay for one extra attempt, or say that it can't be."""
        if self.level(now) < 1.0:
            return False
        self._move(-1.0, now)
        return True

    def _move(self, amount: float, now: float) -> None:
        decay = exp((self._at - now) / TAU)
        self._balance, self._paid = self._balance * decay + amount, self._paid * decay
        self._at = now
