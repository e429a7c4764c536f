"""What the objects of a call take from outside: time, chance, ids, limits, and where its record goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random, getrandbits

from router.core.record import CallRecord
from router.scheduler import Scheduler


def new_id() -> str:
    """A request id: unlikely to come twice, and of no use to guess."""
    return "req_" + getrandbits(96).to_bytes(12).hex()


@dataclass(frozen=True, slots=True)
class Context:
    """The seams; nothing else is replaced in tests."""

    scheduler: Scheduler
    rng: Random
    ended: Callable[[CallRecord], None]
    new_id: Callable[[], str] = new_id
    ping_after: float = 10.0  # seconds without a first token, before a streaming client gets its 200 and a comment
    ping_every: float = 15.0
