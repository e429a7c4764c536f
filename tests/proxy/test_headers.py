"""Headers: which pass from the client to the endpoint and back, and which are the router's own."""

from __future__ import annotations

from math import inf
from typing import Any

import msgspec
import pytest

from router.core.record import CallRecord
from router.proxy.client import Headers
from router.proxy.headers import (
    MAX_HEAD,
    STREAM,
    answer_headers,
    call_facts,
    facts_of,
    lines,
    may_be_sniffed,
    optional,
    pairs,
    passed_on,
    without,
)

JSON = (b"content-type", b"application/json")
SSE = (b"content-type", b"text/event-stream")

# What proxies, load balancers and CDNs in front of the router add, and what browsers and other SDKs send.
FROM_IN_FRONT = (
    b"x-forwarded-for x-forwarded-access-token x-forwarded-id-token x-forwarded-user x-forwarded-email "
    b"x-forwarded-groups x-forwarded-preferred-username x-forwarded-client-cert x-forwarded-prefix x-forwarded-server "
    b"x-auth-request-access-token x-auth-request-email cf-access-jwt-assertion cf-connecting-ip cf-visitor cf-ray "
    b"cf-warp-tag-id cdn-loop x-amzn-oidc-accesstoken x-amzn-oidc-data x-amzn-trace-id x-goog-iap-jwt-assertion "
    b"x-goog-authenticated-user-email x-ms-token-aad-access-token x-ms-client-principal remote-user x-remote-user "
    b"true-client-ip x-client-ip x-cluster-client-ip x-original-forwarded-for x-envoy-external-address "
    b"fastly-client-ip x-auth-token x-goog-api-key ocp-apim-subscription-key x-litellm-api-key x-csrf-token api-key "
    b"x-api-key openai-organization openai-project origin referer sec-fetch-site x-whatever-comes-next"
).split()


def shown(*headers: tuple[bytes, bytes], stream: bool = False, returned: tuple[bytes, ...] = ()) -> Headers:
    """The endpoint's headers that a client gets, without those by which the router describes the call."""
    record = CallRecord("req_1", "chat/completions", 10.0, endpoint="a")
    block = answer_headers(list(headers), record, 10.5, frozenset(returned), stream=stream)
    facts = call_facts(record, "a", 10.5)
    assert block.endswith(facts)
    return pairs(block.removesuffix(facts))


def test_rendered_headers_are_split_again() -> None:
    headers = [(b"a", b"b: c"), (b"d", b"")]
    assert lines(headers) == b"a: b: c\r\nd: \r\n"
    assert pairs(lines(headers)) == headers


# ---- To endpoints


@pytest.mark.parametrize(
    "name",
    b"accept accept-language user-agent openai-beta anthropic-beta anthropic-version traceparent tracestate x-title "
    b"http-referer idempotency-key".split(),
)
def test_an_endpoint_sees_what_is_meant_for_it(name: bytes) -> None:
    assert passed_on([(name, b"x")]) == name + b": x\r\n"
    assert passed_on([(name, b"1"), (name, b"2")]) == name + b": 1\r\n" + name + b": 2\r\n"


@pytest.mark.parametrize(
    "name",
    [
        *b"authorization cookie host content-length transfer-encoding te x-stainless-lang expect accept-encoding "
        b"content-type content-encoding x-router-debug x-request-id trailer upgrade proxy-authorization via "
        b"cdn-loop".split(),
        *FROM_IN_FRONT,
    ],
)
def test_an_endpoint_does_not_see_any_other_header(name: bytes) -> None:
    assert passed_on([(name, b"x"), (b"user-agent", b"y")]) == b"user-agent: y\r\n"


def test_a_header_is_optional_if_an_endpoint_wants_it() -> None:
    headers = [(b"x-a", b"1"), (b"user-agent", b"u"), (b"x-b", b"2"), (b"x-a", b"3"), (b"connection", b"x-b")]
    assert optional(headers, frozenset((b"x-a", b"x-b", b"user-agent"))) == [(b"x-a", b"1"), (b"x-a", b"3")]
    assert optional(headers, frozenset()) == []


@pytest.mark.parametrize(
    ("connection", "passes"),
    [
        ([b"keep-alive"], True),
        ([b"Close"], True),
        ([b"x-hop, Keep-Alive"], True),
        ([b"x-title, Keep-Alive"], False),
        ([b"X-Title"], False),
        ([b"keep-alive,\tX-TITLE ,"], False),
        ([b"keep-alive", b"x-title"], False),
        ([b"x-title", b"keep-alive"], False),
    ],
)
def test_headers_named_in_connection_do_not_pass(connection: list[bytes], passes: bool) -> None:
    options = [(b"connection", value) for value in connection]
    assert passed_on([*options, (b"x-title", b"1"), (b"accept", b"2")]) == b"x-title: 1\r\n" * passes + b"accept: 2\r\n"
    back = shown(*options, JSON, (b"x-title", b"1"), (b"openai-version", b"2"), returned=(b"x-title",))
    assert back == [JSON, *[(b"x-title", b"1")] * passes, (b"openai-version", b"2")]


