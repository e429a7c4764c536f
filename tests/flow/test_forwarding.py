"""Forwarding: what of a request an endpoint is sent, and what of its answer the client gets."""

from __future__ import annotations

import pytest

from router.core.call import parse
from router.proxy.client import Request
from tests.support import Player, endpoint
from tests.support.endpoints import (
    JSON,
    SILENT,
    answers,
    completion,
    cuts,
    error_event,
    fails_with,
    opens,
    says,
    sends,
    streams,
)


def test_each_endpoint_is_asked_for_the_model_by_its_own_name() -> None:
    play = Player(
        endpoint("a", fails_with(500), models={"chat": "qwen-7b"}),
        endpoint("b", streams("hi"), models={"chat": "gpt"}, tier=2),
    )
    play.call(messages=[{"role": "user", "content": "hi"}], temperature=0.5)
    play.run()
    assert play["a"].wires[0].json["model"] == "qwen-7b"
    assert play["b"].wires[0].json == {
        "model": "gpt",
        "stream": True,
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
    }


def test_a_request_that_needs_no_change_is_sent_unchanged() -> None:
    body = b'{ "model":"chat",  "stream" : true, "messages": [] }'
    play = Player(endpoint("a", streams("hi")))
    play.call(body=body)
    play.run()
    assert play["a"].wires[0].request.body == body


def test_params_are_added_forced_and_dropped() -> None:
    params = {"default": {"top_p": 0.8, "max_tokens": 100}, "force": {"seed": 7}, "drop": ["frequency_penalty"]}
    play = Player(endpoint("a", streams("hi"), params=params))
    play.call(max_tokens=5, seed=1, frequency_penalty=2, user="u")
    play.run()
    assert play["a"].wires[0].json == {
        "model": "chat",
        "stream": True,
        "max_tokens": 5,
        "seed": 7,
        "user": "u",
        "top_p": 0.8,
    }


@pytest.mark.parametrize(
    "temperature",
    [b"0", b"0.0", b"1e999", b"1.5", b"-3", b"null", b'"hot"', b'"\xff"', b'"\\x"', b"[" * 900 + b"]" * 900],
    ids=lambda value: repr(value)[:12],
)
def test_any_temperature_that_is_sent_to_zhipu_ends_with_an_answer(temperature: bytes) -> None:
    play = Player(endpoint("z", streams("hi"), kind="zhipu"))
    call = play.call(body=b'{"model": "chat", "stream": true, "temperature": %b}' % temperature)
    play.run()
    assert call.status in (200, 400)


def test_headers_between_client_and_router_are_withheld_from_the_endpoint() -> None:
    play = Player(endpoint("a", streams("hi"), api_key="our-key", headers={"X-Team": "ml"}))
    withheld = [
        (b"authorization", b"Bearer theirs"),
        (b"cookie", b"session=1"),
        (b"connection", b"keep-alive, x-hop"),
        (b"x-hop", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"host", b"router:8080"),
        (b"content-length", b"999"),
        (b"accept-encoding", b"gzip, br"),
        (b"x-stainless-lang", b"python"),
        (b"x-stainless-retry-count", b"1"),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-request-id", b"theirs"),
        (b"x-team", b"other"),
        (b"x-forwarded-access-token", b"theirs"),
        (b"cf-connecting-ip", b"10.0.0.1"),
        (b"x-own", b"1"),
    ]
    play.call(headers=[*withheld, (b"user-agent", b"sdk/1"), (b"traceparent", b"00-1-2-01")])
    play.run()
    wire = play["a"].wires[0]
    assert wire.line == "POST /v1/chat/completions HTTP/1.1"
    assert wire.headers == {
        "host": "a",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "authorization": "Bearer our-key",
        "x-team": "ml",
        "user-agent": "sdk/1",
        "traceparent": "00-1-2-01",
        "content-length": str(len(wire.request.body)),
    }


def test_an_endpoint_without_a_key_is_sent_none() -> None:
    play = Player(endpoint("a", streams("hi")))
    play.call(headers=[(b"authorization", b"Bearer theirs")])
    play.run()
    assert "authorization" not in play["a"].wires[0].headers


def test_headers_between_endpoint_and_router_are_withheld_from_the_client() -> None:
    theirs = [
        (b"set-cookie", b"a=1"),
        (b"server", b"uvicorn"),
        (b"date", b"today"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"keep-alive", b"timeout=5"),
        (b"x-router-endpoint", b"forged"),
        (b"x-should-retry", b"true"),
        (b"retry-after-ms", b"1"),
        (b"cache-control", b"max-age=99"),
        (b"x-request-id", b"up-7"),
        (b"openai-processing-ms", b"12"),
        (b"openai-organization", b"ours"),
        (b"access-control-allow-origin", b"*"),
        (b"server-timing", b"gpu;dur=7"),
    ]
    play = Player(endpoint("a", streams("hi", headers=theirs)))
    call = play.call()
    play.run()
    assert call.headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "x-upstream-request-id": "up-7",
        "openai-processing-ms": "12",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        "x-request-id": "req-1",
        "x-router-endpoint": "a",
        "x-router-attempts": "1",
        "server-timing": "gpu;dur=7, first-token;dur=300.0",
    }


