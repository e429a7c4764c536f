"""Calls that wait for a slot, first come first served.

    want ──► QUEUED ──call_up──► CALLED ──claim──► the call takes the slot: leave
               ▲                                   the call can't use it:   want, and the next entry is called
               └───────────────────────────────────────────┘

A call has one entry, in the queues of all endpoints whose slots it waits for. A slot that becomes free stays reserved
until the called entry has claimed it, so that no later call, hedge or retry takes it.

An entry is left exactly once, on every path, and hands on a slot that was reserved for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

SMOOTHING = 0.2  # weight of the newest interval in the pace: about the last five intervals count


class Slots(Protocol):
    """The slots of one configured endpoint."""

    @property
    def queue(self) -> WaitingQueue: ...


class Availability(Protocol):
    """An endpoint's slots and its learned limit, which may be lower than the slots that it shares."""

    @property
    def slots(self) -> Slots: ...
    @property
    def full(self) -> bool: ...
    def reserve(self) -> Slots: ...
    def release(self, slots: Any, /) -> None:
        """Give a slot back to what `reserve` returned."""


class Endpoint(Protocol):
    """An endpoint that calls wait for."""

    @property
    def availability(self) -> Availability: ...


class QueueLimit:
    """The bound on the queued calls of one model: at most `most` calls, each for at most `longest` seconds."""

    __slots__ = ("longest", "most", "waiting")

    def __init__(self, most: int = 0, longest: float = 0.0) -> None:
        self.most, self.longest, self.waiting = most, longest, 0


class WaitingQueue:
    """The queue at the slots of one configured endpoint; `pace` is the seconds between two calls, None if unknown."""

    __slots__ = ("_called_at", "entries", "pace")

    def __init__(self) -> None:
        self.entries: dict[QueueEntry, None] = {}
        self.pace: float | None = None
        self._called_at: float | None = None  # the last call-up, if the queue has not been empty since

    def call_up(self, now: float) -> bool:
        """Reserve a free slot for the first entry that can use it, and wake that entry. False if there is none."""
        for entry in self.entries:
            if entry.offer(self):
                if self._called_at is not None:
                    took = now - self._called_at
                    self.pace = took if self.pace is None else self.pace + SMOOTHING * (took - self.pace)
                self._called_at = now
                return True
        return False

    def join(self, entry: QueueEntry) -> None:
        """Add an entry at the end; an entry that is in the queue keeps its turn."""
        self.entries.setdefault(entry)

    def leave(self, entry: QueueEntry) -> None:
        """Remove an entry."""
        self.entries.pop(entry, None)
        if not self.entries:
            self._called_at = None

    def wake_all(self) -> None:
        """Wake every entry: the endpoint has been reconfigured, and each call must look for what it waits for."""
        for entry in tuple(self.entries):
            entry.wake()


class QueueEntry:
    """One call's entry. `wake` is called when there is something to look at; it must not look before it returns."""

    __slots__ = ("_claimed", "_limit", "_queues", "_reserved", "_wanted", "joined", "wake")

    def __init__(self, limit: QueueLimit, wake: Callable[[], None], now: float) -> None:
        self._limit: QueueLimit | None = limit
        self.wake, self.joined = wake, now
        self._wanted: Collection[Endpoint] = ()
        self._queues: list[WaitingQueue] = []
        self._reserved: tuple[Availability, Slots] | None = None
        self._claimed: tuple[Availability, WaitingQueue] | None = None
        limit.waiting += 1

    def want(self, endpoints: Collection[Endpoint], now: float) -> None:
        """Wait for these endpoints, all of them full, and for no others; a queue joined before keeps the turn."""
        queues = list(dict.fromkeys(endpoint.availability.slots.queue for endpoint in endpoints))
        for queue in self._queues:
            if queue not in queues:
                queue.leave(self)
        for queue in queues:
            queue.join(self)
        self._wanted, self._queues = endpoints, queues
        self._hand_on(now)

    def offer(self, queue: WaitingQueue) -> bool:
        """Reserve a slot of this queue's; False if the call can use none, or has one."""
        if self._reserved is None:
            for endpoint in self._wanted:
                availability = endpoint.availability
                if availability.slots.queue is queue and not availability.full:
                    self._reserved = availability, availability.reserve()
                    self.wake()
                    return True
        return False

    def claim(self) -> None:
        """Release the reserved slot so that the caller can take it; call `want` or `leave` next."""
        if self._reserved is not None:
            (availability, slots), self._reserved = self._reserved, None
            availability.release(slots)
            self._claimed = availability, slots.queue

    def leave(self, now: float) -> None:
        """Leave all queues. Later calls do nothing."""
        if self._limit is None:
            return
        self._limit.waiting -= 1
        self._limit = None
        self.claim()
        for queue in self._queues:
            queue.leave(self)
        self._hand_on(now)

    def _hand_on(self, now: float) -> None:
        """Offer a claimed slot that was not taken to the next entry."""
        if self._claimed is not None:
            (availability, queue), self._claimed = self._claimed, None
            if not availability.full:
                queue.call_up(now)


def expected_wait(endpoints: Collection[Endpoint]) -> float:
    """Seconds until all entries queued at these endpoints are called; 0 if the pace of one of the queues is unknown."""
    queues = {endpoint.availability.slots.queue for endpoint in endpoints}
    if not all(queue.pace for queue in queues):
        return 0.0
    return max(len(queue.entries) for queue in queues) / sum((1.0 / queue.pace for queue in queues if queue.pace), 0.0)
