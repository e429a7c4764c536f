"""Why a call would go where it would go now: who would be picked, every candidate, and a sentence for the operator.

It asks the very parts that decide (`Field.next`, `balance.scan`, `race.rival_after`, `Field.beside`), with chance that
holds still, and begins nothing: reading changes nothing. Where several are equally good one of them is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random
from typing import Protocol

import msgspec

from router.core.choice.candidates import Candidates, Route
from router.core.choice.pick import least_loaded, near_ties, scan
from router.core.choice.race import rival_after
from router.core.endpoint.endpoint import Attempt, Endpoint, Wait
from router.core.explain.rows import Row, candidate, finite
from router.core.explain.words import why_beside, why_it


class Explainable(Route, Protocol):
    """A route, and the name that clients know it by."""

    @property
    def model(self) -> str: ...


class Budgets(msgspec.Struct, frozen=True):
    """Extra attempts that could be paid for now, and the share of what hedges had that is spent."""

    hedge: float
    retry: float
    spent: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, `size` in tokens of the prompt; the picked candidate is the first, then by tier and cost."""

    model: str
    wait: str
    size: float
    picked: str | None
    in_line: list[str]  # whom a call would wait for: nobody is picked, for these are full
    later: float | None  # when somebody may be asked, where nobody is picked
    hedge_after: float | None  # when the picked one would get a rival; None: never
    rival: str | None  # and whom, if it were late now
    price: float  # of an extra attempt, in expected waits of the rival
    budgets: Budgets
    candidates: list[Row]
    left_out: int  # candidates, of very many
    why: str


class _Still(Random):
    """Chance that holds still: nobody is explored, and of those that are equally good it is the one in the middle."""

    def random(self) -> float:
        return 0.5


_STILL = _Still(0)


def explain(route: Explainable, wait: Wait, size: float | None, now: float, most: int | None = None) -> Explanation:
    """For a call of a size, or of the usual one; with at most so many candidates."""
    size = _usual_size(route, wait, now) if size is None else size
    chosen = Candidates(route, wait, now, _STILL, size).next((), now, now + route.deadline)
    near = _near(route, chosen.endpoint, wait, now, size)
    candidates = _candidates(route, chosen.endpoint, near, wait, size, now, most)
    left_out = len(route.policies) - len(candidates)
    after, rival = _rival(route, chosen.endpoint, wait, size, now)
    by_lot = len(near) > 1 and len(least_loaded(near, now)) > 1
    beside = why_beside(route, chosen.endpoint, after, rival, now) if chosen.endpoint else ()
    return Explanation(
        model=route.model,
        wait=wait,
        size=round(size, 1),
        picked=chosen.endpoint.name if chosen.endpoint else None,
        in_line=[endpoint.name for endpoint in chosen.wanted],
        later=finite(chosen.then - now) if chosen.endpoint is None else None,
        hedge_after=finite(after),
        rival=rival.name if rival else None,
        price=round(route.plan.price, 4),
        budgets=Budgets(
            round(route.hedges.level(now), 2), round(route.retries.level(now), 2), round(route.hedges.pressure(now), 3)
        ),
        candidates=candidates,
        left_out=left_out,
        why="; ".join((*why_it(chosen, candidates, left_out, by_lot, now), *beside)),
    )


def asked(explanation: Explanation, endpoint: str, *, sticky: bool) -> str:
    """The sentence for a call that has asked somebody; `sticky` is one with a conversation that may draw it."""
    if endpoint == explanation.picked:
        return explanation.why
    it = next((each for each in explanation.candidates if each.endpoint == endpoint), None)
    if sticky:
        how = "its conversation stays there, or it was the one measured longest ago"
    elif it is not None and it.near:
        how = "by lot, from those that are about equal"
    elif it is not None and it.has_just_recovered:
        how = "it has just recovered, and gets a share that grows"
    else:
        how = "one call in a hundred goes to the one measured longest ago"
    return f"{endpoint} was asked: {how}; else {explanation.why}"


# What would happen.


def _usual_size(route: Route, wait: Wait, now: float) -> float:
    """The mean size of what was asked lately; 0 where nothing was."""
    weighed = [(e.latency(wait).evidence(now), e.latency(wait).mean_size(now)) for tier in route.tiers for e in tier]
    total = sum(weight for weight, _ in weighed)
    return sum(weight * size for weight, size in weighed) / total if total > 0.0 else 0.0


def _near(route: Route, picked: Endpoint | None, wait: Wait, now: float, size: float) -> Sequence[Endpoint]:
    """The picked one and those that are about as good."""
    tier = next((tier for tier in route.tiers if picked in tier), ())
    available, costs = scan(tier, wait, now, size)
    near = near_ties(available, costs, wait) if available else ()
    return near if picked in near else ()


def _candidates(
    route: Route,
    picked: Endpoint | None,
    near: Sequence[Endpoint],
    wait: Wait,
    size: float,
    now: float,
    most: int | None,
) -> list[Row]:
    rows = [
        (tier, e, e.cost(wait, now, size))
        for tier, those in zip(route.numbers, route.tiers, strict=True)
        for e in those
    ]
    rows.sort(key=lambda row: (row[1] is not picked, row[0], not row[1].available(now), row[2]))
    return [
        candidate(
            endpoint,
            wait,
            size,
            now,
            tier=tier,
            near=endpoint in near,
            hedge_after=rival_after(route, _imagined(endpoint, wait, size, now), now),
        )
        for tier, endpoint, _ in rows[:most]
    ]


def _imagined(endpoint: Endpoint, wait: Wait, size: float, began: float) -> Attempt:
    """An attempt as it would be; nobody is told of it."""
    trial = endpoint.breaker.retry_at is not None and endpoint.breaker.allows(inf)
    return Attempt(endpoint, endpoint.slots, began, wait, "first", trial, size)


def _rival(route: Route, picked: Endpoint | None, wait: Wait, size: float, now: float) -> tuple[float, Endpoint | None]:
    """When the picked one gets a rival, and whom: as if it had been asked so long ago, and all else were as it is."""
    if picked is None:
        return inf, None
    after = rival_after(route, _imagined(picked, wait, size, now), now)
    if after == inf:
        return inf, None
    late = _imagined(picked, wait, size, now - after)
    field = Candidates(route, wait, late.began, _STILL, size)
    field.begun(picked)
    return after, field.beside(late, (late,), now)
