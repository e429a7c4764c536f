"""Recomputes every model's hedge plan in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.core.choice.table import Table
from router.scheduler import Scheduler

# Seconds. Conditions change within a few of them, and a distribution within some hundred calls.
EVERY = 1.0


class Planner:
    """`run` is the loop. It yields after each model, so that calls never wait for the plans of all models."""

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
                route.replan(self._scheduler.now())
                await asyncio.sleep(0)