def test_a_content_type_passes_whatever_the_connection_names() -> None:
    assert shown(JSON, (b"connection", b"content-type, close")) == [JSON]


# ---- To clients

# Headers that speak for the router's host, concern the operator, or are the router's own.
FROM_BEHIND = (
    b"set-cookie set-cookie2 server date retry-after retry-after-ms x-should-retry x-router-endpoint x-router-anything "
    b"access-control-allow-origin access-control-allow-credentials vary clear-site-data content-security-policy "
    b"refresh nel report-to service-worker-allowed location link alt-svc strict-transport-security openai-organization "
    b"openai-project via x-served-by cf-ray x-accel-buffering x-content-type-options transfer-encoding content-length "
    b"www-authenticate x-powered-by x-whatever-comes-next x-ratelimit"
).split()


@pytest.mark.parametrize("name", FROM_BEHIND)
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_does_not_see_any_other_header(name: bytes, stream: bool) -> None:
    kind = SSE if stream else JSON
    assert shown(kind, (name, b"x"), stream=stream) == [kind, *pairs(STREAM if stream else b"")]


@pytest.mark.parametrize(
    "name",
    b"content-language content-encoding openai-processing-ms openai-version x-ratelimit-limit-requests "
    b"x-ratelimit-remaining-tokens anthropic-ratelimit-requests-reset".split(),
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_sees_what_is_meant_for_it(name: bytes, stream: bool) -> None:
    kind = SSE if stream else JSON
    assert shown((name, b"x"), kind, stream=stream) == [kind, *pairs(STREAM if stream else b""), (name, b"x")]


def test_a_client_sees_the_headers_that_the_operator_returns() -> None:
    headers = [JSON, (b"cf-ray", b"1"), (b"x-other", b"2"), (b"cf-ray", b"3"), (b"request-id", b"4")]
    assert shown(*headers, returned=(b"cf-ray", b"request-id")) == [
        JSON,
        (b"cf-ray", b"1"),
        (b"cf-ray", b"3"),
        (b"request-id", b"4"),
        (b"x-upstream-request-id", b"4"),
    ]


@pytest.mark.parametrize(
    ("headers", "upstream"),
    [
        ([(b"x-request-id", b"abc")], b"abc"),
        ([(b"request-id", b"req_of_anthropic")], b"req_of_anthropic"),
        ([(b"request-id", b"other"), (b"x-request-id", b"abc")], b"abc"),
        ([(b"x-request-id", b""), (b"request-id", b"other")], b"other"),
    ],
)
def test_an_endpoints_request_id_gets_another_name(headers: Headers, upstream: bytes) -> None:
    assert shown(JSON, *headers) == [JSON, (b"x-upstream-request-id", upstream)]


def test_a_stream_is_neither_cached_nor_buffered() -> None:
    headers = [(b"cache-control", b"max-age=60"), (b"x-accel-buffering", b"yes")]
    assert shown(SSE, *headers, stream=True) == [SSE, *pairs(STREAM)]
    assert shown(JSON, *headers) == [JSON, (b"cache-control", b"max-age=60")]


@pytest.mark.parametrize("kind", [b"text/plain", b"application/json", b""])
def test_a_stream_is_an_event_stream_whatever_its_endpoint_calls_it(kind: bytes) -> None:
    events = (b"content-type", b"text/event-stream; charset=utf-8")
    assert shown((b"content-type", kind), stream=True) == [events, *pairs(STREAM)]


def test_the_last_of_several_types_is_the_type_by_which_the_answer_was_read() -> None:
    assert shown((b"content-type", b"text/html"), JSON) == [JSON]


@pytest.mark.parametrize(
    ("kind", "sniffed"),
    [
        (b"application/json", False),
        (b"Application/JSON ; charset=utf-8", False),
        (b"text/json", False),
        (b"application/problem+json", False),
        (b"text/event-stream; charset=utf-8", False),
        (b"", True),
        (b"text/html", True),
        (b"text/plain; x=application/json", True),
        (b"application/jsonp", True),
        (b"application/json, text/html", True),
        (b"application/json;" + b"x" * 300, True),
        (b"text/html+json/x", True),
        (b"text/event-streams", True),
        (b"audio/mpeg", True),
    ],
)
def test_only_json_and_event_streams_may_be_sniffed(kind: bytes, sniffed: bool) -> None:
    assert may_be_sniffed(kind) is sniffed
    nosniff = (b"x-content-type-options", b"nosniff")
    assert (nosniff in shown((b"content-type", kind))) is sniffed
    assert (nosniff in shown((b"x-content-type-options", b"none"))) is True


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        (b"audio/mpeg", True),
        (b"application/octet-stream", True),
        (b"application/json", False),
        (b"text/html", False),
        (b"image/svg+xml", False),
        (b"application/javascript", False),
        (b"", False),
    ],
)
def test_a_disposition_passes_with_a_binary_body(kind: bytes, passes: bool) -> None:
    disposition = (b"content-disposition", b'attachment; filename="a.mp3"')
    assert (disposition in shown((b"content-type", kind), disposition)) is passes


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [
        ([b"db;dur=53"], b"db;dur=53, "),
        ([b"db;dur=53", b'cache;desc="a, \\"b\\""'], b'db;dur=53, cache;desc="a, \\"b\\"", '),
        ([b'db;desc="open'], b""),
        ([b'db;desc="open\\"'], b""),
        ([b""], b""),
        ([b"a" * 5000], b""),
    ],
)
def test_the_routers_timing_follows_that_of_the_endpoint(theirs: list[bytes], kept: bytes) -> None:
    record = CallRecord("req_1", "chat/completions", 10.0, endpoint="a", first_token=0.25)
    headers = [JSON, *[(b"server-timing", value) for value in theirs]]
    found = pairs(answer_headers(headers, record, 10.5, stream=False))
    assert [value for name, value in found if name == b"server-timing"] == [kept + b"first-token;dur=250.0"]
    assert record.dropped_headers == (len(theirs[0]) == 5000)


