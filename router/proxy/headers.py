"""Which headers pass, on the way there and on the way back, and which are ours."""

from __future__ import annotations

from router.core.record import CallRecord
from router.proxy.client import Headers

_HOP_BY_HOP = frozenset(  # RFC 9110 §7.6.1, and what says how long the message is: that is said anew
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade content-length".split()
)
# The client's business with us: its credentials, where it came from, and how its SDK is built (x-stainless-*).
_NOT_THERE = _HOP_BY_HOP | frozenset(
    b"host content-type content-encoding expect accept-encoding date authorization cookie api-key x-api-key "
    b"openai-organization openai-project forwarded via x-forwarded-for x-forwarded-host x-forwarded-proto "
    b"x-forwarded-port x-real-ip x-request-id origin referer".split()
)
# The endpoint's business with us, and what this router says itself.
_NOT_BACK = _HOP_BY_HOP | frozenset(
    b"set-cookie server date alt-svc strict-transport-security server-timing x-should-retry retry-after retry-after-ms "
    b"x-router-endpoint x-router-attempts".split()
)
_STREAM = ((b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no"))  # nginx in front would buffer


def passed_on(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """A client's headers, as an endpoint may see them."""
    withheld: frozenset[bytes] = _NOT_THERE
    for name, value in headers:
        if name == b"connection":
            withheld = _with_named(withheld, value)
    return tuple([item for item in headers if item[0] not in withheld and item[0][:12] != b"x-stainless-"])


def passed_back(headers: Headers, *, stream: bool) -> Headers:
    """An endpoint's headers, as the client may see them; the endpoint's own request id under another name."""
    passed: Headers = []
    for name, value in headers:
        if name == b"x-request-id":
            passed.append((b"x-upstream-request-id", value))
        elif name not in _NOT_BACK and not (stream and name == b"cache-control"):
            passed.append((name, value))
    if stream:
        passed += _STREAM
    return passed


def told(record: CallRecord, endpoint: str) -> Headers:
    """What every answer says of its call."""
    if record.first_token is not None:
        timing = b"first-token;dur=%.1f" % (record.first_token * 1e3)
    else:
        timing = b"total;dur=%.1f" % ((record.ended or 0.0) * 1e3)
    return [
        (b"x-request-id", record.request_id.encode()),
        (b"x-router-endpoint", endpoint.encode() or b"-"),
        (b"x-router-attempts", b"%d" % len(record.attempts)),
        (b"server-timing", timing),
    ]


def _with_named(withheld: frozenset[bytes], connection: bytes) -> frozenset[bytes]:
    """A Connection header names others that are hop-by-hop too."""
    if connection.lower() in (b"keep-alive", b"close"):
        return withheld
    return withheld.union(name.strip() for name in connection.lower().split(b","))
