"""How many attempts at once one configured endpoint takes, over all its models, and who waits for one to end."""

from __future__ import annotations

from math import inf

from router.core.endpoint.waiting_queue import WaitingQueue


class Slots:
    """`most` is what the operator says, and not more than the connections that it may have; it is never exceeded."""

    __slots__ = ("limit", "line", "most", "used")

    def __init__(self, limit: int | None = None) -> None:
        self.used, self.line = 0, WaitingQueue()
        self.allow(limit)

    def allow(self, limit: int | None, connections: float = inf) -> None:
        """As it is configured, now or anew."""
        self.limit = limit
        self.most = connections if limit is None else min(limit, connections)

    @property
    def full(self) -> bool:
        return self.used >= self.most
