"""Affinity: which endpoint a conversation goes to, so that it finds its prefix in that endpoint's cache.

    key      what stays the same while a conversation grows: its beginning, or a header that names it; and its owner
    margin   seconds that the first token may take longer there than at the best endpoint: the worth of the cache

Among the endpoints within the margin the key draws one (rendezvous hashing: each endpoint draws a number from key and
endpoint, the lowest wins; lots are weighted). Nothing is remembered: the same key comes to the same endpoint after a
restart, and at another router. A conversation moves only when its endpoint is out or beyond the margin, and returns
when it is not; endpoints that come or go move only the conversations that prefer them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import log

import msgspec
from msgspec.structs import astuple

from router.core.call import Call
from router.core.demand import DemandKind
from router.core.endpoint.endpoint import Endpoint

MAX_MESSAGE = 4096  # bytes read of a message, about a thousand tokens: calls with as much in common share a cache too
MAX_BODY = 1 << 20  # bytes, in which messages are found within some milliseconds; of more, the beginning is the key
MAX_MESSAGES = 8  # messages read; the beginning ends with the user's first message among them


class _Message(msgspec.Struct):
    role: str = ""


# Decoded as an array of MAX_MESSAGES fields: further messages are skipped, of which a body of 32 MiB may hold millions.
_First = msgspec.defstruct(
    "_First", [(f"_{i}", msgspec.Raw, msgspec.Raw()) for i in range(MAX_MESSAGES)], array_like=True
)
_first = msgspec.json.Decoder(_First).decode
_message = msgspec.json.Decoder(_Message).decode


def key_of(affinity: str, call: Call, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key of a call's conversation; empty if it has none. `affinity` is `prefix` or `header:` and a name.

    Names of `headers` are in lower case.
    """
    sent = dict(headers)
    identity = _beginning(call) if affinity == "prefix" else sent.get(affinity.removeprefix("header:").encode(), b"")
    if not identity:
        return b""
    owner = sent.get(b"authorization", b"")
    return blake2b(b"\0".join((call.model.encode(), owner, identity)), digest_size=16).digest()


def _beginning(call: Call) -> bytes:
    """The messages up to the user's first, or the beginning of a prompt; empty if unreadable."""
    if call.operation != "chat/completions":
        return bytes(memoryview(call.fields.get("prompt", b""))[:MAX_MESSAGE])
    if call.attached is not None and len(call.body) > MAX_BODY:
        return bytes(memoryview(call.fields.get("messages", msgspec.Raw()))[:MAX_MESSAGE])
    first = []
    try:
        for message in filter(None, astuple(_first(call.fields.get("messages", b"")))):
            first.append(bytes(message)[:MAX_MESSAGE])
            if _message(message).role == "user":
                break
    except (msgspec.DecodeError, RecursionError):
        return b""
    return b"\0".join(first)


class Affinity(msgspec.Struct, frozen=True):
    """The key of a call's conversation, and the seconds that staying with it may cost."""

    key: bytes
    margin: float

    def choose(self, endpoints: Sequence[Endpoint], costs: Sequence[float], kind: DemandKind) -> Endpoint:
        """The key's own endpoint among those within the margin of the cheapest, and unmeasured ones."""
        most = min(costs) + self.margin
        near = [e for e, cost in zip(endpoints, costs, strict=True) if cost <= most or e.forecast.unmeasured(kind)]
        return near[0] if len(near) == 1 else min(near, key=self._lot)

    def _lot(self, endpoint: Endpoint) -> float:
        """A number, exponentially distributed with the weight as rate: the lowest in the weight's share of cases."""
        drawn = int.from_bytes(blake2b(self.key + _salt(endpoint.key), digest_size=8).digest())
        return -log((drawn + 0.5) * 2.0**-64) / endpoint.weight


@lru_cache(maxsize=4096)
def _salt(key: Hashable) -> bytes:
    """An endpoint's identity, the same at all routers."""
    return blake2b(repr(key).encode(), digest_size=16).digest()
