"""Gives freed memory back to the system after a flood: glibc keeps what lies between blocks that are still in use."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from math import inf
from pathlib import Path

EVERY, AT_MOST = 10.0, 40.0  # seconds between two trims; twice as long after each that was of no use, up to the second
WORTH = 16 << 20  # bytes above the least seen from which on a trim is tried
OF_USE = 4 << 20  # bytes that a trim must give back to count as useful


class Trimmer:
    """`run` is the loop. A trim runs in a thread, without the interpreter's lock."""

    def __init__(self, resident: Callable[[], int], trim: Callable[[], object]) -> None:
        """`resident` tells the bytes of memory that the process has, `trim` gives back what is free."""
        self._resident, self._trim = resident, trim
        self._least: float = inf
        self._pause = EVERY

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            await self.look()

    async def look(self) -> None:
        before = self._resident()
        self._least = min(self._least, before)
        if before < self._least + WORTH:
            self._pause = EVERY
            return
        await asyncio.to_thread(self._trim)
        after = self._resident()
        self._pause = EVERY if before - after >= OF_USE else min(AT_MOST, 2 * self._pause)
        self._least = min(self._least, after)


def trimmer() -> Trimmer | None:
    """None where the C library cannot trim, or the system does not tell how much memory a process has."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
        _resident()
    except (OSError, AttributeError):
        return None
    return Trimmer(_resident, lambda: trim(0))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
