"""Bounds how many probes are at work at once, and tells a late loop from a late server.

A thousand probes that begin in one turn of the loop would keep it so busy that none is answered in time: each opens a
connection, which takes several turns. A probe that has waited for HOLD seconds gives its place to the next one, because
it only waits for its server: some dead servers must not hold up the probes of the others.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from router.turns import Watch

PLACES = 32  # probes at work at once: some 10 ms of processor time
HOLD = 0.25  # seconds; a thousand servers of which none answers are asked within 1000 / 32 * 0.25 = 8 s
# Share of a probe's timeout by which the loop may be late before the timeout counts as the router's own.
MAX_LATENESS = 0.2


class Lateness(Protocol):
    """A `Watch`, as far as it is used here."""

    behind: float

    def wake(self) -> None: ...


class Place:
    """A place at the gate, left once: by `leave`, or after HOLD seconds."""

    __slots__ = ("_free", "_timer")

    def __init__(self, free: asyncio.Semaphore, hold: float) -> None:
        self._free: asyncio.Semaphore | None = free
        self._timer = asyncio.get_running_loop().call_later(hold, self.leave)

    def leave(self) -> None:
        if self._free is not None:
            self._free.release()
            self._free = None
            self._timer.cancel()


class Gate:
    """The gate of all probes of a process. `watch` measures the loop; without a loop of its own it measures nothing."""

    def __init__(self, watch: Lateness | None = None, speed: float = 1.0) -> None:
        self._watch: Lateness = watch or Watch(None)
        self._free, self._hold = asyncio.Semaphore(PLACES), HOLD / speed

    async def enter(self) -> Place:
        """Wait for a place; first come, first served."""
        await self._free.acquire()
        self._watch.wake()
        return Place(self._free, self._hold)

    @property
    def behind(self) -> float:
        """Seconds by which the loop was late, in total, as far as it was measured."""
        return self._watch.behind

    def excuses(self, behind: float, took: float, timeout: float) -> bool:
        """True if a timeout says nothing about the server, because the loop was late for much of the time.

        `behind` is the value of `behind` when the probe began, `took` the seconds until its timer has fired.
        """
        return self._watch.behind - behind + max(0.0, took - timeout) > MAX_LATENESS * timeout
