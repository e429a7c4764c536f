"""Logs the transitions of endpoints, once each, old -> new.

    breaker     closed -> open, open -> closed; half-open is not logged: it follows from the time alone
    cooldown    available -> cooling down, if for longer than LONG; back when a call that began later is served
    events      an endpoint's first unreadable events, which are skipped; logged once, counted in the metrics
    refusal     accepted -> refused: a key, an account, a name or a path that an operator must correct; back likewise.
                Logged as critical, the one level that no setting turns off, once a second call has confirmed it

Cooldowns and refusals are those of one operation; the log names it if it is another than chat.

The class is a sink of records, which carry the reasons. So a transition is logged when the call that saw it ends, and
core needs no log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from router.core.endpoint.breaker import State
from router.core.endpoint.endpoint import Endpoint
from router.core.record import AttemptRecord, CallRecord
from router.core.verdict import OURS, Cause, Doubt, Outcome, Verdict

CHAT = "chat/completions"
LONG = 10.0  # seconds; shorter cooldowns are normal operation

# What is wrong, and which settings to check.
_REFUSALS = {
    Cause.DENIED: "(API key or account): %s; check its api_key, and billing and plan at the provider",
    Cause.MISCONFIGURED: "(model, path or permission): %s; check its models, base_url and kind",
}

log = logging.getLogger(__name__)


class Changes:
    """`ended` is a sink. A served attempt at an endpoint without an open problem costs one dictionary look-up."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Per endpoint: each logged problem that is not over, with the time at which it was logged.
        self._problems: dict[Endpoint, dict[str, float]] = {}
        self._malformed: set[str] = set()  # names of the endpoints whose malformed events were logged

    def ended(self, record: CallRecord) -> None:
        if record.malformed is not None:
            self._look_at_events(record.malformed, record.request_id)
        for attempt in record.attempts:
            outcome = attempt.outcome
            if outcome is not None and (outcome.verdict is not Verdict.SERVED or attempt.endpoint in self._problems):
                self._look(attempt, outcome, record.operation)

    def _look_at_events(self, malformed: Mapping[str, int], request_id: str) -> None:
        for name in malformed.keys() - self._malformed:
            self._malformed.add(name)
            log.warning(
                "endpoint %s: %d events of a stream are not JSON and were skipped, so its text may lack tokens "
                "(request %s); logged once, counted in firsttoken_malformed_events_total",
                name,
                malformed[name],
                request_id,
            )

    def _look(self, attempt: AttemptRecord, outcome: Outcome, operation: str) -> None:
        endpoint = attempt.endpoint
        if not isinstance(endpoint, Endpoint):
            return
        problems = self._problems.setdefault(endpoint, {})
        self._look_at_breaker(endpoint, problems, outcome)
        cooldown = endpoint.availability.cooldowns.get(operation)
        if outcome.verdict is Verdict.SERVED:
            self._served(endpoint, problems, attempt.began, operation)
        elif cooldown is not None and cooldown.confirmed:
            if outcome.cause in OURS:
                self._refused(endpoint, problems, outcome, operation)
            else:
                self._cooling_down(endpoint, problems, outcome, operation, cooldown.until - self._now())
        if not problems:
            del self._problems[endpoint]

    def _look_at_breaker(self, endpoint: Endpoint, problems: dict[str, float], outcome: Outcome) -> None:
        closed = endpoint.availability.breaker.state(self._now()) is State.CLOSED
        if closed and problems.pop("breaker", None) is not None:
            log.info("%s: breaker open -> closed", _name(endpoint))
        elif not closed and "breaker" not in problems and outcome.verdict in (Verdict.FAULT, Verdict.ABANDONED):
            problems["breaker"] = self._now()
            reason = outcome.explained if outcome.verdict is Verdict.FAULT else f"late each time: {outcome.reason}"
            log.warning("%s: breaker closed -> open: %s", _name(endpoint), reason)

    def _cooling_down(
        self, endpoint: Endpoint, problems: dict[str, float], outcome: Outcome, operation: str, left: float
    ) -> None:
        problem = f"cooldown {operation}"
        if left > LONG and problem not in problems and outcome.doubt is not Doubt.NONE:
            problems[problem] = self._now()
            where = _name(endpoint, operation)
            log.warning("%s: available -> cooling down for %.0f s: %s", where, left, outcome.explained)

    def _refused(self, endpoint: Endpoint, problems: dict[str, float], outcome: Outcome, operation: str) -> None:
        problem = f"refusal {operation}"
        if problem not in problems and outcome.cause is not None:
            problems[problem] = self._now()
            refusal = _REFUSALS[outcome.cause]
            log.critical(f"%s: accepted -> refused {refusal}", _name(endpoint, operation), outcome.explained)

    def _served(self, endpoint: Endpoint, problems: dict[str, float], began: float, operation: str) -> None:
        for problem, change in (("cooldown", "cooling down -> available"), ("refusal", "refused -> accepted")):
            if began >= problems.get(f"{problem} {operation}", began + 1.0):
                del problems[f"{problem} {operation}"]
                log.info("%s: %s", _name(endpoint, operation), change)


def _name(endpoint: Endpoint, operation: str = CHAT) -> str:
    return f"endpoint {endpoint.name} ({endpoint.model}{'' if operation == CHAT else f', {operation}'})"
