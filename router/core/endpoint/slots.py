"""Slots: how many attempts one configured endpoint takes at once, over all its models, and its waiting queue."""

from __future__ import annotations

from math import inf

from router.core.endpoint.waiting_queue import WaitingQueue


class Slots:
    """`configured` is the operator's concurrency (None: no limit).

    `capacity`, never exceeded, is bounded by the pool too.
    """

    __slots__ = ("capacity", "configured", "queue", "used")

    def __init__(self, configured: int | None = None) -> None:
        self.used, self.queue = 0, WaitingQueue()
        self.configure(configured)

    def configure(self, concurrency: int | None, connections: float = inf) -> None:
        """Set the configured concurrency and the number of connections that the pool may open."""
        self.configured = concurrency
        self.capacity = float(connections if concurrency is None else min(concurrency, connections))

    @property
    def full(self) -> bool:
        return self.used >= self.capacity
