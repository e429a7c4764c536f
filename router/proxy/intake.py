"""One request as it is read: its state, its bytes, and the bounds on them.

    IDLE ──first byte──► HEAD ──complete──┬─► ACCEPTED ──body goes on──► BODY ──┐   one of our paths
      ▲                                   ├─► FORWARDED ────────────────────────┤   the application's: any other path
      │                                   ├─► OFFER ──read again──► HEAD        │   an offer to change the protocol
      │                                   └─► SKIPPED                           │   one request too many
      └──────────────────────────────── last byte ──────────────────────────────┘
    any state ──error──► REFUSED

An ACCEPTED request whose last byte is in the same read as its head is complete without a BODY. SKIPPED and REFUSED are
final: no further request on the connection is answered. An `Intake` knows neither uvicorn nor the parser. `front.py`
moves it from state to state as the parser reports, and acts on the errors that it raises.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from router.core.body import LARGE as LARGE
from router.core.body import Body
from router.errors import BadRequest, BodyTooLarge, HeaderTooLarge
from router.proxy.body_budget import BodyBudget
from router.proxy.client import Headers, Request
from router.proxy.compression import codings_of
from router.proxy.headers import lines

# Bytes that a piece of a chunked body may take beside its data: a size of 16 digits, and two line ends.
FRAMING = 20
MAX_HEADERS = 100  # of a request, as at many servers: each costs some hundred bytes more in memory than on the wire


class Bounds(NamedTuple):
    """Limits of one client connection, in bytes and seconds."""

    body: int = 32 << 20
    header: int = 64 << 10
    request: float = 60.0  # from the first byte of a request to its last
    idle: float = 75.0  # between requests


class State(Enum):
    """The stages of reading a request."""

    IDLE = "between two requests"
    HEAD = "the request line and the headers are being read"
    ACCEPTED = "ours, its head is complete; the rest may be in the same read"
    BODY = "ours, its body comes in later reads"
    FORWARDED = "the application's: what follows the head goes to uvicorn"
    OFFER = "offers to change the protocol, which is declined: to be read again without the offer"
    SKIPPED = "pipelined behind more than this connection answers: parsed, and dropped"
    REFUSED = "answered with an error, or cut off: nothing more is read"


# The members under their own names, for the parser's callbacks: in Python 3.11 `State.HEAD` is a slow look-up.
IDLE, HEAD, ACCEPTED, BODY, FORWARDED, OFFER, SKIPPED, REFUSED = State


class Intake:
    """The request that a connection reads at the moment; one object serves all requests of a connection."""

    __slots__ = (
        "_large", "_parts", "bodies", "body", "body_size", "bounds", "headers", "held", "overhead", "since", "state",
        "trailer_size", "url",
    )  # fmt: skip

    def __init__(self, bounds: Bounds, now: float, bodies: BodyBudget) -> None:
        """`bodies` is shared by all connections."""
        self.bounds, self.state, self.bodies = bounds, IDLE, bodies
        self.held = 0  # bytes of `bodies` that this connection has, until its answer has ended
        self.since = now  # when the request began; between two requests, when the silence began
        self.url = b""
        self.headers: Headers = []
        self.body = b""  # as long as it came in one piece
        self._parts: bytearray | None = None  # in place of `body`, once it came in several
        self._large: Body | None = None  # in place of both, once it is large
        self.body_size = self.trailer_size = 0
        self.overhead = 0  # bytes read of the head; after it, bytes read that are not body

    @property
    def path(self) -> bytes:
        return self.url.partition(b"?")[0]

    @property
    def half_read(self) -> bool:
        """True if a request is incomplete, and the application has not got it: it can still be refused."""
        return self.state is HEAD or self.state is ACCEPTED or self.state is BODY

    # The head.

    def begin(self, now: float) -> None:
        self.state, self.since = HEAD, now
        self.url, self.headers, self.trailer_size = b"", [], 0

    def end_head(self, version: str) -> None:
        """Check a complete head. Raises HeaderTooLarge, or BadRequest for another version of HTTP."""
        if len(self.headers) > MAX_HEADERS:
            raise self._too_many_headers()
        if self.overhead > self.bounds.header and self._head_size() > self.bounds.header:
            raise self._header_too_large()
        if version != "1.1" and version != "1.0":
            raise BadRequest("Only HTTP/1.1 and HTTP/1.0 are supported.", code="invalid_http")
        self.overhead = 0

    def without_offer(self, method: bytes, version: str) -> bytes:
        """The head once more, without its offer to change the protocol."""
        headers = lines([header for header in self.headers if header[0] != b"upgrade"])
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version.encode(), headers)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    # The body and the trailers.

    def begin_body(self) -> bool:
        """Wait for the body: True if the client asks before it sends it (Expect: 100-continue).

        Raises BodyTooLarge where the head says so, before the body is sent.
        """
        self.state, asks = BODY, False
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self.bounds.body:
                raise body_too_large(self.bounds.body)
            if name == b"expect" and value.lower() == b"100-continue":
                asks = True
        return asks

    def add_body(self, piece: bytes) -> None:
        """Keep a piece of the body. Raises BodyTooLarge."""
        size = len(piece)
        self.hold(size)
        self.body_size += size
        if self.body_size > self.bounds.body:
            raise body_too_large(self.bounds.body)
        if self.body_size == size <= LARGE:
            self.body = piece
        else:
            self._add_to_parts(piece)

    def _add_to_parts(self, piece: bytes) -> None:
        """Join pieces as they come: there may be millions of small ones. A large body is read, unless it is encoded."""
        if self._large is None and max(self.body_size, self._announced) > LARGE and not codings_of(self.headers):
            begun = self.body if self._parts is None else bytes(self._parts)
            self.body, self._parts, self._large = b"", None, Body()
            self._large.feed(begun)
        if self._large is not None:
            self._large.feed(piece)
        elif self._parts is None:
            self._parts, self.body = bytearray(self.body + piece), b""
        else:
            self._parts += piece

    def hold(self, size: int) -> None:
        """Count bytes of a body until `release`."""
        self.held += size
        self.bodies.held += size

    @property
    def _announced(self) -> int:
        """The bytes of the body, if the head says so; else 0."""
        return next((int(value) for name, value in self.headers if name == b"content-length"), 0)

    def release(self) -> None:
        """The body is no longer held: its answer has ended, or there will be none."""
        if self.held:
            held, self.held = self.held, 0
            self.bodies.release(held)

    def add_trailer(self, name: bytes, value: bytes) -> None:
        """Count a trailer. Trailers are dropped: they are no headers (RFC 9110 §6.5.1). Raises HeaderTooLarge."""
        self.trailer_size += len(name) + len(value) + 4
        if self.trailer_size > self.bounds.header:
            raise self._header_too_large()

    def end_read(self) -> None:
        """Check a read after which the request is not complete. Raises HeaderTooLarge.

        The number of headers is checked here and not for each of them: a read of a few KiB holds some thousand at most.
        """
        if len(self.headers) > MAX_HEADERS:
            raise self._too_many_headers()
        if self.overhead > self.bounds.header:
            raise self._header_too_large()
        if self.overhead < 0:
            self.overhead = 0  # what was read of the body gives no credit to trailers that follow it

    # The end.

    def take(self) -> Request:
        """The complete request; another one may begin."""
        body = self.body if self._parts is None else bytes(self._parts)
        request = Request(self.url.partition(b"?")[0], self.headers, self._large or body, self.since)
        self.state, self.overhead, self.body_size, self.headers = IDLE, 0, 0, []
        self._drop_body()
        return request

    def end(self, now: float) -> None:
        """The last byte of a forwarded request was read."""
        self.state, self.overhead, self.since = IDLE, 0, now

    def refuse(self) -> None:
        self.state = REFUSED
        self._drop_body()
        self.release()

    def _drop_body(self) -> None:
        self.body, self._parts, self._large = b"", None, None

    def _too_many_headers(self) -> HeaderTooLarge:
        return HeaderTooLarge(f"The request has more than {MAX_HEADERS} headers.")

    def _header_too_large(self) -> HeaderTooLarge:
        return HeaderTooLarge(f"The request's header is larger than the limit of {self.bounds.header} bytes.")


def body_too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request's body is larger than the limit of {limit} bytes.")
