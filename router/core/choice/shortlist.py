"""The shortlist of a large tier: the endpoints that are looked at for one call, instead of all of them.

A scan of a thousand endpoints costs ten times as much as the rest of a call. So all are ranked by a scan now and then,
and each call looks at twelve at most, whose costs are computed for it as in a full scan:

    near      those about as cheap as the cheapest, at least LOOKED_AT: so many of them, drawn evenly
    next      an eighth of the tier, the next cheapest: some of them, drawn evenly, for when the near ones are loaded
    out       those whose breaker is not closed: each call may be the trial

Costs change with time, load and evidence. A ranking serves for MAX_AGE seconds, and for a call per four endpoints.
Where none of the endpoints looked at is available, all are looked at. So a ranking that is out of date costs
at most some calls of half a second a better endpoint; no pick relies on an outdated cost. The least loaded of at least
four drawn from a large group is about as good as the least loaded of all (Mitzenmacher: The power of two choices in
randomized load balancing, 1996; with at least four instead of two).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from random import Random

from router.core.choice.pick import EXPLORE, measured_longest_ago, near_ties, pick, scan
from router.core.demand import Demand, DemandKind
from router.core.endpoint.endpoint import Endpoint

LARGE = 32  # endpoints of a tier, above which it has a shortlist: a scan of so many costs as much as half of a call
LOOKED_AT = 8  # near endpoints per call; there are at least as many
LOOKED_AT_NEXT = 4  # endpoints per call
SHARE_NEXT, FEWEST_NEXT = 8, 16  # one in eight endpoints is one of the next, and at least 16 are
OLDEST = 16  # endpoints
MAX_OUT = 16  # endpoints
MAX_AGE = 0.5  # seconds: a thousand are ranked in a millisecond, so that this takes 0.2 % of a core
CALLS_SHARE = 4  # a ranking serves a call per four endpoints: it adds the cost of four to each
MIN_CALLS = 16  # a ranking serves at least so many calls, even if none of its endpoints is available

Narrow = Callable[[Sequence[Endpoint]], Sequence[Endpoint]]


class Ranking:
    """The findings of a full scan, and how many calls it has served. `hot`: only hot endpoints were available."""

    __slots__ = ("_next", "_step", "_step_next", "calls", "failed", "hot", "made_at", "near", "out")

    def __init__(
        self,
        near: Sequence[Endpoint],
        following: Sequence[Endpoint],
        out: Sequence[Endpoint],
        made_at: float,
        hot: bool,
    ) -> None:
        self.near, self._next, self.out, self.made_at, self.hot = near, following, out, made_at, hot
        self._step = -(-len(near) // LOOKED_AT)
        self._step_next = max(1, -(-len(following) // LOOKED_AT_NEXT))
        self.calls = 0
        self.failed = False  # a call found none available

    def draw(self, rng: Random) -> list[Endpoint]:
        """The endpoints to look at for one call."""
        chance = rng.random()
        near = self.near if self._step == 1 else self.near[int(chance * self._step) :: self._step]
        return [*near, *self._next[int(chance * self._step_next) :: self._step_next], *self.out]


class Oldest:
    """The endpoints that were measured longest ago, the latest of them at `latest`."""

    __slots__ = ("endpoints", "latest")

    def __init__(self, endpoints: Sequence[Endpoint], latest: float) -> None:
        self.endpoints, self.latest = endpoints, latest


class Shortlist:
    """The rankings of one tier, by operation, kind and order of magnitude of the prompt's size."""

    __slots__ = ("_endpoints", "_max_calls", "_oldest", "_rankings")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._max_calls = max(MIN_CALLS, len(endpoints) // CALLS_SHARE)
        self._rankings: dict[tuple[str, DemandKind, int], Ranking | None] = {}
        self._oldest: dict[DemandKind, Oldest] = {}

    def draw(self, demand: Demand, now: float, rng: Random) -> Sequence[Endpoint]:
        """The endpoints to look at for one call."""
        ranking = self._ranking(demand, now)
        return self._endpoints if ranking is None else ranking.draw(rng)

    def pick(self, demand: Demand, now: float, rng: Random, narrow: Narrow, first: bool = True) -> Endpoint | None:
        """The endpoint to ask next, None if none is available; only those are asked that `narrow` leaves."""
        ranking = self._ranking(demand, now)
        if ranking is not None:
            ranking.calls += 1
            if rng.random() < EXPLORE and (measured := self._explore(demand, now, rng, narrow)) is not None:
                return measured
            chosen = pick(narrow(ranking.draw(rng)), demand, now, rng, None, first, explore=0.0)
            if chosen is not None and (ranking.hot or not chosen.forecast.hot(now)):
                return chosen
            ranking.failed = True
        return pick(narrow(self._endpoints), demand, now, rng, None, first)

    def _ranking(self, demand: Demand, now: float) -> Ranking | None:
        """The ranking for such a demand, made anew if it is out of date; None while no endpoint is available."""
        key = (demand.operation, demand.kind, int(demand.size).bit_length())
        ranking = self._rankings.get(key)
        if ranking is not None:
            most = MIN_CALLS if ranking.failed else self._max_calls
            if now < ranking.made_at + MAX_AGE and ranking.calls < most:
                return ranking
        ranking = self._rankings[key] = rank(self._endpoints, demand, now)
        return ranking

    def _explore(self, demand: Demand, now: float, rng: Random, narrow: Narrow) -> Endpoint | None:
        """The available endpoint that was measured longest ago.

        Measurements only make endpoints younger: those that were the oldest are so until all of them are measured.
        """
        kind = demand.kind
        for _ in range(2):
            known = self._oldest.get(kind)
            if known is not None:
                able = [e for e in scan(narrow(known.endpoints), demand, now)[0] if not e.forecast.being_measured(kind)]
                if able:
                    chosen = measured_longest_ago(able, kind, rng)
                    if chosen.forecast.latency(kind).seen_at <= known.latest:
                        return chosen
            self._oldest[kind] = self._find_oldest(demand, now)
        return None

    def _find_oldest(self, demand: Demand, now: float) -> Oldest:
        kind = demand.kind
        seen = [
            (e.forecast.latency(kind).seen_at, number)
            for number, e in enumerate(self._endpoints)
            if e.availability.allows(now, demand) and not e.forecast.being_measured(kind)
        ]
        oldest = sorted(seen)[:OLDEST]
        return Oldest([self._endpoints[number] for _, number in oldest], oldest[-1][0] if oldest else -inf)


def rank(endpoints: Sequence[Endpoint], demand: Demand, now: float) -> Ranking | None:
    """Rank all endpoints by a full scan; None if none is available."""
    available, costs = scan(endpoints, demand, now)
    if not available:
        return None
    ties = near_ties(available, costs, demand.kind)
    chosen = set(ties)
    others = [(cost, number) for number, cost in enumerate(costs) if available[number] not in chosen]
    missing = max(0, LOOKED_AT - len(ties))
    wanted = missing + max(FEWEST_NEXT, len(endpoints) // SHARE_NEXT)
    cheapest = [available[number] for _, number in sorted(others)[:wanted]]
    chosen.update(cheapest)
    out = [e for e in endpoints if e.availability.breaker.retry_at is not None and e not in chosen]
    near, following = [*ties, *cheapest[:missing]], cheapest[missing:]
    return Ranking(near, following, out[:MAX_OUT], now, available[0].forecast.hot(now))
