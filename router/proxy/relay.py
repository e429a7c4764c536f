"""From the first token on: owns the answer for as long as the client listens.

    news       more of the answer, or its end; bytes are passed on in the turn they come in
    tick       is it still moving?
    full, drained   the client reads slowly: its endpoint is made to wait, and nobody else
    gone       the client left: closing the connection stops the endpoint
    stop       the router stops

A stream that broke never ends as if it were whole: both OpenAI SDKs take an end without [DONE] for success. Where its
call may be rescued the answer is handed back for that; else it ends with an error inside, and no [DONE].
"""

from __future__ import annotations

from collections.abc import Callable

from router.core.endpoint.endpoint import Attempt
from router.core.record import CallRecord
from router.core.stream.splice import Diverged
from router.core.verdict import SERVED, Outcome, Verdict
from router.errors import BadRequest, RouterError, StreamBroken
from router.proxy.client import Client
from router.proxy.headers import call_facts, passed_back
from router.proxy.rescue import Rescue
from router.scheduler import Scheduler, Timer
from router.upstream.exchange import Exchange

PING = b": ping\n\n"  # a comment, which both SDKs pass over; never with an id, or openai-python reads an empty event
CATCHING_UP = 5.0  # seconds between two pings to a client that has all that its second stream says
HTTP_END = 1.0  # seconds for it to come after [DONE], mostly in a packet of its own; the connection is kept then
_CLIENT_LEFT = Outcome(Verdict.ABANDONED, "the client left")
_STOPPED = Outcome(Verdict.ABANDONED, "the router stopped")
SLOW_CLIENT = 120.0  # seconds that a client may read nothing of what is waiting for it, before it counts as gone

Ended = Callable[[CallRecord], None]
# An answer ended early: the event that says so where nobody goes on with it, and whether the client reads slowly.
Broke = Callable[[bytes, bool], None]


def deliver(exchange: Exchange, attempt: Attempt, record: CallRecord, client: Client, now: float, ended: Ended) -> None:
    """An answer that is all here, or a refusal: with its length, or as an event where the client was given pings."""
    body = exchange.take()
    exchange.close()
    client.owner = None
    if record.status:
        client.end(_as_event(body, exchange, record))
    else:
        refused = exchange.verdict is Verdict.REFUSED and exchange.status < 300
        record.status = 400 if refused else exchange.status  # else SDKs take it for an answer without choices
        headers = passed_back(exchange.headers, stream=False) + call_facts(record, record.endpoint, now)
        client.start(record.status, headers, len(body))
        client.end(body)
    _close(exchange, attempt, record, exchange.outcome or SERVED, now)
    ended(record)


def _as_event(body: bytes, exchange: Exchange, record: CallRecord) -> bytes:
    """As it is, but for a refusal in a shape that no SDK raises at: that would pass for an empty answer."""
    event = b"data: " + b"".join(body.splitlines()) + b"\n\n"
    if exchange.verdict is not Verdict.REFUSED:
        return event + b"data: [DONE]\n\n"
    if exchange.error:
        return event
    said = body[:2000].decode(errors="replace")
    return BadRequest(f"'{record.endpoint}' refused the request: {said}", code="refused").event


