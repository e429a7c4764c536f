"""How the router stops: not ready at once, no more calls after a notice, and at its limit an honest end for the rest.

    begin ─► NOTICE ────────────► LAST CALLS ───────────────► over, end
             calls are served     new ones are refused        those still open are told so,
             as before            (503, come back), what      in the stream where one has begun
                                  is idle is closed

Each answer from `begin` on closes its connection, and /readyz says that we stop, which only a listener that is open can
say: so it stays open to the end. The notice is for who asks /readyz, and for nobody else. A second `begin` ends at
once.
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
    """`limit` and `notice` are in seconds from the first `begin`; `watched` says whether anyone asks /readyz."""

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
        """A signal to stop; the second one, to do it now."""
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
        """Whether to end now; to be asked every moment."""
        now = self._now()
        self._move_on(now)
        return now >= self._end_at or (self._handler.refusing and not self._handler.calls)

    def end(self) -> None:
        """Nothing more is answered but with an error."""
        self._handler.refuse_all()
        told = Stopping("The router stopped before the answer was complete.", retry_after=COME_BACK)
        log.info("stopped: %d calls were ended", self._handler.end_all(told))

    def _move_on(self, now: float) -> None:
        if now >= self._refuse_at and not self._handler.refusing:
            self._handler.refuse_all()
