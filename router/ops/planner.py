"""Keeps every model's plan of hedges up to date, beside the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.core.choice.table import Table
from router.scheduler import Scheduler

EVERY = 1.0  # seconds: things change within some of them, and a distribution within some hundred calls


class Planner:
    """`run` is its loop. One model at a time, so that no call waits for all of them."""

    def __init__(self, table: Callable[[], Table], scheduler: Scheduler) -> None:
        self._table, self._scheduler = table, scheduler

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY / self._scheduler.speed)
            for route in self._table().routes.values():
                route.replan(self._scheduler.now())
                await asyncio.sleep(0)
