"""Which endpoint a conversation goes to, so that it finds what was computed for it there: a prefix cache.

    key      what stays the same while a conversation grows: how it begins, or a header that names it; and whose it is
    margin   seconds that the first token may take longer there than at the best one: what the cache is worth

Among the endpoints within the margin it is the one that the key draws (rendezvous hashing: each draws a number from key
and endpoint, the lowest wins). Nothing is remembered: the same key comes to the same endpoint after a restart, and at
another router. It moves only when its endpoint is out or beyond the margin, and comes back when it is not; nobody
else's coming or going moves it, but of those that it would rather go to. Lots are drawn by weight.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import log

import msgspec
from msgspec.structs import astuple

from router.core.call import Call
from router.core.endpoint.endpoint import Endpoint, Wait

BEGINNING = 4096  # bytes of a message, about a thousand tokens: those that have as much in common share a cache as well
MOST = 8  # messages before the user's first; then whatever is there is the beginning


class _Message(msgspec.Struct):
    role: str = ""


# Decoded as a list, a body of 32 MiB can be some millions of messages, each an object; here what is beyond is skipped.
_First = msgspec.defstruct("_First", [(f"_{i}", msgspec.Raw, msgspec.Raw()) for i in range(MOST)], array_like=True)
_first = msgspec.json.Decoder(_First).decode
_message = msgspec.json.Decoder(_Message).decode


def key_of(affinity: str, call: Call, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What a call has in common with the others of its conversation: `affinity` is `prefix` or `header:` and a name.

    Empty where it has nothing of the kind; names of headers are in lower case.
    """
    said = dict(headers)
    what = _beginning(call) if affinity == "prefix" else said.get(affinity.removeprefix("header:").encode(), b"")
    if not what:
        return b""
    whose = said.get(b"authorization", b"")
    return blake2b(b"\0".join((call.model.encode(), whose, what)), digest_size=16).digest()


def _beginning(call: Call) -> bytes:
    """The messages up to the user's first, or how a prompt begins; empty where that can't be read."""
    if call.operation != "chat/completions":
        return bytes(call.fields.get("prompt", b""))[:BEGINNING]
    first = []
    try:
        for message in filter(None, astuple(_first(call.fields.get("messages", b"")))):
            first.append(bytes(message)[:BEGINNING])
            if _message(message).role == "user":
                break
    except (msgspec.DecodeError, RecursionError):
        return b""
    return b"\0".join(first)


class Affinity(msgspec.Struct, frozen=True):
    """Where a call would rather go, by the key of its conversation, and the seconds that this may cost it."""

    key: bytes
    margin: float

    def choose(self, endpoints: Sequence[Endpoint], costs: Sequence[float], wait: Wait) -> Endpoint:
        """Of those that are not dearer than the cheapest by more than the margin, and newcomers, the key's own."""
        most = min(costs) + self.margin
        near = [e for e, cost in zip(endpoints, costs, strict=True) if cost <= most or e.untried(wait)]
        return near[0] if len(near) == 1 else min(near, key=self._lot)

    def _lot(self, endpoint: Endpoint) -> float:
        """Exponentially distributed with the weight as its rate: so it is the lowest in the weight's share of cases."""
        drawn = int.from_bytes(blake2b(self.key + _salt(endpoint.key), digest_size=8).digest())
        return -log((drawn + 0.5) * 2.0**-64) / endpoint.weight


@lru_cache(maxsize=4096)
def _salt(key: Hashable) -> bytes:
    """An endpoint as all routers know it: by what is measured there."""
    return blake2b(repr(key).encode(), digest_size=16).digest()
