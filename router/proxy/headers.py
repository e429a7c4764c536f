"""Headers: which pass from the client to the endpoint and back, and which the router sets itself.

Allow-lists decide in both directions, because no list of what to withhold is ever complete. An operator adds names by
an endpoint's `pass_headers` and `return_headers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from math import inf
from typing import ClassVar

from router.core.record import CallRecord
from router.proxy.client import Headers, HeadFacts
from router.proxy.loop_guard import NAME as CDN_LOOP

Names = frozenset[bytes]
NO_NAMES: Names = frozenset()

MAX_HEAD = 16 << 10  # bytes of the head of an answer: Node's default limit
_REST_OF_HEAD = 512  # bytes of it for the status line, the server's own headers and the framing
MAX_TIMING = 4 << 10  # bytes of an endpoint's server-timing

_LINE = b"%b: %b\r\n"
# To every endpoint. The router itself sets content-type, accept-encoding and authorization.
_PASSED_ON = frozenset(
    b"accept accept-language user-agent openai-beta anthropic-beta anthropic-version traceparent tracestate x-title "
    b"http-referer idempotency-key".split()
)
# To the client. Content-encoding describes the body, which passes as it is.
_PASSED_BACK = frozenset(b"content-encoding content-language openai-processing-ms openai-version".split())
_RATE_LIMITS = (b"x-ratelimit-", b"anthropic-ratelimit-")
# Headers of an endpoint that pass in some answers, or in another form; and Connection, which may name others.
_DEPENDING = frozenset(b"x-request-id request-id cache-control content-disposition server-timing connection".split())
_NOT_OF_STREAMS = frozenset((b"cache-control", b"content-disposition"))
_JSON = frozenset((b"application/json", b"text/json"))
_PLUS_JSON = re.compile(rb"[\w.+-]+/[\w.+-]+\+json")
_TEXT = frozenset(b"application/xml application/javascript application/ecmascript".split())  # not binary
_MAX_TYPE = 256  # bytes of a content-type: a longer one may have to be dropped, and then the body has no type
# A value of server-timing behind which another one may stand: every quote in it is closed.
_TIMING = re.compile(rb'(?:[^"]|"(?:[^"\\]|\\.)*")*')

_RETRIES, _WHY = b"x-stainless-retry-count", b"x-router-debug"
# The two timeouts are Python's and Node's.
_HINTS = {_RETRIES, b"x-stainless-read-timeout", b"x-stainless-timeout", _WHY, CDN_LOOP}
STREAM = b"cache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"  # nginx in front would buffer
_EVENTS = b"content-type: text/event-stream; charset=utf-8\r\n"
NOSNIFF = (b"x-content-type-options", b"nosniff")


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Render headers as they are sent."""
    return b"".join([_LINE % header for header in headers])


def pairs(block: bytes) -> Headers:
    """Split headers that `lines` has rendered."""
    parts = (line.partition(b": ") for line in block.splitlines())
    return [(name, value) for name, _, value in parts]


def without(block: bytes, names: Names) -> bytes:
    """Drop the headers of some names from rendered lines."""
    kept = [line for line in block.splitlines(keepends=True) if line.partition(b":")[0] not in names]
    return b"".join(kept)


# ---- From the client


def passed_on(headers: Headers) -> bytes:
    """Render those of a client's headers that every endpoint may see."""
    return b"".join([_LINE % item for item in _end_to_end(headers) if item[0] in _PASSED_ON])


def optional(headers: Headers, names: Names) -> Headers:
    """Select those of a client's headers that only the endpoints may see whose `pass_headers` name them."""
    return [item for item in _end_to_end(headers) if item[0] in names and item[0] not in _PASSED_ON]


def facts_of(headers: Headers) -> HeadFacts:
    return HeadFacts(passed_on(headers), *_hints(headers))


def _hints(headers: Headers) -> tuple[float, int, bool, bytes]:
    """Read the hints. The OpenAI SDKs send the first two, other routers the last."""
    hints = [header for header in headers if header[0] in _HINTS]
    if not hints:
        return inf, 0, False, b""
    patience, retries, asks_why, routers = inf, 0, False, b""
    for name, value in hints:
        if name == _WHY:
            asks_why = value == b"1"
        elif name == CDN_LOOP:
            routers += value + b","
        elif name != _RETRIES:
            patience = _seconds(value)
        elif value.isdigit():
            retries = int(value[:3])
    return patience, retries, asks_why, routers


