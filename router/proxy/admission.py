"""Who may call: client keys, and how many calls at once."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from router.errors import Overloaded, Unauthorized
from router.proxy.client import Headers

COME_BACK = 0.5  # seconds: about what a call takes to its first token


class Admission:
    """Keys are kept as digests, so that looking one up takes a time that says nothing about it."""

    __slots__ = ("_digests", "_max_calls")

    def __init__(self, keys: Iterable[str], max_calls: int) -> None:
        self._digests = frozenset(sha256(key.encode()).digest() for key in keys)
        self._max_calls = max_calls

    def authorize(self, headers: Headers) -> None:
        """Raises Unauthorized. With no keys configured everybody may."""
        if not self._digests:
            return
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                if sha256(value[7:].strip()).digest() in self._digests:
                    return
                raise Unauthorized("The client key is not one of this router's keys.")
        raise Unauthorized("A client key is needed: send it as 'Authorization: Bearer KEY'.", code="missing_api_key")

    def admit(self, calls: int) -> None:
        """Raises Overloaded where so many calls are in flight that one more is too many."""
        if calls >= self._max_calls:
            raise Overloaded(f"The router serves {calls} calls already.", retry_after=COME_BACK)
