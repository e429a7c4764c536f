"""When each endpoint of a model is late enough for a rival: reckoned beside the calls, and only read by them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from router.core.choice.budget import Budget
from router.core.choice.hedge_delay import delay, price, samples
from router.core.choice.pick import MUCH_QUICKER
from router.core.endpoint.endpoint import LATE, MIN_HEDGE, Endpoint, Wait

LATE_SHARE = 0.9  # of the waits are over before a less welcome tier is asked: it is for when the others are late
LONG = 4.0  # expected waits, that a rival is taken to need at most
MOST = 50  # endpoints at a time, of 0.2 ms each; where there are more, each has its turn
WAITS: Sequence[Wait] = ("first_token", "answer", "embedding")

Tiers = Sequence[Sequence[Endpoint]]


class HedgePlan:
    """`delay` is what `renew` found last; `price` is that of an extra attempt, in expected waits of the rival."""

    __slots__ = ("_delays", "_turn", "price")

    def __init__(self) -> None:
        self._delays: dict[tuple[Endpoint, Wait], float | None] = {}
        self._turn = 0
        self.price = price(0.0)

    def delay(self, endpoint: Endpoint, wait: Wait, size: float, now: float) -> float:
        """Seconds after which one more wait there, for a prompt of a size, deserves a rival; inf is never."""
        latency = endpoint.latency(wait)
        late = self._delays.get((endpoint, wait)) if latency.curve is not None else None
        if late is None:
            return max(MIN_HEDGE, LATE * latency.expected(size, now))
        return max(MIN_HEDGE, late + latency.shift(size, now))

    def renew(self, tiers: Tiers, budget: Budget, now: float) -> None:
        """Reckon the delays anew, from what is known now."""
        self.price = price(budget.pressure(now))
        everyone = [endpoint for tier in tiers for endpoint in tier]
        begin = self._turn % len(everyone)
        self._turn = begin + MOST
        for wait in WAITS:
            self._renew(tiers, (everyone[begin:] + everyone[:begin])[:MOST], wait, now)

    def _renew(self, tiers: Tiers, turn: Sequence[Endpoint], wait: Wait, now: float) -> None:
        known = [endpoint for endpoint in turn if endpoint.latency(wait).draw()]
        if not known:
            return
        busiest = max(known, key=lambda endpoint: endpoint.latency(wait).evidence(now))
        best = _Best(tiers, wait, busiest.latency(wait).mean_size(now), now)
        for endpoint in known:
            self._delays[endpoint, wait] = self._reckon(endpoint, best)

    def _reckon(self, endpoint: Endpoint, best: _Best) -> float | None:
        """None where nobody can be asked now: if there is somebody by then, what is late without a plan is late."""
        curve = endpoint.curve(best.wait, best.now)
        rival = best.rival(endpoint)
        if curve is None or rival is None:
            return None
        earliest = 0.0 if best.tier[endpoint] == best.tier[rival] else LATE_SHARE
        size = endpoint.latency(best.wait).mean_size(best.now)
        expected, waits = best.expected(rival, size), best.waits(rival, size)
        # Nobody is late who takes no longer than the rival would: or what is tried out were asked for twice each time.
        return max(expected, delay(curve, waits, self.price * expected, earliest))


class _Best:
    """Who would be asked beside whom, for all endpoints of a model at once."""

    def __init__(self, tiers: Tiers, wait: Wait, size: float, now: float) -> None:
        """`size` is that of a usual prompt."""
        self.wait, self.now = wait, now
        self.tier = {endpoint: number for number, tier in enumerate(tiers) for endpoint in tier}
        able = ([e for e in tier if e.available(now) and not e.simulated and not e.hot(now)] for tier in tiers)
        costs = ([(e.cost(wait, now, size), e) for e in those] for those in able)
        self._two = [sorted(each, key=lambda pair: pair[0])[:2] for each in costs]
        self._waits: dict[Endpoint, Sequence[float]] = {}

    def rival(self, of: Endpoint) -> Endpoint | None:
        """The cheapest other, of a less welcome tier only where it is much quicker."""
        least, rival = inf, None
        for two in self._two:
            cost, endpoint = next((pair for pair in two if pair[1] is not of), (inf, None))
            if cost < MUCH_QUICKER * least:
                least, rival = cost, endpoint
        return rival

    def expected(self, rival: Endpoint, size: float) -> float:
        return rival.latency(self.wait).expected(size, self.now)

    def waits(self, rival: Endpoint, size: float) -> Sequence[float]:
        """What the rival takes for prompts of a size, as times of equal share; what it may take beyond all that was
        seen of it is not held against it.
        """
        if rival not in self._waits:
            curve = rival.curve(self.wait, self.now)
            self._waits[rival] = [rival.latency(self.wait).mean(self.now)] if curve is None else samples(curve)
        shift, most = rival.latency(self.wait).shift(size, self.now), LONG * self.expected(rival, size)
        return [min(most, max(MIN_HEDGE, seconds + shift)) for seconds in self._waits[rival]]
