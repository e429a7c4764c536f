"""Forwarding: what of a request an endpoint is sent, and what of its answer the client gets."""

from __future__ import annotations

import pytest

from tests.support import Player, endpoint
from tests.support.endpoints import fails_with, streams


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
    ]
    play.call(headers=[*withheld, (b"user-agent", b"sdk/1"), (b"x-own", b"kept")])
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
        "x-own": "kept",
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
        "server-timing": "first-token;dur=300.0",
    }