class Relay:
    """A token stream."""

    __slots__ = (
        "_attempt",
        "_broke",
        "_client",
        "_ended",
        "_events",
        "_exchange",
        "_full_since",
        "_moved",
        "_now",
        "_pinged_at",
        "_record",
        "_rescue",
        "_stall",
        "_timer",
    )

    def __init__(
        self,
        exchange: Exchange,
        attempt: Attempt,
        record: CallRecord,
        client: Client,
        scheduler: Scheduler,
        stall: float,
        ended: Ended,
        rescue: Rescue | None = None,
        broke: Broke | None = None,
    ) -> None:
        """`rescue` and `broke` where the call may be rescued."""
        self._exchange, self._attempt, self._record, self._client = exchange, attempt, record, client
        self._stall, self._ended, self._now = stall, ended, scheduler.now
        self._timer = Timer(scheduler, self.tick)
        self._rescue, self._broke = rescue, broke
        self._events = 0
        self._moved = self._pinged_at = scheduler.now()
        self._full_since: float | None = None

    def start(self, *, full: bool) -> None:
        exchange, record = self._exchange, self._record
        self._client.owner = exchange.listener = self
        if not record.status:  # else the client has its 200 already, with pings
            record.status = exchange.status
            headers = passed_back(exchange.headers, stream=True) + call_facts(record, record.endpoint, self._moved)
            self._client.start(exchange.status, headers)
        self._timer.at(self._moved + self._stall)
        if full:
            self.full()
        self.news(exchange)

    # What it is told.

    def news(self, exchange: Exchange) -> None:
        data = exchange.take()
        if self._rescue is not None:
            try:
                data = self._spliced(data, self._rescue, exchange)
            except Diverged as error:
                self._diverged(str(error))
                return
        if exchange.verdict is None:
            self._client.write(data)
            events = exchange.events
            if events != self._events:  # a comment is no progress
                self._events, self._moved = events, self._now()
            if exchange.done:
                self._await_end()
        elif exchange.verdict is Verdict.SERVED:
            self._client.end(data)
            self._end(SERVED)
        else:
            self._broken(data, exchange)

    def tick(self) -> None:
        now = self._now()
        since, limit = (self._moved, self._stall) if self._full_since is None else (self._full_since, SLOW_CLIENT)
        if now < since + limit:
            self._timer.at(since + limit)
        elif self._full_since is None:
            self._stalled()
        else:
            self._client.abort()
            self.gone()

    def gone(self) -> None:
        self._record.error = "client_left"
        self._end(_CLIENT_LEFT)

    def full(self) -> None:
        self._full_since = self._now()
        self._exchange.pause()
        self._timer.at(self._full_since + SLOW_CLIENT)

    def drained(self) -> None:
        self._full_since = None
        self._moved = self._now()
        self._timer.at(self._moved + self._stall)
        self._exchange.resume()

    def stop(self, error: RouterError) -> None:
        self._record.error = error.code
        self._client.end(error.event)
        self._end(_STOPPED)

    # For a call that may be rescued.

    def _spliced(self, data: bytes, rescue: Rescue, exchange: Exchange) -> bytes:
        """What of it is for the client. Raises Diverged."""
        splice = rescue.splice
        if splice is not None:
            data = splice.feed(data)
            if exchange.verdict is Verdict.SERVED:
                data += splice.finish()
            elif not data and self._now() >= self._pinged_at + CATCHING_UP:
                self._pinged_at = self._now()
                self._client.write(PING)
        rescue.transcript.note(data)
        return data

    def _diverged(self, how: str) -> None:
        """Nobody's fault, but no answer."""
        record = self._record
        record.error = StreamBroken.code
        self._client.end(
            StreamBroken(f"The answer broke, and that of '{record.endpoint}' can't take its place: {how}.").event
        )
        end = self._exchange.outcome or Outcome(Verdict.ABANDONED)
        self._end(Outcome(end.verdict, f"another answer: {how}", end.retry_after, end.cause))

    # Ends.

    def _await_end(self) -> None:
        """The answer is whole, and its client need not wait for a server that forgets to end it."""
        if self._stall > HTTP_END:
            self._moved, self._stall = self._now(), HTTP_END
            self._timer.at(self._moved + HTTP_END)

    def _stalled(self) -> None:
        """As if it had been cut now: where all is here but the end of it, it was served."""
        self._exchange.lost(f"the stream stood still for {self._stall:g} s")
        self.news(self._exchange)

    def _broken(self, data: bytes, exchange: Exchange) -> None:
        """Have it rescued, or say it inside the stream, in the endpoint's own words where it had some."""
        outcome = exchange.outcome or Outcome(Verdict.FAULT)
        said = StreamBroken(f"The answer of '{self._record.endpoint}' broke: {outcome.reason}.").event
        said = exchange.error_event or said
        if self._broke is not None and outcome.verdict is not Verdict.REFUSED:
            self._client.write(data)
            self._close(outcome)
            self._broke(said, self._full_since is not None)
            return
        self._record.error = StreamBroken.code
        self._client.end(data + said)
        self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        self._close(outcome)
        self._ended(self._record)

    def _close(self, outcome: Outcome) -> None:
        self._client.owner = None
        self._timer.close()
        self._exchange.close()
        _close(self._exchange, self._attempt, self._record, outcome, self._now())


def _close(exchange: Exchange, attempt: Attempt, record: CallRecord, outcome: Outcome, now: float) -> None:
    attempt.end(outcome, now)
    record.ended = now - record.arrived
    if exchange.usage is not None:
        record.prompt_tokens = exchange.usage.prompt_tokens
        record.completion_tokens = exchange.usage.completion_tokens
