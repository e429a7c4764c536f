"""The dependencies that all calls share: time, random numbers, ids, ping intervals, and the sink of their records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random, getrandbits

from router.core.record import CallRecord
from router.scheduler import Scheduler


def new_id() -> str:
    """A new request id: 96 random bits, so unique in practice. Guessing one gains nothing."""
    return "req_" + getrandbits(96).to_bytes(12).hex()


@dataclass(frozen=True, slots=True)
class Context:
    """Three of the four seams that tests replace (the pools are the fourth), the sink of records, and two settings."""

    scheduler: Scheduler
    rng: Random
    ended: Callable[[CallRecord], None]
    new_id: Callable[[], str] = new_id
    ping_after: float = 10.0  # seconds without a first token until a streaming client gets its 200 and a comment
    ping_every: float = 15.0  # seconds between further comments
