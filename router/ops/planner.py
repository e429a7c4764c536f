"""Recomputes every model's hedge plan in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from router.core.choice.table import Table
from router.scheduler import Scheduler

# Seconds. Conditions change within a few of them, and a distribution within some hundred calls.
EVERY = 1.0
SHARE = 0.001  # seconds of processor time per turn of the loop


class Planner:
    """`run` is the loop. It yields after each model and whenever its share of a turn is used up: calls do not wait."""

    def __init__(
        self, table: Callable[[], Table], scheduler: Scheduler, begins: Callable[[], None] = lambda: None
    ) -> None:
        """`begins` is called before each computation."""
        self._table, self._scheduler, self._begins = table, scheduler, begins

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY / self._scheduler.speed)
            self._begins()
            for route in self._table().routes.values():
                until = time.thread_time() + SHARE
                for _ in route.replanning(self._scheduler.now()):
                    if time.thread_time() >= until:
                        await asyncio.sleep(0)
                        until = time.thread_time() + SHARE
                await asyncio.sleep(0)
