"""The seam between a call and its client: an answer is started, written and ended; its owner gets the client's events.

`reply.py` and `asgi.py` each have a `Client`. The owner of an answer is the call's dispatch until the first token, and
its relay afterwards.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from router.core.body import Body
from router.errors import RouterError

Headers = list[tuple[bytes, bytes]]


class HeadFacts(NamedTuple):
    """The facts of a request's headers: the lines that every endpoint may see, and hints for the router.

    `patience` is the client's timeout in seconds, `retries` its number of retries so far; `asks_why` is True if it asks
    why it was routed so. `routers` has the values of `cdn-loop`: the routers that the request has come through.
    """

    passed: bytes
    patience: float
    retries: int
    asks_why: bool
    routers: bytes


class Request(msgspec.Struct, frozen=True):
    """One complete client request. Header names are in lower case; `arrived` is a time of the scheduler's clock.

    `facts` are those of the headers if they were known before.
    """

    path: bytes
    headers: Headers
    body: bytes | Body  # the latter if it is large, and was read while it arrived
    arrived: float
    facts: HeadFacts | None = None

    def __repr__(self) -> str:
        """Leave out the headers, which hold the client's key, and the body, which holds its prompt."""
        body = self.body if isinstance(self.body, bytes) else self.body.data
        return f"<Request {self.path!r} {len(body)} bytes>"


class Owner(Protocol):
    """The object that answers a client."""

    def gone(self) -> None:
        """The client has left: nothing that is written will arrive."""

    def full(self) -> None:
        """The client reads slowly: write no more until `drained`."""

    def drained(self) -> None:
        """The client has read enough: write again."""

    def stop(self, error: RouterError) -> None:
        """The router stops: end the answer with this error, inside the stream if one has begun."""


class Client(Protocol):
    """The side of an answer that the client sees. Calls after the end, or after the client left, do nothing."""

    owner: Owner | None

    def start(self, status: int, headers: bytes, length: int | None = None) -> None:
        """Send status and headers, rendered as lines. A body without a length lasts until `end`."""

    def write(self, data: bytes) -> None: ...

    def end(self, data: bytes = b"") -> None: ...

    def abort(self) -> None:
        """Cut the connection: the answer that was started can't be completed."""
