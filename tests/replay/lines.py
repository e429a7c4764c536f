"""The lines of a replay: one for each call, and one for each timeline with the state of its router at the end.

A line is JSON. Floats are written by `repr`, so that two lines are equal only if all figures are equal to the last
bit, and of the same type.
"""

from __future__ import annotations

import json
from enum import Enum
from hashlib import sha256
from typing import Any

from router.core.demand import KINDS, Demand
from router.core.endpoint.endpoint import Endpoint
from router.core.record import RECORD_FIELDS, CallRecord
from tests.support import Player, ScriptedClient, ScriptedPool

Json = dict[str, Any]
# The attributes of a record, of an outcome, and the public ones of an attempt and its demand. A test looks for others.
RECORD = (*RECORD_FIELDS, "dropped_headers", "malformed")
OUTCOME = ("cause", "doubt", "message", "passing", "reason", "retry_after", "verdict")
_ATTEMPT = ("began", "cooldown_trial", "ended", "first_token_at", "load", "role", "trial")
_SIZES = (0.0, 100.0, 10_000.0)  # tokens of a prompt
_DEMAND = ("kind", "operation", "size")


class Body:
    """A body as a line shows it: its length and a digest, or all its bytes."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def __call__(self, data: bytes) -> Any:
        return data.decode("latin-1") if self._whole else [len(data), sha256(data).hexdigest()]


def line(facts: Json) -> str:
    return json.dumps(facts, ensure_ascii=True, separators=(",", ":"), default=_plain)


def of_client(client: ScriptedClient, body: Body) -> Json:
    """All that a client without a connection got, and when; and its record."""
    return {
        "status": client.status,
        "headers": client.headers,
        "length": client.length,
        "writes": [(at, len(data)) for at, data in client.writes],
        "body": body(client.body),
        "arrived": client.arrived,
        "ended_at": client.ended_at,
        "aborted_at": client.aborted_at,
        "left_at": client.left_at,
        "records": [of_record(record) for record in client.records],
    }


def of_record(record: CallRecord) -> Json:
    """All attributes of a record; its attempts with their outcomes."""
    facts = {name: getattr(record, name) for name in RECORD}
    return facts | {"attempts": [of_attempt(attempt) for attempt in record.attempts]}


def of_attempt(attempt: Any) -> Json:
    outcome = attempt.outcome
    return {
        "endpoint": attempt.endpoint.name,
        "model": attempt.endpoint.model,
        **{name: getattr(attempt, name) for name in _ATTEMPT},
        "demand": {name: getattr(attempt.demand, name) for name in _DEMAND},
        "outcome": outcome and {name: getattr(outcome, name) for name in OUTCOME},
    }


def of_pool(pool: Any, body: Body) -> Json:
    """The requests that an endpoint got, and how they ended; for a pool of connections, its counters."""
    if not isinstance(pool, ScriptedPool):
        names = ("idle", "busy", "opening", "waiting", "opened", "reused", "resent", "retired")
        return {name: getattr(pool, name) for name in names}
    return {
        "requests": [
            {
                "began": wire.began,
                "head": wire.request.head.decode("latin-1"),
                "body": body(bytes(wire.request.body)),
                "end": wire.end,
                "ended": wire.ended,
                "sent": len(wire.sent),
                "paused_at": wire.paused_at,
                "resumed_at": wire.resumed_at,
            }
            for wire in pool.wires
        ]
    }


def of_endpoint(endpoint: Endpoint, now: float) -> Json:
    """The state of an endpoint, as the router has learned it."""
    availability, forecast = endpoint.availability, endpoint.forecast
    demands = [Demand(kind, size) for kind in KINDS for size in _SIZES]
    latencies = [forecast.latency(kind) for kind in KINDS]
    return {
        "costs": [forecast.cost(demand, now) for demand in demands],
        "late_after": [forecast.late_after(demand, now) for demand in demands],
        "chances": [latency.chance(1.0, size, now) for latency in latencies for size in _SIZES],
        "quantiles": [latency.quantile(q) for latency in latencies for q in (0.5, 0.99)],
        "evidence": [latency.evidence(now) for latency in latencies],
        "trouble": [forecast.trouble(kind, now) for kind in KINDS],
        "out_until": [availability.out_until(demand) for demand in demands],
        "breaker": availability.breaker.state(now),
        "ramp": availability.ramp(now),
        "max_attempts": availability.max_attempts,
        "capacity": availability.slots.capacity,
    }


def of_router(player: Player, body: Body) -> Json:
    """The requests, the state and the counters of a router."""
    now, table = player.scheduler.now(), player.table
    return {
        "pools": {name: of_pool(pool, body) for name, pool in player.pools.items()},
        "endpoints": [of_endpoint(endpoint, now) for endpoint in table.endpoints],
        "hedge_delays": [
            route.plan.delay(endpoint, Demand(kind, 100.0), now)
            for route in table.routes.values()
            for endpoint in route.endpoints
            for kind in KINDS
        ],
        "budgets": [budget.level(now) for budget in (table.hedges, table.retries)],
        "metrics": {
            f"{sample.name} {json.dumps(sample.labels, sort_keys=True)}": sample.value
            for family in player.metrics.collect()
            for sample in family.samples
            if sample.name != "firsttoken_lost_log_lines_total"  # of the process, and so of earlier tests
        },
    }


def _plain(value: Any) -> Any:
    """A value that JSON does not have."""
    if isinstance(value, Enum):
        return value.name
    return bytes(value).decode("latin-1")
