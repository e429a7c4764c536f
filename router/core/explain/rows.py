"""One endpoint as a candidate for a call: all that its cost is made of, and in words why it may not be asked.

For people: numbers are rounded, what is not known or has no end is None. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import msgspec

from router.core.endpoint.breaker import State
from router.core.endpoint.endpoint import Endpoint, Wait
from router.core.endpoint.histogram import SHORTEST_WAIT
from router.core.endpoint.latency import TROUBLE_THRESHOLD

HOT = "hot by its server's word"
NEWCOMER = "newcomer"
ON_TRIAL = "on trial: its first call runs"
SLOW_START = "slow start"


class Server(msgspec.Struct, frozen=True):
    """What its server says of its load."""

    running: float | None
    waiting: float | None
    kv: float | None
    hot: bool


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, sizes in tokens of the prompt."""

    endpoint: str
    model: str  # as it is called there
    tier: int  # as the file numbers it
    weight: float
    available: bool
    out: str | None  # why it may not be asked
    notes: list[str]  # what else counts for it, or against it
    near: bool  # of those that are about as cheap as the cheapest
    cost: float  # what endpoints are compared by: the wait of one more call of this size, as things are
    expected: float  # of this, what is for the size alone: in no trouble, under the load of its evidence
    mean: float
    slope: float  # seconds a token of the prompt
    mean_size: float
    known: bool
    evidence: float  # in fresh observations
    age: float | None  # since the last observation
    p50: float | None
    p90: float | None
    p99: float | None
    in_flight: int
    waiting: int  # of these, without a first token
    slots: int | None  # attempts at once that it takes
    crowding: float  # times the wait, for what is there
    trouble: float  # how likely it is
    server: Server | None
    hedge_after: float | None  # when a rival would be asked beside it; None: never

    @property
    def is_hot(self) -> bool:
        return HOT in self.notes

    @property
    def has_just_recovered(self) -> bool:
        """It gets a share of the calls that grows, whatever it costs."""
        return any(note.startswith(SLOW_START) for note in self.notes)


def candidate(
    endpoint: Endpoint, wait: Wait, size: float, now: float, *, tier: int, near: bool, hedge_after: float
) -> Row:
    latency, said = endpoint.latency(wait), endpoint.server_load(now)
    out = list(_out(endpoint, now))
    return Row(
        endpoint=endpoint.name,
        model=endpoint.model,
        tier=tier,
        weight=endpoint.weight,
        available=endpoint.available(now),
        out=", ".join(out) or None,
        notes=list(_notes(endpoint, wait, now)),
        near=near,
        cost=round(endpoint.cost(wait, now, size), 4),
        expected=round(max(SHORTEST_WAIT, latency.mean(now) + latency.shift(size, now)), 4),
        mean=round(latency.mean(now), 4),
        slope=round(latency.slope, 8),
        mean_size=round(latency.mean_size(now), 1),
        known=not latency.unknown,
        evidence=round(latency.evidence(now), 1),
        age=finite(now - latency.seen_at, 1),
        p50=_quantile(endpoint, wait, 0.5),
        p90=_quantile(endpoint, wait, 0.9),
        p99=_quantile(endpoint, wait, 0.99),
        in_flight=endpoint.in_flight,
        waiting=len(endpoint.waiting),
        slots=None if endpoint.most == inf else int(endpoint.most),
        crowding=round(endpoint.crowding(wait, now), 3),
        trouble=round(endpoint.trouble(wait, now), 3),
        server=None if said is None else Server(said.running, said.waiting, said.kv, said.hot),
        hedge_after=finite(hedge_after),
    )


def finite(value: float, digits: int = 4) -> float | None:
    """Rounded; None where it is without end."""
    return None if value == inf else round(value, digits)


def in_words(seconds: float) -> str:
    """A time for people: 45 ms, 0.31 s, 4.2 s, 120 s."""
    if seconds < 0.1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.{2 if seconds < 1.0 else 1 if seconds < 10.0 else 0}f} s"


def _quantile(endpoint: Endpoint, wait: Wait, q: float) -> float | None:
    quantile = endpoint.latency(wait).quantile(q)
    return None if quantile is None else round(quantile, 4)


def _out(endpoint: Endpoint, now: float) -> Iterator[str]:
    """All that keeps it from being asked."""
    breaker, slots = endpoint.breaker, endpoint.slots
    if not endpoint.health.up:
        yield "down by its probes"
    if now < endpoint.cooldown.until:
        because = f", for it said: {endpoint.cooldown.cause.value}" if endpoint.cooldown.cause else ""
        yield f"left alone for {in_words(endpoint.cooldown.until - now)}{because}"
    if breaker.state(now) is State.OPEN:
        yield f"breaker open for {in_words((breaker.retry_at or now) - now)}"
    elif not breaker.allows(now):
        yield "breaker half open while its trial runs"
    if slots.full:
        yield f"no free slot: {slots.used} of {slots.most:g} taken"
    elif endpoint.full:
        yield f"no free slot: {endpoint.in_flight} of the {endpoint.limit.most:g} that it was found to take"


def _notes(endpoint: Endpoint, wait: Wait, now: float) -> Iterator[str]:
    ramp, trouble = endpoint.breaker.ramp(now), endpoint.trouble(wait, now)
    if endpoint.hot(now):
        yield HOT
    if endpoint.simulated:
        yield "stand-in"
    if endpoint.untried(wait):
        yield NEWCOMER
    if endpoint.on_trial(wait):
        yield ON_TRIAL
    if endpoint.late(now):
        yield "keeps a caller waiting"
    if trouble >= TROUBLE_THRESHOLD:
        yield f"in trouble, {trouble:.0%} likely"
    elif not endpoint.settled(wait, now):
        yield "has become slower, and nobody knows yet how slow"
    if ramp < 1.0:
        yield f"{SLOW_START}: {ramp:.0%} of its share"
    if endpoint.breaker.failures_in_a_row:
        yield f"{endpoint.breaker.failures_in_a_row} failed in a row"
