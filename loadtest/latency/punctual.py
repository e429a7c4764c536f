"""An event loop with exact timers: asyncio's own rounds each wait up to a whole millisecond.

At `--speed 10` that would be ten milliseconds of the scenario, in the endpoints and again in the driver. select() takes
microseconds. It waits for the epoll instance itself, so it costs one system call and limits no connections.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import select
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

PR_SET_TIMERSLACK = 29
SLACK = 1_000  # nanoseconds by which the kernel may delay a wait; its default is 50,000

T = TypeVar("T")


class PunctualSelector(selectors.EpollSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on a loop with exact timers; existing objects are frozen, so the collector does not scan them."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, SLACK)
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(PunctualSelector())) as runner:
        return runner.run(main)
