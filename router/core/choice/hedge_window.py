"""How many hedges of a model may wait at once: few, and more for each that won a moment ago.

It grows as TCP's does when it begins slowly. Where one endpoint is frozen, all that wait there are elsewhere within
some first tokens; where everything is slow at once rivals win little, and few are asked.
"""

from __future__ import annotations

from math import exp

MIN_HEDGES = 3.0
HEDGES_PER_WIN = 2.0  # more, for each that won: the number that wait doubles and more with every round
TAU = 3.0  # seconds; a first token or some


class HedgeWindow:
    __slots__ = ("_at", "_won")

    def __init__(self) -> None:
        self._won, self._at = 0.0, 0.0

    def size(self, now: float) -> float:
        return MIN_HEDGES + HEDGES_PER_WIN * self._won * exp((self._at - now) / TAU)

    def won(self, now: float) -> None:
        """A hedge was first."""
        self._won = 1.0 + self._won * exp((self._at - now) / TAU)
        self._at = now
