"""The seam to who asked: an answer is started, written and ended, and its owner is told what becomes of the client.

`front.py` and `asgi.py` each have one. The owner is the call's dispatch until the first token, and its relay from then
on.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from router.errors import RouterError

Headers = list[tuple[bytes, bytes]]


class Request(msgspec.Struct, frozen=True):
    """One complete client request; names of headers are in lower case, `arrived` is a time of the scheduler's clock."""

    path: bytes
    headers: Headers
    body: bytes
    arrived: float


class Owner(Protocol):
    """Who answers a client."""

    def gone(self) -> None:
        """The client has left; nothing that is written will arrive."""

    def full(self) -> None:
        """The client reads slowly: no more until `drained`."""

    def drained(self) -> None: ...

    def stop(self, error: RouterError) -> None:
        """The router stops: end it now and tell the client this, in the stream where one has begun."""


class Client(Protocol):
    """Calls after the client has left, or after the end, do nothing."""

    owner: Owner | None

    def start(self, status: int, headers: bytes, length: int | None = None) -> None:
        """Status and the lines of the headers; without a length the body ends when it ends."""

    def write(self, data: bytes) -> None: ...

    def end(self, data: bytes = b"") -> None: ...

    def abort(self) -> None:
        """Cut it off: what was started can't be ended honestly."""