@pytest.mark.parametrize("why", [None, msgspec.Raw(b"x" * 4096)])
def test_the_head_of_an_answer_has_a_bound(why: msgspec.Raw | None) -> None:
    record = CallRecord("req_1", "chat/completions", 10.0, endpoint="a", why=why)
    small = [(b"x-ratelimit-%d" % number, b"v" * 100) for number in range(200)]
    large = (b"openai-version", b"v" * 20_000)
    headers = [*small[:9], large, JSON, (b"server-timing", b"t" * 4000), *small[9:], (b"x-request-id", b"theirs")]
    block = answer_headers(headers, record, 10.5, stream=False)
    found = pairs(block)
    assert MAX_HEAD - 700 < len(block) <= MAX_HEAD - 512
    assert found[:10] == [JSON, *small[:9]]
    passed = [name for name, _ in found if name.startswith(b"x-ratelimit-")]
    assert record.dropped_headers == 1 + 200 - len(passed) + (b"x-upstream-request-id" not in dict(found))
    assert dict(found)[b"x-request-id"] == b"req_1"


def test_a_type_that_is_too_long_is_dropped_and_nothing_is_guessed() -> None:
    record = CallRecord("req_1", "chat/completions", 10.0, endpoint="a")
    block = answer_headers([(b"content-type", b"application/json;" + b"x" * 20_000)], record, 10.5, stream=False)
    assert pairs(block)[0] == (b"x-content-type-options", b"nosniff")
    assert record.dropped_headers == 1


# ---- The router's own


@pytest.mark.parametrize(
    ("headers", "hints"),
    [
        ([], (inf, 0, False)),
        ([(b"x-stainless-timeout", b"20")], (20.0, 0, False)),
        ([(b"x-stainless-read-timeout", b"2.5"), (b"x-stainless-retry-count", b"2")], (2.5, 2, False)),
        ([(b"x-stainless-timeout", b"NOT_GIVEN"), (b"x-stainless-retry-count", b"-1")], (inf, 0, False)),
        ([(b"x-stainless-timeout", b"nan")], (inf, 0, False)),
        ([(b"x-stainless-timeout", b"0")], (inf, 0, False)),
        ([(b"x-router-debug", b"1")], (inf, 0, True)),
        ([(b"x-router-debug", b"yes")], (inf, 0, False)),
        ([(b"cdn-loop", b"a"), (b"cdn-loop", b"b;c=d")], (inf, 0, False, b"a,b;c=d,")),
    ],
)
def test_hints_of_a_client(headers: Headers, hints: tuple[Any, ...]) -> None:
    assert facts_of(headers)[1:] == (*hints, b"")[:4]


def test_every_answer_describes_its_call() -> None:
    record = CallRecord("req_1", "completions", 10.0)
    assert pairs(call_facts(record, "", 10.5)) == [
        (b"x-request-id", b"req_1"),
        (b"x-router-endpoint", b"-"),
        (b"x-router-attempts", b"0"),
        (b"server-timing", b"total;dur=500.0"),
    ]
    record.first_token, record.queued = 0.25, 0.1
    assert (b"server-timing", b"queue;dur=100.0, first-token;dur=250.0") in pairs(call_facts(record, "a", 10.5))


def test_some_headers_are_dropped_from_rendered_lines() -> None:
    assert without(b"a: 1\r\nb: 2\r\nab: 3\r\n", frozenset((b"a", b"x"))) == b"b: 2\r\nab: 3\r\n"