def _seconds(value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        return inf
    return seconds if seconds > 0 else inf  # nan is no time either


def _names_others(headers: Headers) -> bool:
    """True if a Connection header names headers that are hop-by-hop too (RFC 9110 §7.6.1)."""
    for name, value in headers:  # noqa: SIM110 (a generator costs twice as much)
        if name == b"connection" and value.lower() not in _PLAIN_CONNECTIONS:
            return True
    return False


def _end_to_end(headers: Headers) -> Headers:
    """Drop the headers that a Connection header names."""
    if not _names_others(headers):
        return headers
    options = b",".join([value for name, value in headers if name == b"connection"])
    named = {option.strip() for option in options.lower().split(b",")}
    named.discard(b"content-type")  # describes the body, whatever the connection
    return [item for item in headers if item[0] not in named]


_PLAIN_CONNECTIONS = frozenset((b"keep-alive", b"close"))


# ---- To the client


# Uses of an endpoint's header: the client does not see it, or as it is; the body's type; it depends on the answer; it
# depends, and the client sees it as it is too.
_DROP, _PASS, _TYPE, _DEPENDS, _BOTH = range(5)


class _Uses(dict[bytes, int]):
    """The use of each name of a header; names that were seen are remembered, within bounds."""

    MAX_NAMES: ClassVar[int] = 200
    MAX_LENGTH: ClassVar[int] = 64  # bytes

    def __init__(self, returned: Names, *, stream: bool) -> None:
        super().__init__()
        self._passed = _PASSED_BACK | returned
        self._depending = _DEPENDING - _NOT_OF_STREAMS if stream else _DEPENDING

    def __missing__(self, name: bytes) -> int:
        if name == b"content-type":
            use = _TYPE
        elif name in self._passed or name.startswith(_RATE_LIMITS):
            use = _BOTH if name in self._depending else _PASS
        else:
            use = _DEPENDS if name in self._depending else _DROP
        if len(self) < self.MAX_NAMES and len(name) <= self.MAX_LENGTH:
            self[name] = use
        return use


@lru_cache(maxsize=100)
def _uses(returned: Names, stream: bool) -> _Uses:
    return _Uses(returned, stream=stream)


def answer_headers(
    headers: Headers, record: CallRecord, now: float, returned: Names = NO_NAMES, *, stream: bool
) -> bytes:
    """Render the headers of an answer: those of its endpoint that the client may see, and the router's own.

    `returned` names the endpoint's `return_headers`. Headers that would make the head longer than MAX_HEAD are dropped,
    and counted in the record.
    """
    kind = kept = timing = b""
    depending: Headers = []
    uses = _uses(returned, stream)
    for item in headers:
        use = uses[item[0]]
        if use == _TYPE:
            kind = item[1]
        elif use:
            if use != _DEPENDS:
                kept += _LINE % item
            if use != _PASS:
                depending.append(item)
    block, binary = _of_type(kind, stream)
    if kept:
        block += kept
    if depending:
        if _names_others(depending):
            others = [item for item in _end_to_end(headers) if item[0] != b"connection"]
            return answer_headers(others, record, now, returned, stream=stream)
        block += _depending(depending, binary=binary)
        timing = _timing(depending, record)
    facts = call_facts(record, record.endpoint, now, timing)
    if len(block) + len(facts) > MAX_HEAD - _REST_OF_HEAD:
        block = _shortened(block, MAX_HEAD - _REST_OF_HEAD - len(facts), record)
    return block + facts


def call_facts(record: CallRecord, endpoint: str, now: float, timing: bytes = b"") -> bytes:
    """Render the headers with which every answer describes its call; `timing` precedes the router's server-timing."""
    first = record.first_token
    facts = (
        b"x-request-id: %b\r\nx-router-endpoint: %b\r\nx-router-attempts: %d\r\nserver-timing: %b%b%b;dur=%.1f\r\n"
        % (
            record.request_id.encode(),
            endpoint.encode() or b"-",
            len(record.attempts),
            timing,
            b"queue;dur=%.1f, " % (record.queued * 1e3) if record.queued else b"",
            b"total" if first is None else b"first-token",
            (now - record.arrived if first is None else first) * 1e3,
        )
    )
    return facts if record.why is None else b"%bx-router-debug: %b\r\n" % (facts, bytes(record.why))


def may_be_sniffed(content_type: bytes) -> bool:
    """True unless the type is JSON or an event stream, which no browser takes for a page."""
    mime = content_type.partition(b";")[0].strip().lower()
    safe = mime in _JSON or mime == b"text/event-stream" or _PLUS_JSON.fullmatch(mime)
    return not safe or len(content_type) > _MAX_TYPE


@lru_cache(maxsize=16)
def _of_type(content_type: bytes, stream: bool) -> tuple[bytes, bool]:
    """The first headers of an answer of this type, and whether its body is binary.

    A stream is an event stream whatever its endpoint calls it.
    """
    if stream and content_type[:17].lower() != b"text/event-stream":
        return _EVENTS + STREAM, False
    block = lines([(b"content-type", content_type)] if content_type else [])
    if not may_be_sniffed(content_type):
        return block + STREAM * stream, False
    mime = content_type.partition(b";")[0].strip().lower()
    text = not mime or mime.startswith(b"text/") or mime.endswith(b"+xml") or mime in _TEXT
    return block + lines([NOSNIFF]) + STREAM * stream, not text


def _depending(headers: Headers, *, binary: bool) -> bytes:
    """Render the endpoint's request id under another name, and the headers that pass with some answers only."""
    ids, block = dict(headers), b""
    upstream_id = ids.get(b"x-request-id") or ids.get(b"request-id")  # the second is Anthropic's
    if upstream_id:
        block = b"x-upstream-request-id: %b\r\n" % upstream_id
    for item in headers:
        if item[0] == b"cache-control" or (item[0] == b"content-disposition" and binary):
            block += _LINE % item
    return block


def _timing(headers: Headers, record: CallRecord) -> bytes:
    """Join the endpoint's own server-timing, to be followed by the router's; empty if nothing could follow it."""
    timing = b", ".join([value for name, value in headers if name == b"server-timing" and value])
    if len(timing) > MAX_TIMING:
        record.dropped_headers += 1
        return b""
    return timing + b", " if timing and _TIMING.fullmatch(timing) else b""


def _shortened(block: bytes, room: int, record: CallRecord) -> bytes:
    """Drop those of rendered headers for which there is no room, and count them in the record."""
    kept = []
    for line in block.splitlines(keepends=True):
        if len(line) > room:
            record.dropped_headers += 1
        else:
            kept.append(line)
            room -= len(line)
    return b"".join(kept)
