"""Graceful shutdown: not ready at once, no new calls after a notice, and an error for calls that are open at the limit.

    begin ─► NOTICE ──────────► LAST CALLS ──────────────────► over, end
             calls are served   new calls are refused (503,    open calls get an error, inside
             as before          retry), idle connections       the stream if one has begun
                                are closed

From `begin` on each answer closes its connection, and /readyz answers 503. The listener stays open to the end, so that
load balancers can read that answer. There is a notice only if /readyz was asked recently: without a watcher it would
be in vain. A second `begin` ends at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf

from router.errors import Stopping
from router.proxy.admission import COME_BACK
from router.proxy.handler import Handler

log = logging.getLogger(__name__)


class Drain:
    """`limit` and `notice` are seconds from the first `begin`; `watched` returns True if /readyz was asked recently."""

    def __init__(
        self, handler: Handler, now: Callable[[], float], *, limit: float, notice: float, watched: Callable[[], bool]
    ) -> None:
        self._handler, self._now = handler, now
        self._limit, self._notice, self._watched = limit, notice, watched
        self._refuse_at = self._end_at = inf

    @property
    def begun(self) -> bool:
        return self._handler.stopping

    def begin(self) -> None:
        """Handle a signal to stop. The second one ends the router now."""
        now = self._now()
        if self.begun:
            self._end_at = now
            return
        self._handler.stopping = True
        self._end_at = now + self._limit
        self._refuse_at = now + self._notice if self._watched() else now
        calls = self._handler.calls
        log.info("stopping: %d calls open, up to %g s; a second signal ends them now", calls, self._limit)
        self._move_on(now)

    def over(self) -> bool:
        """True if the router is to end now. The server asks several times a second."""
        now = self._now()
        self._move_on(now)
        return now >= self._end_at or (self._handler.refusing and not self._handler.calls)

    def end(self) -> None:
        """End all open calls with an error, and refuse new ones."""
        self._handler.refuse_all()
        error = Stopping("The router stopped before the answer was complete.", retry_after=COME_BACK)
        log.info("stopped: %d calls were ended", self._handler.end_all(error))

    def _move_on(self, now: float) -> None:
        if now >= self._refuse_at and not self._handler.refusing:
            self._handler.refuse_all()
