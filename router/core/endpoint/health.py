"""Health of an endpoint, up or down, from probes and traffic.

FALL misses in a row take it down, one success takes it up: a busy server misses a probe now and then, and an endpoint
that is wrongly up costs a hedge, while one that is wrongly down costs its whole capacity. The first observation alone
decides.
"""

from __future__ import annotations

FALL = 3  # misses in a row


class Health:
    """Up or down; `misses` counts the failed observations since the last success."""

    __slots__ = ("_known", "misses", "up")

    def __init__(self) -> None:
        self.up, self._known, self.misses = True, False, 0

    def observe(self, ok: bool) -> bool:
        """Take one observation; True if it changes `up`."""
        was = self.up
        self.misses = 0 if ok else self.misses + 1
        if ok:
            self.up = True
        elif self.misses >= FALL or not self._known:
            self.up = False
        self._known = True
        return self.up != was
