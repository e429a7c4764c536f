"""Passes on an answer that does not stream and is too long to be held: an exchange says so by `long`.

    news            more of the answer, or its end
    tick            a look at the clock: has the answer gone on?
    full, drained   the client reads slowly, or again: its endpoint, and no other, has to wait
    gone            the client left
    stop            the router stops

The client has a part of it already, so no other endpoint can take over: an answer that breaks is cut, and both OpenAI
SDKs repeat the request then. A connection that ends early is not mistaken for a complete answer: its length, or its
last chunk, is missing.
"""

from __future__ import annotations

from collections import deque

from router.core.endpoint.endpoint import Attempt
from router.core.verdict import SERVED, Outcome, Verdict
from router.errors import RouterError, StreamBroken
from router.proxy.headers import answer_headers
from router.proxy.open_call import OpenCall
from router.proxy.relay import CLIENT_LEFT, MAX_UNREAD, STOPPED
from router.scheduler import Timer
from router.upstream.exchange import Exchange


class LongAnswer:
    """One attempt's answer on its way to the client."""

    __slots__ = (
        "_at",
        "_attempt",
        "_client",
        "_exchange",
        "_full_since",
        "_now",
        "_open",
        "_stall",
        "_timer",
        "_unsent",
    )

    def __init__(self, open_call: OpenCall, exchange: Exchange, attempt: Attempt) -> None:
        scheduler = open_call.context.scheduler
        self._open, self._exchange, self._attempt = open_call, exchange, attempt
        self._client, self._now = open_call.client, scheduler.now
        self._stall = open_call.route.policies[attempt.endpoint].stall
        self._timer = Timer(scheduler, self.tick)
        self._at = scheduler.now()  # when the endpoint last sent something, or was last asked to go on
        self._full_since: float | None = None
        self._unsent: deque[bytes] = deque()

    def start(self, *, full: bool) -> None:
        exchange, record = self._exchange, self._open.record
        self._client.owner = exchange.listener = self
        record.status = exchange.status
        returned = self._open.targets[self._attempt.endpoint].returned
        headers = answer_headers(exchange.headers, record, self._at, returned, stream=False)
        self._client.start(exchange.status, headers, exchange.length)
        self._timer.at(self._at + self._stall)
        if full:
            self.full()
        self.news(exchange)

    # Called by the exchange, the timer and the client.

    def news(self, exchange: Exchange) -> None:
        self._at = self._now()
        self._unsent.extend(exchange.pieces())
        if exchange.outcome is not None and exchange.outcome.verdict is not Verdict.SERVED:
            self._open.record.error = StreamBroken.code
            self._client.abort()
            self._end(exchange.outcome)
        else:
            self._write()

    def tick(self) -> None:
        now = self._now()
        then = self._at + self._stall if self._full_since is None else self._full_since + MAX_UNREAD
        if now < then:
            self._timer.at(then)
        elif self._full_since is None:
            self._exchange.lost(f"the answer stood still for {self._stall:g} s")
            self.news(self._exchange)
        else:
            self._client.abort()
            self.gone()

    def gone(self) -> None:
        self._open.record.error = "client_left"
        self._end(CLIENT_LEFT)

    def full(self) -> None:
        if self._full_since is None:
            self._full_since = self._now()
            self._exchange.pause()
            self._timer.at(self._full_since + MAX_UNREAD)

    def drained(self) -> None:
        self._full_since, self._at = None, self._now()
        self._timer.at(self._at + self._stall)
        self._write()
        if self._full_since is None:
            self._exchange.resume()

    def stop(self, error: RouterError) -> None:
        """Cut the answer: an error has no place in it."""
        self._open.record.error = error.code
        self._client.abort()
        self._end(STOPPED)

    def _write(self) -> None:
        """Write what has come until the client is full."""
        unsent = self._unsent
        while unsent and self._full_since is None:
            self._client.write(unsent.popleft())
        if not unsent and self._exchange.outcome is not None:
            self._client.end()
            self._end(SERVED)

    def _end(self, outcome: Outcome) -> None:
        now = self._now()
        self._client.owner = None
        self._timer.close()
        self._unsent.clear()
        self._exchange.close()
        self._open.end_attempt(self._attempt, self._exchange, outcome, now)
        self._open.end(now)
