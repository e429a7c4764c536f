"""Whether an endpoint is up, from what probes and traffic say of it.

Several misses in a row to fall, one success to rise: a busy engine misses a probe now and then, and an endpoint that
is wrongly up costs a hedge, while one that is wrongly down costs its whole capacity. Until something was seen one miss
is enough.
"""

from __future__ import annotations

FALL = 3


class Health:
    __slots__ = ("_known", "misses", "up")

    def __init__(self) -> None:
        self.up, self._known, self.misses = True, False, 0

    def observe(self, ok: bool) -> bool:
        """Take one observation; True where it flips `up`."""
        was = self.up
        self.misses = 0 if ok else self.misses + 1
        if ok:
            self.up = True
        elif self.misses >= FALL or not self._known:
            self.up = False
        self._known = True
        return self.up != was
