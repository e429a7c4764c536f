"""Detects calls that go round in a circle: an endpoint whose address leads back to this router, itself or by others.

Every request to an endpoint carries `cdn-loop: firsttoken;id=…` (RFC 8586) with the id of the process, after those of
the routers that it came through. A call that carries the own id, or too many others, is refused.
"""

from __future__ import annotations

import re
from random import getrandbits

from router.errors import LoopDetected

NAME = b"cdn-loop"
# Routers that a call may come through. A chain of two or three is usual; replicas that share an address have an id
# each, and with two attempts each a circle of n of them is 2^n requests.
MAX_ROUTERS = 4

_OURS = re.compile(rb"firsttoken\s*;\s*id=([0-9a-f]{16})(?![0-9a-f])")
_LINE = b"cdn-loop: firsttoken;id=%b\r\n"


def new_id() -> bytes:
    """A new id of a process: 64 random bits."""
    return b"%016x" % getrandbits(64)


class LoopGuard:
    """Marks requests to endpoints, and refuses those that come back. `line` is the header of every request."""

    __slots__ = ("_id", "line")

    def __init__(self, instance: bytes | None = None) -> None:
        self._id = instance or new_id()
        self.line = _LINE % self._id

    def passed_on(self, value: bytes) -> bytes:
        """Check a client's header, and return the lines that say the same of other routers. Raises LoopDetected.

        What proxies of other makers have added is dropped, as all headers that no endpoint needs.
        """
        found = _OURS.findall(value)
        if self._id in found:
            raise LoopDetected(
                "This request has come through this router before: the base_url of an endpoint leads back to it. "
                "Correct the address in endpoints.yaml."
            )
        if len(found) >= MAX_ROUTERS:
            raise LoopDetected(
                f"This request has come through {len(found)} routers, and at most {MAX_ROUTERS} are allowed: the "
                "base_url of an endpoint of theirs probably leads back to one of them."
            )
        return b"".join([_LINE % each for each in found])
