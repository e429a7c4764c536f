"""The plan of hedges for a model: the delay after which each endpoint deserves a hedge.

The plan is computed beside the calls, about once a second, and only read by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from router.core.choice.budget import Budget
from router.core.choice.hedge_delay import delay, price, samples
from router.core.choice.pick import MUCH_QUICKER
from router.core.demand import KINDS, Demand, DemandKind
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.forecast import LATE_FACTOR, MIN_LATE

# Share of the waits that have ended before a less preferred tier is asked: that tier is for when the others are late.
LATE_SHARE = 0.9
# A hedge target is assumed to need at most this many of its expected waits: its unseen tail is not held against it.
MAX_TARGET_WAITS = 4.0
# Endpoints per renewal, at 0.2 ms each; of a larger model each endpoint has its turn.
MAX_ENDPOINTS = 50
AT_ONCE = 100  # endpoints of which the cost is computed in one step: some 0.1 ms

Tiers = Sequence[Sequence[Endpoint]]


class HedgePlan:
    """`delay` reads what `renew` found last; `price` is that of an extra attempt, in expected waits of its target."""

    __slots__ = ("_delays", "_turn", "price")

    def __init__(self) -> None:
        self._delays: dict[tuple[Endpoint, DemandKind], float | None] = {}
        self._turn = 0
        self.price = price(0.0)

    def delay(self, endpoint: Endpoint, demand: Demand, now: float) -> float:
        """Seconds after which an attempt at the endpoint deserves a hedge; inf: never."""
        latency = endpoint.forecast.latency(demand.kind)
        planned = self._delays.get((endpoint, demand.kind)) if latency.curve is not None else None
        if planned is None:
            return max(MIN_LATE, LATE_FACTOR * latency.expected(demand.size, now))
        return max(MIN_LATE, planned + latency.shift(demand.size, now))

    def renew(self, tiers: Tiers, budget: Budget, now: float) -> None:
        """Recompute the delays from what is known now."""
        for _ in self.renewing(tiers, budget, now):
            pass

    def renewing(self, tiers: Tiers, budget: Budget, now: float) -> Iterator[None]:
        """Do as `renew` does, in steps of a fraction of a millisecond; calls may come between two of them."""
        self.price = price(budget.pressure(now))
        endpoints = [endpoint for tier in tiers for endpoint in tier]
        begin = self._turn % len(endpoints)
        self._turn = begin + MAX_ENDPOINTS
        turn = (endpoints[begin:] + endpoints[:begin])[:MAX_ENDPOINTS]
        for kind in KINDS:
            yield from self._renew(tiers, turn, kind, now)

    def _renew(self, tiers: Tiers, turn: Sequence[Endpoint], kind: DemandKind, now: float) -> Iterator[None]:
        known = []
        for endpoint in turn:
            latency = endpoint.forecast.latency(kind)
            if latency.fresh:
                yield
            if latency.draw():
                known.append(endpoint)
        if not known:
            return
        busiest = max((endpoint.forecast.latency(kind) for endpoint in known), key=lambda each: each.evidence(now))
        targets = _Targets(tiers, Demand(kind, busiest.mean_size(now)), now)
        yield from targets.find(tiers)
        for endpoint in known:
            yield
            self._delays[endpoint, kind] = self._delay(endpoint, targets)

    def _delay(self, endpoint: Endpoint, targets: _Targets) -> float | None:
        """None if no target is available now: should there be one later, the rule without a plan holds."""
        kind, now = targets.demand.kind, targets.now
        curve = endpoint.forecast.curve(kind, now)
        target = targets.beside(endpoint)
        if curve is None or target is None:
            return None
        earliest = 0.0 if targets.tier[endpoint] == targets.tier[target] else LATE_SHARE
        size = endpoint.forecast.latency(kind).mean_size(now)
        expected, waits = targets.expected(target, size), targets.waits(target, size)
        # No attempt is late before the shorter of both expected waits is over. The target's own: else each call that
        # explores a slower endpoint would be sent twice. The endpoint's own: a target that is slower must not delay the
        # hedge beyond the waits of the calls that do not stall here.
        least = min(expected, targets.expected(endpoint, size))
        return max(least, delay(curve, waits, self.price * expected, earliest))


class _Targets:
    """The hedge target beside each endpoint of a model, for all of them at once; `demand` is a usual one.

    Call `find` before the other methods.
    """

    def __init__(self, tiers: Tiers, demand: Demand, now: float) -> None:
        self.demand, self.now = demand, now
        self.tier = {endpoint: number for number, tier in enumerate(tiers) for endpoint in tier}
        self._cheapest_two: list[list[tuple[float, Endpoint]]] = []
        self._waits: dict[Endpoint, Sequence[float]] = {}

    def find(self, tiers: Tiers) -> Iterator[None]:
        """Find the two cheapest targets of each tier, in steps of at most AT_ONCE endpoints."""
        demand, now = self.demand, self.now
        for tier in tiers:
            two: list[tuple[float, Endpoint]] = []
            for begin in range(0, len(tier), AT_ONCE):
                yield
                able = (
                    (e.forecast.cost(demand, now), e)
                    for e in tier[begin : begin + AT_ONCE]
                    if e.availability.allows(now, demand) and not e.simulated and not e.forecast.hot(now)
                )
                two = sorted([*two, *able], key=lambda pair: pair[0])[:2]
            self._cheapest_two.append(two)

    def beside(self, endpoint: Endpoint) -> Endpoint | None:
        """The cheapest other endpoint, of a less preferred tier only if that is much quicker."""
        least, target = inf, None
        for two in self._cheapest_two:
            cost, other = next((pair for pair in two if pair[1] is not endpoint), (inf, None))
            if cost < MUCH_QUICKER * least:
                least, target = cost, other
        return target

    def expected(self, target: Endpoint, size: float) -> float:
        """The target's expected wait for a prompt of a size, in seconds."""
        return target.forecast.latency(self.demand.kind).expected(size, self.now)

    def waits(self, target: Endpoint, size: float) -> Sequence[float]:
        """The target's waits for prompts of a size: samples of equal probability, bounded by MAX_TARGET_WAITS."""
        latency = target.forecast.latency(self.demand.kind)
        if target not in self._waits:
            curve = target.forecast.curve(self.demand.kind, self.now)
            self._waits[target] = [latency.mean(self.now)] if curve is None else samples(curve)
        shift, most = latency.shift(size, self.now), MAX_TARGET_WAITS * self.expected(target, size)
        return [min(most, max(MIN_LATE, seconds + shift)) for seconds in self._waits[target]]
