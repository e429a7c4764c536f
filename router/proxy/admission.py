"""Who may call: those with a client key, and how many at once.

Without keys anyone may who reaches us, but web pages: any that a browser on this machine shows could use our endpoints.
A page's POST names its Origin, always; its GET may not where the page's own name has come to mean this machine (DNS
rebinding), but then the Host is that name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256

from router.errors import Forbidden, Overloaded, Stopping, Unauthorized
from router.proxy.client import Headers

COME_BACK = 0.5  # seconds: about what a call takes to its first token

_LOOPBACK = re.compile(rb"([a-z][a-z0-9+.-]*://)?(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
_OF_A_CALL, _OF_A_PAGE = frozenset((b"origin",)), frozenset((b"host", b"origin"))


class Admission:
    """Keys are kept as digests, so that looking one up takes a time that says nothing about it."""

    __slots__ = ("_any_host", "_closed", "_digests", "_max_calls", "_room")

    def __init__(self, keys: Iterable[str], max_calls: int, *, any_host: bool = False) -> None:
        self._any_host = any_host
        self._digests = frozenset(sha256(key.encode()).digest() for key in keys)
        self._max_calls = self._room = max_calls
        self._closed = False

    def authorize(self, headers: Headers) -> None:
        """A call. Raises Unauthorized, or Forbidden."""
        if self._digests:
            self._check_key(headers)
        else:
            self._check_page(headers, _OF_A_CALL)

    def authorize_reading(self, headers: Headers) -> None:
        """A GET of something that is not for everybody. Raises the same."""
        if self._digests:
            self._check_key(headers)
        else:
            self._check_page(headers, _OF_A_PAGE)

    def _check_key(self, headers: Headers) -> None:
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                if sha256(value[7:].strip()).digest() in self._digests:
                    return
                raise Unauthorized("The client key is not one of this router's keys.")
        raise Unauthorized("A client key is needed: send it as 'Authorization: Bearer KEY'.", code="missing_api_key")

    def _check_page(self, headers: Headers, names: frozenset[bytes]) -> None:
        for name, value in headers:
            if name not in names or _is_loopback(value):
                continue
            shown = value[:100].decode("latin-1")
            if name == b"origin":
                raise Forbidden(f"This router has no client keys, so pages of '{shown}' may not use it; set `keys`.")
            if not self._any_host:
                raise Forbidden(
                    f"This router has no client keys, so it answers to a loopback address, and not to '{shown}'; "
                    "set `keys`, or say --allow-open.",
                    code="forbidden_host",
                )

    def load(self, calls: int) -> float:
        """What one of so many calls finds in use by the others, as a share of all that there is room for."""
        return (calls - 1) / self._room

    def close(self) -> None:
        """No more calls."""
        self._max_calls, self._closed = 0, True

    def admit(self, calls: int) -> None:
        """Raises Overloaded where with so many calls in flight one more is too many; Stopping where it is closed."""
        if calls >= self._max_calls:
            if self._closed:
                raise Stopping("The router is stopping and takes no more calls.", retry_after=COME_BACK)
            raise Overloaded(f"The router serves {calls} calls already.", retry_after=COME_BACK)


@lru_cache(maxsize=64)
def _is_loopback(value: bytes) -> bool:
    """Of a Host; or of an Origin, which is one behind a scheme."""
    return _LOOPBACK.fullmatch(value) is not None
