"""What a client is told whose call ends without an answer: of the attempts that were made, or why there was none."""

from __future__ import annotations

from router.core.choice.route import Route
from router.core.record import CallRecord
from router.core.verdict import OURS, Verdict
from router.errors import MAX_RETRY_AFTER, DeadlineExceeded, EndpointsFailed, Overloaded, RouterError

COME_BACK = 1.0  # seconds, where no endpoint says when


def late(record: CallRecord, now: float) -> RouterError:
    """The deadline is over."""
    tried = ", ".join(attempt.endpoint.name for attempt in record.attempts) or "none"
    return DeadlineExceeded(f"No first token within {now - record.arrived:.3g} s (asked: {tried}).")


def line_full(model: str, wait: float) -> RouterError:
    """`wait`, here and below, are the seconds until there may be room, as far as that is known."""
    return _no_room(model, "and as many wait for one", "queue_full", wait)


def line_too_long(model: str, wait: float) -> RouterError:
    return _no_room(model, f"and it would take about {wait:.0f} s to get one", "queue_timeout", wait)


def waited_in_vain(model: str, waited: float) -> RouterError:
    return _no_room(model, f"and none became free for it within {waited:.0f} s", "queue_timeout", waited)


def exhausted(record: CallRecord, route: Route, now: float) -> RouterError:
    """Nobody is left to ask."""
    model, attempts = record.model, record.attempts
    quiet = [
        e.availability.cooldown.quiet_until - now for e in route.endpoints if e.availability.cooldown.quiet_until > now
    ]
    if not attempts and quiet:
        said = f"All endpoints of '{model}' are busy, and said for how long: {min(quiet):.0f} s at the least."
        return Overloaded(said, code="endpoints_busy", retry_after=min(quiet))
    if not attempts:
        return Overloaded(f"All endpoints of '{model}' have as many calls as they take.", retry_after=COME_BACK)
    ends = [(attempt.endpoint.name, attempt.outcome) for attempt in attempts if attempt.outcome is not None]
    tried = "; ".join(f"{name}: {outcome.reason}" for name, outcome in ends)
    others = [outcome.verdict for _, outcome in ends if outcome.cause not in OURS]
    if others and all(verdict is Verdict.BUSY for verdict in others):
        times = (outcome.retry_after for _, outcome in ends if outcome.retry_after is not None)
        soonest = min(times, default=COME_BACK)
        return Overloaded(f"All endpoints of '{model}' are busy ({tried}).", code="endpoints_busy", retry_after=soonest)
    return EndpointsFailed(f"No endpoint of '{model}' could answer ({tried}).")


def _no_room(model: str, why: str, code: str, wait: float) -> RouterError:
    said = f"All endpoints of '{model}' have as many calls as they take, {why}."
    return Overloaded(said, code=code, retry_after=min(max(wait, COME_BACK), MAX_RETRY_AFTER))
