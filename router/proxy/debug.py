"""What a client is told that asks why (`x-router-debug: 1`): why its first attempt went there, as one header's value.

JSON on one line, in ASCII, of at most LONGEST bytes: of many candidates the last are left out, and counted. Nothing in
it is configured but names, tiers and weights: no address, no key.
"""

from __future__ import annotations

import json
from typing import Any

from msgspec import Raw

from router.core.explain.explanation import Explanation, why_asked
from router.core.explain.rows import Row

LONGEST = 4096  # bytes: Node takes 16 KiB of headers, aiohttp 8 KiB for one
MOST = 24  # candidates that fit, more or less; no call has more of them described


def told(explanation: Explanation, endpoint: str | None, *, sticky: bool) -> Raw:
    """`endpoint` is the one that was asked first; None where none could be."""
    candidates, omitted = [_short(each) for each in explanation.candidates], explanation.omitted
    line = _line(explanation, endpoint, sticky, candidates, omitted)
    while len(line) > LONGEST and candidates:
        candidates.pop()
        omitted += 1
        line = _line(explanation, endpoint, sticky, candidates, omitted)
    return Raw(line)


def _line(
    explanation: Explanation, endpoint: str | None, sticky: bool, candidates: list[dict[str, Any]], omitted: int
) -> bytes:
    told = {
        "asked": endpoint,
        "why": explanation.why if endpoint is None else why_asked(explanation, endpoint, affinity=sticky),
        "size": explanation.size,
        "hedge_after": _hedge_after(explanation, endpoint),
        "hedge_target": explanation.hedge_target if endpoint == explanation.picked else None,
        "price": explanation.price,
        "budgets": {"hedge": explanation.budgets.hedge, "retry": explanation.budgets.retry},
        "candidates": candidates,
        "omitted": omitted,
    }
    return json.dumps(told, separators=(",", ":")).encode()


def _hedge_after(explanation: Explanation, endpoint: str | None) -> float | None:
    return next((each.hedge_after for each in explanation.candidates if each.endpoint == endpoint), None)


def _short(of: Row) -> dict[str, Any]:
    """What is not as usual, and the numbers that were compared."""
    unusual = {
        "near": of.near,
        "out": of.out,
        "notes": of.notes,
        "trouble": of.trouble,
        "crowding": of.crowding if of.crowding > 1.0 else None,
    }
    return {
        "endpoint": of.endpoint,
        "tier": of.tier,
        "cost": of.cost,
        "expected": of.expected,
        "evidence": of.evidence,
        "in_flight": of.in_flight,
        "waiting": of.waiting,
    } | {name: value for name, value in unusual.items() if value}
