"""How long an endpoint is left alone that said that it is busy, or that it will have nothing of ours.

busy, with a time        for so long, at most MAX_RETRY_AFTER, but until a quota's own time; not even as the last one
busy, without            1, 2, 4 … 16 seconds, until it serves again
denied, misconfigured    OPERATOR_WAIT: a person must put that right
"""

from __future__ import annotations

from math import inf

from router.core.verdict import Cause

FIRST_BACKOFF = 1.0  # seconds out after a BUSY that names no time, then 2, 4, 8, 16, 16 …, until it serves again
MAX_BACKOFF = 16.0  # so an endpoint that is back after a minute is asked soon
MAX_RETRY_AFTER = 60.0  # a server's word is taken for that long, then it is asked again; but for a quota's
OPERATOR_WAIT = 300.0  # seconds between two tries where a person must put right a key, a bill or a name
RECENTLY = 60.0  # seconds: one that served a call since then knows our model and path


class Cooldown:
    """`until` it is asked only where nobody else is left, `quiet_until` not even then; both are times."""

    __slots__ = ("_backoff", "_since", "cause", "quiet_until", "served_at", "until")

    def __init__(self) -> None:
        self.until = self.quiet_until = 0.0
        self.cause: Cause | None = None
        self.served_at = -inf  # when traffic last showed it alive
        self._since = 0.0  # it last said so then
        self._backoff = 0.0  # how long it was left alone for last, where it named no time; nothing since it served

    def busy(self, now: float, retry_after: float | None, cause: Cause | None = None) -> None:
        """It said that it has no room, and perhaps for how long."""
        if retry_after is None:
            if now >= self.until:  # those that were asked together were told one thing
                self._backoff = min(2.0 * self._backoff, MAX_BACKOFF) or FIRST_BACKOFF
            self._begin(now, self._backoff, cause)
        else:
            wait = min(retry_after, inf if cause is Cause.QUOTA else MAX_RETRY_AFTER)
            self._begin(now, wait, cause)
            self.quiet_until = max(self.quiet_until, now + wait)

    def refused(self, cause: Cause, now: float) -> None:
        """It will have nothing of ours, whatever is asked; where it served a call just now, of this one only."""
        if cause is Cause.DENIED or now >= self.served_at + RECENTLY:
            self._begin(now, OPERATOR_WAIT, cause)

    def served(self, began: float, now: float) -> None:
        """A call that began then was served. If it was asked all the same, as the last one, it is no longer busy."""
        self.served_at, self._backoff = now, 0.0
        if self.until > now and began >= self._since:
            self.until = self.quiet_until = now

    def _begin(self, now: float, wait: float, cause: Cause | None) -> None:
        self.until = max(self.until, now + wait)
        self._since, self.cause = now, cause
