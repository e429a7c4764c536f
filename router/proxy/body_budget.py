"""One budget of bytes for all request bodies that the router holds, from their first byte to the end of their answers,
and for the large events of streams that are being put together.

While the budget is used up a new body waits, unread, for at most MAX_WAIT seconds; one that has begun goes on. By
default the budget is a quarter of the memory that the process may use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from router.errors import NoMemory

MAX_WAIT = 5.0  # seconds


class BodyBudget:
    """`held` bytes of a `limit`; `waiting` are the connections that wait, the longest first."""

    __slots__ = ("_soon", "_waiting", "_waking", "held", "limit")

    def __init__(self, limit: int, soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        """`soon` calls back in the loop's next turn: one connection goes on per turn. Without it all go on at once."""
        self.limit, self.held = limit, 0
        self._soon, self._waking = soon, False
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def used_up(self) -> bool:
        return self.held >= self.limit

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def wait(self, go_on: Callable[[], None]) -> None:
        """Have `go_on` called once there is room."""
        self._waiting.append(go_on)

    def give_up(self, go_on: Callable[[], None]) -> None:
        """Wait no longer."""
        if go_on in self._waiting:
            self._waiting.remove(go_on)

    def release(self, size: int) -> None:
        """Give bytes back."""
        self.held -= size
        if self._waiting and not self._waking:
            self._wake()

    def _wake(self) -> None:
        """Have those go on that wait, as long as there is room."""
        self._waking = False
        while self._waiting and self.held < self.limit:
            if self._soon is not None:
                self._waking = True
                self._soon(self._wake_one)
                return
            self._waiting.popleft()()

    def _wake_one(self) -> None:
        try:
            if self._waiting and self.held < self.limit:
                self._waiting.popleft()()
        finally:
            self._wake()


def no_memory(limit: int) -> NoMemory:
    return NoMemory(
        f"The request bodies that the router holds have used up their {limit} bytes of memory, and none became free "
        f"within {MAX_WAIT:g} s. Try again in 1 s.",
        retry_after=1.0,
    )
