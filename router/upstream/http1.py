"""One HTTP/1.1 connection to an endpoint. It carries one exchange at a time, and tells its pool when it is free again.

    OPEN ──send──► BUSY ──message complete──► OPEN        (keep-alive, nothing left over)
      │              │
      └──────────────┴── anything else ─────► CLOSED

Anything that the server sends without a request (a byte, an end) closes the connection. A parse error, or too many
bytes without answer data (an endless header, chunk extension or series of 1xx), fails the exchange and closes it.
"""

from __future__ import annotations

import asyncio
import socket
from math import inf
from typing import Protocol, cast

import httptools

from router.turns import FREE, SMALL, Turns
from router.upstream.exchange import Exchange, Request
from router.upstream.labels import Headers
from router.upstream.spliced import Spliced
from router.upstream.upload import PIECE, Upload

# Bytes of headers, trailers, chunk extensions or 1xx answers that may come between two pieces of an answer.
MAX_OVERHEAD = 64 << 10
# Seconds after a request within which a connection fails if the server had closed it while it was unused: a round trip.
CLOSED_WHILE_UNUSED = 1.0
MAX_SERVED = 1000  # answers, on average, after which a connection is replaced: nginx's keepalive_requests
MAX_COPIED = 16 << 10  # bytes of a body up to which a copy is cheaper than a second buffer in the transport


class Owner(Protocol):
    """The pool, as far as a connection knows it. `max_overhead` is in bytes, `keepalive` in seconds."""

    @property
    def keepalive(self) -> float: ...
    @property
    def max_overhead(self) -> int: ...
    @property
    def turns(self) -> Turns: ...
    def now(self) -> float: ...
    def released(self, connection: Connection) -> None:
        """The connection is free again."""

    def lost(self, connection: Connection, *, crashed: bool) -> None:
        """The connection is closed; `crashed` if its server ended it within an exchange."""

    def resend(self, request: Request, exchange: Exchange) -> None:
        """The connection had died unused: send the request on another one."""

    def heed(self, headers: Headers) -> None:
        """The headers of the first answer on a connection, which may have a Keep-Alive."""


