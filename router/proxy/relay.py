"""From the first token on: owns the answer for as long as the client listens, and passes bytes in the turn they come
in.

    news       more of the answer, or its end
    tick       is it still moving?
    full, drained   the client reads slowly: its endpoint is made to wait, and nobody else
    gone       the client left: closing the connection stops the endpoint

A stream that broke never ends as if it were whole: both OpenAI SDKs take an end without [DONE] for success, so it ends
with an error inside, and no [DONE].
"""

from __future__ import annotations

from collections.abc import Callable

from router.core.endpoint import Attempt
from router.core.record import AttemptRecord, CallRecord
from router.core.verdict import Verdict
from router.errors import StreamBroken
from router.proxy.client import Client
from router.proxy.headers import passed_back, told
from router.proxy.shell import Shell
from router.scheduler import Timer
from router.upstream.exchange import Exchange

SLOW_CLIENT = 120.0  # seconds that a client may read nothing of what is waiting for it, before it counts as gone


class Relay:
    __slots__ = (
        "_attempt",
        "_client",
        "_ended",
        "_events",
        "_exchange",
        "_full_since",
        "_line",
        "_moved",
        "_now",
        "_record",
        "_stall",
        "_started",
        "_timer",
    )

    def __init__(
        self,
        exchange: Exchange,
        attempt: Attempt,
        line: AttemptRecord,
        record: CallRecord,
        client: Client,
        shell: Shell,
        stall: float,
        ended: Callable[[CallRecord], None],
    ) -> None:
        self._exchange, self._attempt, self._line, self._record = exchange, attempt, line, record
        self._client, self._stall, self._ended = client, stall, ended
        self._started = bool(record.status)  # the client has its 200 already, with pings
        self._now = shell.scheduler.now
        self._timer = Timer(shell.scheduler, self.tick)
        self._events, self._moved = 0, 0.0
        self._full_since: float | None = None

    def start(self) -> None:
        exchange = self._exchange
        self._client.owner = self
        if not exchange.streams:
            self._answer()
            return
        exchange.listener = self
        if not self._started:
            self._record.status = exchange.status
            headers = passed_back(exchange.headers, stream=True) + told(self._record, self._attempt.endpoint.name)
            self._client.start(exchange.status, headers)
        self._moved = self._now()
        self.news(exchange)
        if self._record.ended is None:
            self._timer.at(self._moved + self._stall)

    # What it is told.

    def news(self, exchange: Exchange) -> None:
        data = exchange.take()
        if exchange.verdict is None:
            self._client.write(data)
            scanner = exchange.scanner
            if scanner is not None and scanner.events != self._events:  # a comment is no progress
                self._events, self._moved = scanner.events, self._now()
        elif exchange.verdict is Verdict.SERVED:
            self._client.end(data)
            self._end(Verdict.SERVED)
        else:
            self._broken(data, exchange)

    def tick(self) -> None:
        now = self._now()
        if self._full_since is not None:
            if now >= self._full_since + SLOW_CLIENT:
                self._client.abort()
                self.gone()
            else:
                self._timer.at(self._full_since + SLOW_CLIENT)
            return
        if now >= self._moved + self._stall:
            self._stalled()
        else:
            self._timer.at(self._moved + self._stall)

    def gone(self) -> None:
        self._record.error = "client_left"
        self._end(Verdict.ABANDONED, "the client left")

    def full(self) -> None:
        self._full_since = self._now()
        self._exchange.pause()
        self._timer.at(self._full_since + SLOW_CLIENT)

    def drained(self) -> None:
        self._full_since = None
        self._moved = self._now()
        self._exchange.resume()

    # Ends.

    def _answer(self) -> None:
        """A complete answer, or a refusal: with its length, or as one event where the stream has begun with pings."""
        exchange, record = self._exchange, self._record
        body = exchange.take()
        verdict = exchange.verdict or Verdict.SERVED
        if self._started:
            self._client.end(b"data: " + b"".join(body.splitlines()) + b"\n\n")
        else:
            record.status = exchange.status
            headers = passed_back(exchange.headers, stream=False) + told(record, self._attempt.endpoint.name)
            self._client.start(exchange.status, headers, len(body))
            self._client.end(body)
        self._end(verdict, exchange.reason)

    def _stalled(self) -> None:
        exchange = self._exchange
        if exchange.scanner is not None and exchange.scanner.whole:  # all is here but the end of it
            self._client.end(exchange.take())
            self._end(Verdict.SERVED)
            return
        exchange.fail(f"the stream stood still for {self._stall:g} s")
        self._broken(exchange.take(), exchange)

    def _broken(self, data: bytes, exchange: Exchange) -> None:
        """Say it inside the stream, in the endpoint's own words where it had some."""
        event = exchange.scanner.error_event if exchange.scanner is not None else b""
        name = self._attempt.endpoint.name
        self._record.error = StreamBroken.code
        self._client.end(data + (event or StreamBroken(f"The answer of '{name}' broke: {exchange.reason}.").event))
        self._end(exchange.verdict or Verdict.FAULT, exchange.reason)

    def _end(self, verdict: Verdict, reason: str = "") -> None:
        now = self._now()
        exchange, record, line = self._exchange, self._record, self._line
        self._client.owner = None
        self._timer.cancel()
        exchange.close()
        self._attempt.end(verdict, now, exchange.retry_after)
        record.ended = line.ended = now - record.arrived
        line.verdict, line.reason = verdict, reason
        if exchange.usage is not None:
            record.prompt_tokens = exchange.usage.prompt_tokens
            record.completion_tokens = exchange.usage.completion_tokens
        self._ended(record)
