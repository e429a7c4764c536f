"""Time, as everything here takes it: a clock, and a call at a time of that clock. Tests bring one that jumps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

SLACK = 0.001  # seconds: a loop's timers count whole milliseconds, and may ring half of one early
COMPACT = 1024  # cancelled alarms are swept out when there are more than this, and more than half of all


class Handle(Protocol):
    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """`now` in seconds, monotonic; `call_at` never calls before its time, nor before it returns. `speed` of its seconds
    pass in one of the machine's, in which asyncio sleeps.
    """

    @property
    def speed(self) -> float: ...
    def now(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> Handle: ...


class LoopScheduler:
    """The real one: the monotonic clock, which is finer than the loop's, and all alarms on one timer of the loop.

    Almost every alarm is cancelled (a hedge that was not needed, a stall that did not happen), and a timer of the loop
    costs more to make and to cancel than the rest of a race's bookkeeping. At another `speed` than 1 both are faster
    or slower than the machine's time, for endpoints that are so too: those of a load test.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, speed: float = 1.0) -> None:
        self._loop, self.speed = loop, speed
        self.now: Callable[[], float] = time.monotonic if speed == 1.0 else lambda: speed * time.monotonic()
        self._heap: list[tuple[float, int, _Alarm]] = []
        self._numbers = count()  # alarms of one time ring in the order they were set
        self._ring_at = inf
        self._handle: asyncio.TimerHandle | None = None
        self.cancelled = 0

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        alarm = _Alarm(self, callback)
        heappush(self._heap, (when, next(self._numbers), alarm))
        if when < self._ring_at:
            self._set(when)
        return alarm

    def _set(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._ring_at = when
        left = (when - self.now()) / self.speed
        self._handle = self._loop.call_later(left + SLACK if left > 0.0 else 0.0, self._ring)

    def _ring(self) -> None:
        self._ring_at, self._handle = -inf, None  # what is set meanwhile is looked at below
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
            self._ring_at = inf
            while heap and heap[0][2].callback is None:  # most: so the next ring is for one that is still wanted
                heappop(heap)
                self.cancelled -= 1
            if heap:
                self._set(heap[0][0])

    def compact(self) -> None:
        """Sweep the cancelled out, where they are most."""
        if self.cancelled * 2 > len(self._heap):
            self._heap[:] = [entry for entry in self._heap if entry[2].callback is not None]
            heapify(self._heap)
            self.cancelled = 0


class _Alarm:
    """One call to come; without a callback when it has come or was cancelled."""

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

    An earlier ring than asked for is allowed: whoever is rung looks at the clock. So an alarm that moves away costs
    nothing, which is what almost all of them do.
    """

    __slots__ = ("_callback", "_handle", "_scheduler", "_when")

    def __init__(self, scheduler: Scheduler, callback: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._callback: Callable[[], None] | None = callback
        self._handle: Handle | None = None
        self._when = inf

    def at(self, when: float) -> None:
        """Ring at `when`, or earlier."""
        if when >= self._when or self._callback is None:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._when = when
        self._handle = self._scheduler.call_at(when, self._ring)

    def close(self) -> None:
        """Ring no more. It also lets go of its owner, which else would be a cycle for the collector to find."""
        self._callback = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle, self._when = None, inf
        if self._callback is not None:
            self._callback()
