"""Scenario time on a running loop: seconds since `epoch`, so many times as fast as the machine's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Before `epoch` is told, and until it has come, it is 0."""

    speed: float
    epoch: float | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def now(self) -> float:
        return 0.0 if self.epoch is None else max(0.0, (self.loop.time() - self.epoch) * self.speed)

    def call_at(self, at: float, do: Callable[[], object]) -> asyncio.TimerHandle:
        if self.epoch is None:
            raise RuntimeError("the run has not begun: there is no scenario time to wait for")
        return self.loop.call_at(self.epoch + at / self.speed, do)
