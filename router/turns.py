"""Shares the turns of the event loop among its connections, and measures the longest turn.

A turn is one round of the loop: its timers, and all sockets that have something to read. Every connection waits for the
whole of it. uvloop reads a socket up to 32 times a turn, so one peer that sends quickly could hold all others up.

    the first small reads       are handled at once
    further ones                are handled in slices, until the turn's share of time is used up; the rest is
                                kept, and its connection is not read further until its turn has come
    connections not read yet    are not read in this turn if they may have much to read: a read alone takes 0.1 ms
    connections that end        have their calls ended within the share too: a thousand may leave at once

The share is what the last turn's other work (timers, new connections to endpoints) has left of TURN. A small read goes
before the slices of large ones, one by one, so that a request need not wait for every flood (as new flows do in
fq_codel, RFC 8290 §4.2).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from math import inf
from typing import Protocol, TypeVar

SLICE = 8 << 10  # bytes of one connection that are handled at a time; a read of more is cut
REQUEST = 1 << 10  # bytes as which the reading of a request counts beside its own: it takes as long, some 0.2 ms
FREE = 64 << 10  # bytes of small reads that are handled before the clock is looked at
SMALL = 8 << 10  # bytes up to which a read is taken for a request, and not for a part of a flood
TURN = 0.004  # seconds that a turn should take
SHARE, LEAST_SHARE = 0.0012, 0.0005  # seconds of it for what is kept
# Seconds more per turn for small reads: to keep one costs as much as to handle it. With less a router at its limit has
# many short turns, and looks at all sockets in each of them.
SMALL_SHARE = 0.006
RESUMED = 10  # connections per turn that are read again: up to 256 KB each, in 0.1 ms
PERIOD = 0.002  # seconds between two looks at the clock of the loop's thread, while there is work
IDLE = 0.0001  # seconds of processor time in a period below which the loop counts as idle
# Idle periods after which nothing is measured until there is work again: each of them wakes the process, which costs
# some 20 us, and the next read wakes the watch for less.
IDLE_PERIODS = 2
WINDOW = 60.0  # seconds for which the longest turn is remembered, or until it is reported

_NOTHING = memoryview(b"")
_Made = TypeVar("_Made")


class Reader(Protocol):
    """A connection as `Turns` knows it."""

    def read(self, data: bytes) -> None:
        """Handle some bytes."""

    def hold(self, *, much: bool) -> None:
        """If much waits to be handled, or may: read nothing from the socket until `go_on`. Else to pause would cost
        more than to keep what comes.
        """

    def go_on(self) -> None: ...


class Turns:
    """One object for all connections of a loop.

    A connection adds the size of each read to `read`. If that is more than FREE, or the read is not SMALL, it asks
    `defer` whether the data is kept; in the usual case the addition and two comparisons are the whole cost.
    """

    __slots__ = (
        "_busy",
        "_ending",
        "_kept",
        "_loop",
        "_new",
        "_own",
        "_scheduled",
        "_shared",
        "_turned",
        "_until",
        "read",
        "watch",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Without a loop nothing is kept and nothing is measured."""
        self._loop = loop
        # What is kept, in the order in which it is handled: small reads, and all others.
        self._new: dict[Reader, memoryview] = {}
        self._kept: dict[Reader, memoryview] = {}
        self._busy: dict[Reader, None] = {}  # connections that may have much to read
        self._ending: deque[Callable[[], None]] = deque()
        self._scheduled = False
        # Times of `perf_counter`: to read the clock of the thread takes ten times as long.
        self._until = inf  # when this turn's share is used up; inf before it has begun
        self._turned = inf  # when the last turn began; inf if nothing was kept in it
        self._own = 0.0  # seconds that the last turn took for what was kept
        self._shared = 0.0  # when the last turn ended the work on what was kept, and nothing was left
        self.watch = Watch(loop, self._rest)
        self.read = FREE

    def opened(self, reader: Reader) -> None:
        """Expect that a new connection sends much."""
        if self._loop is not None:
            self._busy[reader] = None

    def defer(self, reader: Reader, data: bytes) -> bool:
        """True if the data was handled here, or is kept to be handed to `reader.read` in later turns."""
        if self._loop is None:
            return False
        if self.watch.asleep:
            self.watch.wake()
            self.read = len(data)
        for kept in (self._new, self._kept):
            if reader in kept:
                kept[reader] = memoryview(bytes(kept[reader]) + data)
                reader.hold(much=len(kept[reader]) > SMALL)
                return True
        if len(data) > SMALL:
            self._busy[reader] = None
        else:
            self._busy.pop(reader, None)
        if self.read <= FREE and len(data) <= SMALL:
            return False
        self._begin_share()
        until = self._until + SMALL_SHARE if len(data) <= SMALL else self._until
        if len(data) <= SLICE and time.perf_counter() < until:
            return False
        self._hand_on(reader, memoryview(data))
        return True

    def at_end(self, end: Callable[[], None]) -> None:
        """Call `end`, for a connection that is closed: now, or in a later turn if this one's share is used up."""
        if self._loop is None:
            end()
            return
        self._begin_share()
        if not self._ending and time.perf_counter() < self._until:
            end()
        else:
            self._ending.append(end)

    def drop(self, reader: Reader) -> memoryview:
        """Forget a connection, which is closed; return what was kept of it."""
        self._busy.pop(reader, None)
        return self._new.pop(reader, _NOTHING) or self._kept.pop(reader, _NOTHING)

    def _begin_share(self) -> None:
        if self._until == inf:
            now = time.perf_counter()
            # Connections that a turn resumes are read in the same turn, which has used up its share then.
            self._until = now + (SHARE if now - self._shared > TURN else LEAST_SHARE)
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _hand_on(self, reader: Reader, data: memoryview) -> None:
        """Hand on slices until the turn's share is used up, and keep the rest."""
        queue = self._new if len(data) <= SMALL else self._kept
        while data and time.perf_counter() < self._until:
            piece, data = data[:SLICE], data[SLICE:]
            reader.read(bytes(piece))
        if data:
            queue[reader] = data
            self.read = FREE  # what comes of this connection now comes to `defer`, and is kept behind it
            reader.hold(much=len(data) > SMALL)
            self._hold_others()

    def _hold_others(self) -> None:
        """The share is used up: read nothing more in this turn from connections that may have much to read."""
        busy, self._busy = self._busy, {}
        for reader in busy:
            if reader not in self._kept and reader not in self._new:
                self._kept[reader] = _NOTHING
                reader.hold(much=True)

    def _turn(self) -> None:
        """Begin a turn: end calls, and hand on what earlier turns have left, a slice of each connection in turn."""
        began = time.perf_counter()
        others = began - self._turned - self._own
        self._turned = began
        self._scheduled = False
        self._until = began + min(SHARE, max(LEAST_SHARE, TURN - others))
        try:
            self._use_share()
        finally:
            self._shared = time.perf_counter()
            self._own = self._shared - began
            if self._kept or self._new or self._ending:
                self._begin_share()
                self.read = FREE
            else:
                self._until = self._turned = inf
                self.read = FREE if self.watch.asleep else 0

    def _use_share(self) -> None:
        kept, new, ending, resumed = self._kept, self._new, self._ending, 0
        while (kept or new or ending) and resumed < RESUMED:
            if ending:
                ending.popleft()()
            if new and time.perf_counter() < self._until + SMALL_SHARE:
                self._hand_slice(new)  # its socket is not paused, so that it does not count as resumed
            now = time.perf_counter()
            if kept and now < self._until:
                resumed += self._hand_slice(kept)
            elif now >= self._until:
                self._hold_others()
                if not new or now >= self._until + SMALL_SHARE:
                    return

    def _hand_slice(self, queue: dict[Reader, memoryview]) -> bool:
        """Hand a slice to the connection whose turn it is; True if it is read again."""
        reader = next(iter(queue))
        data = queue.pop(reader)
        if len(data) > SLICE:
            self._kept[reader] = data[SLICE:]
        if data:
            reader.read(bytes(data[:SLICE]))
        if reader in self._kept:
            return False
        if data and queue is self._kept:
            self._busy[reader] = None
        reader.go_on()
        return True

    def _rest(self) -> None:
        self.read = FREE  # so that the next read comes to `defer`, which wakes the watch


