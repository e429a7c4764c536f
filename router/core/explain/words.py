"""The words for a decision, for the operator: why this endpoint, why not the others, and who would be asked beside it.

Parts of one sentence, each with its numbers: they say what was compared, and leave out what made no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from router.core.choice.candidates import Next, Route
from router.core.endpoint.endpoint import Endpoint
from router.core.explain.rows import NEWCOMER, ON_TRIAL, Row, in_words

NAMED = 3  # others, of each kind


def why_it(chosen: Next, candidates: Sequence[Row], left_out: int, by_lot: bool, now: float) -> Iterator[str]:
    """`candidates` begin with the chosen one, if there is one, and so many are left out; `by_lot` is for one that
    others were as good as.
    """
    if chosen.endpoint is None:
        yield _nobody(chosen, now)
        yield from _those_out(candidates)
        return
    it, *others = candidates
    yield _this_one(it, others, by_lot)
    yield from _tiers_passed(it, others)
    beside = [each for each in others if each.available and not each.near]
    yield from (_what_it_costs(each, it) for each in beside[:NAMED])
    if len(beside) > NAMED:
        yield f"{len(beside) - NAMED} more cost more or are less welcome"
    yield from _those_out(others)
    if left_out:
        yield f"{left_out} are not looked at here"


def why_beside(route: Route, it: Endpoint, after: float, rival: Endpoint | None, now: float) -> Iterator[str]:
    """Whom it would get beside it, and when."""
    policy = route.policies[it]
    if len(route.policies) == 1:
        yield "there is no other to ask beside it"
    elif policy.hedge == "off":
        yield "no rival is asked beside it (hedge: off)"
    elif after == inf:
        yield "no rival would be asked: none is worth its price"
    elif rival is None:
        yield f"no rival would be asked after {in_words(after)}: there is none from whom more is to be hoped"
    else:
        paid = policy.hedge_budget > 0.0 and route.hedges.level(now) >= 1.0
        unpaid = "" if paid else ", if there were anything in the budget to pay for it"
        yield f"a rival ({rival.name}) would be asked after {in_words(after)}{unpaid}"


def _this_one(it: Row, others: Sequence[Row], by_lot: bool) -> str:
    if it.out:
        return f"{it.endpoint} is out ({it.out}), but so is everybody, and then one is asked all the same"
    if NEWCOMER in it.notes:
        return f"{it.endpoint} is new: it gets one trial at once"
    said = f"{it.endpoint}: {in_words(it.cost)} expected"
    near = [each.endpoint for each in others if each.near]
    rest = [each for each in others if each.available and each.tier == it.tier]
    cheaper = [each for each in rest if each.cost < it.cost]
    if near:
        return f"{said}, about as low as {_names(near)}; {'drawn by lot' if by_lot else 'it has the least to do'}"
    if not rest:
        return f"{said}, the only one {'of its tier that can be asked' if others else 'there is'}"
    if not cheaper:
        return f"{said}, the lowest"
    others_are = dict.fromkeys(map(_what_it_is_not, cheaper))
    return f"{said}, the lowest of those that {' and '.join(others_are)}"


def _what_it_is_not(cheaper: Row) -> str:
    """For what one that costs less is not asked."""
    if cheaper.is_hot:
        return "are not hot"
    return "have not just recovered" if cheaper.has_just_recovered else "keep nobody waiting"


def _tiers_passed(it: Row, others: Sequence[Row]) -> Iterator[str]:
    passed = sorted({each.tier for each in others if each.tier < it.tier})
    for tier in passed[:NAMED]:
        late = any(each.available for each in others if each.tier == tier)
        yield f"tier {tier} keeps its callers waiting" if late else f"nobody of tier {tier} can be asked"
    if len(passed) > NAMED:
        yield f"nor is anybody asked of {len(passed) - NAMED} more tiers"


def _what_it_costs(other: Row, it: Row) -> str:
    tier = f" (tier {other.tier})" if other.tier != it.tier else ""
    if ON_TRIAL in other.notes:
        return f"{other.endpoint}{tier} is on trial"
    hot = " but is hot" if other.is_hot else ""
    return f"{other.endpoint}{tier} costs {in_words(other.cost)}{hot}"


def _those_out(candidates: Sequence[Row]) -> Iterator[str]:
    out = [each for each in candidates if each.out]
    yield from (f"{each.endpoint} is out: {each.out}" for each in out[:NAMED])
    if len(out) > NAMED:
        yield f"{len(out) - NAMED} more are out"


def _nobody(chosen: Next, now: float) -> str:
    if chosen.wanted:
        return f"a call would wait in line for a slot at {_names([each.name for each in chosen.wanted])}"
    if chosen.then < inf:
        return f"nobody can be asked now: a call would wait {in_words(chosen.then - now)}"
    return "nobody can be asked: a call would be refused"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown
