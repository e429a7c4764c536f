"""Cooldown: how long an endpoint is not asked after it reported that it is busy or that it rejects our calls.

busy, with a time        for that time, at most MAX_RETRY_AFTER, but a quota's whole time; not even as the last resort
busy, without a time     1, 2, 4 … 16 seconds, until the endpoint serves again
denied, misconfigured    OPERATOR_WAIT: the operator must correct it
"""

from __future__ import annotations

from math import inf

from router.core.verdict import Cause

# Seconds after a BUSY without a time, then 2, 4, 8, 16, 16 …, until the endpoint serves again.
FIRST_BACKOFF = 1.0
MAX_BACKOFF = 16.0  # seconds: an endpoint that is back after a minute is asked soon
MAX_RETRY_AFTER = 60.0  # seconds that a server's Retry-After is believed for, except a quota's; then it is asked again
OPERATOR_WAIT = 300.0  # seconds between two tries while the operator must correct a key, a bill or a name
RECENTLY = 60.0  # seconds: an endpoint that served a call within them knows our model and path


class Cooldown:
    """The cooldown of one endpoint; `until` and `quiet_until` are times.

    Before `until` the endpoint is asked only as the last resort, before `quiet_until` not even then.
    """

    __slots__ = ("_backoff", "_since", "cause", "quiet_until", "served_at", "until")

    def __init__(self) -> None:
        self.until = self.quiet_until = 0.0
        self.cause: Cause | None = None  # of the last cooldown
        self.served_at = -inf  # when a call was last served
        self._since = 0.0  # when the last cooldown began
        self._backoff = 0.0  # seconds of the last cooldown without a time; 0 since a call was served

    def busy(self, now: float, retry_after: float | None, cause: Cause | None = None) -> None:
        """Begin a cooldown after a BUSY; `retry_after` is how many seconds the endpoint asked for, if any."""
        if retry_after is None:
            if now >= self.until:  # else it is the same news, from an attempt that ran at the same time
                self._backoff = min(2.0 * self._backoff, MAX_BACKOFF) or FIRST_BACKOFF
            self._begin(now, self._backoff, cause)
        else:
            wait = min(retry_after, inf if cause is Cause.QUOTA else MAX_RETRY_AFTER)
            self._begin(now, wait, cause)
            self.quiet_until = max(self.quiet_until, now + wait)

    def refused(self, cause: Cause, now: float) -> None:
        """Begin a cooldown after a DENIED or MISCONFIGURED.

        After a recent served call a MISCONFIGURED concerns that one call only, and begins none.
        """
        if cause is Cause.DENIED or now >= self.served_at + RECENTLY:
            self._begin(now, OPERATOR_WAIT, cause)

    def served(self, began: float, now: float) -> None:
        """Note a served call; end the cooldown if the call began after it: the endpoint, asked anyway, is not busy."""
        self.served_at, self._backoff = now, 0.0
        if self.until > now and began >= self._since:
            self.until = self.quiet_until = now

    def _begin(self, now: float, wait: float, cause: Cause | None) -> None:
        self.until = max(self.until, now + wait)
        self._since, self.cause = now, cause
