"""Headers: which pass from the client to the endpoint and back, and which are the router's own."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from router.core.record import CallRecord
from router.proxy.client import Headers

_LINE = b"%b: %b\r\n"
_HOP_BY_HOP = frozenset(  # RFC 9110 §7.6.1, and the message's framing, which is written anew
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade content-length".split()
)
# Withheld from endpoints: what concerns only client and router, such as credentials and where the client comes from.
# Also x-stainless-*, how the client's SDK is built: by its prefix, in `passed_on`.
_WITHHELD_FROM_ENDPOINT = _HOP_BY_HOP | frozenset(
    b"host content-type content-encoding expect accept-encoding date authorization cookie api-key x-api-key "
    b"openai-organization openai-project forwarded via x-forwarded-for x-forwarded-host x-forwarded-proto "
    b"x-forwarded-port x-real-ip x-request-id origin referer x-router-debug".split()
)
# Withheld from clients: what concerns only endpoint and router, and headers that the router sets itself.
_WITHHELD_FROM_CLIENT = _HOP_BY_HOP | frozenset(
    b"set-cookie server date alt-svc strict-transport-security server-timing x-should-retry retry-after retry-after-ms "
    b"x-router-endpoint x-router-attempts x-router-debug".split()
)
_WITHHELD_FROM_STREAM = _WITHHELD_FROM_CLIENT | {b"cache-control", b"x-accel-buffering"}
_RETRIES, _WHY = b"x-stainless-retry-count", b"x-router-debug"
_HINTS = {_RETRIES, b"x-stainless-read-timeout", b"x-stainless-timeout", _WHY}  # the timeouts are Python's and Node's
STREAM = b"cache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"  # nginx in front would buffer


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Render headers as they are sent."""
    return b"".join([_LINE % header for header in headers])


def pairs(block: bytes) -> Headers:
    """Split headers that `lines` has rendered."""
    parts = (line.partition(b": ") for line in block.splitlines())
    return [(name, value) for name, _, value in parts]


def passed_on(headers: Headers) -> bytes:
    """Render those of a client's headers that an endpoint may see."""
    withheld = _WITHHELD_FROM_ENDPOINT
    for name, value in headers:
        if name == b"connection":
            withheld = _with_named(withheld, value)
    return b"".join([_LINE % item for item in headers if item[0] not in withheld and item[0][:12] != b"x-stainless-"])


def client_hints(headers: Headers) -> tuple[float, int, bool]:
    """Read a client's timeout in seconds, its number of retries so far, and whether it asks why it was routed so.

    The OpenAI SDKs send the first two.
    """
    hints = [header for header in headers if header[0] in _HINTS]
    if not hints:
        return inf, 0, False
    patience, retries, asks_why = inf, 0, False
    for name, value in hints:
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
    return seconds if seconds > 0 else inf  # nan is no time either


def passed_back(headers: Headers, *, stream: bool) -> bytes:
    """Render those of an endpoint's headers that the client may see; its request id gets another name."""
    withheld = _WITHHELD_FROM_STREAM if stream else _WITHHELD_FROM_CLIENT
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
    """Drop the headers of some names from rendered lines."""
    kept = [line for line in block.splitlines(keepends=True) if line.partition(b":")[0] not in names]
    return b"".join(kept)


def call_facts(record: CallRecord, endpoint: str, now: float) -> bytes:
    """Render the headers with which every answer describes its call."""
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
    """Add the names in a Connection header, which are hop-by-hop too."""
    if connection.lower() in (b"keep-alive", b"close"):
        return withheld
    return withheld.union(name.strip() for name in connection.lower().split(b","))
