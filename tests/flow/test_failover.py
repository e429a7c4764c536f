"""Failover: an attempt that fails before its first token moves the call to another endpoint."""

from __future__ import annotations

import pytest

from router.core.choice.budget import RESERVE
from router.core.verdict import Verdict
from tests.flow.timelines import quick_and_slow, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import (
    DONE,
    JSON,
    SSE,
    Script,
    answers,
    cuts,
    ends,
    error_event,
    fails_with,
    head,
    opens,
    refuses_connection,
    sends,
    streams,
)

FAILURES = {
    "connection refused": refuses_connection(0.1),
    "500": fails_with(500),
    "503": fails_with(503),
    "429": fails_with(429),
    "429 with Retry-After": fails_with(429, retry_after=30),
    "529": fails_with(529),
    "401, our key": fails_with(401, code="invalid_api_key"),
    "403": fails_with(403),
    "404, our model's name": fails_with(404, type="invalid_request_error", code="model_not_found"),
    "408": fails_with(408),
    "a redirect": answers(b"", 0.1, status=307, headers=[(b"location", b"http://elsewhere/")]),
    "an error event in a 200 stream": opens() + sends(0.1, error_event()),
    "an overload event in a 200 stream": opens() + sends(0.1, error_event(type="overloaded_error")),
    "an empty stream": head(0.05, 200, SSE) + ends(0.1),
    "[DONE] and nothing else": head(0.05, 200, SSE) + sends(0.1, DONE) + ends(0.1),
    "a role only, then cut": opens() + cuts(0.1),
    "a role only, then its end": opens() + ends(0.1),
    "cut within its head": cuts(0.1),
    "no JSON": answers(b"<html>It works!</html>", 0.1, headers=[(b"content-type", b"text/html")]),
    "JSON that is cut": head(0.05, 200, JSON) + sends(0.06, b'{"choices":') + cuts(0.1),
    "an empty answer": answers(b"", 0.1),
    "an error object with status 200": answers({"error": {"message": "no engine"}}, 0.1),
    "compressed": head(0.1, 200, [*SSE, (b"content-encoding", b"gzip")]) + sends(0.1, b"\x1f\x8b") + ends(0.1),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_a_failure_before_the_first_token_moves_the_call_at_once(failure: Script) -> None:
    play = Player(*quick_and_slow(failure))
    call = play.call()
    play.run()
    assert play["b"].asked_at == [0.1]
    assert call.text == "quick"
    assert call.first_token_at == 0.4
    assert call.body == play["b"].wires[0].sent  # not a byte of the failed answer
    assert [role for _, role, _ in verdicts(call)] == ["first", "retry"]
    assert len(play["a"].wires) == 1


def test_a_busy_endpoint_cools_down_for_its_retry_after() -> None:
    refusals = [fails_with(429, retry_after=3)] * 4
    play = Player(endpoint("a", *refusals, streams("a")), endpoint("b", streams("b"), tier=2))
    calls = [play.call(at / 2) for at in range(40)]
    play.run()
    # The second refusal begins a cooldown of 1 s, the next ones of 2 s and of the 3 s that it asks for.
    assert play["a"].asked_at[:6] == [0.0, 0.5, 2.0, 4.5, 8.0, 8.5]
    assert [call.text for call in calls] == ["b"] * 16 + ["a"] * 24
    assert verdicts(calls[0]) == [("a", "first", Verdict.BUSY), ("b", "retry", Verdict.SERVED)]
    assert play.endpoint("a").forecast.latency("first_token").mean(0.1) < 1.01  # unchanged: busy is not slow


@pytest.mark.parametrize("status", [401, 404])
def test_a_refused_key_or_model_name_is_not_retried_at_the_same_endpoint(status: int) -> None:
    play = Player(endpoint("a", fails_with(status)))
    call = play.call()
    play.run()
    assert len(play["a"].wires) == 1
    assert call.status == 502
    assert verdicts(call) == [("a", "first", Verdict.FAULT)]


def test_the_only_endpoint_is_asked_once_more_after_a_pause() -> None:
    play = Player(endpoint("a", fails_with(500, 0.1), streams("again", first=0.3)))
    call = play.call()
    play.run()
    first, second = play["a"].asked_at
    assert first == 0.0
    assert 0.35 <= second <= 0.6  # 0.25 s, plus up to as much again at random
    assert call.text == "again"
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("a", "retry", Verdict.SERVED)]