def test_an_optional_header_reaches_only_the_endpoints_that_name_it() -> None:
    play = Player(
        endpoint("a", fails_with(500), pass_headers=["X-Tenant", "x-own"], headers={"x-own": "ours"}),
        endpoint("b", fails_with(500), tier=2, pass_headers=["x-trace"]),
        endpoint("c", streams("hi"), tier=3),
    )
    sent = [(b"x-tenant", b"t1"), (b"x-trace", b"7"), (b"x-own", b"theirs"), (b"cookie", b"c"), (b"x-title", b"T")]
    play.call(headers=sent)
    play.run()
    optional: tuple[dict[str, str], ...] = ({"x-tenant": "t1", "x-own": "ours"}, {"x-trace": "7"}, {})
    for name, extra in zip("abc", optional, strict=True):
        headers = play[name].wires[0].headers
        given = {"host", "content-type", "accept-encoding", "content-length"}
        assert {key: value for key, value in headers.items() if key not in given} == {"x-title": "T", **extra}


def test_an_optional_header_named_in_connection_reaches_nobody() -> None:
    play = Player(endpoint("a", streams("hi"), pass_headers=["x-tenant"]))
    play.call(headers=[(b"x-tenant", b"t1"), (b"connection", b"X-Tenant")])
    play.run()
    assert "x-tenant" not in play["a"].wires[0].headers


def test_a_header_is_returned_only_from_the_endpoint_that_names_it() -> None:
    headers = [(b"x-trace", b"1"), (b"x-other", b"2")]
    play = Player(
        endpoint("a", streams("hi", headers=headers), answers(completion(), headers=[*JSON, *headers]), SILENT,
                 return_headers=["X-Trace"]),
        endpoint("b", streams("hi", headers=headers), models=["other"]),
    )  # fmt: skip
    calls = [play.call(), play.call(at=10.0, stream=False), play.call(at=20.0, model="other")]
    play.run()
    assert [call.headers.get("x-trace") for call in calls] == ["1", "1", None]
    assert not any("x-other" in call.headers for call in calls)


def test_headers_too_many_for_a_client_are_dropped_and_counted() -> None:
    headers = [(b"x-ratelimit-%d" % number, b"v" * 1000) for number in range(45)]
    play = Player(endpoint("a", streams("hi", headers=headers)))
    call = play.call()
    play.run()
    passed = [name for name in call.headers if name.startswith("x-ratelimit-")]
    assert 10 < len(passed) < 16
    assert call.record.dropped_headers == 45 - len(passed)
    assert f'firsttoken_dropped_headers_total{{endpoint="a"}} {45 - len(passed)}.0' in play.metrics.render().decode()


# Keys that an endpoint repeats.

KEY = "sk-ours/0123456789+abcdef=="


@pytest.mark.parametrize("quoted", [KEY, KEY.replace("/", "\\/")])
@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_in_an_endpoints_error_reaches_neither_client_nor_log(status: int, quoted: str) -> None:
    body = b'{"error": {"code": "%b", "message": "the key %b is odd"}}' % (quoted.encode(), quoted.encode())
    play = Player(endpoint("a", answers(body, status=status), api_key=KEY))
    call = play.call()
    play.run()
    reasons = [attempt.outcome.reason for attempt in call.record.attempts if attempt.outcome is not None]
    assert reasons == [f"status {status} (***)"] * len(reasons)
    assert b"***" in call.body
    assert not any(part in call.body for part in (b"0123456789", quoted.encode()))


def test_a_configured_header_that_is_a_credential_is_masked_too() -> None:
    headers = {"Authorization": "Token abc-own", "x-team": "research", "x-tenant": "0123456789abcdef"}
    error = {"error": {"code": "bad", "message": "Token abc-own of research in 0123456789abcdef"}}
    play = Player(endpoint("a", answers(error, status=400), headers=headers))
    call = play.call()
    play.run()
    assert call.error["message"] == "Token *** of research in ***"


def test_a_key_in_an_error_event_is_masked_before_and_after_the_first_token() -> None:
    refusal = error_event(f"{KEY} is odd", code="invalid_request_error")
    early = Player(endpoint("a", opens() + sends(0.1, refusal), api_key=KEY))
    late = Player(endpoint("a", opens() + says(0.1, "Hel") + sends(0.5, refusal) + cuts(0.6), api_key=KEY))
    for play in (early, late):
        call = play.call()
        play.run()
        assert call.error["message"] == "*** is odd"
        assert KEY.encode() not in call.body


def test_a_key_in_an_answer_that_is_an_error_is_masked() -> None:
    error = {"error": {"code": "invalid_request_error", "message": f"{KEY} is odd"}}
    play = Player(endpoint("a", answers(error), api_key=KEY))
    call = play.call(stream=False)
    play.run()
    assert (call.status, call.error["message"]) == (400, "*** is odd")


def test_no_repr_shows_a_key_or_a_prompt() -> None:
    play = Player(endpoint("a", streams("hi"), api_key=KEY))
    play.call(messages=[{"role": "user", "content": "my secret"}])
    play.run()
    request = play["a"].wires[0].request
    call = parse("chat/completions", b'{"model": "m", "messages": "my secret"}', b"x-own: hush")
    ours = Request(b"/v1/x", [(b"authorization", b"Bearer hush")], b"my secret", 0.0)
    for shown in (repr(request), repr(call), repr(ours)):
        assert not any(secret in shown for secret in (KEY, "secret", "hush"))
