"""Selection of one endpoint among several: the cheapest, by a scan of all of them.

With two to ten endpoints a full scan costs less than sampling, and it never takes the worse of two (Envoy added a full
scan for that reason). Among endpoints of about equal cost the least loaded one is asked, and a random one of these
where loads are equal too; otherwise all calls would follow the same noise. One call in a hundred goes to the endpoint
that was measured longest ago, so that a slow endpoint's recovery is noticed. An unmeasured endpoint gets one call at
once, as if it were as cheap as the best, and no second one before the first has ended. While it has few waits, one
call in ten measures it: a stall among the first ones makes the best endpoint look slow. A breaker's trial is made by
the next call once it is due, whatever the endpoint looks to cost: no call would be sent to one that looks expensive.
Hot endpoints are not asked, whatever they cost, while another is available.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from random import Random

from router.core.choice.affinity import Affinity
from router.core.demand import Demand, DemandKind
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.forecast import PRIORS
from router.core.endpoint.latency import FEW

NEAR = 1.05  # times the lowest cost counts as equal: a mean is not known better
GOOD = 1.25  # times the lowest cost is good enough for a hedge target, if more is learned of it
MUCH_QUICKER = 0.75  # times the best cost of a preferred tier makes a less preferred one worth asking
EXPLORE = 0.01  # share of the calls that measure the endpoint that was measured longest ago
MEASURE = 0.1  # share of the calls, EXPLORE included, that measure an endpoint of which too little is known


def pick(
    endpoints: Iterable[Endpoint],
    demand: Demand,
    now: float,
    rng: Random,
    affinity: Affinity | None = None,
    first: bool = True,
    explore: float = EXPLORE,
) -> Endpoint | None:
    """The endpoint to ask next, None if none is available. `affinity` draws the call to its conversation's endpoint.

    Only a call's first attempt may make a breaker's trial that is due, or measure a little known endpoint. `explore` is
    the share of the calls that measure the endpoint that was measured longest ago.
    """
    available, costs = scan(endpoints, demand, now)
    if len(available) <= 1:
        return available[0] if available else None
    kind = demand.kind
    chance = rng.random()
    if chance < MEASURE and (first or chance < explore):
        measured = _to_measure(available, costs, kind, rng, explores=chance < explore)
        if measured is not None:
            return measured
    for endpoint in available:
        if endpoint.availability.has_opened:
            trial = next((e for e in available if e.availability.breaker.trial_due(now)), None)
            if trial is not None and first:
                return trial
            available, costs = _ramped(available, costs, now, rng)
            break
    if affinity is not None:
        return affinity.choose(available, costs, kind)
    near = near_ties(available, costs, kind)
    return near[0] if len(near) == 1 else _draw(least_loaded(near, now), rng)


def _to_measure(
    available: Sequence[Endpoint], costs: Sequence[float], kind: DemandKind, rng: Random, *, explores: bool
) -> Endpoint | None:
    """The endpoint to measure: one of which so little is known that it may be the best; None if there is none.

    A call that explores asks the one that was measured longest ago.
    """
    if explores:
        others = [e for e in available if not e.forecast.being_measured(kind)]
        return measured_longest_ago(others or available, kind, rng)
    little_known = [e for e in available if e.forecast.latency(kind).seen < FEW]
    if little_known:
        best = min(costs)
        little_known = [e for e in little_known if e.forecast.worth_measuring(kind, best)]
    return _draw(little_known, rng) if little_known else None


def scan(endpoints: Iterable[Endpoint], demand: Demand, now: float) -> tuple[Sequence[Endpoint], Sequence[float]]:
    """The available endpoints, and the cost of each."""
    available = _without_hot([endpoint for endpoint in endpoints if endpoint.availability.allows(now, demand)], now)
    return available, [endpoint.forecast.cost(demand, now) for endpoint in available]


def near_ties(available: Sequence[Endpoint], costs: Sequence[float], kind: DemandKind) -> Sequence[Endpoint]:
    """The endpoints about as cheap as the cheapest, and unmeasured ones; `available` must not be empty."""
    near = min(costs) * NEAR
    if max(costs) <= near:
        return available
    # An unmeasured endpoint costs its prior at least: the others need not be asked, which saves a call for each.
    prior = PRIORS[kind]
    return [
        e
        for e, cost in zip(available, costs, strict=True)
        if cost <= near or (cost >= prior and e.forecast.unmeasured(kind))
    ]


def hedge_targets(tiers: Iterable[Iterable[Endpoint]], demand: Demand, now: float) -> tuple[Sequence[Endpoint], float]:
    """The endpoints of about equal cost to hedge a late attempt with, and the lowest cost; none: (), inf.

    They are of one tier, and of a less preferred tier only if that is much quicker.
    """
    good: Sequence[Endpoint] = ()
    least = inf
    for tier in tiers:
        costs = [
            (endpoint.forecast.cost(demand, now), endpoint)
            for endpoint in tier
            if endpoint.availability.allows(now, demand) and not endpoint.forecast.hot(now)
        ]
        cost = min((cost for cost, _ in costs), default=inf)
        if cost < MUCH_QUICKER * least:
            good, least = [e for its, e in costs if its <= cost * GOOD], cost
    return good, least


def measured_longest_ago(endpoints: Sequence[Endpoint], kind: DemandKind, rng: Random) -> Endpoint:
    """The endpoint whose latest measurement is the oldest: a call there tells the most."""
    oldest = min(e.forecast.latency(kind).seen_at for e in endpoints)
    return _draw([e for e in endpoints if e.forecast.latency(kind).seen_at == oldest], rng)


def least_loaded(endpoints: Sequence[Endpoint], now: float) -> Sequence[Endpoint]:
    """The endpoints with the lowest load."""
    loads = [e.forecast.load(now) for e in endpoints]
    least = min(loads)
    return [e for e, load in zip(endpoints, loads, strict=True) if load == least]


def recovers_first(endpoints: Iterable[Endpoint], demand: Demand, now: float) -> Endpoint | None:
    """The endpoint to ask where none is available, because the last endpoint is never excluded; None if there is none.

    The operator's limits hold all the same, and in a cooldown one call at a time is its trial.
    """
    able = [e for e in endpoints if e.availability.last_resort(now, demand)]
    return min(able, key=lambda e: e.availability.recovers_at(now, demand), default=None)


def _ramped(
    available: Sequence[Endpoint], costs: Sequence[float], now: float, rng: Random
) -> tuple[Sequence[Endpoint], Sequence[float]]:
    """Endpoints in slow start take part in a growing share of the calls, unless there are no others."""
    pairs = [
        (endpoint, cost)
        for endpoint, cost in zip(available, costs, strict=True)
        if (ramp := endpoint.availability.ramp(now)) == 1.0 or rng.random() < ramp
    ]
    return ([endpoint for endpoint, _ in pairs], [cost for _, cost in pairs]) if pairs else (available, costs)


def _without_hot(endpoints: list[Endpoint], now: float) -> list[Endpoint]:
    """The endpoints that are not hot; all of them if all are hot."""
    for endpoint in endpoints:
        if now < endpoint.forecast.hot_until:
            return [e for e in endpoints if now >= e.forecast.hot_until] or endpoints
    return endpoints


def _draw(endpoints: Sequence[Endpoint], rng: Random) -> Endpoint:
    """A random endpoint; weights are shares of the traffic."""
    first = endpoints[0].weight
    for endpoint in endpoints:
        if endpoint.weight != first:
            return rng.choices(endpoints, [e.weight for e in endpoints])[0]
    return endpoints[int(rng.random() * len(endpoints))]
