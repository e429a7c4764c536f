"""The head of a request, kept so that the next request with the same head on the connection need not be parsed.

The requests of one client differ in their bodies, and in the head only in the body's length. The bytes before and after
the length are compared: they are the same as those that the parser accepted, so the parser would accept them again.
"""

from __future__ import annotations

import re

from router.proxy.client import Request
from router.proxy.headers import facts_of

_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d{1,8})(?=\r\n)", re.IGNORECASE)
_OF_THE_BODY = (b"content-length", b"transfer-encoding", b"expect", b"upgrade")  # in a known head only the first, once


class KnownHead:
    """The head of one request that was complete in one read."""

    __slots__ = ("_after", "_before", "_first", "headers")

    def __init__(self, before: bytes, after: bytes, first: Request) -> None:
        self._before, self._after, self.headers = before, after, first.headers
        self._first = Request(first.path, first.headers, b"", first.arrived, facts_of(first.headers))

    @classmethod
    def of(cls, data: bytes, request: Request) -> KnownHead | None:
        """The head of a request, which the parser accepted, and of which `data` is the only read. None if the bytes
        leave any doubt of where the head and the body's length are.
        """
        end = data.find(b"\r\n\r\n") + 4
        lengths = [*_LENGTH.finditer(data, 0, end - 2)]
        described = [name for name, _ in request.headers if name in _OF_THE_BODY]
        if described != [b"content-length"] or len(lengths) != 1 or data[end:] != request.body:
            return None
        start, stop = lengths[0].span(1)
        return cls(data[:start], data[stop:end], request) if int(data[start:stop]) == len(request.body) else None

    def again(self, data: bytes, now: float) -> Request | None:
        """The request in a read that holds this head and the whole body, and nothing else; None for any other read."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        start = len(before)
        stop = data.find(b"\r", start, start + 9)
        length, begin = data[start:stop], stop + len(after)
        if not length.isdigit() or len(data) - begin != int(length) or not data.startswith(after, stop):
            return None
        first = self._first
        return Request(first.path, first.headers, data[begin:], now, first.facts)