class Watch:
    """Measures the longest turn in processor time of the loop's thread, by a timer that runs only while there is work.

        asleep ──wake──► awake: a look every PERIOD ──IDLE_PERIODS idle ones──► asleep

    A look can come no earlier than after the turn in which it was due. So the processor time since the last look is
    that of the longest turn between the two, and of at most PERIOD of others.

    `behind` is the sum of the seconds by which looks came late, by more than PERIOD: while the loop was busy, or the
    process was not running.
    """

    __slots__ = (
        "_due",
        "_idle",
        "_last_window",
        "_loop",
        "_mark",
        "_on_rest",
        "_unreported",
        "_window",
        "_window_began",
        "asleep",
        "behind",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop | None, on_rest: Callable[[], None] = lambda: None) -> None:
        self._loop, self._on_rest = loop, on_rest
        self._mark, self._idle = 0.0, 0
        self._due = self.behind = 0.0
        self._unreported = self._window = self._last_window = 0.0
        self._window_began = time.monotonic()
        self.asleep = True

    def wake(self) -> None:
        """Begin to measure, if nothing is measured at the moment."""
        if self.asleep and self._loop is not None:
            self.asleep, self._idle, self._mark = False, 0, time.thread_time()
            self._set()

    def longest(self) -> float:
        """Seconds of the longest turn since the last report or in the last minute, whichever is longer."""
        self._turn_over()
        longest = max(self._unreported, self._window, self._last_window)
        self._unreported = 0.0
        return longest

    def _look(self) -> None:
        now = time.thread_time()
        used, self._mark = now - self._mark, now
        if (late := time.monotonic() - self._due) > PERIOD:
            self.behind += late
        self._turn_over()
        self._window = max(self._window, used)
        self._unreported = max(self._unreported, used)
        self._idle = self._idle + 1 if used < IDLE else 0
        if self._idle < IDLE_PERIODS and self._loop is not None:
            self._set()
        else:
            self.asleep = True
            self._on_rest()

    def _set(self) -> None:
        assert self._loop is not None
        self._due = time.monotonic() + PERIOD
        self._loop.call_later(PERIOD, self._look)

    def _turn_over(self) -> None:
        """Begin a new window if the current one is over."""
        passed = time.monotonic() - self._window_began
        if passed >= WINDOW:
            self._last_window, self._window = self._window if passed < 2 * WINDOW else 0.0, 0.0
            self._window_began = time.monotonic()


async def made_in_turns(steps: Generator[None, None, _Made]) -> _Made:
    """Run a generator in as many turns as its steps take; return its result."""
    until = time.perf_counter() + SHARE
    while True:
        try:
            next(steps)
        except StopIteration as end:
            made: _Made = end.value
            return made
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SHARE


async def in_turns(parts: Iterable[bytes]) -> bytes:
    """Join parts that are made one by one, in as many turns as that takes."""
    made, until = [], time.perf_counter() + SHARE
    for part in parts:
        made.append(part)
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SHARE
    return b"".join(made)
