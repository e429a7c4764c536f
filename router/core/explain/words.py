"""The sentences of an explanation: why this endpoint, why not the others, and which would be asked beside it.

Parts of one sentence, each with its numbers: they name what was compared, and leave out what made no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from router.core.choice.candidates import Next
from router.core.choice.route import Route
from router.core.endpoint.endpoint import Endpoint
from router.core.explain.rows import BEING_MEASURED, UNMEASURED, Row, in_words

MAX_NAMED = 3  # endpoints named of each sort; further ones are counted


def why_chosen(chosen: Next, rows: Sequence[Row], omitted: int, at_random: bool, now: float) -> Iterator[str]:
    """Why an endpoint was chosen, or none. The chosen one's row is the first; `at_random`: equally good ones exist."""
    if chosen.endpoint is None:
        yield _none_chosen(chosen, now)
        yield from _unavailable(rows)
        return
    it, *others = rows
    yield _chosen(it, others, at_random)
    yield from _tiers_passed(it, others)
    beside = [each for each in others if each.available and not each.near]
    yield from (_cost(each, it) for each in beside[:MAX_NAMED])
    if len(beside) > MAX_NAMED:
        yield _more(
            len(beside) - MAX_NAMED,
            "costs more or is in a less preferred tier",
            "cost more or are in a less preferred tier",
        )
    yield from _unavailable(others)
    if omitted:
        yield _more(omitted, "is not shown", "are not shown")


def why_it_stays(route: Route) -> Iterator[str]:
    """The effect of the route's affinity on a call of a conversation."""
    if route.affinity != "off":
        margin = in_words(route.affinity_margin)
        why = f"(affinity: {route.affinity})"
        yield f"a conversation stays at its own endpoint if that costs at most {margin} more {why}"


def why_hedged(route: Route, it: Endpoint, after: float, target: Endpoint | None, now: float) -> Iterator[str]:
    """The endpoint that would be asked beside it, and the time."""
    policy = route.policies[it]
    if len(route.policies) == 1:
        yield "there is no other endpoint to hedge with"
    elif policy.hedge == "off":
        yield "it would not be hedged (hedge: off)"
    elif after == inf:
        yield "it would not be hedged: no hedge is worth its price"
    elif target is None:
        yield f"it would not be hedged after {in_words(after)}: no other endpoint is expected to be faster"
    else:
        paid = policy.hedge_budget > 0.0 and route.hedges.level(now) >= 1.0
        unpaid = "" if paid else ", if the budget could pay for it"
        yield f"it would be hedged with {target.name} after {in_words(after)}{unpaid}"


def _chosen(it: Row, others: Sequence[Row], at_random: bool) -> str:
    if it.out:
        return f"{it.endpoint} is out ({it.out}), and so are all others: it is asked as the last resort"
    if UNMEASURED in it.notes:
        return f"{it.endpoint} is not measured yet: it gets one call at once"
    expected = f"{it.endpoint}: {in_words(it.cost)} expected"
    near = [each.endpoint for each in others if each.near]
    same_tier = [each for each in others if each.available and each.tier == it.tier]
    cheaper = [each for each in same_tier if each.cost < it.cost]
    if near:
        return f"{expected}, about as low as {_names(near)}; {'drawn at random' if at_random else 'the least loaded'}"
    if not same_tier:
        return f"{expected}, the only available endpoint{' of its tier' if others else ''}"
    if not cheaper:
        return f"{expected}, the lowest"
    others_are = dict.fromkeys(map(_why_not, cheaper))
    return f"{expected}, the lowest of those that {' and '.join(others_are)}"


def _why_not(cheaper: Row) -> str:
    """The property for the lack of which a cheaper endpoint is not asked."""
    if cheaper.is_hot:
        return "are not hot"
    return "are not in slow start" if cheaper.in_slow_start else "are not late"


def _tiers_passed(it: Row, others: Sequence[Row]) -> Iterator[str]:
    passed = sorted({each.tier for each in others if each.tier < it.tier})
    for tier in passed[:MAX_NAMED]:
        late = any(each.available for each in others if each.tier == tier)
        yield f"tier {tier} is late" if late else f"no endpoint of tier {tier} is available"
    if len(passed) > MAX_NAMED:
        yield _more(len(passed) - MAX_NAMED, "tier is passed over", "tiers are passed over")


def _cost(other: Row, it: Row) -> str:
    tier = f" (tier {other.tier})" if other.tier != it.tier else ""
    if BEING_MEASURED in other.notes:
        return f"{other.endpoint}{tier} is being measured"
    hot = " but is hot" if other.is_hot else ""
    return f"{other.endpoint}{tier} costs {in_words(other.cost)}{hot}"


def _unavailable(rows: Sequence[Row]) -> Iterator[str]:
    out = [each for each in rows if each.out]
    yield from (f"{each.endpoint} is out: {each.out}" for each in out[:MAX_NAMED])
    if len(out) > MAX_NAMED:
        yield _more(len(out) - MAX_NAMED, "is out", "are out")


def _none_chosen(chosen: Next, now: float) -> str:
    if chosen.wanted:
        return f"a call would be queued for a slot at {_names([each.name for each in chosen.wanted])}"
    if chosen.then < inf:
        return f"no endpoint is available now: a call would wait {in_words(chosen.then - now)}"
    return "no endpoint is available: a call would be refused"


def _more(count: int, one: str, several: str) -> str:
    """The part of the sentence about those that are counted and not named."""
    return f"{count} more {one if count == 1 else several}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMED])
    return f"{shown} and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else shown
