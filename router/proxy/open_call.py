"""The state of one call between its admission and its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from router.core.call import Call
from router.core.choice.route import Route
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.record import CallRecord
from router.core.verdict import Outcome
from router.proxy.client import Client
from router.proxy.context import Context
from router.proxy.serving import Target
from router.upstream.exchange import Exchange


class OpenCall:
    """Everything that the dispatches, the answer and the relays of one call share.

    `route` and `targets` belong to the table that was current when the call arrived.
    """

    __slots__ = ("_ended", "call", "client", "context", "demand", "record", "route", "targets")

    def __init__(
        self,
        call: Call,
        route: Route,
        targets: Mapping[Endpoint, Target],
        client: Client,
        record: CallRecord,
        context: Context,
        ended: Callable[[CallRecord], None],
    ) -> None:
        """`ended` is called once, with the complete record."""
        self.call, self.route, self.targets = call, route, targets
        self.demand = call.demand
        self.client, self.record, self.context, self._ended = client, record, context, ended

    def end_attempt(self, attempt: Attempt, exchange: Exchange, outcome: Outcome, now: float) -> None:
        """End the attempt that answered, and record the tokens that its endpoint has counted."""
        attempt.end(outcome, now)
        if exchange.malformed:
            self.note_malformed(exchange, attempt)
        usage = exchange.usage
        if usage is not None:
            self.record.prompt_tokens, self.record.completion_tokens = usage.prompt_tokens, usage.completion_tokens

    def note_malformed(self, exchange: Exchange, attempt: Attempt) -> None:
        """Record the unreadable events of an ended attempt."""
        found, name = self.record.malformed or {}, attempt.endpoint.name
        self.record.malformed = {**found, name: found.get(name, 0) + exchange.malformed}

    def end(self, now: float) -> None:
        """Complete the record and pass it on. The last step of every call."""
        self.record.end(now)
        self._ended(self.record)
