"""What an operator should read of endpoints, once for each change, old -> new.

    breaker    closed -> open, open -> closed      half-open is no news: it comes with time
    busy       available -> busy for longer than LONG; back when it serves a call that began later
    ours       a key, an account, a name or a path that is not accepted, at the one level that cannot be turned off;
               back likewise

A sink of records, which have the reasons: so a change is told when the call that saw it ends, and core needs no log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from router.core.endpoint.breaker import State
from router.core.endpoint.endpoint import Endpoint
from router.core.record import AttemptRecord, CallRecord
from router.core.verdict import OURS, Cause, Outcome, Verdict

LONG = 10.0  # seconds; shorter ones are everyday life

# What is to be put right, and where.
_OURS = {
    Cause.DENIED: "OUR KEY OR ACCOUNT IS REFUSED THERE: %s; see its api_key, and there the bill and the plan",
    Cause.MISCONFIGURED: "WHAT WE ASK FOR IS NOT THERE, OR NOT FOR US: %s; see its models, base_url and kind",
}

log = logging.getLogger(__name__)


class Changes:
    """`ended` is a sink. An attempt that was served, at an endpoint of which nothing is noted, costs one look-up."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._noted: dict[Endpoint, dict[str, float]] = {}  # what is wrong with whom, and since when

    def ended(self, record: CallRecord) -> None:
        for attempt in record.attempts:
            outcome = attempt.outcome
            if outcome is not None and (outcome.verdict is not Verdict.SERVED or attempt.endpoint in self._noted):
                self._look(attempt, outcome)

    def _look(self, attempt: AttemptRecord, outcome: Outcome) -> None:
        endpoint = attempt.endpoint
        if not isinstance(endpoint, Endpoint):
            return
        noted = self._noted.setdefault(endpoint, {})
        self._look_at_breaker(endpoint, noted, outcome)
        if outcome.verdict is Verdict.SERVED:
            self._well(endpoint, noted, attempt.began)
        elif outcome.verdict is Verdict.BUSY:
            self._busy(endpoint, noted, outcome)
        elif outcome.cause in OURS:
            self._ours(endpoint, noted, outcome)
        if not noted:
            del self._noted[endpoint]

    def _look_at_breaker(self, endpoint: Endpoint, noted: dict[str, float], outcome: Outcome) -> None:
        closed = endpoint.availability.breaker.state(self._now()) is State.CLOSED
        if closed and noted.pop("breaker", None) is not None:
            log.info("%s: breaker open -> closed", _name(endpoint))
        elif not closed and "breaker" not in noted and outcome.verdict in (Verdict.FAULT, Verdict.ABANDONED):
            noted["breaker"] = self._now()
            reason = outcome.reason if outcome.verdict is Verdict.FAULT else f"late each time: {outcome.reason}"
            log.warning("%s: breaker closed -> open: %s", _name(endpoint), reason)

    def _busy(self, endpoint: Endpoint, noted: dict[str, float], outcome: Outcome) -> None:
        left = endpoint.availability.cooldown.until - self._now()
        if left > LONG and "busy" not in noted:
            noted["busy"] = self._now()
            log.warning("%s: available -> busy for %.0f s: %s", _name(endpoint), left, outcome.reason)

    def _ours(self, endpoint: Endpoint, noted: dict[str, float], outcome: Outcome) -> None:
        out = (
            endpoint.availability.cooldown.until - self._now() > LONG
        )  # else it served others just now, and this one was odd
        if out and "ours" not in noted and outcome.cause is not None:
            noted["ours"] = self._now()
            log.critical(f"%s: {_OURS[outcome.cause]}", _name(endpoint), outcome.reason)

    def _well(self, endpoint: Endpoint, noted: dict[str, float], began: float) -> None:
        if began >= noted.get("busy", began + 1.0):
            del noted["busy"]
            log.info("%s: busy -> available", _name(endpoint))
        if began >= noted.get("ours", began + 1.0):
            del noted["ours"]
            log.critical("%s: refused -> accepted", _name(endpoint))


def _name(endpoint: Endpoint) -> str:
    return f"endpoint {endpoint.name} ({endpoint.model})"
