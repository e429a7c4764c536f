"""Headers: which pass from the client to the endpoint and back, and which are the router's own."""

from __future__ import annotations

from math import inf

import pytest

from router.core.record import CallRecord
from router.proxy.client import Headers
from router.proxy.headers import STREAM, call_facts, client_hints, lines, pairs, passed_back, passed_on, without


def test_rendered_headers_are_split_again() -> None:
    headers = [(b"a", b"b: c"), (b"d", b"")]
    assert lines(headers) == b"a: b: c\r\nd: \r\n"
    assert pairs(lines(headers)) == headers


@pytest.mark.parametrize(
    "name",
    b"authorization cookie host content-length transfer-encoding te x-stainless-lang x-forwarded-for expect "
    b"accept-encoding x-router-debug origin".split(),
)
def test_an_endpoint_does_not_see_what_concerns_only_client_and_router(name: bytes) -> None:
    assert passed_on([(name, b"x"), (b"x-kept", b"yes")]) == b"x-kept: yes\r\n"


@pytest.mark.parametrize(
    ("connection", "passes"),
    [(b"keep-alive", True), (b"Close", True), (b"x-hop, Keep-Alive", False), (b"X-Hop", False)],
)
def test_headers_named_in_connection_do_not_pass(connection: bytes, passes: bool) -> None:
    headers = [(b"connection", connection), (b"x-hop", b"1"), (b"x-kept", b"2")]
    assert passed_on(headers) == b"x-hop: 1\r\n" * passes + b"x-kept: 2\r\n"
    assert passed_back(headers, stream=False) == b"x-hop: 1\r\n" * passes + b"x-kept: 2\r\n"


@pytest.mark.parametrize("name", [b"set-cookie", b"server", b"retry-after-ms", b"x-router-endpoint", b"server-timing"])
def test_a_client_does_not_see_what_the_router_sets_itself(name: bytes) -> None:
    assert passed_back([(name, b"x"), (b"x-kept", b"yes")], stream=False) == b"x-kept: yes\r\n"


def test_an_endpoints_request_id_gets_another_name() -> None:
    assert passed_back([(b"x-request-id", b"abc")], stream=False) == b"x-upstream-request-id: abc\r\n"


def test_a_stream_is_neither_cached_nor_buffered() -> None:
    headers = [(b"cache-control", b"max-age=60"), (b"x-accel-buffering", b"yes")]
    assert passed_back(headers, stream=True) == STREAM
    assert passed_back(headers, stream=False) == lines(headers)


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
    ],
)
def test_hints_of_a_client(headers: Headers, hints: tuple[float, int, bool]) -> None:
    assert client_hints(headers) == hints


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
