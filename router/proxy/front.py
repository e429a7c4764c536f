"""uvicorn's httptools protocol with our paths taken before ASGI: one of the two `Client`s.

    READING ──whole request──► ANSWERING ──end──► READING        our paths
       └── any other path ───► uvicorn's own way, ASGI

It leans on uvicorn's internals (the parser callbacks, `cycle`, `flow`, `server_state`), and on nothing else of it;
`asgi.py` is the way back. A client that pipelines on one of our paths gets its first answer, and then the connection
closes: nobody does, and RFC 9112 §9.3.2 has it ask again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.core.record import CallRecord
from router.errors import BadRequest, BodyTooLarge, HeaderTooLarge, RouterError, SlowRequest
from router.proxy.client import Owner, Request
from router.proxy.handler import OPERATIONS, Handler
from router.proxy.headers import lines

STATUS_LINE = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}

FRESH = 0.25  # seconds of silence: before, a request may well be on its way, and would be reset by a close
LINGER = 2.0  # seconds that a refused client may go on sending, unread, before it is cut off
PIPELINED = 8  # requests to the application that may wait behind another; in one read there could be ten thousand
FRAMING = 20  # bytes that a piece of a chunked body may take beside itself: a size of 16 digits, and two line ends

log = logging.getLogger(__name__)


class Bounds(NamedTuple):
    """What one client connection may take: bytes, and seconds."""

    body: int = 32 << 20
    header: int = 64 << 10
    request: float = 60.0  # from the first byte of a request to its last
    idle: float = 75.0  # between requests


class Front(HttpToolsProtocol):
    """One client connection. `handler`, `bounds` and `now` are set on the subclass that `front` makes."""

    handler: Handler
    bounds: Bounds
    now: Callable[[], float]
    _date_headers: ClassVar[list[tuple[bytes, bytes]]] = []
    _date_lines: ClassVar[bytes] = b""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self.owner: Owner | None = None
        self._ours = self._skipped = False  # whose is the request that is read: ours, nobody's (else the application's)
        self._answering = False
        self._body: list[bytes] = []
        self._body_size = self._trailer_size = 0
        self._overhead = 0  # bytes read of the request's head, or after it of what is no body
        self._in_head = True
        self._since = self.now()  # when the request that is read began, or the silence before it
        self._reading = False
        self._expected = False  # what the request's head says of its body has been looked at
        self._unsent = 0  # bytes of an answer that its client had not read when `expire` last looked
        self._pending = b""  # a head that waits for the first bytes of its body
        self._chunked = False
        self._keep = True
        self._failed = False
        self._held_back = False  # it is not read, while it does not read its answers

    # The transport says.

    def data_received(self, data: bytes) -> None:
        if self._answering or self._failed:
            self._keep = False  # pipelined, or the rest of what was refused: not read
            return
        self._overhead += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._unread(error, data)
        if self._reading and not self._failed:
            self._incomplete()

    def _incomplete(self) -> None:
        """More of the request is to come: say so where it is asked, and refuse now what would be refused then."""
        if self._overhead > self.bounds.header:
            self._give_up(self._header_too_large())
            return
        if self._overhead < 0:
            self._overhead = 0  # its body so far pays for no trailer that is to come
        if self._ours and not self._expected:
            self._expected = True
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reading and not self._failed and (self._ours or self._in_head):
            self.handler.left(self._record())
        self._leave()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        if self.owner is not None:
            self.owner.full()
        super().pause_writing()

    def resume_writing(self) -> None:
        if self.owner is not None:
            self.owner.drained()
        super().resume_writing()
        if self._held_back:
            self._held_back = False
            self.flow.resume_reading()

    # The server says.

    def shutdown(self) -> None:
        """No more requests on this connection: at once, or when its answer has ended, to the one that is read too."""
        if self._answering or self._reading:
            self._keep = False
        else:
            super().shutdown()

    def expire(self, now: float) -> None:
        """Close it where a request takes too long to come, or none comes."""
        if self._failed and now >= self._since + LINGER:
            self.transport.abort()
        elif self._answering:
            return
        elif self._reading and now >= self._since + self.bounds.request:
            self._give_up(SlowRequest(f"The request was not complete after {self.bounds.request:g} s."))
        elif not self._reading and self._free():
            self._rest(now)

    def _rest(self, now: float) -> None:
        """Nothing is asked and nothing answered; but the client may still be reading the last answer."""
        idle = FRESH if self.handler.refusing else self.bounds.idle
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._since = unsent, now
        elif now >= self._since + idle:
            self.transport.abort() if unsent else self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing: uvicorn's own timer knows only of the application's answers, so `expire` looks after all of them."""

    # The parser says.

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._in_head, self._trailer_size = True, 0
        if not self._answering and self._keep:
            self._reading, self._since = True, self.now()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.headers.append((name.lower(), value))
            return
        # A trailer: dropped, and no header of the request (RFC 9110 §6.5.1).
        self._trailer_size += len(name) + len(value) + 4
        if self._trailer_size > self.bounds.header and not self._failed:
            self._give_up(self._header_too_large())

    def on_headers_complete(self) -> None:
        if self._answering or self._failed or self._held_back or not self._keep:
            self._skip()
            return
        if self._overhead > self.bounds.header and self._header_size() > self.bounds.header:
            self._give_up(self._header_too_large())
            return
        version = self.parser.get_http_version()
        if version != "1.1" and version != "1.0":
            self._give_up(BadRequest("Only HTTP/1.1 and HTTP/1.0 are spoken here.", code="invalid_http"))
            return
        self._in_head, self._overhead = False, 0
        if self.parser.should_upgrade() and self._declines():
            self._skipped = True  # until `_upgrade` reads it again
            return
        path = self.url.partition(b"?")[0]
        if (
            path in OPERATIONS
            and self.parser.get_method() == b"POST"
            and self._free()
            and not self.parser.should_upgrade()
        ):
            self._ours, self._expected = True, False
            self._keep = self.parser.should_keep_alive()
            self._chunked = version == "1.1"
            self._authorize()
            return
        if len(self.pipeline) >= PIPELINED:
            self.pipeline[0][0].keep_alive = False  # the one that came last: after its answer uvicorn closes
            self._skip()
            return
        self._ours = False
        if self.url[:1] != b"/" and not _has_path(self.url):
            self._refuse(BadRequest("The request's target is no path.", code="invalid_http"))
            return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        try:
            super().on_headers_complete()
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            self._refuse(BadRequest("The request's target is no path.", code="invalid_http"))

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body) + FRAMING
        if self._skipped or self._failed:
            return
        if not self._ours:
            super().on_body(body)
            return
        self._body_size += len(body)
        if self._body_size <= self.bounds.body:
            self._body.append(body)
        else:
            self._refuse(self._too_large())

    def on_message_complete(self) -> None:
        if self._skipped or self._failed:
            return
        self._reading, self._in_head, self._overhead = False, True, 0
        if self._ours:
            self._handle()
        else:
            self._since = self.now()
            super().on_message_complete()

    # What it does.

    def _free(self) -> bool:
        """Nothing is being answered on this connection, neither by us nor by the application."""
        return not self._answering and (self.cycle is None or self.cycle.response_complete)

    def _skip(self) -> None:
        """It is one too many: another is being answered, or was the last; or the answers that are not read pile up."""
        self._skipped, self._keep, self._reading = True, False, False
        if self._held_back:
            self.transport.close()

    def _authorize(self) -> None:
        try:
            self.handler.authorize(self.headers)
        except RouterError as error:
            self._refuse(error)

    def _expect(self) -> None:
        """A body that is too large is refused before it is sent, where its length is told or its sender asks."""
        expected = False
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self.bounds.body:
                self._refuse(self._too_large())
                return
            if name == b"expect" and value.lower() == b"100-continue":
                expected = True
        if expected:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _handle(self) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(self.url.partition(b"?")[0], self.headers, body, self._since)
        self._body, self._body_size, self.headers = [], 0, []
        self._answering = True
        self.handler.handle(request, self)
        if self.flow.write_paused and self.owner is not None:
            self.owner.full()  # it has not read its last answer yet

    def _give_up(self, error: RouterError) -> None:
        """Refuse a request that is half read; where the application has it, or answers another, just cut it off."""
        if self._free() and (self._ours or self._in_head):
            self._refuse(error)
        else:
            self._failed = True
            self.transport.abort()

    def _refuse(self, error: RouterError) -> None:
        """Say what is wrong with a request that can't be read to its end, and close.

        Not at once: a reset that answers what the client still sends would take our answer with it (RFC 9112 §9.6).
        """
        self._failed, self._keep, self._answering = True, False, True
        self._body = []
        self.handler.refuse(self, self._record(), error)

    def _record(self) -> CallRecord:
        return self.handler.record(self.url.partition(b"?")[0], self._since)

    def _header_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _header_too_large(self) -> RouterError:
        return HeaderTooLarge(f"The request's header is longer than {self.bounds.header} bytes.")

    def _too_large(self) -> RouterError:
        return BodyTooLarge(f"The request's body is longer than {self.bounds.body} bytes.")

    def _unread(self, error: Exception, data: bytes) -> None:
        """The parser gave up, or one of its callbacks did, which is our fault."""
        if isinstance(error, httptools.HttpParserUpgrade):
            self._upgrade(data[error.args[0] :])
        elif isinstance(error, httptools.HttpParserCallbackError):
            log.error("A request could not be handled", exc_info=error)
            self.transport.abort()
        elif self._answering:
            self._keep = False  # what is asked is answered, and what follows it is not read
        elif not self._free():
            self.transport.close()
        elif not self._failed and not self.transport.is_closing():
            self._refuse(BadRequest("The request is not valid HTTP/1.1.", code="invalid_http"))

    def _declines(self) -> bool:
        """It offers to go on with another protocol, and we stay with this one (RFC 9110 §7.8)."""
        return not self._should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _upgrade(self, rest: bytes) -> None:
        """The parser leaves what follows the head to another protocol, also the body of a request that only offers one:
        Java's own client does with its first (h2c). Such a request is read again, without its offer.
        """
        if self._should_upgrade():
            self.handle_websocket_upgrade()
        elif self._skipped:
            self._read_again(rest)

    def _read_again(self, rest: bytes) -> None:
        """In a loop, for as many offers as came in one read: it may hold thousands."""
        while self._skipped:
            if self._answering or self._failed or not self._keep:
                self._keep = False  # as for all that comes then
                return
            headers = lines([header for header in self.headers if header[0] != b"upgrade"])
            line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            data = b"%b%b\r\n%b" % (line, headers, rest)
            self._skipped, self.parser = False, httptools.HttpRequestParser(self)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                rest = data[offer.args[0] :]
            except httptools.HttpParserError as error:
                self._unread(error, data)
                return

    def _leave(self) -> None:
        owner, self.owner = self.owner, None
        self._answering = False
        if owner is not None:
            owner.gone()

    # Its answer: the Client that handler, dispatch and relay see.

    def start(self, status: int, headers: bytes, length: int | None = None) -> None:
        if not self._answering:
            return
        if length is not None:
            framing, self._chunked = b"content-length: %d\r\n" % length, False
        elif self._chunked:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing, self._keep = b"", False  # HTTP/1.0: the end of the connection is the end of the body
        if not self._keep or self.handler.stopping:
            self._keep = False
            framing += b"connection: close\r\n"
        line = STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status
        self._pending = b"%b%b%b%b\r\n" % (line, self._date(), headers, framing)

    def write(self, data: bytes) -> None:
        if not data or not self._answering:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._pending:
            data, self._pending = self._pending + data, b""
        self.transport.write(data)

    def end(self, data: bytes = b"") -> None:
        if not self._answering:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if self._pending:
            data, self._pending = self._pending + data, b""
        self.transport.write(data)
        self._next()

    def abort(self) -> None:
        self._answering = False
        self.owner = None
        self.transport.abort()

    def _date(self) -> bytes:
        """The server's own headers, which it replaces once a second."""
        headers = self.server_state.default_headers
        if headers is not Front._date_headers:
            Front._date_headers, Front._date_lines = headers, lines(headers)
        return Front._date_lines

    def _next(self) -> None:
        self.owner = None
        self._answering = False
        self._since = self.now()
        self.server_state.total_requests += 1
        if self._failed and self.transport.can_write_eof():
            self.transport.write_eof()  # and `expire` closes it
        elif not self._keep:
            self.transport.close()
        elif self.flow.write_paused:
            self._held_back = True
            self.flow.pause_reading()


def _has_path(target: bytes) -> bool:
    """Not so CONNECT's host and port, or an address and nothing more."""
    try:
        return httptools.parse_url(target).path is not None
    except httptools.HttpParserInvalidURLError:
        return False


def front(handler: Handler, bounds: Bounds, now: Callable[[], float] = time.monotonic) -> type[Front]:
    """The protocol class for uvicorn's `http` setting; `now` is the clock of the handler's calls."""
    return cast(type[Front], type("Front", (Front,), {"handler": handler, "bounds": bounds, "now": staticmethod(now)}))


def expire(connections: set[Any], now: float) -> None:
    """Look once at every connection of a server; called every second or so, which is cheaper than a timer each."""
    for connection in tuple(connections):
        if isinstance(connection, Front):
            connection.expire(now)


__all__ = ["Bounds", "Front", "expire", "front"]
