"""What a server says of its own load, beyond what we send it: others may ask it too.

Each part may be unknown, which is None and never 0: a server that doesn't say how many wait is not idle for that.
"""

from __future__ import annotations

from typing import NamedTuple

HOT_KV = 0.95  # of the key-value cache: from there on a server puts requests back to make room for others


class ServerLoad(NamedTuple):
    """Requests that run and that wait there, whoever sent them, and the share of its key-value cache that is in use."""

    running: float | None = None
    waiting: float | None = None
    kv: float | None = None

    @property
    def hot(self) -> bool:
        """One more request would wait before it is looked at, or make another wait."""
        return bool(self.waiting) or (self.kv is not None and self.kv >= HOT_KV)
