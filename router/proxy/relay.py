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

from math import inf
from typing import Protocol

from router.core.endpoint.endpoint import Attempt
from router.core.stream.progress import LONG_READ, MAX_READS, Progress
from router.core.stream.splice import Diverged
from router.core.verdict import SERVED, Outcome, Verdict
from router.errors import RouterError, StreamBroken
from router.proxy.headers import answer_headers
from router.proxy.open_call import OpenCall
from router.scheduler import Timer
from router.upstream.exchange import Exchange

STREAM_END = 2.0  # seconds for usage and [DONE] to come after the last choice has its finish reason
# Seconds in which the end of the HTTP message must follow [DONE], mostly in a packet of its own; else the connection is
# closed.
HTTP_END = 1.0
# The longest silence once a call of a tool has begun: vLLM holds its arguments back until they are complete (32 s were
# measured for 17,500 characters), Zhipu unless `tool_stream` is set.
TOOL_CALL_STALL = 120.0
MAX_UNREAD = 120.0  # seconds for which a client may read nothing of what is waiting for it, before it counts as gone
CLIENT_LEFT = Outcome(Verdict.ABANDONED, "the client left")
STOPPED = Outcome(Verdict.ABANDONED, "the router stopped")


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
        "_end_at",
        "_ending",
        "_exchange",
        "_full_since",
        "_now",
        "_open",
        "_progress",
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
        self._progress = Progress(scheduler.now())
        self._ending = 0.0  # seconds that its end may take, once only the end is missing; else 0
        self._end_at = inf
        self._full_since: float | None = None

    def start(self, *, full: bool) -> None:
        exchange, record = self._exchange, self._open.record
        self._client.owner = exchange.listener = self
        if not record.status:  # else the client has its 200 already, with pings
            record.status = exchange.status
            returned = self._open.targets[self._attempt.endpoint].returned
            headers = answer_headers(exchange.headers, record, self._progress.at, returned, stream=True)
            self._client.start(exchange.status, headers)
        self._timer.at(self._progress.at + self._stall)
        if full:
            self.full()
        self.news(exchange)

    # Called by the exchange, the timer and the client.

    def news(self, exchange: Exchange) -> None:
        data, outcome = exchange.take(), exchange.outcome
        served = outcome is not None and outcome.verdict is Verdict.SERVED
        if outcome is None:
            unread = self._progress.unread
            unread.append((self._now(), data))
            if len(unread) > MAX_READS or len(data) > LONG_READ:
                self._progress.look()
        if self._rescue is not None:
            try:
                data = self._rescue.pass_on(data, complete=served)
            except Diverged as error:
                self._diverged(str(error))
                return
        if outcome is None:
            self._client.write(data)
            if exchange.finished or exchange.done or self._ending:
                self._await_end(HTTP_END if exchange.done else STREAM_END if exchange.finished else 0.0)
        elif served:
            self._client.end(data)
            self._end(SERVED)
        else:
            self._broke(data, exchange, outcome)

    def tick(self) -> None:
        now = self._now()
        if self._full_since is not None:
            if now < self._full_since + MAX_UNREAD:
                self._timer.at(self._full_since + MAX_UNREAD)
                return
            self._client.abort()
            self.gone()
        elif now < (then := self._silent_until()):
            self._timer.at(then)
        else:
            self._stalled()

    def gone(self) -> None:
        if self._exchange.done and self._full_since is None:  # the client has all of it, and needs no end of HTTP
            self._end(SERVED)
            return
        self._open.record.error = "client_left"
        self._end(CLIENT_LEFT)

    def full(self) -> None:
        self._full_since = self._now()
        self._exchange.pause()
        self._timer.at(self._full_since + MAX_UNREAD)

    def drained(self) -> None:
        self._full_since = None
        self._progress.resume(self._now())
        if self._ending:
            self._end_at = self._progress.at + self._ending
        self._timer.at(min(self._progress.at + self._stall, self._end_at))
        self._exchange.resume()

    def stop(self, error: RouterError) -> None:
        self._open.record.error = error.code
        self._client.end(error.event)
        self._end(STOPPED)

    # Ends.

    def _await_end(self, seconds: float) -> None:
        """Bound the wait for the end once all else is here: some servers forget to end a stream. 0 lifts the bound."""
        if seconds != self._ending:
            self._ending = seconds
            self._end_at = self._now() + seconds if seconds else inf
            self._timer.at(min(self._progress.at + self._stall, self._end_at))

    def _silent_until(self) -> float:
        """The time at which the stream counts as cut if no progress comes before."""
        progress = self._progress
        progress.look()
        if progress.tool_call:
            self._stall = max(self._stall, TOOL_CALL_STALL)
        return min(progress.at + self._stall, self._end_at)

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
                f"The answer from endpoint '{record.endpoint}' broke off: {outcome.explained}. Send the request again."
            ).event
        )
        if self._rescue is not None and outcome.verdict is not Verdict.REFUSED and not exchange.final:
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
