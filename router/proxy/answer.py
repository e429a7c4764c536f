"""The answer to a client that has received no part of one yet: a stream, a complete answer, a refusal or an error."""

from __future__ import annotations

from math import inf

from router.core.call import Call
from router.core.choice.affinity import Affinity
from router.core.choice.race import Race
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.verdict import SERVED, Outcome, Verdict
from router.errors import BadRequest, RouterError
from router.proxy.dispatch import Dispatch
from router.proxy.headers import answer_headers, call_facts, lines
from router.proxy.long_answer import LongAnswer
from router.proxy.open_call import OpenCall
from router.proxy.relay import Relay
from router.proxy.rescue import Rescue, method_of
from router.upstream.exchange import Exchange

MAX_QUOTE = 2000  # bytes of a refusal's body that are quoted in an error of ours


class FirstAnswer:
    """Begins the call's dispatch, and gives the client what comes of it."""

    __slots__ = ("_open",)

    def __init__(self, open_call: OpenCall) -> None:
        self._open = open_call

    def start(self) -> None:
        open_call = self._open
        call, route, context, arrived = open_call.call, open_call.route, open_call.context, open_call.record.arrived
        affinity = Affinity(call.conversation, route.affinity_margin) if call.conversation else None
        race = Race(route, open_call.demand, arrived, context.rng, call.patience, call.retries, affinity)
        # A ping would restart the timeout of a client that waits for less than the deadline: it would see our error.
        pings = call.stream and call.patience >= route.deadline
        Dispatch(open_call, race, self, arrived + context.ping_after if pings else inf).start()

    # Called by the dispatch.

    def call_for(self, endpoint: Endpoint) -> Call:
        return self._open.call

    def unusable(self, exchange: Exchange, outcome: Outcome) -> Outcome | None:
        return None

    def take_over(self, exchange: Exchange, attempt: Attempt, race: Race, now: float, *, full: bool) -> None:
        open_call = self._open
        if not exchange.streams:
            if exchange.outcome is None:
                LongAnswer(open_call, exchange, attempt).start(full=full)
            else:
                self._deliver(exchange, attempt, now)
            return
        method = method_of(open_call.call, open_call.route)
        rescue = None if method is None else Rescue(open_call, method, race)
        Relay(open_call, exchange, attempt, rescue).start(full=full)

    def fail(self, error: RouterError, now: float) -> None:
        record, client = self._open.record, self._open.client
        record.error = error.code
        if record.status:  # pings were sent, so the client has its status 200 already
            client.end(error.event)
            return
        record.status = error.status
        body = error.body
        last = record.attempts[-1].endpoint.name if record.attempts else ""
        client.start(error.status, lines(error.headers) + call_facts(record, last, now), len(body))
        client.end(body)

    # Answers that are complete.

    def _deliver(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        """Send a complete answer or a refusal: with its length, or as an event where the client was sent pings."""
        open_call = self._open
        record, client = open_call.record, open_call.client
        outcome = exchange.outcome or SERVED
        pieces = exchange.pieces()
        body = pieces[0] if len(pieces) == 1 else b""
        exchange.close()
        client.owner = None
        if record.status:
            body = body or b"".join(pieces)
            client.end(_as_event(body, exchange, outcome, record.endpoint))
        else:
            # SDKs take a refusal with a status of success for an answer without choices.
            refused = outcome.verdict is Verdict.REFUSED and exchange.status < 300
            record.status = 400 if refused else exchange.status
            returned = open_call.targets[attempt.endpoint].returned
            headers = answer_headers(exchange.headers, record, now, returned, stream=False)
            if len(pieces) <= 1:
                client.start(record.status, headers, len(body))
            else:  # a long answer: to join it would take many milliseconds
                client.start(record.status, headers, sum(map(len, pieces)))
                for piece in pieces:
                    client.write(piece)
            client.end(body)
        open_call.end_attempt(attempt, exchange, outcome, now)
        open_call.end(now)


def _as_event(body: bytes, exchange: Exchange, outcome: Outcome, endpoint: str) -> bytes:
    """The body as one event. A refusal without an error object, which an SDK would take for an empty answer, is quoted
    in an error of ours.
    """
    event = b"data: " + b"".join(body.splitlines()) + b"\n\n"
    if outcome.verdict is not Verdict.REFUSED:
        return event + b"data: [DONE]\n\n"
    if exchange.error:
        return event
    quoted = body[:MAX_QUOTE].decode(errors="replace")
    return BadRequest(f"Endpoint '{endpoint}' refused the request: {quoted}", code="refused").event