def test_a_short_retry_after_is_waited_out_if_there_is_no_other_endpoint() -> None:
    play = Player(endpoint("a", fails_with(429, 0.1, retry_after=2), streams("again", first=0.3)))
    call = play.call()
    play.run()
    assert play["a"].asked_at == [0.0, 2.1]
    assert call.first_token_at == 2.4


def test_an_endpoint_whose_breaker_has_opened_is_not_retried() -> None:
    play = Player(endpoint("a", fails_with(503, 0.01)), endpoint("b", streams("served"), tier=2), patience=1)
    calls = [play.call(0.0), play.call(2.0)]
    play.run()
    assert [[name for name, _, _ in verdicts(call)] for call in calls] == [["a", "a", "b"], ["a", "b"]]
    assert all(call.text == "served" for call in calls)


def test_a_long_retry_after_is_passed_to_the_client() -> None:
    play = Player(
        endpoint("a", fails_with(429, 0.1, retry_after=20)), endpoint("b", fails_with(429, 0.1, retry_after=7))
    )
    call = play.call()
    play.run()
    assert call.ended_at == 0.2
    assert call.status == 429
    assert call.error["code"] == "endpoints_busy"
    assert call.error["type"] == "rate_limit_error"
    assert call.headers["retry-after-ms"] == "7000"
    assert call.headers["x-should-retry"] == "true"


def test_a_retry_after_longer_than_the_sdks_wait_is_not_to_be_retried() -> None:
    play = Player(endpoint("a", fails_with(429, 0.1, retry_after=300)))
    long_wait, *others = (play.call(at) for at in (0.0, 1.0, 2.1, 4.2, 5.0))
    play.run()
    short_wait = others[-1]
    assert play["a"].asked_at == [0.0, 1.0, 2.1, 4.2]  # the second refusal begins a cooldown of 1 s, then 2 s, 4 s
    assert [call.status for call in play.calls] == [429] * 5
    assert (long_wait.headers["retry-after-ms"], long_wait.headers["x-should-retry"]) == ("300000", "false")
    assert (short_wait.headers["retry-after-ms"], short_wait.headers["x-should-retry"]) == ("3300", "true")
    assert "3 s" in short_wait.error["message"]


@pytest.mark.parametrize("retry_after", ["inf", "nan", "-5", "1e999", "soon", "99999999999 Jan 1 00:00:00 -"])
def test_an_invalid_retry_after_does_no_harm(retry_after: str) -> None:
    headers = [*JSON, (b"retry-after", retry_after.encode())]
    play = Player(endpoint("a", answers({"error": {"message": "busy"}}, 0.1, status=429, headers=headers)))
    call = play.call()
    play.run()
    assert call.status == 429
    assert 0 <= int(call.headers["retry-after-ms"]) <= 86_400_000


def test_all_endpoints_down_is_a_502_that_names_them() -> None:
    play = Player(endpoint("a", refuses_connection(0.1)), endpoint("b", fails_with(503, 0.1), tier=2))
    call = play.call()
    play.run()
    assert call.status == 502
    assert call.error["type"] == "upstream_error"
    assert call.error["code"] == "endpoints_failed"
    assert call.error["param"] is None
    assert "a: no connection: Connection refused" in call.error["message"]
    assert "b: status 503" in call.error["message"]
    assert call.headers["x-should-retry"] == "false"  # otherwise the SDKs would triple our attempts
    assert call.headers["content-type"] == "application/json"
    assert "retry-after-ms" not in call.headers
    assert [len(play[name].wires) for name in "ab"] == [2, 2]
    assert call.ended_at is not None
    assert call.ended_at < 2
    assert call.record.error == "endpoints_failed"


def test_an_outage_soon_costs_only_one_attempt_per_call() -> None:
    play = Player(endpoint("a", refuses_connection(0.01)), endpoint("b", refuses_connection(0.01)))
    calls = [play.call(i / 10) for i in range(200)]
    play.run()
    assert all(call.status == 502 for call in calls)
    extra = len(play["a"].wires) + len(play["b"].wires) - 200
    # The retry budget, and a free retry while the breaker of the other endpoint is still closed.
    assert extra <= 0.2 * 200 + RESERVE + 3
