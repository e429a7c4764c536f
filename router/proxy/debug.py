"""The value of the header `x-router-debug`: why a call's first attempt went to its endpoint, for a client that asked.

JSON on one line, in ASCII, of at most MAX_BYTES: of many candidates the last are omitted, and counted. Of the
configuration it names only endpoints, tiers and weights: no address, no key.
"""

from __future__ import annotations

import json
from typing import Any

from msgspec import Raw

from router.core.explain.explanation import Explanation, why_asked
from router.core.explain.rows import Row

MAX_BYTES = 4096  # Node allows 16 KiB for all headers, aiohttp 8 KiB for one
MAX_CANDIDATES = 24  # about as many as fit; no more are described for any call


def header(explanation: Explanation, endpoint: str | None, *, affinity: bool) -> Raw:
    """`endpoint` had the first attempt, None if there was none; `affinity`: the call belongs to a conversation."""
    candidates, omitted = [_brief(row) for row in explanation.candidates], explanation.omitted
    value = _encoded(explanation, endpoint, affinity, candidates, omitted)
    while len(value) > MAX_BYTES and candidates:
        candidates.pop()
        omitted += 1
        value = _encoded(explanation, endpoint, affinity, candidates, omitted)
    return Raw(value)


def _encoded(
    explanation: Explanation, endpoint: str | None, affinity: bool, candidates: list[dict[str, Any]], omitted: int
) -> bytes:
    fields = {
        "asked": endpoint,
        "why": explanation.why if endpoint is None else why_asked(explanation, endpoint, affinity=affinity),
        "size": explanation.size,
        "hedge_after": _hedge_after(explanation, endpoint),
        "hedge_target": explanation.hedge_target if endpoint == explanation.picked else None,
        "price": explanation.price,
        "budgets": {"hedge": explanation.budgets.hedge, "retry": explanation.budgets.retry},
        "candidates": candidates,
        "omitted": omitted,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _hedge_after(explanation: Explanation, endpoint: str | None) -> float | None:
    return next((row.hedge_after for row in explanation.candidates if row.endpoint == endpoint), None)


def _brief(row: Row) -> dict[str, Any]:
    """The numbers that were compared, and whatever is unusual."""
    unusual = {
        "near": row.near,
        "out": row.out,
        "notes": row.notes,
        "trouble": row.trouble,
        "crowding": row.crowding if row.crowding > 1.0 else None,
    }
    return {
        "endpoint": row.endpoint,
        "tier": row.tier,
        "cost": row.cost,
        "expected": row.expected,
        "evidence": row.evidence,
        "in_flight": row.in_flight,
        "waiting": row.waiting,
    } | {name: value for name, value in unusual.items() if value}
