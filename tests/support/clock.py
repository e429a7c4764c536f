"""A scheduler whose clock jumps to the next callback that is due."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from math import inf

MAX_AT_ONCE = 10_000  # callbacks at one instant; more mean an endless loop


class Alarm:
    """A callback and its time; the callback is None once it has run or was cancelled."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualScheduler:
    """A `router.scheduler.Scheduler` in virtual time; callbacks for the same time run in the order they were added."""

    speed = 1.0

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._due: list[tuple[float, int, Alarm]] = []
        self._order = count()

    def __repr__(self) -> str:
        return f"<VirtualScheduler at {self._now}, {len(self.pending)} pending>"

    def now(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Alarm:
        assert when < inf, "an alarm that would never ring"
        alarm = Alarm(max(when, self._now), callback)
        heapq.heappush(self._due, (alarm.when, next(self._order), alarm))
        return alarm

    @property
    def pending(self) -> list[Alarm]:
        return [alarm for _, _, alarm in self._due if alarm.callback is not None]

    def run_until(self, when: float) -> None:
        """Run all callbacks that are due up to and including `when`, and stop the clock there."""
        self._run(when)
        self._now = max(self._now, when)

    def run(self, at_most: float = 3600.0) -> None:
        """Run until nothing is due any more, which must happen within `at_most` seconds."""
        self._run(self._now + at_most)
        assert not self.pending, f"still pending after {at_most:g} s: {[alarm.callback for alarm in self.pending]}"

    def _run(self, until: float) -> None:
        at_once = 0
        while self._due and self._due[0][0] <= until:
            when, _, alarm = heapq.heappop(self._due)
            callback, alarm.callback = alarm.callback, None
            if callback is None:
                continue
            at_once = at_once + 1 if when == self._now else 0
            assert at_once < MAX_AT_ONCE, f"time stands still at {when}, with {callback}"
            self._now = when
            callback()
