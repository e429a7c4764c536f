"""Admission of calls: only with a client key, and only so many at once.

Without keys every client may call except web pages: else any page in a browser on this machine could use the router's
endpoints. A browser names a page's Origin in every POST. In a GET it may not, if the page's own host name has come to
resolve to this machine (DNS rebinding); but then the Host header is that name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import sha256

from router.errors import Forbidden, Overloaded, RouterError, Stopping, Unauthorized
from router.proxy.client import Headers
from router.proxy.cors import Cors, is_loopback

COME_BACK = 0.5  # seconds until a refused client may retry: about the time of a call to its first token

_CALL_HEADERS, _READ_HEADERS = frozenset((b"origin",)), frozenset((b"host", b"origin"))


class Admission:
    """Checks client keys and counts open calls: `admit` opens a call, one `release` ends it.

    Keys are kept as digests, so that the time of a look-up tells nothing about them.
    """

    __slots__ = ("_any_host", "_closed", "_digests", "_max_calls", "calls", "cors")

    def __init__(
        self, keys: Iterable[str], max_calls: int, *, any_host: bool = False, origins: Collection[str] = ()
    ) -> None:
        self._any_host = any_host
        self._digests = frozenset(sha256(key.encode()).digest() for key in keys)
        self.cors = Cors(origins, keys=bool(self._digests))
        self._max_calls, self._closed = max_calls, False
        self.calls = 0  # open now

    def authorize(self, headers: Headers) -> bytes:
        """Check the headers of a call; return the CORS lines of its answer. Raises Unauthorized or Forbidden."""
        if self._digests:
            self._check_key(headers)
            return self.cors.lines(headers) if self.cors.configured else b""
        return self.cors.lines(headers) if self._check_page(headers, _CALL_HEADERS) else b""

    def authorize_reading(self, headers: Headers) -> None:
        """Check the headers of a GET that needs a key where there are keys. Raises Unauthorized or Forbidden."""
        if self._digests:
            self._check_key(headers)
        else:
            self._check_page(headers, _READ_HEADERS)

    def _check_key(self, headers: Headers) -> None:
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                if sha256(value[7:].strip()).digest() in self._digests:
                    return
                raise Unauthorized("The client key is not one of this router's keys.")
        raise Unauthorized("A client key is needed: send it as 'Authorization: Bearer KEY'.", code="missing_api_key")

    def trusts(self, headers: Headers, address: str) -> bool:
        """True if a reader may see names: it has a client key, or it is a program on this machine."""
        try:
            self.authorize_reading(headers)
            return True
        except RouterError:
            local = address == "::1" or address.startswith("127.")
            return bool(self._digests) and local and all(is_loopback(v) for k, v in headers if k in _READ_HEADERS)

    def _check_page(self, headers: Headers, names: frozenset[bytes]) -> bool:
        """True if the request names an Origin, which is of this machine. Raises Forbidden."""
        page = False
        for name, value in headers:
            if name not in names:
                continue
            if is_loopback(value):
                page = page or name == b"origin"
            elif name == b"origin":
                raise Forbidden(self.cors.refusal(value))
            elif not self._any_host:
                shown = value[:100].decode("latin-1")
                raise Forbidden(
                    "This router has no client keys, so it only answers requests that name a loopback host, "
                    f"not '{shown}'. Set `keys` in endpoints.yaml, or start the router with --allow-open.",
                    code="forbidden_host",
                )
        return page

    def utilization(self) -> float:
        """The share of the router's room that the other calls take, as seen by one open call."""
        return (self.calls - 1) / self._max_calls

    def close(self) -> None:
        """Admit no more calls."""
        self._closed = True

    def admit(self) -> None:
        """Open a call. Raises Stopping after `close`, or Overloaded if too many calls are open."""
        if self._closed:
            raise Stopping("The router is stopping and accepts no new calls. Retry shortly.", retry_after=COME_BACK)
        if self.calls >= self._max_calls:
            raise Overloaded(
                f"The router is at its limit of {self._max_calls} concurrent calls. Retry in {COME_BACK:g} s.",
                retry_after=COME_BACK,
            )
        self.calls += 1

    def release(self) -> None:
        """End an open call."""
        self.calls -= 1
