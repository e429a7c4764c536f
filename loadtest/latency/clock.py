"""Scenario time on a running event loop: seconds since `epoch`, times the speed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Clock:
    """The clock of a scenario; its time is 0 until `epoch` is set and reached."""

    speed: float
    epoch: float | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def now(self) -> float:
        return 0.0 if self.epoch is None else max(0.0, (self.loop.time() - self.epoch) * self.speed)

    def call_at(self, at: float, do: Callable[[], object]) -> asyncio.TimerHandle:
        if self.epoch is None:
            raise RuntimeError("the run has not begun, so no scenario time can be waited for")
        return self.loop.call_at(self.epoch + at / self.speed, do)
