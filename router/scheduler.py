"""The router's time: a clock, and callbacks at times of that clock. Tests replace it by a clock that jumps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

SLACK = 0.001  # seconds: a loop's timers count whole milliseconds, and may fire half of one early
COMPACT = 1024  # cancelled alarms are removed if they are more than this, and more than half of all


class Handle(Protocol):
    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """A monotonic clock. `now` is in seconds; `call_at` never calls back before `when`, nor before it has returned.

    `speed` seconds of this clock pass in one second of the machine's clock, by which asyncio sleeps.
    """

    @property
    def speed(self) -> float: ...
    def now(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> Handle: ...


class LoopScheduler:
    """The scheduler in production: the monotonic clock, finer than the loop's, and one loop timer for all alarms.

    Almost every alarm is cancelled (a hedge that was not needed, a stall that did not happen), and a timer of the loop
    costs more to set and to cancel than the rest of a race's bookkeeping. With a `speed` other than 1, clock and alarms
    run faster or slower than the machine's time, for the endpoints of a load test, which do so too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, speed: float = 1.0) -> None:
        self._loop, self.speed = loop, speed
        self.now: Callable[[], float] = time.monotonic if speed == 1.0 else lambda: speed * time.monotonic()
        self._heap: list[tuple[float, int, _Alarm]] = []
        self._numbers = count()  # alarms for the same time fire in the order in which they were set
        self._fire_at = inf
        self._handle: asyncio.TimerHandle | None = None
        self.cancelled = 0

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        alarm = _Alarm(self, callback)
        heappush(self._heap, (when, next(self._numbers), alarm))
        if when < self._fire_at:
            self._set(when)
        return alarm

    def _set(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._fire_at = when
        left = (when - self.now()) / self.speed
        self._handle = self._loop.call_later(left + SLACK if left > 0.0 else 0.0, self._fire)

    def _fire(self) -> None:
        self._fire_at, self._handle = -inf, None  # alarms set by the callbacks are handled below
        heap, now = self._heap, self.now()
        try:
            while heap and heap[0][0] <= now:
                alarm = heappop(heap)[2]
                if alarm.callback is None:
                    self.cancelled -= 1
                else:
                    callback, alarm.callback = alarm.callback, None
                    callback()
        finally:
            self._fire_at = inf
            # Drop cancelled alarms, which most are, so that the timer is set for one that is still wanted.
            while heap and heap[0][2].callback is None:
                heappop(heap)
                self.cancelled -= 1
            if heap:
                self._set(heap[0][0])

    def compact(self) -> None:
        """Remove the cancelled alarms if they are more than half of all."""
        if self.cancelled * 2 > len(self._heap):
            self._heap[:] = [entry for entry in self._heap if entry[2].callback is not None]
            heapify(self._heap)
            self.cancelled = 0


class _Alarm:
    """A pending callback; `callback` is None once the alarm has fired or was cancelled."""

    __slots__ = ("_scheduler", "callback")

    def __init__(self, scheduler: LoopScheduler, callback: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            scheduler = self._scheduler
            scheduler.cancelled += 1
            if scheduler.cancelled > COMPACT:
                scheduler.compact()


class Timer:
    """One alarm that is set again and again.

    The callback may come earlier than requested, and has to look at the clock. So moving the time later, by far the
    most frequent change, costs nothing.
    """

    __slots__ = ("_callback", "_handle", "_scheduler", "_when")

    def __init__(self, scheduler: Scheduler, callback: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._callback: Callable[[], None] | None = callback
        self._handle: Handle | None = None
        self._when = inf

    def at(self, when: float) -> None:
        """Call back at `when`, or earlier."""
        if when >= self._when or self._callback is None:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._when = when
        self._handle = self._scheduler.call_at(when, self._fire)

    def close(self) -> None:
        """Stop, and drop the reference to the owner, which would otherwise be a cycle for the garbage collector."""
        self._callback = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle, self._when = None, inf
        if self._callback is not None:
            self._callback()
