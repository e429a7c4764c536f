"""An explanation of where a call would go now: the endpoint, every candidate, and a sentence for the operator.

It asks the parts that decide (`Candidates.next`, `pick.scan`, `race.hedge_after`, `Candidates.beside`) with a fixed
random number, and begins nothing: reading changes nothing. Of several equally good endpoints one is named.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from math import inf
from random import Random

import msgspec

from router.core.choice.candidates import Candidates
from router.core.choice.pick import least_loaded, near_ties, scan
from router.core.choice.race import hedge_after
from router.core.choice.route import Route
from router.core.demand import Demand, DemandKind
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.explain.rows import Row, finite, row
from router.core.explain.words import why_chosen, why_hedged, why_it_stays


class Budgets(msgspec.Struct, frozen=True):
    """Extra attempts that could be paid for now, and the share of the hedges' budget that is spent."""

    hedge: float
    retry: float
    spent: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds, `size` in tokens of the prompt; the picked candidate comes first, then by tier and cost."""

    model: str
    wait: str  # the demand's kind
    size: float
    picked: str | None
    queued_for: list[str]  # endpoints whose slots a call would be queued for, if none is picked
    retry_in: float | None  # until an endpoint may be asked, if none is picked
    hedge_after: float | None  # None: the picked endpoint would never be hedged
    hedge_target: str | None  # the endpoint that would be asked beside it, if it were late now
    price: float  # of an extra attempt, in expected waits of its target
    budgets: Budgets
    candidates: list[Row]
    omitted: int  # candidates that are not shown
    choice: str  # why the picked endpoint was chosen, or none
    why: str  # the choice, and how the picked endpoint would be hedged


class _Fixed(Random):
    """Fixed randomness: no endpoint is explored, and of equally good ones the middle one is drawn."""

    def random(self) -> float:
        return 0.5


_FIXED = _Fixed(0)


def explain(
    route: Route,
    kind: DemandKind,
    size: float | None,
    now: float,
    most: int | None = None,
    *,
    demand: Demand | None = None,
) -> Explanation:
    """The explanation for a call of a size (None: the usual size), with at most so many candidates.

    `demand` is the call's own, if there is a call; then it counts instead.
    """
    steps = in_steps(route, kind, size, lambda: now, most, demand=demand)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            explanation: Explanation = end.value
            return explanation


def in_steps(
    route: Route,
    kind: DemandKind,
    size: float | None,
    clock: Callable[[], float],
    most: int | None = None,
    *,
    demand: Demand | None = None,
) -> Generator[None, None, Explanation]:
    """The same in steps, each short whatever the number of endpoints: one takes some 0.1 ms to describe.

    The endpoints go on meanwhile, so that each is described at its own time of the clock.
    """
    now, route = clock(), route.without_shortlists()
    if demand is None:
        operation = "embeddings" if kind == "embedding" else "chat/completions"
        demand = Demand(kind, _usual_size(route, kind, now) if size is None else size, operation)
    yield
    chosen = Candidates(route, demand, now, _FIXED).next((), now, now + route.deadline)
    endpoint = chosen.endpoint
    yield
    near = _near(route, endpoint, demand, now)
    yield
    candidates = yield from _rows(route, endpoint, near, demand, clock, most)
    now = clock()
    omitted = len(route.policies) - len(candidates)
    yield
    after, target = _hedge(route, endpoint, demand, now)
    yield
    at_random = len(near) > 1 and len(least_loaded(near, now)) > 1
    yield
    choice = (*why_chosen(chosen, candidates, omitted, at_random, now), *why_it_stays(route))
    beside = why_hedged(route, endpoint, after, target, now) if endpoint else ()
    return Explanation(
        model=route.model,
        wait=kind,
        size=round(demand.size, 1),
        picked=endpoint.name if endpoint else None,
        queued_for=[endpoint.name for endpoint in chosen.wanted],
        retry_in=finite(chosen.then - now) if endpoint is None else None,
        hedge_after=finite(after),
        hedge_target=target.name if target else None,
        price=round(route.plan.price, 4),
        budgets=Budgets(
            round(route.hedges.level(now), 2), round(route.retries.level(now), 2), round(route.hedges.pressure(now), 3)
        ),
        candidates=candidates,
        omitted=omitted,
        choice="; ".join(choice),
        why="; ".join((*choice, *beside)),
    )


def why_asked(explanation: Explanation, endpoint: str, *, affinity: bool) -> str:
    """The sentence for a call that an endpoint was asked for; `affinity`: its conversation may have drawn it there."""
    if endpoint == explanation.picked:
        return explanation.why
    asked = next((each for each in explanation.candidates if each.endpoint == endpoint), None)
    if affinity:
        how = "its conversation stays there, or it was the one measured longest ago"
    elif asked is not None and asked.near:
        how = "at random, among endpoints of about equal cost"
    elif asked is not None and asked.in_slow_start:
        how = "it has just recovered, and takes a growing share of the calls"
    else:
        how = "one call in a hundred goes to the endpoint that was measured longest ago"
    return f"{endpoint} was asked: {how}; otherwise {explanation.choice}"


# What would happen.


def _usual_size(route: Route, kind: DemandKind, now: float) -> float:
    """The mean size of recent prompts; 0 if there were none."""
    latencies = [endpoint.forecast.latency(kind) for endpoint in route.by_preference]
    weighed = [(latency.evidence(now), latency.mean_size(now)) for latency in latencies]
    total = sum((weight for weight, _ in weighed), 0.0)
    return sum((weight * size for weight, size in weighed), 0.0) / total if total > 0.0 else 0.0


def _near(route: Route, picked: Endpoint | None, demand: Demand, now: float) -> Sequence[Endpoint]:
    """The picked endpoint, and those of its tier that are about as good."""
    if picked is None:
        return ()
    available, costs = scan(route.tier_of(picked).endpoints, demand, now)
    near = near_ties(available, costs, demand.kind) if available else ()
    return near if picked in near else ()


def _rows(
    route: Route,
    picked: Endpoint | None,
    near: Sequence[Endpoint],
    demand: Demand,
    clock: Callable[[], float],
    most: int | None,
) -> Generator[None, None, list[Row]]:
    now = clock()
    rows = [
        (tier.number, endpoint, endpoint.forecast.cost(demand, now))
        for tier in route.tiers
        for endpoint in tier.endpoints
    ]
    rows.sort(key=lambda each: (each[1] is not picked, each[0], not each[1].availability.allows(now, demand), each[2]))
    described, similar = [], frozenset(near)
    for tier, endpoint, _ in rows[:most]:
        yield
        now = clock()
        after = hedge_after(route, _imagined(endpoint, demand, now), now)
        described.append(row(endpoint, demand, now, tier=tier, near=endpoint in similar, hedge_after=after))
    return described


def _imagined(endpoint: Endpoint, demand: Demand, began: float) -> Attempt:
    """An attempt as it would be; it counts nowhere."""
    breaker = endpoint.availability.breaker
    trial = breaker.retry_at is not None and breaker.allows(inf)
    return Attempt(endpoint, demand, "first", began, trial)


def _hedge(route: Route, picked: Endpoint | None, demand: Demand, now: float) -> tuple[float, Endpoint | None]:
    """The time at which the picked endpoint would be hedged, and the target: as if it had begun so long ago, all else
    as it is.
    """
    if picked is None:
        return inf, None
    after = hedge_after(route, _imagined(picked, demand, now), now)
    if after == inf:
        return inf, None
    late = _imagined(picked, demand, now - after)
    candidates = Candidates(route, demand, late.began, _FIXED)
    candidates.begun(picked)
    return after, candidates.beside(late, (late,), now)
