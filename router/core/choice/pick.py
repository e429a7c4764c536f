"""Which of several endpoints to ask: the cheapest, by a scan of all of them.

With two to ten endpoints a full scan is cheaper than it is clever to sample, and it never takes the worse of two (Envoy
added it for that reason). Of those whose costs are about equal the one with the least of ours is asked, or any of these
where that is equal too, or everybody would follow the same noise. One call in a hundred goes to the one that was
measured longest ago, so that a slow endpoint's recovery is noticed. A newcomer gets one trial at once, as if it were as
cheap as the best, and no second one before the first has ended. Those whose servers say that they have too much to do
are left alone, whatever they cost, while there is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from random import Random

from router.core.choice.affinity import Affinity
from router.core.endpoint.endpoint import Endpoint, Wait

NEAR = 1.05  # times the lowest cost count as equal: a mean is not known better
GOOD = 1.25  # times the lowest cost is good enough for a rival, if more is learned of it
MUCH_QUICKER = 0.75  # times what the best of a more welcome tier costs, and a call that is late anyway is worth it
EXPLORE = 0.01


def pick(
    endpoints: Iterable[Endpoint],
    wait: Wait,
    now: float,
    rng: Random,
    size: float = 0.0,
    sticky: Affinity | None = None,
) -> Endpoint | None:
    """The endpoint to ask next, or None where none is available; a call may be drawn to one by its conversation."""
    available, costs = scan(endpoints, wait, now, size)
    if len(available) <= 1:
        return available[0] if available else None
    if rng.random() < EXPLORE:
        return least_known([e for e in available if not e.on_trial(wait)] or available, wait, rng)
    for endpoint in available:
        if endpoint.breaker.recovered_at is not None:
            available, costs = _ramped(available, costs, now, rng)
            break
    if sticky is not None:
        return sticky.choose(available, costs, wait)
    near = near_ties(available, costs, wait)
    return near[0] if len(near) == 1 else _draw(least_loaded(near, now), rng)


def scan(
    endpoints: Iterable[Endpoint], wait: Wait, now: float, size: float
) -> tuple[Sequence[Endpoint], Sequence[float]]:
    """Those that may be asked, and what each would cost."""
    available = _cold([endpoint for endpoint in endpoints if endpoint.available(now)], now)
    return available, [endpoint.cost(wait, now, size) for endpoint in available]


def near_ties(available: Sequence[Endpoint], costs: Sequence[float], wait: Wait) -> Sequence[Endpoint]:
    """Of one or more that may be asked those about as cheap as the cheapest, and newcomers."""
    near = min(costs) * NEAR
    if max(costs) <= near:
        return available
    return [e for e, cost in zip(available, costs, strict=True) if cost <= near or e.untried(wait)]


def rivals(
    tiers: Iterable[Iterable[Endpoint]], wait: Wait, now: float, size: float = 0.0
) -> tuple[Sequence[Endpoint], float]:
    """The endpoints to ask beside one that is late, all about as good, and what they cost at least.

    They are of one tier, and of a less welcome one only where it is much quicker.
    """
    good: Sequence[Endpoint] = ()
    least = inf
    for tier in tiers:
        costs = [
            (endpoint.cost(wait, now, size), endpoint)
            for endpoint in tier
            if endpoint.available(now) and not endpoint.hot(now)
        ]
        cost = min((cost for cost, _ in costs), default=inf)
        if cost < MUCH_QUICKER * least:
            good, least = [e for its, e in costs if its <= cost * GOOD], cost
    return good, least


def least_known(endpoints: Sequence[Endpoint], wait: Wait, rng: Random) -> Endpoint:
    """The one that was measured longest ago, for what it teaches."""
    oldest = min(e.latency(wait).seen_at for e in endpoints)
    return _draw([e for e in endpoints if e.latency(wait).seen_at == oldest], rng)


def least_loaded(endpoints: Sequence[Endpoint], now: float) -> Sequence[Endpoint]:
    """Those with the least of ours."""
    loads = [e.load(now) for e in endpoints]
    least = min(loads)
    return [e for e, load in zip(endpoints, loads, strict=True) if load == least]


def _ramped(
    available: Sequence[Endpoint], costs: Sequence[float], now: float, rng: Random
) -> tuple[Sequence[Endpoint], Sequence[float]]:
    """Those that have just recovered count for a share of the calls that grows, unless there is nobody else."""
    pairs = [
        (endpoint, cost)
        for endpoint, cost in zip(available, costs, strict=True)
        if (ramp := endpoint.breaker.ramp(now)) == 1.0 or rng.random() < ramp
    ]
    return ([endpoint for endpoint, _ in pairs], [cost for _, cost in pairs]) if pairs else (available, costs)


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
    able = [e for e in endpoints if not e.full and now >= e.cooldown.quiet_until]
    return min(able, key=lambda e: e.recovers_at(now), default=None)
