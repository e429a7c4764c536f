"""One HTTP/1.1 connection to an endpoint: it carries one exchange at a time, and says when it can carry another.

    OPEN ──send──► BUSY ──message complete──► OPEN        (keep-alive, nothing left over)
      │              │
      └──────────────┴── anything else ─────► CLOSED

What the server does while nobody asked (a byte, an end) closes it. A parse error, or too much that is neither answer
nor end (a header without end, a chunk extension, a flood of 1xx), fails the exchange and closes it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, cast

import httptools

from router.upstream.exchange import Exchange, Headers, Request

if TYPE_CHECKING:
    from router.upstream.pool import Pool

# Bytes of headers, trailers, chunk extensions or 1xx answers that may come between two pieces of an answer.
MAX_OVERHEAD = 64 << 10
AT_ONCE = 1.0  # seconds in which a connection that its server had closed while it was unused shows that: a round trip


class Connection(asyncio.Protocol):
    """`pool` is told `released` when it is free again and `lost` when it is gone."""

    __slots__ = (
        "_complete",
        "_headers",
        "_informational",
        "_overhead",
        "_parser",
        "_paused",
        "_progress",
        "_reusable",
        "exchange",
        "idle_since",
        "pool",
        "request",
        "rested",
        "sent_at",
        "served",
        "transport",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.exchange: Exchange | None = None
        self.request: Request | None = None  # until the first byte of its answer: it may have to be sent again
        self.served = 0
        self.rested = False  # it has been unused for a while, so that the server may have closed it meanwhile
        self.idle_since = self.sent_at = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._overhead = 0
        self._complete = self._informational = self._paused = self._reusable = self._progress = False

    @property
    def open(self) -> bool:
        return not self.transport.is_closing()

    # Its pool says.

    def send(self, request: Request, exchange: Exchange, now: float) -> None:
        self.exchange, self.request, self.sent_at = exchange, request, now
        exchange.wire = self
        self._complete, self._overhead = False, 0
        body = request.body
        if len(body) <= 16384:  # one small copy is cheaper than a second buffer in the transport
            self.transport.write(request.head + body)
        else:
            self.transport.writelines((request.head, body))

    # Its exchange says.

    def pause(self) -> None:
        if self.open:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.open:
            self._paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        """Nobody wants the rest. Closing is what stops an endpoint from generating."""
        self.exchange = self.request = None
        if self.transport is not None:
            self.transport.abort()

    # The transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        keep_alive(transport.get_extra_info("socket"), self.pool.keepalive)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.transport.abort()  # nobody asked
            return
        self.request = None
        self._progress = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broken(exchange, "it switched protocols")
        except httptools.HttpParserError as error:
            if not self._complete:
                self._broken(exchange, f"its answer is no HTTP ({type(error).__name__})")
            else:
                self.transport.abort()
        if self._complete:
            self._release(exchange)
        elif exchange.outcome is not None:
            self._broken(exchange, "")
        elif self._progress:
            self._overhead = 0
        else:
            self._count_overhead(exchange, len(data))
        exchange.flush()

    def eof_received(self) -> bool:
        return False  # closes: whoever stops sending has no more to say

    def connection_lost(self, error: Exception | None) -> None:
        exchange, request = self.exchange, self.request
        self.exchange = self.request = None
        self.pool.lost(self)
        if exchange is None:
            return
        if request is not None and self._died_unused and not exchange.resent:
            self.pool.resend(request, exchange)
            return
        exchange.wire = None
        if error is None and exchange.status and _close_delimited(exchange.headers):
            exchange.complete()
        else:
            exchange.lost(f"it closed the connection {'before' if not exchange.status else 'within'} its answer")
        exchange.flush()

    # The parser says.

    def on_message_begin(self) -> None:
        self._headers = []
        if self._complete:
            self._reusable = False  # an answer more than was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._informational = 100 <= status < 200
        if self._informational:
            self._expect_no_body()
            return  # and the overhead goes on counting
        if self.exchange is None or self.exchange.outcome is not None:
            self.transport.abort()  # an answer more than was asked for
            return
        self._progress, self._overhead = True, 0
        headers, self._headers = self._headers, []  # what comes after the body is not among them
        if not self.served:
            self.pool.heed(headers)
        self.exchange.head(status, headers)

    def _expect_no_body(self) -> None:
        """What is said before an answer has none (RFC 9112 §6.3); the parser would read one, and it would pass for the
        beginning of the answer's.
        """
        framing = (b"content-length", b"transfer-encoding")
        if self.exchange is not None and any(name in framing and value != b"0" for name, value in self._headers):
            self.exchange.fail("it sent a body before its answer")

    def on_body(self, body: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            self._progress = True
            exchange.data(body)

    def on_message_complete(self) -> None:
        if not self._informational and self.exchange is not None and not self._complete:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()  # known only now
            self.exchange.complete()

    # Ends of an exchange.

    def _release(self, exchange: Exchange) -> None:
        """Its answer is here; the connection goes back, if it can carry another."""
        if self._paused:
            self.resume()
        self.exchange = exchange.wire = None
        self.served += 1
        if self._reusable and self.open and not self.transport.get_write_buffer_size():  # it took the whole request
            self.pool.released(self)
        else:
            self.transport.abort()

    @property
    def _died_unused(self) -> bool:
        """The endpoint has not seen the request; one that dies later may have worked on it all the time."""
        return (self.rested or self.served > 0) and self.pool.now() - self.sent_at <= AT_ONCE

    def _count_overhead(self, exchange: Exchange, size: int) -> None:
        """Nothing of an answer was in what came."""
        self._overhead += size
        if self._overhead > self.pool.max_overhead:
            self._broken(exchange, f"more than {self.pool.max_overhead} bytes that are neither answer nor end")

    def _broken(self, exchange: Exchange, reason: str) -> None:
        exchange.fail(reason)
        self.exchange = self.request = exchange.wire = None
        self.transport.abort()


def _close_delimited(headers: Headers) -> bool:
    """Nothing said how long the answer is, so the end of the connection is its end."""
    return bool(headers) and not any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)


def keep_alive(sock: socket.socket | None, seconds: float) -> None:
    """TCP probes on a quiet connection, so that a peer that vanished is noticed: after `seconds`, then every tenth of
    it, three times.
    """
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(seconds)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(seconds / 10)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
