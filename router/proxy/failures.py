"""The errors of a call that ends without an answer: what its attempts came to, or why there was none."""

from __future__ import annotations

from collections.abc import Iterable

from router.core.choice.route import Route
from router.core.demand import Demand
from router.core.record import CallRecord
from router.core.verdict import OURS, Verdict
from router.errors import MAX_RETRY_AFTER, DeadlineExceeded, EndpointsFailed, Overloaded, RouterError

COME_BACK = 1.0  # seconds until a client may try again, where no endpoint says when


def deadline_exceeded(record: CallRecord, now: float) -> RouterError:
    waited = now - record.arrived
    tried = ", ".join(attempt.endpoint.name for attempt in record.attempts) or "none"
    return DeadlineExceeded(
        f"No endpoint for model '{record.model}' sent a first token within {waited:.3g} s (tried: {tried}). "
        "Try again later, or allow more time."
    )


def queue_full(model: str, wait: float) -> RouterError:
    """`wait` is the expected time until a slot becomes free, in seconds; 0 where it is unknown."""
    return _at_capacity(model, "and the waiting queue is full", "queue_full", wait)


def queue_too_slow(model: str, wait: float) -> RouterError:
    """`wait` is as for `queue_full`."""
    why = f"and a slot is expected to be free in {wait:.0f} s, which is longer than this call may wait"
    return _at_capacity(model, why, "queue_timeout", wait)


def queue_timed_out(model: str, waited: float) -> RouterError:
    return _at_capacity(model, f"and no slot became free within {waited:.0f} s", "queue_timeout", waited)


def exhausted(record: CallRecord, route: Route, demand: Demand, now: float) -> RouterError:
    """The error for a call for which no endpoint is left."""
    model, attempts = record.model, record.attempts
    if not attempts:
        pauses = [until - now for until in _trials(route, demand, now) if until > now]
        if not pauses:
            message = f"All endpoints for model '{model}' are at capacity.{_again(COME_BACK)}"
            return Overloaded(message, retry_after=COME_BACK)
        message = f"All endpoints for model '{model}' are busy and cooling down.{_again(min(pauses))}"
        return Overloaded(message, code="endpoints_busy", retry_after=min(pauses))
    ends = [(attempt.endpoint.name, attempt.outcome) for attempt in attempts if attempt.outcome is not None]
    reasons = "; ".join(f"{name}: {outcome.explained}" for name, outcome in ends)
    others = [outcome.verdict for _, outcome in ends if outcome.cause not in OURS]
    if others and all(verdict is Verdict.BUSY for verdict in others):
        pauses = [outcome.retry_after for _, outcome in ends if outcome.retry_after is not None]
        soonest = min(pauses, default=COME_BACK)
        message = f"All endpoints for model '{model}' are busy ({reasons}).{_again(soonest)}"
        return Overloaded(message, code="endpoints_busy", retry_after=soonest)
    return EndpointsFailed(f"All attempts for model '{model}' have failed ({reasons}).")


def _trials(route: Route, demand: Demand, now: float) -> Iterable[float]:
    """The times at which endpoints that are cooling down may be asked again."""
    for endpoint in route.endpoints:
        availability = endpoint.availability
        trial_at = availability.trial_at(demand)
        # What a running trial will show is unknown.
        yield min(trial_at, now + COME_BACK) if availability.trial_runs(now, demand) else trial_at


def _at_capacity(model: str, why: str, code: str, wait: float) -> RouterError:
    retry_after = min(max(wait, COME_BACK), MAX_RETRY_AFTER)
    message = f"All endpoints for model '{model}' are at capacity, {why}.{_again(retry_after)}"
    return Overloaded(message, code=code, retry_after=retry_after)


def _again(seconds: float) -> str:
    return f" Try again in {max(1.0, seconds):.0f} s."