class Connection(asyncio.Protocol):
    """One connection to an endpoint.

    `served` counts its answers. `rested` is True once it was unused for a while, so that the server may have closed it.
    From `retire_at`, or once it has served `max_served`, its pool replaces it.
    """

    __slots__ = (
        "_complete",
        "_headers",
        "_held",
        "_informational",
        "_overhead",
        "_parser",
        "_paused",
        "_progress",
        "_reusable",
        "_turns",
        "_upload",
        "exchange",
        "idle_since",
        "max_served",
        "pool",
        "request",
        "rested",
        "retire_at",
        "sent_at",
        "served",
        "transport",
    )

    def __init__(self, pool: Owner) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.exchange: Exchange | None = None
        self.request: Request | None = None  # until the first byte of the answer: it may have to be sent again
        self.served = 0
        self.rested = False
        self.idle_since = self.sent_at = 0.0
        self.retire_at, self.max_served = inf, MAX_SERVED
        self._turns = pool.turns
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._overhead = 0
        self._complete = self._informational = self._paused = self._reusable = self._progress = False
        self._held = False  # a part of what was read is kept for later turns
        self._upload: Upload | None = None  # the last request, if it was large

    @property
    def open(self) -> bool:
        return not self.transport.is_closing()

    # For the pool.

    def send(self, request: Request, exchange: Exchange, now: float) -> None:
        self.exchange, self.request, self.sent_at = exchange, request, now
        exchange.wire = self
        self._complete, self._overhead = False, 0
        body = request.body
        if not isinstance(body, Spliced) and len(body) <= MAX_COPIED:
            self.transport.write(request.head + body)
            return
        parts = (request.head, *(body.pieces if isinstance(body, Spliced) else (body,)))
        if len(body) <= PIECE:
            self.transport.writelines(parts)
        else:
            self._upload = Upload(self.transport, parts)
            self._upload.advance()

    # For the exchange (a Wire).

    def pause(self) -> None:
        if self.open:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.open:
            self._paused = False
            if not self._held:
                self.transport.resume_reading()

    def close(self) -> None:
        """Close at once: only that stops an endpoint from generating."""
        self.exchange = self.request = None
        self._stop_upload()
        if self.transport is not None:
            self.transport.abort()

    # For the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._turns.opened(self)
        keep_alive(transport.get_extra_info("socket"), self.pool.keepalive)

    def data_received(self, data: bytes) -> None:
        turns = self._turns
        turns.read += len(data)
        if (turns.read <= FREE and len(data) <= SMALL) or not turns.defer(self, data):
            self.read(data)

    # For the turns (a Reader).

    def read(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.transport.abort()  # there was no request
            return
        self.request = None
        self._progress = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broken(exchange, "the server switched protocols")
        except httptools.HttpParserError as error:
            if not self._complete:
                self._broken(exchange, f"the answer is not valid HTTP ({type(error).__name__})")
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

    def hold(self, *, much: bool) -> None:
        if much and self.open:
            self._held = True
            self.transport.pause_reading()

    def go_on(self) -> None:
        if self._held:
            self._held = False
            if self.open and not self._paused:
                self.transport.resume_reading()

    # For the transport again.

    def pause_writing(self) -> None:
        if self._upload is not None:
            self._upload.pause()

    def resume_writing(self) -> None:
        if self._upload is not None:
            self._upload.resume()

    def eof_received(self) -> bool:
        return False  # closes the connection: no more can come

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_upload()
        rest = self._turns.drop(self)
        if rest and self.exchange is not None:
            self.read(bytes(rest))  # what came before the end
        exchange, request = self.exchange, self.request
        self.exchange = self.request = None
        unread = request is not None and self._died_unused
        self.pool.lost(self, crashed=exchange is not None and not unread)
        if exchange is None:
            return
        if request is not None and unread and not exchange.resent:
            self.pool.resend(request, exchange)
            return
        exchange.wire = None
        if error is None and exchange.status and _close_delimited(exchange.headers):
            exchange.complete()
        else:
            exchange.lost(
                f"the connection was closed before the answer {'was complete' if exchange.status else 'began'}"
            )
        exchange.flush()

    # For the parser.

    def on_message_begin(self) -> None:
        self._headers = []
        if self._complete:
            self._reusable = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._informational = 100 <= status < 200
        if self._informational:
            self._expect_no_body()
            return  # its bytes count as overhead
        if self.exchange is None or self.exchange.outcome is not None:
            self.transport.abort()  # a second answer to one request
            return
        self._progress, self._overhead = True, 0
        headers, self._headers = self._headers, []  # without the trailers, which come after the body
        if not self.served:
            self.pool.heed(headers)
        self.exchange.head(status, headers)

    def _expect_no_body(self) -> None:
        """Fail if a 1xx answer announces a body. It has none (RFC 9112 §6.3), but the parser would read one, as the
        beginning of the real answer's body.
        """
        framing = (b"content-length", b"transfer-encoding")
        if self.exchange is not None and any(name in framing and value != b"0" for name, value in self._headers):
            self.exchange.fail("a 1xx answer with a body")

    def on_body(self, body: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            self._progress = True
            exchange.data(body)

    def on_message_complete(self) -> None:
        if not self._informational and self.exchange is not None and not self._complete:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()  # not known before
            self.exchange.complete()

    # Ends of an exchange.

    def _release(self, exchange: Exchange) -> None:
        """The answer is complete: return the connection to the pool if it can carry another."""
        if self._paused:
            self.resume()
        self.exchange = exchange.wire = None
        self.served += 1
        if self._upload is not None:
            self._reusable = self._reusable and self._upload.sent
            self._stop_upload()
        if self._reusable and self.open and not self.transport.get_write_buffer_size():  # the request was sent whole
            self.pool.released(self)
        else:
            self.transport.abort()

    @property
    def _died_unused(self) -> bool:
        """True if the server has not read the request: with more time it may have begun to work on it."""
        return (self.rested or self.served > 0) and self.pool.now() - self.sent_at <= CLOSED_WHILE_UNUSED

    def _count_overhead(self, exchange: Exchange, size: int) -> None:
        """Count the bytes of a read without answer data."""
        self._overhead += size
        if self._overhead > self.pool.max_overhead:
            self._broken(exchange, f"more than {self.pool.max_overhead} bytes of overhead without answer data")

    def _broken(self, exchange: Exchange, reason: str) -> None:
        exchange.fail(reason)
        self.exchange = self.request = exchange.wire = None
        self._stop_upload()
        self.transport.abort()

    def _stop_upload(self) -> None:
        if self._upload is not None:
            self._upload.stop()
            self._upload = None


def _close_delimited(headers: Headers) -> bool:
    """True if no header gives the length of the answer, so that it ends with the connection."""
    return bool(headers) and not any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)


def keep_alive(sock: socket.socket | None, seconds: float) -> None:
    """Enable TCP keep-alive probes, so that a vanished peer is noticed: three after `seconds` of silence, a tenth of
    that time apart.
    """
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(seconds)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(seconds / 10)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
