"""One response as it is written: status line, framing and keep-alive; one of the two `Client`s.

    ENDED ──a request is complete──► DUE ──start──► STARTED ──write──► SENDING
      ▲                                                └──────── end ─────┘│
      └─────────────────── end, abort, or the client left ─────────────────┘

The head waits in STARTED for the first bytes of the body, so that a short answer is one write. A `Reply` knows neither
uvicorn nor the parser; `front.py` sets it to DUE, and is called back when the response has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import ClassVar, Protocol

from router.proxy.client import Headers, Owner
from router.proxy.headers import lines

STATUS_LINE = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


class State(Enum):
    """The stages of writing a response."""

    ENDED = "no request waits for an answer"
    DUE = "a request waits for its answer"
    STARTED = "the head is kept until there are bytes of the body"
    SENDING = "the head is sent"


# The members under their own names: in Python 3.11 `State.ENDED` is a slow look-up.
ENDED, DUE, STARTED, SENDING = State


class Transport(Protocol):
    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...


class Server(Protocol):
    """uvicorn's state of a server, as far as it is used here."""

    default_headers: Headers  # a new list every second, for its Date


class Handler(Protocol):
    """The router that answers: while it is `stopping`, each answer closes its connection."""

    stopping: bool


class Reply:
    """The response that a connection writes at the moment; one object serves all responses of a connection.

    `keep` is False once the connection must close after this response, `chunked` says how the body is framed. `cors`
    are the header lines that a web page needs to read this response; mostly there are none.
    """

    __slots__ = ("_handler", "_head", "_on_end", "_server", "_transport", "chunked", "cors", "keep", "owner", "state")

    _date_headers: ClassVar[Headers] = []
    _date_lines: ClassVar[bytes] = b""

    def __init__(self, transport: Transport, server: Server, handler: Handler, on_end: Callable[[], None]) -> None:
        self._transport, self._server, self._handler, self._on_end = transport, server, handler, on_end
        self.owner: Owner | None = None
        self.state, self.keep, self.chunked = ENDED, True, False
        self._head = self.cors = b""

    # The Client, as handler, dispatch and relay see it.

    def start(self, status: int, headers: bytes, length: int | None = None) -> None:
        if self.state is ENDED:
            return
        if length is not None:
            framing, self.chunked = b"content-length: %d\r\n" % length, False
        elif self.chunked:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing, self.keep = b"", False  # HTTP/1.0: the end of the connection is the end of the body
        if not self.keep or self._handler.stopping:
            self.keep = False
            framing += b"connection: close\r\n"
        if self.cors:
            framing += self.cors
        line = STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status
        self.state, self._head = STARTED, b"%b%b%b%b\r\n" % (line, self._date(), headers, framing)

    def write(self, data: bytes) -> None:
        if not data or self.state is ENDED:
            return
        if self.chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self.state is STARTED:
            data, self.state, self._head = self._head + data, SENDING, b""
        self._transport.write(data)

    def end(self, data: bytes = b"") -> None:
        if self.state is ENDED:
            return
        if self.chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if self.state is STARTED:
            data = self._head + data
        if data:
            self._transport.write(data)
        self.state, self.owner = ENDED, None
        self._on_end()

    def abort(self) -> None:
        self.state, self.owner = ENDED, None
        self._transport.abort()

    def _date(self) -> bytes:
        """The lines of the server's own headers, which uvicorn replaces once a second."""
        headers = self._server.default_headers
        if headers is not Reply._date_headers:
            Reply._date_headers, Reply._date_lines = headers, lines(headers)
        return Reply._date_lines

    # The connection.

    def lost(self) -> None:
        """The client has left. Drop the callback too: it would keep the connection in memory by a reference cycle."""
        owner, self.owner = self.owner, None
        self.state, self._on_end = ENDED, _nothing
        if owner is not None:
            owner.gone()


def _nothing() -> None: ...
