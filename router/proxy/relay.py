"""Passes a token stream on to the client, from its first token to its end.

    news            more of the stream, or its end; bytes are passed on in the same turn of the loop
    tick            a look at the clock: has the stream made progress?
    full, drained   the client reads slowly, or again: its endpoint, and no other, has to wait
    gone            the client left: closing the connection stops the endpoint
    stop            the router stops

A broken stream never ends as if it were complete: both OpenAI SDKs take an end without [DONE] for success. The relay
hands it to the call's rescue if there is one. Otherwise the stream ends with an error event, and no [DONE].
"""

from __future__ import annotations

from typing import Protocol

from router.core.endpoint.endpoint import Attempt
from router.core.stream.splice import Diverged
from router.core.verdict import SERVED, Outcome, Verdict
from router.errors import RouterError, StreamBroken
from router.proxy.headers import answer_headers
from router.proxy.open_call import OpenCall
from router.scheduler import Timer
from router.upstream.exchange import Exchange

# Seconds in which the end of the HTTP message must follow [DONE], mostly in a packet of its own; else the connection is
# closed.
HTTP_END = 1.0
MAX_UNREAD = 120.0  # seconds for which a client may read nothing of what is waiting for it, before it counts as gone
_CLIENT_LEFT = Outcome(Verdict.ABANDONED, "the client left")
_STOPPED = Outcome(Verdict.ABANDONED, "the router stopped")


class Rescuer(Protocol):
    """The rescue of a relay's call, as the relay uses it."""

    def pass_on(self, data: bytes, *, complete: bool) -> bytes:
        """The part of the stream's `data` that the client gets; `complete` with the last. Raises Diverged."""

    def stream_broke(self, event: bytes, *, full: bool) -> None:
        """Take the call over. `event` tells the client of the break, `full` that the client reads slowly."""


class Relay:
    """One attempt's token stream on its way to the client."""

    __slots__ = (
        "_attempt",
        "_client",
        "_events",
        "_exchange",
        "_full_since",
        "_now",
        "_open",
        "_progress_at",
        "_rescue",
        "_stall",
        "_timer",
    )

    def __init__(
        self, open_call: OpenCall, exchange: Exchange, attempt: Attempt, rescue: Rescuer | None = None
    ) -> None:
        """`rescue` is None where the call may not be rescued."""
        scheduler = open_call.context.scheduler
        self._open, self._exchange, self._attempt, self._rescue = open_call, exchange, attempt, rescue
        self._client, self._now = open_call.client, scheduler.now
        self._stall = open_call.route.policies[attempt.endpoint].stall
        self._timer = Timer(scheduler, self.tick)
        self._events = 0
        self._progress_at = scheduler.now()
        self._full_since: float | None = None

    def start(self, *, full: bool) -> None:
        exchange, record = self._exchange, self._open.record
        self._client.owner = exchange.listener = self
        if not record.status:  # else the client has its 200 already, with pings
            record.status = exchange.status
            returned = self._open.targets[self._attempt.endpoint].returned
            headers = answer_headers(exchange.headers, record, self._progress_at, returned, stream=True)
            self._client.start(exchange.status, headers)
        self._timer.at(self._progress_at + self._stall)
        if full:
            self.full()
        self.news(exchange)

    # Called by the exchange, the timer and the client.

    def news(self, exchange: Exchange) -> None:
        data, outcome = exchange.take(), exchange.outcome
        served = outcome is not None and outcome.verdict is Verdict.SERVED
        if self._rescue is not None:
            try:
                data = self._rescue.pass_on(data, complete=served)
            except Diverged as error:
                self._diverged(str(error))
                return
        if outcome is None:
            self._client.write(data)
            events = exchange.events
            if events != self._events:  # a comment is no progress
                self._events, self._progress_at = events, self._now()
            if exchange.done:
                self._await_end()
        elif served:
            self._client.end(data)
            self._end(SERVED)
        else:
            self._broke(data, exchange, outcome)

    def tick(self) -> None:
        now = self._now()
        since, limit = (self._progress_at, self._stall) if self._full_since is None else (self._full_since, MAX_UNREAD)
        if now < since + limit:
            self._timer.at(since + limit)
        elif self._full_since is None:
            self._stalled()
        else:
            self._client.abort()
            self.gone()

    def gone(self) -> None:
        self._open.record.error = "client_left"
        self._end(_CLIENT_LEFT)

    def full(self) -> None:
        self._full_since = self._now()
        self._exchange.pause()
        self._timer.at(self._full_since + MAX_UNREAD)

    def drained(self) -> None:
        self._full_since = None
        self._progress_at = self._now()
        self._timer.at(self._progress_at + self._stall)
        self._exchange.resume()

    def stop(self, error: RouterError) -> None:
        self._open.record.error = error.code
        self._client.end(error.event)
        self._end(_STOPPED)

    # Ends.

    def _await_end(self) -> None:
        """Shorten the wait after [DONE]: the answer is complete, and some servers forget to end it."""
        if self._stall > HTTP_END:
            self._progress_at, self._stall = self._now(), HTTP_END
            self._timer.at(self._progress_at + HTTP_END)

    def _stalled(self) -> None:
        """Treat the stream as cut now; it was served if only its end is missing."""
        self._exchange.lost(f"the stream stood still for {self._stall:g} s")
        self.news(self._exchange)

    def _broke(self, data: bytes, exchange: Exchange, outcome: Outcome) -> None:
        """Have the answer rescued, or end it with an error event: the endpoint's own if it sent one."""
        record = self._open.record
        event = (
            exchange.error_event
            or StreamBroken(
                f"The answer from endpoint '{record.endpoint}' broke off: {outcome.reason}. Send the request again."
            ).event
        )
        if self._rescue is not None and outcome.verdict is not Verdict.REFUSED:
            self._client.write(data)
            self._close(outcome, self._now())
            self._rescue.stream_broke(event, full=self._full_since is not None)
            return
        record.error = StreamBroken.code
        self._client.end(data + event)
        self._end(outcome)

    def _diverged(self, how: str) -> None:
        """End a second stream that does not fit what the client has: no fault of its endpoint, but no answer."""
        record = self._open.record
        record.error = StreamBroken.code
        self._client.end(
            StreamBroken(
                f"The answer broke off, and endpoint '{record.endpoint}' could not go on with it: {how}. "
                "Send the request again."
            ).event
        )
        end = self._exchange.outcome or Outcome(Verdict.ABANDONED)
        self._end(Outcome(end.verdict, f"another answer: {how}", end.retry_after, end.cause, doubt=end.doubt))

    def _end(self, outcome: Outcome) -> None:
        now = self._now()
        self._close(outcome, now)
        self._open.end(now)

    def _close(self, outcome: Outcome, now: float) -> None:
        self._client.owner = None
        self._timer.close()
        self._exchange.close()
        self._open.end_attempt(self._attempt, self._exchange, outcome, now)
