"""Which headers pass, on the way there and on the way back, and which are ours."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from router.core.record import CallRecord
from router.proxy.client import Headers

_LINE = b"%b: %b\r\n"
_HOP_BY_HOP = frozenset(  # RFC 9110 §7.6.1, and what says how long the message is: that is said anew
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade content-length".split()
)
# The client's business with us: its credentials, where it came from, and how its SDK is built (x-stainless-*).
_NOT_THERE = _HOP_BY_HOP | frozenset(
    b"host content-type content-encoding expect accept-encoding date authorization cookie api-key x-api-key "
    b"openai-organization openai-project forwarded via x-forwarded-for x-forwarded-host x-forwarded-proto "
    b"x-forwarded-port x-real-ip x-request-id origin referer x-router-debug".split()
)
# The endpoint's business with us, and what this router says itself.
_NOT_BACK = _HOP_BY_HOP | frozenset(
    b"set-cookie server date alt-svc strict-transport-security server-timing x-should-retry retry-after retry-after-ms "
    b"x-router-endpoint x-router-attempts x-router-debug".split()
)
_NOT_BACK_OF_STREAM = _NOT_BACK | {b"cache-control", b"x-accel-buffering"}
_RETRIES, _WHY = b"x-stainless-retry-count", b"x-router-debug"
_TOLD = {_RETRIES, b"x-stainless-read-timeout", b"x-stainless-timeout", _WHY}  # the times are Python's and Node's
STREAM = b"cache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"  # nginx in front would buffer


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they stand on the wire."""
    return b"".join([_LINE % header for header in headers])


def pairs(block: bytes) -> Headers:
    """What `lines` has put together."""
    parts = (line.partition(b": ") for line in block.splitlines())
    return [(name, value) for name, _, value in parts]


def passed_on(headers: Headers) -> bytes:
    """A client's headers, as an endpoint may see them."""
    withheld = _NOT_THERE
    for name, value in headers:
        if name == b"connection":
            withheld = _with_named(withheld, value)
    return b"".join([_LINE % item for item in headers if item[0] not in withheld and item[0][:12] != b"x-stainless-"])


def told_by_client(headers: Headers) -> tuple[float, int, bool]:
    """What the OpenAI SDKs tell of themselves, the seconds that they wait and how often they have asked before; and
    whether the client asks why it gets what it gets.
    """
    told = [header for header in headers if header[0] in _TOLD]
    if not told:
        return inf, 0, False
    patience, retries, asks_why = inf, 0, False
    for name, value in told:
        if name == _WHY:
            asks_why = value == b"1"
        elif name != _RETRIES:
            patience = _seconds(value)
        elif value.isdigit():
            retries = int(value[:3])
    return patience, retries, asks_why


def _seconds(value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        return inf
    return seconds if seconds > 0 else inf  # nan, too, is no time


def passed_back(headers: Headers, *, stream: bool) -> bytes:
    """An endpoint's headers, as the client may see them; the endpoint's own request id under another name."""
    withheld = _NOT_BACK_OF_STREAM if stream else _NOT_BACK
    for name, value in headers:
        if name == b"connection":
            withheld = _with_named(withheld, value)
    passed = b"".join(
        [
            _LINE % (item if item[0] != b"x-request-id" else (b"x-upstream-request-id", item[1]))
            for item in headers
            if item[0] not in withheld
        ]
    )
    return passed + STREAM if stream else passed


def without(block: bytes, names: frozenset[bytes]) -> bytes:
    """Lines of headers but for those of some names."""
    kept = [line for line in block.splitlines(keepends=True) if line.partition(b":")[0] not in names]
    return b"".join(kept)


def call_facts(record: CallRecord, endpoint: str, now: float) -> bytes:
    """What every answer says of its call."""
    first = record.first_token
    facts = (
        b"x-request-id: %b\r\nx-router-endpoint: %b\r\nx-router-attempts: %d\r\nserver-timing: %b%b;dur=%.1f\r\n"
        % (
            record.request_id.encode(),
            endpoint.encode() or b"-",
            len(record.attempts),
            b"queue;dur=%.1f, " % (record.queued * 1e3) if record.queued else b"",
            b"total" if first is None else b"first-token",
            (now - record.arrived if first is None else first) * 1e3,
        )
    )
    return facts if record.why is None else b"%bx-router-debug: %b\r\n" % (facts, bytes(record.why))


def _with_named(withheld: frozenset[bytes], connection: bytes) -> frozenset[bytes]:
    """A Connection header names others that are hop-by-hop too."""
    if connection.lower() in (b"keep-alive", b"close"):
        return withheld
    return withheld.union(name.strip() for name in connection.lower().split(b","))
