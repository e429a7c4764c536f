"""CORS: which web pages may read answers, and the answer to a browser's preflight (https://fetch.spec.whatwg.org).

    without client keys   pages of this machine (localhost, 127.0.0.0/8, [::1]); `admission.py` refuses all others
    with client keys      the origins of `cors` in endpoints.yaml, or all ("*"): a page needs a key as any client does

A preflight carries no key, so it is answered without one. Answers never allow credentials (cookies): a client's key is
a header that the page sets itself. A request without an Origin costs nothing here: `lines` is only called with one, or
if `cors` is configured.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from router.errors import Forbidden
from router.proxy.client import Headers

MAX_AGE = 7200  # seconds that a browser may remember a preflight; Chrome's maximum
MAX_ASKED = 4096  # bytes of header names that a preflight may ask for

_LOOPBACK = re.compile(rb"([a-z][a-z0-9+.-]*://)?(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
_NAMES = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~, \t-]+", re.IGNORECASE)
_VARY = b"vary: origin\r\n"
_ALLOWED = b"access-control-allow-origin: %b\r\naccess-control-expose-headers: *\r\n"


@lru_cache(maxsize=64)
def is_loopback(value: bytes) -> bool:
    """True if a Host, or an Origin (a host behind a scheme), is a loopback name or address."""
    return _LOOPBACK.fullmatch(value) is not None


class Cors:
    """The rule of one router. `configured` is False if `cors` has no effect; then only loopback origins count, if any.

    `origins` are those of endpoints.yaml; `keys` is True if the router has client keys.
    """

    __slots__ = ("_all", "_keys", "_origins", "configured")

    def __init__(self, origins: Collection[str] = (), *, keys: bool = False) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._all, self._keys = b"*" in self._origins, keys
        self.configured = keys and bool(origins)

    def lines(self, headers: Headers) -> bytes:
        """The header lines of an answer to a request with these headers, errors included."""
        origin = _value(headers, b"origin")
        if origin is None or not self._allows(origin):
            return _VARY if self.configured else b""
        return _VARY + _ALLOWED % (b"*" if self._all and self._keys else origin)

    def preflight(self, method: str, headers: Headers) -> bytes | None:
        """The header lines of the answer to a preflight; None if the request is none. Raises Forbidden."""
        origin, asked = _value(headers, b"origin"), _value(headers, b"access-control-request-method")
        if method != "OPTIONS" or origin is None or asked is None:
            return None
        if not self._allows(origin):
            raise Forbidden(self.refusal(origin))
        names = _value(headers, b"access-control-request-headers") or b""
        if not _NAMES.fullmatch(names) or len(names) > MAX_ASKED:
            names = b"authorization, content-type"
        answer = b"access-control-allow-methods: GET, POST\r\naccess-control-allow-headers: %b\r\n" % names
        if _value(headers, b"access-control-request-private-network") == b"true":
            answer += b"access-control-allow-private-network: true\r\n"
        return answer + b"access-control-max-age: %d\r\n" % MAX_AGE

    def refusal(self, origin: bytes) -> str:
        """The message for a page whose origin is not allowed."""
        shown = origin[:100].decode("latin-1")
        if self._keys:
            return f"Web pages of '{shown}' may not use this router. Add the origin to `cors` in endpoints.yaml."
        return (
            f"This router has no client keys, so it refuses calls from web pages of '{shown}'. "
            "Set `keys` in endpoints.yaml, and name the origin in `cors`, to allow them."
        )

    def _allows(self, origin: bytes) -> bool:
        if not self._keys:
            return is_loopback(origin)
        return self._all or origin.lower() in self._origins


def _value(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)
