"""Calls that wait for a slot, first come first served.

    want ──► IN LINE ──call_up──► CALLED ──look──► it takes the slot: leave
               ▲                                   it can't use it:   want, and the next is called
               └───────────────────────────────────────────┘

A call has one place, in the lines of all endpoints whose slots it waits for. A slot that becomes free is counted as
used until the one who is called has looked: so nobody who came later, no hedge and no retry takes it.

A place is left exactly once, on every path, and hands on what was kept for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

SMOOTH = 0.2  # of what was measured, the newest; some five of them count


class Slots(Protocol):
    used: int

    @property
    def line(self) -> WaitingQueue: ...


class Endpoint(Protocol):
    """What is waited for; its own limit may be lower than that of the slots which it shares."""

    in_flight: int

    @property
    def slots(self) -> Slots: ...
    @property
    def full(self) -> bool: ...


class QueueLimit:
    """All calls of one model that wait: at most `most`, each for at most `longest` seconds."""

    __slots__ = ("longest", "most", "waiting")

    def __init__(self, most: int = 0, longest: float = 0.0) -> None:
        self.most, self.longest, self.waiting = most, longest, 0


class WaitingQueue:
    """At the slots of one configured endpoint; `pace` are seconds from one call to the next, where that is known."""

    __slots__ = ("_called_at", "pace", "places")

    def __init__(self) -> None:
        self.places: dict[QueueEntry, None] = {}
        self.pace: float | None = None
        self._called_at: float | None = None  # the last time, if somebody was in line since

    def call_up(self, now: float) -> bool:
        """Something may be free: keep it for the first who can use it, and wake him. False where there is none."""
        for place in self.places:
            if place.offer(self):
                if self._called_at is not None:
                    took = now - self._called_at
                    self.pace = took if self.pace is None else self.pace + SMOOTH * (took - self.pace)
                self._called_at = now
                return True
        return False

    def join(self, place: QueueEntry) -> None:
        self.places.setdefault(place)

    def leave(self, place: QueueEntry) -> None:
        self.places.pop(place, None)
        if not self.places:
            self._called_at = None

    def wake_all(self) -> None:
        """The endpoint has become another one: let everybody look what he waits for now."""
        for place in tuple(self.places):
            place.wake()


class QueueEntry:
    """One call's; `wake` is called when there is something to look at, and must not look before it returns."""

    __slots__ = ("_kept", "_lines", "_looked_at", "_queue", "_wanted", "joined", "wake")

    def __init__(self, queue: QueueLimit, wake: Callable[[], None], now: float) -> None:
        self._queue: QueueLimit | None = queue
        self.wake, self.joined = wake, now
        self._wanted: Collection[Endpoint] = ()
        self._lines: list[WaitingQueue] = []
        self._kept: tuple[Endpoint, Slots] | None = None
        self._looked_at: tuple[Endpoint, WaitingQueue] | None = None
        queue.waiting += 1

    def want(self, endpoints: Collection[Endpoint], now: float) -> None:
        """Be in line for these, all of them full, and for no others; where it was before it keeps its turn."""
        lines = list(dict.fromkeys(endpoint.slots.line for endpoint in endpoints))
        for line in self._lines:
            if line not in lines:
                line.leave(self)
        for line in lines:
            line.join(self)
        self._wanted, self._lines = endpoints, lines
        self._hand_on(now)

    def offer(self, line: WaitingQueue) -> bool:
        """Keep a slot of this line's for it; False where it can use none, or has one."""
        if self._kept is None:
            for endpoint in self._wanted:
                slots = endpoint.slots
                if slots.line is line and not endpoint.full:
                    endpoint.in_flight += 1
                    slots.used += 1
                    self._kept = endpoint, slots
                    self.wake()
                    return True
        return False

    def look(self) -> None:
        """From now on, until `want` or `leave`, what is kept for it is free, so that it can be taken."""
        if self._kept is not None:
            (endpoint, slots), self._kept = self._kept, None
            endpoint.in_flight -= 1
            slots.used -= 1
            self._looked_at = endpoint, slots.line

    def leave(self, now: float) -> None:
        if self._queue is None:
            return
        self._queue.waiting -= 1
        self._queue = None
        self.look()
        for line in self._lines:
            line.leave(self)
        self._hand_on(now)

    def _hand_on(self, now: float) -> None:
        """What it looked at and did not take is for the next."""
        if self._looked_at is not None:
            (endpoint, line), self._looked_at = self._looked_at, None
            if not endpoint.full:
                line.call_up(now)


def expected(endpoints: Collection[Endpoint]) -> float:
    """Seconds until all are called who are in line there; 0 where the pace of one of these lines is not known."""
    lines = {endpoint.slots.line for endpoint in endpoints}
    if not all(line.pace for line in lines):
        return 0.0
    return max(len(line.places) for line in lines) / sum(1.0 / line.pace for line in lines if line.pace)
