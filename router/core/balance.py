"""Which of several endpoints to ask: the cheapest, by a scan of all of them.

With two to ten endpoints a full scan is cheaper than it is clever to sample, and it never takes the worse of two (Envoy
added it for that reason). Costs that are about equal are drawn from at random, or everybody would follow the same
noise; one call in a hundred goes to any of them, so that a slow endpoint's recovery is noticed. A newcomer gets one
trial at once, as if it were as cheap as the best, and no second one before the first has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from router.core.endpoint import Endpoint, Wait

NEAR = 1.1  # times the lowest cost count as equal: first-token times differ by more from one call to the next
EXPLORE = 0.01


def pick(endpoints: Iterable[Endpoint], wait: Wait, now: float, rng: Random) -> Endpoint | None:
    """The endpoint to ask next, or None where none is available."""
    available, costs = [], []
    for endpoint in endpoints:
        if endpoint.available(now):
            available.append(endpoint)
            costs.append(endpoint.cost(wait, now))
    if len(available) <= 1:
        return available[0] if available else None
    if rng.random() >= EXPLORE:
        near = min(costs) * NEAR
        if max(costs) > near:
            available = [e for e, cost in zip(available, costs, strict=True) if cost <= near or e.untried(wait)]
    return available[int(rng.random() * len(available))]


def least_bad(endpoints: Iterable[Endpoint], now: float) -> Endpoint | None:
    """Where none is available: the one that recovers soonest, because the last endpoint is never ejected.

    A limit on attempts at once is the operator's word and holds all the same.
    """
    return min((e for e in endpoints if not e.full), key=lambda e: e.recovers_at(now), default=None)
