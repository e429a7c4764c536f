"""One row of an explanation: an endpoint as a candidate, all that its cost is made of, and why it may not be asked.

Numbers are rounded for people; None stands for what is unknown or infinite. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import msgspec

from router.core.demand import Demand, DemandKind
from router.core.endpoint.breaker import State
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.histogram import SHORTEST_WAIT
from router.core.endpoint.latency import TROUBLE_THRESHOLD

HOT = "hot, as its server reports"
UNMEASURED = "not measured yet"
BEING_MEASURED = "being measured: its first call is running"
SLOW_START = "slow start"


class Server(msgspec.Struct, frozen=True):
    """The load that the endpoint's server reports."""

    running: float | None
    waiting: float | None
    kv: float | None
    hot: bool


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds, sizes in tokens of the prompt."""

    endpoint: str
    model: str  # the endpoint's name for it
    tier: int  # the number in the configuration
    weight: float
    available: bool
    out: str | None  # why it may not be asked
    notes: list[str]  # other facts that count for or against it
    near: bool  # about as cheap as the cheapest
    cost: float  # the expected wait of one more call of this size: what endpoints are compared by
    expected: float  # the part of the cost that is due to size alone: no trouble, the load of its evidence
    mean: float
    slope: float  # seconds per token of the prompt
    mean_size: float
    known: bool
    evidence: float  # in fresh observations
    age: float | None  # since the last observation
    p50: float | None
    p90: float | None
    p99: float | None
    in_flight: int
    waiting: int  # attempts in flight without a first token
    slots: int | None  # attempts at once that it takes
    crowding: float  # factor on the wait for the present load
    trouble: float  # probability of trouble
    server: Server | None
    hedge_after: float | None  # None: never

    @property
    def is_hot(self) -> bool:
        return HOT in self.notes

    @property
    def in_slow_start(self) -> bool:
        """True if it takes a growing share of the calls after a recovery, whatever it costs."""
        return any(note.startswith(SLOW_START) for note in self.notes)


def row(endpoint: Endpoint, demand: Demand, now: float, *, tier: int, near: bool, hedge_after: float) -> Row:
    """The row of an endpoint for a demand."""
    availability, forecast, kind = endpoint.availability, endpoint.forecast, demand.kind
    latency, reported = forecast.latency(kind), forecast.server_load(now)
    out = list(_out(endpoint, demand, now))
    return Row(
        endpoint=endpoint.name,
        model=endpoint.model,
        tier=tier,
        weight=endpoint.weight,
        available=availability.allows(now, demand),
        out=", ".join(out) or None,
        notes=list(_notes(endpoint, demand, now)),
        near=near,
        cost=round(forecast.cost(demand, now), 4),
        expected=round(max(SHORTEST_WAIT, latency.mean(now) + latency.shift(demand.size, now)), 4),
        mean=round(latency.mean(now), 4),
        slope=round(latency.slope, 8),
        mean_size=round(latency.mean_size(now), 1),
        known=not latency.unknown,
        evidence=round(latency.evidence(now), 1),
        age=finite(now - latency.seen_at, 1),
        p50=_quantile(endpoint, kind, 0.5),
        p90=_quantile(endpoint, kind, 0.9),
        p99=_quantile(endpoint, kind, 0.99),
        in_flight=availability.in_flight,
        waiting=len(forecast.pending),
        slots=None if availability.max_attempts == inf else int(availability.max_attempts),
        crowding=round(forecast.crowding(kind, now), 3),
        trouble=round(forecast.trouble(kind, now), 3),
        server=None if reported is None else Server(reported.running, reported.waiting, reported.kv, reported.hot),
        hedge_after=finite(hedge_after),
    )


def finite(value: float, digits: int = 4) -> float | None:
    """The rounded value; None if it is infinite."""
    return None if value == inf else round(value, digits)


def in_words(seconds: float) -> str:
    """A time for people: 45 ms, 0.31 s, 4.2 s, 120 s."""
    if seconds < 0.1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.{2 if seconds < 1.0 else 1 if seconds < 10.0 else 0}f} s"


def _quantile(endpoint: Endpoint, kind: DemandKind, q: float) -> float | None:
    quantile = endpoint.forecast.latency(kind).quantile(q)
    return None if quantile is None else round(quantile, 4)


def _out(endpoint: Endpoint, demand: Demand, now: float) -> Iterator[str]:
    """Every reason for which it may not be asked."""
    availability = endpoint.availability
    breaker, slots = availability.breaker, availability.slots
    cooldown = availability.cooldown(demand)
    if not availability.health.up:
        yield "down by its probes"
    if cooldown is not None and now < cooldown.until:
        cause = f", it reported: {cooldown.cause.value}" if cooldown.cause else ""
        yield f"cooling down for {in_words(cooldown.until - now)}{cause}"
    if breaker.state(now) is State.OPEN:
        yield f"breaker open for {in_words((breaker.retry_at or now) - now)}"
    elif not breaker.allows(now):
        yield "breaker half open while its trial is running"
    if slots.full:
        yield f"no free slot: {slots.used} of {slots.capacity:g} taken"
    elif availability.full:
        yield f"no free slot: {availability.in_flight} of the learned limit of {availability.limit.most:g} taken"


def _notes(endpoint: Endpoint, demand: Demand, now: float) -> Iterator[str]:
    kind, forecast, breaker = demand.kind, endpoint.forecast, endpoint.availability.breaker
    cooldown = endpoint.availability.cooldown(demand)
    ramp, trouble = breaker.ramp(now), forecast.trouble(kind, now)
    if forecast.hot(now):
        yield HOT
    if endpoint.simulated:
        yield "simulated"
    if forecast.unmeasured(kind):
        yield UNMEASURED
    if forecast.being_measured(kind):
        yield BEING_MEASURED
    if forecast.late(now):
        yield "late: a call there has waited for unusually long"
    if trouble >= TROUBLE_THRESHOLD:
        yield f"in trouble, {trouble:.0%} likely"
    elif not forecast.settled(kind, now):
        yield "has become slower, not known yet by how much"
    if ramp < 1.0:
        yield f"{SLOW_START}: {ramp:.0%} of its share"
    if breaker.failures_in_a_row:
        yield f"{breaker.failures_in_a_row} failed in a row"
    if cooldown is not None and cooldown.suspected:
        yield "suspected: one call was refused"
