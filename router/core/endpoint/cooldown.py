"""How long an endpoint is left alone that said that it is busy, or that it will have nothing of ours.

busy, with a time        for so long, at most MAX_BUSY_WAIT, but until a quota's own time; not even as the last one
busy, without            1, 2, 4 … 16 seconds, until it serves again
denied, misconfigured    OURS_WAIT: a person must put that right
"""

from __future__ import annotations

from math import inf

from router.core.verdict import Cause

BUSY_WAIT = 1.0  # seconds out after a BUSY that names no time, then 2, 4, 8, 16, 16 …, until it serves again
LONGEST_BUSY_WAIT = 16.0  # so an endpoint that is back after a minute is asked soon
MAX_BUSY_WAIT = 60.0  # a server's word is taken for that long, then it is asked again; but for a quota's
OURS_WAIT = 300.0  # seconds between two tries where a person must put right a key, a bill or a name
LATELY = 60.0  # seconds: one that served a call since then knows our model and path


class Cooldown:
    """`until` it is asked only where nobody else is left, `quiet_until` not even then; both are times."""

    __slots__ = ("_busy_wait", "_since", "because", "quiet_until", "served_at", "until")

    def __init__(self) -> None:
        self.until = self.quiet_until = 0.0
        self.because: Cause | None = None
        self.served_at = -inf  # when traffic last showed it alive
        self._since = 0.0  # it last said so then
        self._busy_wait = 0.0  # how long it was left alone for last, where it named no time; nothing since it served

    def busy(self, now: float, retry_after: float | None, cause: Cause | None = None) -> None:
        """It said that it has no room, and perhaps for how long."""
        if retry_after is None:
            if now >= self.until:  # those that were asked together were told one thing
                self._busy_wait = min(2.0 * self._busy_wait, LONGEST_BUSY_WAIT) or BUSY_WAIT
            self._begin(now, self._busy_wait, cause)
        else:
            wait = min(retry_after, inf if cause is Cause.QUOTA else MAX_BUSY_WAIT)
            self._begin(now, wait, cause)
            self.quiet_until = max(self.quiet_until, now + wait)

    def refused(self, cause: Cause, now: float) -> None:
        """It will have nothing of ours, whatever is asked; where it served a call just now, of this one only."""
        if cause is Cause.DENIED or now >= self.served_at + LATELY:
            self._begin(now, OURS_WAIT, cause)

    def served(self, began: float, now: float) -> None:
        """A call that began then was served. If it was asked all the same, as the last one, it is no longer busy."""
        self.served_at, self._busy_wait = now, 0.0
        if self.until > now and began >= self._since:
            self.until = self.quiet_until = now

    def _begin(self, now: float, wait: float, cause: Cause | None) -> None:
        self.until = max(self.until, now + wait)
        self._since, self.because = now, cause
