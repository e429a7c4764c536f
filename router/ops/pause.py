"""A loop's pause between two turns, which news can end early."""

from __future__ import annotations

import asyncio


class Pause:
    """`wait` sleeps; `wake` ends the sleep, or the next one if the loop is not asleep.

    Both work with one timer and one future: a thousand loops sleep at a time, and a timeout that cancels its task costs
    five times as much.
    """

    __slots__ = ("_sleep", "_woken")

    def __init__(self) -> None:
        self._woken = False
        self._sleep: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> None:
        if not self._woken:
            loop = asyncio.get_running_loop()
            self._sleep = loop.create_future()
            timer = loop.call_later(seconds, self._end)
            try:
                await self._sleep
            finally:
                timer.cancel()
                self._sleep = None
        self._woken = False

    def wake(self) -> None:
        self._woken = True
        self._end()

    def _end(self) -> None:
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)
