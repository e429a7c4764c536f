"""The answer to a request of the router's own: collected whole, whatever it holds, up to a number of bytes."""

from __future__ import annotations

from collections.abc import Callable

from router.core.verdict import SERVED
from router.dialects.base import Dialect
from router.upstream.exchange import Exchange, Listener
from router.upstream.labels import Headers

_DIALECT = Dialect()


class Page(Exchange):
    """An exchange whose outcome is SERVED for any complete answer, also one with an error status.

    Reading stops beyond `max_bytes`, and as soon as `enough` says so of the bytes that came last.
    """

    __slots__ = ("_enough", "_max_bytes")

    def __init__(self, listener: Listener, max_bytes: int, enough: Callable[[bytes], bool] | None = None) -> None:
        super().__init__(listener, _DIALECT)
        self._max_bytes, self._enough = max_bytes, enough

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    def head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def data(self, data: bytes) -> None:
        if self.outcome is None:
            self._chunks.append(data)
            self._size += len(data)
            if self._size > self._max_bytes or (self._enough is not None and self._enough(data)):
                self._end(SERVED)

    def complete(self) -> None:
        if self.outcome is None:
            self._end(SERVED)

    def lost(self, reason: str) -> None:
        self.fail(reason)
