"""A loop's pause between two turns, which news can end early."""

from __future__ import annotations

import asyncio


class Pause:
    """`wait` sleeps; `wake` ends the sleep, or the next one if the loop is not asleep."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()
