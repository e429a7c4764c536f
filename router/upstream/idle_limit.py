"""How long a connection may stay unused: configured, told by the server in Keep-Alive, or learned from what it closes.

    A server's limit shows in two moments at which it closed unused connections of the same age. A moment shows nothing
    if ages differ in it, if a connection in use broke, or if a new one is refused then: the server has restarted.

A learned limit is raised slowly, so that a wrong one is forgotten; a right one is soon confirmed by the server.
"""

from __future__ import annotations

from math import inf

MARGIN = 0.8  # the share of a server's idle limit that is used: 4 s of uvicorn's 5
MIN_TOLD, MIN_LEARNED = 0.5, 2.0  # seconds
SAME_AGE = 0.1  # ages that differ by a smaller share are the same
SAME_MOMENT = 0.1  # seconds; connections closed within them were closed together
CRASH = 2.0  # seconds before and after a crash in which closings show nothing: a refusal takes a round trip
SEEN_FOR = 600.0  # seconds for which a moment is compared with later ones
RAISE_EVERY, RAISE = 60.0, 1.1  # seconds, and the factor: from 4 s to 5 in three minutes, to 90 in half an hour


class IdleLimit:
    """`seconds` is the limit. `heed` says whether a server's Keep-Alive counts, `learn` whether its closings do."""

    __slots__ = (
        "_before", "_changed", "_crashed", "_heed", "_high", "_learn", "_low", "_moment", "_most", "_seen", "_seen_at",
        "_shows", "seconds",
    )  # fmt: skip

    def __init__(self, seconds: float, *, heed: bool = True, learn: bool = True) -> None:
        self.seconds = self._most = self._before = seconds
        self._heed, self._learn = heed, learn
        self._changed = self._crashed = self._moment = -inf
        self._low = self._high = 0.0  # the ages of the current moment
        self._shows = False  # the current moment shows a limit, as far as is known
        self._seen, self._seen_at = 0.0, -inf  # the age of the last moment that showed one

    def told(self, seconds: float) -> None:
        """The server has told its limit, which counts more than all that was learned."""
        if self._heed:
            self._learn = False
            self.seconds = min(self._most, max(MIN_TOLD, seconds * MARGIN))

    def closed(self, age: float, now: float) -> None:
        """The server closed a connection that was unused for `age` seconds."""
        if not self._learn:
            return
        if now - self._moment >= SAME_MOMENT:
            if self._shows:
                self._seen, self._seen_at = self._low, self._moment
            self._moment, self._low, self._high, self._before = now, age, age, self.seconds
            self._shows = now - self._crashed > CRASH
        self._low, self._high = min(self._low, age), max(self._high, age)
        if self._high - self._low > SAME_AGE * self._high:
            self._show_nothing()
        if not self._shows or now - self._seen_at > SEEN_FOR:
            return
        if abs(self._low - self._seen) <= SAME_AGE * max(self._low, self._seen):
            self.seconds = min(self.seconds, max(MIN_LEARNED, min(self._low, self._seen) * MARGIN))
            self._changed = now

    def crashed(self, now: float) -> None:
        """A connection was refused, or broke while it was in use."""
        self._crashed = now
        if now - self._moment <= CRASH:
            self._show_nothing()

    def outlived(self, now: float) -> None:
        """A connection reached the limit, and the server had not closed it."""
        if self._learn and self.seconds < self._most and now - self._changed >= RAISE_EVERY:
            self.seconds = min(self._most, self.seconds * RAISE)
            self._changed = now

    def _show_nothing(self) -> None:
        if self._shows:
            self._shows = False
            self.seconds = self._before
