"""Which of several endpoints to ask: the cheapest, by a scan of all of them.

With two to ten endpoints a full scan is cheaper than it is clever to sample, and it never takes the worse of two (Envoy
added it for that reason). Costs that are about equal are drawn from at random, or everybody would follow the same
noise; one call in a hundred goes to any of them, so that a slow endpoint's recovery is noticed. A newcomer gets one
trial at once, as if it were as cheap as the best, and no second one before the first has ended. Those whose servers say
that they have too much to do are left alone, whatever they cost, while there is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from router.core.affinity import Sticky
from router.core.endpoint import Endpoint, Wait

NEAR = 1.1  # times the lowest cost count as equal: first-token times differ by more from one call to the next
EXPLORE = 0.01


def pick(
    endpoints: Iterable[Endpoint], wait: Wait, now: float, rng: Random, sticky: Sticky | None = None
) -> Endpoint | None:
    """The endpoint to ask next, or None where none is available; a call may be drawn to one by its conversation."""
    available = _cold([endpoint for endpoint in endpoints if endpoint.available(now)], now)
    costs = [endpoint.cost(wait, now) for endpoint in available]
    if len(available) <= 1:
        return available[0] if available else None
    if rng.random() >= EXPLORE:
        if sticky is not None:
            return sticky.choose(available, costs, wait)
        near = min(costs) * NEAR
        if max(costs) > near:
            available = [e for e, cost in zip(available, costs, strict=True) if cost <= near or e.untried(wait)]
    return _draw(available, rng)


def _cold(endpoints: list[Endpoint], now: float) -> list[Endpoint]:
    """Without those whose servers say that requests wait there, unless all say so."""
    for endpoint in endpoints:
        if now < endpoint.hot_until:
            return [e for e in endpoints if now >= e.hot_until] or endpoints
    return endpoints


def _draw(endpoints: Sequence[Endpoint], rng: Random) -> Endpoint:
    """One of them; weights are shares of the traffic."""
    first = endpoints[0].weight
    for endpoint in endpoints:
        if endpoint.weight != first:
            return rng.choices(endpoints, [e.weight for e in endpoints])[0]
    return endpoints[int(rng.random() * len(endpoints))]


def least_bad(endpoints: Iterable[Endpoint], now: float) -> Endpoint | None:
    """Where none is available: the one that recovers soonest, because the last endpoint is never ejected.

    A limit on attempts at once is the operator's word and holds all the same, and so does the time that a server named.
    """
    able = [e for e in endpoints if not e.full and now >= e.quiet_until]
    return min(able, key=lambda e: e.recovers_at(now), default=None)
