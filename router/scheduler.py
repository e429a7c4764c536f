"""Time, as everything here takes it: a clock, and a call at a time of that clock. Tests bring one that jumps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf
from typing import Protocol


class Handle(Protocol):
    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """`now` in seconds, monotonic; `call_at` never calls before its time, nor before it returns."""

    def now(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> Handle: ...


class LoopScheduler:
    """The real one: the monotonic clock, which is finer than the loop's, and the loop's timers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_later = loop.call_later

    now = staticmethod(time.monotonic)

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        return self._call_later(max(0.0, when - time.monotonic()), callback)


class Timer:
    """One alarm that is set again and again. An earlier ring than asked for is allowed: whoever is rung looks at the
    clock.

    So an alarm that moves away costs nothing, which is what almost all of them do.
    """

    __slots__ = ("_callback", "_handle", "_scheduler", "_when")

    def __init__(self, scheduler: Scheduler, callback: Callable[[], None]) -> None:
        self._scheduler, self._callback = scheduler, callback
        self._handle: Handle | None = None
        self._when = inf

    def at(self, when: float) -> None:
        """Ring at `when`, or earlier."""
        if when >= self._when:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._when = when
        self._handle = self._scheduler.call_at(when, self._ring)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._when = None, inf

    def _ring(self) -> None:
        self._handle, self._when = None, inf
        self._callback()
