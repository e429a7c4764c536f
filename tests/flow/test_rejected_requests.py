"""Requests that the router rejects by itself, before any endpoint is asked."""

from __future__ import annotations

import pytest

from tests.support import Player, endpoint
from tests.support.endpoints import streams


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"not json", "invalid_json", None),
        (b"", "invalid_json", None),
        (b'["chat"]', "invalid_json", None),
        (b'{"model": "chat"', "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b'{"messages": []}', "missing_model", "model"),
        (b'{"model": ""}', "missing_model", "model"),
        (b'{"model": null}', "missing_model", "model"),
        (b'{"model": 3}', "missing_model", "model"),
        (b'{"model": "%b"}' % (b"x" * 300), "invalid_model", "model"),
        (b'{"model": "chat", "stream": "yes"}', "invalid_type", "stream"),
        (b'{"model": "chat", "n": 0}', "invalid_type", "n"),
        (b'{"model": "chat", "n": "two"}', "invalid_type", "n"),
        (b'{"model": "chat", "n": true}', "invalid_type", "n"),
        (b'\xff\xfe{"model": "chat"}', "invalid_json", None),
        (b'{"model": "\xff"}', "invalid_json", None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_request_that_cannot_be_read_is_a_400(body: bytes, code: str, param: str | None) -> None:
    play = Player(endpoint("a", streams("hi")))
    call = play.call(body=body)
    play.run()
    assert call.status == 400
    assert (call.error["code"], call.error["param"]) == (code, param)
    assert call.error["type"] == "invalid_request_error"
    assert call.headers["x-should-retry"] == "false"
    assert call.headers["x-router-attempts"] == "0"
    assert call.record.error == code
    assert play["a"].wires == []


def test_an_unknown_model_is_a_404_that_lists_the_known_models_and_suggests_one() -> None:
    play = Player(endpoint("a", streams("hi"), models=["glm-4-flash", "qwen"]))
    call = play.call(model="glm-4-flush")
    play.run()
    assert call.status == 404
    assert (call.error["code"], call.error["param"]) == ("model_not_found", "model")
    assert call.error["message"] == (
        "The model 'glm-4-flush' is not served here. Did you mean 'glm-4-flash'? Served: glm-4-flash, qwen."
    )


def test_an_operation_that_no_endpoint_of_the_model_knows_is_a_404() -> None:
    play = Player(endpoint("z", streams("hi"), kind="zhipu"))
    call = play.call(path="/v1/completions", prompt="hi")
    play.run()
    assert call.status == 404
    assert "/v1/completions" in call.error["message"]


def test_only_endpoints_that_know_the_operation_are_asked() -> None:
    play = Player(endpoint("z", streams("no"), kind="zhipu"), endpoint("a", streams("hi"), tier=2))
    call = play.call(path="/v1/completions", prompt="hi")
    play.run()
    assert play["z"].wires == []
    assert play["a"].wires[0].line == "POST /v1/completions HTTP/1.1"
    assert call.status == 200


def test_one_call_too_many_is_a_429_that_may_be_retried() -> None:
    play = Player(endpoint("a", streams("hi", first=1.0)), max_calls=2)
    calls = [play.call(i / 10) for i in range(3)] + [play.call(2.0)]
    play.run()
    assert [call.status for call in calls] == [200, 200, 429, 200]
    assert calls[2].error["code"] == "overloaded"
    assert calls[2].headers["retry-after-ms"] == "500"
    assert calls[2].headers["x-should-retry"] == "true"
    assert calls[2].ended_at == 0.2
