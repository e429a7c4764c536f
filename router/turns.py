"""Shares the turns of the event loop among its connections, and measures the longest turn.

A turn is one round of the loop: its timers, and all sockets that have something to read. Every connection waits for the
whole of it. uvloop reads a socket up to 32 times a turn, so one peer that sends quickly could hold all others up.

    the first reads of a turn   are handled at once
    further ones                are handled in slices, until the turn's share of processor time is used up; the rest is
                                kept, and its connection is not read further until its turn has come
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import Protocol

SLICE = 8 << 10  # bytes of one connection that are handled at a time; a read of more is cut
SHARE = 0.002  # seconds of processor time per turn, after the first SLICE bytes of it
PERIOD = 0.002  # seconds between two looks at the clock of the loop's thread, while there is work
IDLE = 0.0001  # seconds of processor time in a period below which the loop counts as idle
IDLE_PERIODS = 50  # idle periods after which nothing is measured until there is work again
WINDOW = 60.0  # seconds for which the longest turn is remembered, or until it is reported


class Reader(Protocol):
    """A connection as `Turns` knows it."""

    def read(self, data: bytes) -> None:
        """Handle some bytes."""

    def hold(self) -> None:
        """Read nothing from the socket until `go_on`."""

    def go_on(self) -> None: ...


class Turns:
    """One object for all connections of a loop.

    A connection adds the size of each read to `read`. If that is more than SLICE it asks `defer` whether the data is
    kept; in the usual case the addition and the comparison are the whole cost.
    """

    __slots__ = ("_kept", "_loop", "_scheduled", "_until", "read", "watch")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Without a loop nothing is kept and nothing is measured."""
        self._loop = loop
        self._kept: dict[Reader, memoryview] = {}  # in the order in which they are handled
        self._scheduled = False
        self._until = inf  # of the thread's clock: when this turn's share is used up; inf before it has begun
        self.watch = Watch(loop, self._rest)
        self.read = SLICE

    def defer(self, reader: Reader, data: bytes) -> bool:
        """True if the data was handled here, or is kept to be handed to `reader.read` in later turns."""
        if self._loop is None:
            return False
        if self.watch.asleep:
            self.watch.wake()
            self.read = len(data)
        if reader in self._kept:
            self._kept[reader] = memoryview(bytes(self._kept[reader]) + data)
            return True
        if self.read <= SLICE:
            return False
        self._begin_share()
        if len(data) <= SLICE and time.thread_time() < self._until:
            return False
        self._hand_on(reader, memoryview(data))
        return True

    def drop(self, reader: Reader) -> None:
        """Forget what is kept of a connection, which is closed."""
        self._kept.pop(reader, None)

    def _begin_share(self) -> None:
        if self._until == inf:
            self._until = time.thread_time() + SHARE
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _hand_on(self, reader: Reader, data: memoryview) -> None:
        """Hand on slices until the turn's share is used up, and keep the rest."""
        while data and time.thread_time() < self._until:
            piece, data = data[:SLICE], data[SLICE:]
            reader.read(bytes(piece))
        if data:
            self._kept[reader] = data
            reader.hold()

    def _turn(self) -> None:
        """Begin a turn: hand on what earlier ones have left, a slice of each connection after the other."""
        kept = self._kept
        self._scheduled, self._until = False, inf
        if kept:
            self._begin_share()
        try:
            while kept and time.thread_time() < self._until:
                reader = next(iter(kept))
                data = kept.pop(reader)
                if len(data) > SLICE:
                    kept[reader] = data[SLICE:]
                reader.read(bytes(data[:SLICE]))
                if reader not in kept:
                    reader.go_on()
        finally:
            self.read = SLICE if kept or self.watch.asleep else 0

    def _rest(self) -> None:
        self.read = SLICE  # so that the next read comes to `defer`, which wakes the watch


class Watch:
    """Measures the longest turn in processor time of the loop's thread, by a timer that runs only while there is work.

        asleep ──wake──► awake: a look every PERIOD ──IDLE_PERIODS idle ones──► asleep

    A look can come no earlier than after the turn in which it was due. So the processor time since the last look is
    that of the longest turn between the two, and of at most PERIOD of others.
    """

    __slots__ = (
        "_idle",
        "_last_window",
        "_loop",
        "_mark",
        "_on_rest",
        "_unreported",
        "_window",
        "_window_began",
        "asleep",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop | None, on_rest: Callable[[], None] = lambda: None) -> None:
        self._loop, self._on_rest = loop, on_rest
        self._mark, self._idle = 0.0, 0
        self._unreported = self._window = self._last_window = 0.0
        self._window_began = time.monotonic()
        self.asleep = True

    def wake(self) -> None:
        """Begin to measure, if nothing is measured at the moment."""
        if self.asleep and self._loop is not None:
            self.asleep, self._idle, self._mark = False, 0, time.thread_time()
            self._loop.call_later(PERIOD, self._look)

    def longest(self) -> float:
        """Seconds of the longest turn since the last report or in the last minute, whichever is longer."""
        self._turn_over()
        longest = max(self._unreported, self._window, self._last_window)
        self._unreported = 0.0
        return longest

    def _look(self) -> None:
        now = time.thread_time()
        used, self._mark = now - self._mark, now
        self._turn_over()
        self._window = max(self._window, used)
        self._unreported = max(self._unreported, used)
        self._idle = self._idle + 1 if used < IDLE else 0
        if self._idle < IDLE_PERIODS and self._loop is not None:
            self._loop.call_later(PERIOD, self._look)
        else:
            self.asleep = True
            self._on_rest()

    def _turn_over(self) -> None:
        """Begin a new window if the current one is over."""
        passed = time.monotonic() - self._window_began
        if passed >= WINDOW:
            self._last_window, self._window = self._window if passed < 2 * WINDOW else 0.0, 0.0
            self._window_began = time.monotonic()


async def in_turns(parts: Iterable[bytes]) -> bytes:
    """Join parts that are made one by one, in as many turns as that takes."""
    made, until = [], time.thread_time() + SHARE
    for part in parts:
        made.append(part)
        if time.thread_time() >= until:
            await asyncio.sleep(0)
            until = time.thread_time() + SHARE
    return b"".join(made)
