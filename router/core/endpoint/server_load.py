"""The load that a server reports of itself, which includes requests of other clients.

Each part may be unknown, which is None and never 0: a server that does not report its queue is not therefore idle.
"""

from __future__ import annotations

from typing import NamedTuple

HOT_KV = 0.95  # of the key-value cache: from this share on a server preempts requests to make room for others


class ServerLoad(NamedTuple):
    """Running and waiting requests of all clients, and the share of the key-value cache in use."""

    running: float | None = None
    waiting: float | None = None
    kv: float | None = None

    @property
    def hot(self) -> bool:
        """True if one more request would wait in the server's queue, or make another one wait."""
        return bool(self.waiting) or (self.kv is not None and self.kv >= HOT_KV)
