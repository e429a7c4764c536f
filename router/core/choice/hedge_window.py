"""The hedge window: how many hedges of a model may wait at once, which is few, and more for each recent win.

The window grows as TCP's does in slow start. If one endpoint freezes, all calls that wait there are elsewhere within
some first tokens; if every endpoint is slow at once hedges win little, and few are sent.
"""

from __future__ import annotations

from math import exp

MIN_HEDGES = 3.0  # without any recent win
HEDGES_PER_WIN = 2.0  # added for each recent win: the window more than doubles with every round of wins
TAU = 3.0  # seconds in which a win decays; about a first token, or a few


class HedgeWindow:
    """The hedge window of one model. `pending` counts its hedges that run and have no first token."""

    __slots__ = ("_at", "_won", "pending")

    def __init__(self) -> None:
        self._won, self._at = 0.0, 0.0
        self.pending = 0

    def size(self, now: float) -> float:
        """The number of hedges that may wait at once."""
        return MIN_HEDGES + HEDGES_PER_WIN * self._won * exp((self._at - now) / TAU)

    def won(self, now: float) -> None:
        """Count a hedge that won its race."""
        self._won = 1.0 + self._won * exp((self._at - now) / TAU)
        self._at = now
