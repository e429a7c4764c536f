"""Timelines of whole calls in virtual time: what the client sees and when, and what becomes of every attempt.

Endpoints in a higher tier are there to make the order certain: `a` is asked first. Where nothing else is said an
endpoint that nobody knows yet is late after 2 s, which is twice its prior. Every timeline is played to its end, at
which nothing may be left (see `Player.assert_nothing_is_left`).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import datetime
from typing import Any

import pytest

from router.core.choice.budget import RESERVE
from router.core.endpoint.breaker import State
from router.core.endpoint.server_load import ServerLoad
from router.core.verdict import Verdict
from router.dialects.zhipu import BEIJING
from router.proxy.relay import HTTP_END
from router.upstream.exchange import Limits
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import (
    COMMENT,
    DONE,
    JSON,
    SILENT,
    SSE,
    Script,
    answers,
    completion,
    cuts,
    ends,
    error_event,
    event,
    fails_with,
    finishes,
    head,
    opens,
    refuses_connection,
    says,
    sends,
    sse,
    streams,
)
from tests.support.outcomes import outcome_of
from tests.support.player import EMBEDDINGS


def verdicts(call: ScriptedClient) -> list[tuple[str, str, Verdict | None]]:
    """Who was asked, as what, and how it ended."""
    return [(line.endpoint.name, line.role, line.verdict) for line in call.record.attempts]


def quick_and_slow(*slow: Script, **told: Any) -> tuple[Any, Any]:
    """`a`, which is asked first and plays what is given, and a quick `b` behind it."""
    return endpoint("a", *slow, **told), endpoint("b", streams("quick"), tier=2)


# ---- One endpoint that serves


def test_an_ordinary_stream_passes_byte_for_byte() -> None:
    play = Player(endpoint("a", streams("Hel", "lo", first=0.3, gap=0.1, usage=(7, 2))))
    call = play.call()
    play.run()
    assert call.status == 200
    assert call.body == play["a"].wires[0].sent
    assert call.text == "Hello"
    assert [at for at, _ in call.writes] == [0.3, 0.4, 0.5]
    assert call.ended_at == 0.5
    assert call.headers["x-request-id"] == "req-1"
    assert call.headers["x-router-endpoint"] == "a"
    assert call.headers["x-router-attempts"] == "1"
    assert call.headers["server-timing"] == "first-token;dur=300.0"
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"
    record = call.record
    assert (record.status, record.error, record.endpoint, record.first_token) == (200, "", "a", 0.3)
    assert (record.prompt_tokens, record.completion_tokens) == (7, 2)
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_an_endpoint_that_serves_is_measured_by_its_first_token() -> None:
    play = Player(endpoint("a", opens(0.1) + says(0.7, "one", gap=0.1) + finishes(5.0)))
    play.call()
    play.run()
    assert play.endpoint("a").latency("first_token").mean(5.0) == pytest.approx(0.7)


def test_what_was_served_is_counted() -> None:
    play = Player(endpoint("a", streams("hi", usage=(3, 4))))
    play.call()
    play.call(1.0, model="nothing")
    play.run()
    assert play.metric("calls_total", model="chat", status="200", error="") == 1
    assert play.metric("calls_total", status="404", error="model_not_found") == 1
    assert play.metric("attempts_total", endpoint="a", role="first", verdict="served") == 1
    assert play.metric("tokens_total", endpoint="a", kind="output") == 4
    assert play.metric("first_token_seconds_count", model="chat", endpoint="a") == 1
    assert play.metric("calls_in_flight") == 0
    assert b'firsttoken_tokens_total{endpoint="a",kind="output"} 4.0' in play.metrics.render()


def test_a_role_and_comments_are_no_first_token() -> None:
    play = Player(endpoint("a", opens(0.1) + sends(0.2, COMMENT) + says(0.9, "hi") + finishes(1.0)))
    call = play.call()
    play.run()
    assert call.first_token_at == 0.9
    assert call.record.first_token == 0.9
    assert call.body == play["a"].wires[0].sent  # the comment too, when its time has come


@pytest.mark.parametrize("delta", ["reasoning_content", "reasoning", "refusal", "tool_calls", "function_call"])
def test_any_output_is_a_first_token(delta: str) -> None:
    value = [{"index": 0}] if delta == "tool_calls" else {"name": "f"} if delta == "function_call" else "hm"
    token = sse({"choices": [{"index": 0, "delta": {delta: value}}]})
    play = Player(endpoint("a", opens(0.1) + sends(0.4, token) + finishes(0.5)))
    call = play.call()
    play.run()
    assert call.record.first_token == 0.4


def test_events_come_whole_however_the_network_cut_them() -> None:
    whole = event("Hel") + event("lo") + event(finish="stop") + DONE
    pieces = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    script = opens(0.1)
    for i, piece in enumerate(pieces):
        script += sends(0.2 + i / 100, piece)
    play = Player(endpoint("a", script + ends(2.0)))
    call = play.call()
    play.run()
    assert call.body == play["a"].wires[0].sent
    assert all(data.endswith(b"\n\n") for _, data in call.writes)


@pytest.mark.parametrize(
    "garbled",
    [
        b"data: {no json\n\n",
        b'data: {"choices": 3, no json\n\n',
        b"data:\n\n",
        b"id: 7\n\n",
        b"retry: 100\n\n",
        b"event: x\n\n",
    ],
)
def test_a_garbled_event_is_left_out_and_the_rest_arrives(garbled: bytes) -> None:
    script = opens() + says(0.1, "one ") + sends(0.2, garbled) + says(0.3, "two") + finishes(0.4)
    play = Player(endpoint("a", script))
    call = play.call()
    play.run()
    assert call.text == "one two"
    assert call.done
    assert call.body == play["a"].wires[0].sent.replace(garbled, b"")
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


# ---- Hedges


def test_a_hedge_that_wins_ends_the_wait() -> None:
    play = Player(endpoint("a", streams("late", first=9.0)), endpoint("b", streams("quick", first=0.3), tier=2))
    call = play.call()
    play.run()
    assert play["b"].asked_at == [2.0]
    assert call.text == "quick"
    assert call.first_token_at == 2.3
    assert call.headers["x-router-endpoint"] == "b"
    assert call.headers["x-router-attempts"] == "2"
    assert play["a"].wires[0].closed_at == 2.3  # in the same instant: that is what stops it from generating
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.SERVED)]
    late, quick = call.record.attempts
    assert (late.ended, late.first_token_at, outcome_of(late).reason) == (2.3, None, "another attempt was first")
    assert (quick.began, quick.first_token_at) == (2.0, 2.3)


def test_what_the_loser_had_waited_counts_as_at_least_that_long() -> None:
    play = Player(*quick_and_slow(SILENT))
    before = play.endpoint("a").latency("first_token").mean(0.0)
    play.call()
    play.run_until(2.3)
    assert before == 1.0
    assert play.endpoint("a").latency("first_token").mean(2.3) == pytest.approx(2.3)
    assert play.endpoint("a").breaker.failures_in_a_row == 0
    play.run()


def test_a_hedge_that_loses_is_closed_at_once_and_nothing_is_held_against_it() -> None:
    play = Player(endpoint("a", streams("slow", first=2.1)), endpoint("b", SILENT, tier=2))
    call = play.call()
    play.run()
    assert call.text == "slow"
    assert call.first_token_at == 2.1
    assert play["b"].wires[0].closed_at == 2.1
    assert verdicts(call) == [("a", "first", Verdict.SERVED), ("b", "hedge", Verdict.ABANDONED)]
    assert play.endpoint("b").latency("first_token").unknown  # 0.1 s without a token say nothing


def test_a_rival_that_fails_leaves_the_race_to_the_slow_one() -> None:
    play = Player(endpoint("a", streams("slow", first=3.0)), endpoint("b", fails_with(500, 0.1), tier=2))
    call = play.call()
    play.run()
    assert call.text == "slow"
    assert call.first_token_at == 3.0
    assert verdicts(call) == [("a", "first", Verdict.SERVED), ("b", "hedge", Verdict.FAULT)]


def test_a_slow_one_that_fails_leaves_the_race_to_its_rival() -> None:
    play = Player(endpoint("a", fails_with(500, 2.1)), endpoint("b", streams("rival", first=1.0), tier=2))
    call = play.call()
    play.run()
    assert call.text == "rival"
    assert call.first_token_at == 3.0
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "hedge", Verdict.SERVED)]


def test_two_that_speak_in_one_instant_make_one_answer() -> None:
    play = Player(endpoint("a", streams("a", first=2.5)), endpoint("b", streams("b", first=0.5), tier=2))
    call = play.call()
    play.run()
    assert call.text == "a"  # which was asked first
    assert play["b"].wires[0].closed_at == 2.5


def test_a_hedge_comes_when_the_operator_says() -> None:
    play = Player(*quick_and_slow(SILENT), hedge="250ms")
    call = play.call()
    play.run()
    assert play["b"].asked_at == [0.25]
    assert call.first_token_at == 0.55


def test_no_hedge_where_the_operator_says_off() -> None:
    play = Player(endpoint("a", streams("late", first=9.0)), endpoint("b", streams("quick"), tier=2), hedge="off")
    call = play.call()
    play.run()
    assert play["b"].wires == []
    assert call.first_token_at == 9.0


def test_an_endpoint_that_is_known_is_late_by_its_own_measure() -> None:
    play = Player(endpoint("a", *[streams("usual", first=0.2)] * 20, SILENT), endpoint("b", streams("quick"), tier=2))
    for i in range(20):
        play.call(float(i))
    last = play.call(20.0)
    play.run()
    assert 20.2 < play["b"].asked_at[0] < 23.0  # worth what a rival of whom nothing is known may take, twice
    assert last.text == "quick"


def test_a_third_endpoint_is_not_asked_beside_two() -> None:
    play = Player(*(endpoint(name, SILENT, tier=tier) for tier, name in enumerate("abc", 1)), deadline=10, abandon=60)
    call = play.call()
    play.run()
    assert [play[name].asked_at for name in "abc"] == [[0.0], [2.0], []]
    assert call.status == 504


def test_hedges_stop_when_their_budget_is_empty() -> None:
    slow, quick = endpoint("a", streams("late", first=1.8)), endpoint("b", streams("quick"), tier=2)
    none = Player(slow, quick, hedge=1.0, hedge_budget=0)
    none.call()
    none.run()
    assert not none["b"].wires
    play = Player(slow, quick, hedge=1.0, hedge_budget=0.001)
    calls = [play.call(i / 100) for i in range(6)]
    play.run()
    assert len(play["b"].wires) == RESERVE
    assert [call.text for call in calls] == ["quick"] * 3 + ["late"] * 3


def test_those_that_wait_where_three_were_late_move_on_whatever_the_budget() -> None:
    """A cold start beside a frozen endpoint: the reserve pays three hedges, whose losers open the breaker."""
    play = Player(endpoint("a", SILENT), endpoint("b", streams("quick"), tier=2), hedge_budget=0.001)
    calls = [play.call(i / 10) for i in range(20)]
    play.run()
    assert all(call.text == "quick" for call in calls)
    assert max(call.record.first_token or 0.0 for call in calls) < 3.0
    assert play.table.retries.level(3.0) >= RESERVE  # away from it is free, where nothing is wrong


# ---- Failover


FAILURES = {
    "connection refused": refuses_connection(0.1),
    "500": fails_with(500),
    "503": fails_with(503),
    "429": fails_with(429),
    "429 that says when": fails_with(429, retry_after=30),
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
    assert call.body == play["b"].wires[0].sent  # of the failed one not a byte
    assert [role for _, role, _ in verdicts(call)] == ["first", "retry"]
    assert len(play["a"].wires) == 1


def test_a_busy_endpoint_is_left_alone_as_long_as_it_says() -> None:
    play = Player(endpoint("a", fails_with(429, retry_after=30), streams("a")), endpoint("b", streams("b"), tier=2))
    calls = [play.call(at) for at in (0.0, 15.0, 30.0, 31.0)]
    play.run()
    assert [call.text for call in calls] == ["b", "b", "b", "a"]
    assert play["a"].asked_at == [0.0, 31.0]
    assert verdicts(calls[0]) == [("a", "first", Verdict.BUSY), ("b", "retry", Verdict.SERVED)]
    assert play.endpoint("a").latency("first_token").mean(0.1) < 1.01  # untouched: being busy is not being slow


@pytest.mark.parametrize("status", [401, 404])
def test_our_own_mistake_is_not_repeated_where_it_was_made(status: int) -> None:
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
    assert 0.35 <= second <= 0.6  # a quarter of a second, and up to twice that, at random
    assert call.text == "again"
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("a", "retry", Verdict.SERVED)]


def test_a_short_retry_after_is_waited_out_where_nobody_else_is() -> None:
    play = Player(endpoint("a", fails_with(429, 0.1, retry_after=2), streams("again", first=0.3)))
    call = play.call()
    play.run()
    assert play["a"].asked_at == [0.0, 2.1]
    assert call.first_token_at == 2.4


def test_one_more_try_is_not_for_an_endpoint_whose_breaker_has_opened_meanwhile() -> None:
    play = Player(endpoint("a", fails_with(503, 0.01)), endpoint("b", streams("served"), tier=2), patience=1)
    calls = [play.call(0.0), play.call(2.0)]
    play.run()
    assert [[name for name, _, _ in verdicts(call)] for call in calls] == [["a", "a", "b"], ["a", "b"]]
    assert all(call.text == "served" for call in calls)


def test_a_long_retry_after_is_told_to_the_client() -> None:
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


def test_a_client_is_not_told_to_come_back_after_a_wait_that_no_sdk_keeps() -> None:
    play = Player(endpoint("a", fails_with(429, 0.1, retry_after=300)))
    told, at_once = play.call(0.0), play.call(1.0)
    play.run()
    for call, seconds in ((told, 300), (at_once, 59)):
        assert call.status == 429
        assert int(call.headers["retry-after-ms"]) > (seconds - 1) * 1000
    assert told.headers["x-should-retry"] == "false"
    assert at_once.headers["x-should-retry"] == "true"
    assert "59 s" in at_once.error["message"]


@pytest.mark.parametrize("retry_after", ["inf", "nan", "-5", "1e999", "soon", "99999999999 Jan 1 00:00:00 -"])
def test_a_senseless_retry_after_does_no_harm(retry_after: str) -> None:
    headers = [*JSON, (b"retry-after", retry_after.encode())]
    play = Player(endpoint("a", answers({"error": {"message": "busy"}}, 0.1, status=429, headers=headers)))
    call = play.call()
    play.run()
    assert call.status == 429
    assert 0 <= int(call.headers["retry-after-ms"]) <= 86_400_000


def test_all_down_is_a_502_that_names_who_was_asked() -> None:
    play = Player(endpoint("a", refuses_connection(0.1)), endpoint("b", fails_with(503, 0.1), tier=2))
    call = play.call()
    play.run()
    assert call.status == 502
    assert call.error["type"] == "upstream_error"
    assert call.error["code"] == "endpoints_failed"
    assert call.error["param"] is None
    assert "a: no connection: Connection refused" in call.error["message"]
    assert "b: status 503" in call.error["message"]
    assert call.headers["x-should-retry"] == "false"  # or the SDKs would multiply our attempts by three
    assert call.headers["content-type"] == "application/json"
    assert "retry-after-ms" not in call.headers
    assert [len(play[name].wires) for name in "ab"] == [2, 2]
    assert call.ended_at is not None
    assert call.ended_at < 2
    assert call.record.error == "endpoints_failed"


def test_an_outage_soon_costs_one_attempt_a_call() -> None:
    play = Player(endpoint("a", refuses_connection(0.01)), endpoint("b", refuses_connection(0.01)))
    calls = [play.call(i / 10) for i in range(200)]
    play.run()
    assert all(call.status == 502 for call in calls)
    extra = len(play["a"].wires) + len(play["b"].wires) - 200
    assert (
        extra <= 0.2 * 200 + RESERVE + 3
    )  # the retry budget, and moving away from each while nothing spoke against it


# ---- A request that is its own fault


def test_a_refusal_goes_to_the_client_as_it_is() -> None:
    refusal = b'{"error": {"message": "what?",  "code":"invalid_value"}}\n'
    play = Player(*quick_and_slow(answers(refusal, 0.1, status=400, headers=[*JSON, (b"x-vendor", b"1")])))
    call = play.call()
    play.run()
    assert call.status == 400
    assert call.body == refusal
    assert call.headers["content-type"] == "application/json"
    assert call.headers["x-vendor"] == "1"
    assert call.ended_at == 0.1
    assert play["b"].wires == []
    assert verdicts(call) == [("a", "first", Verdict.REFUSED)]
    assert play.endpoint("a").latency("first_token").unknown  # a refusal is quick, and says nothing
    assert play.endpoint("a").breaker.failures_in_a_row == 0
    assert call.record.first_token is None


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_cancels_a_rival(status: int) -> None:
    play = Player(endpoint("a", fails_with(status, 2.2)), endpoint("b", SILENT, tier=2))
    call = play.call()
    play.run()
    assert call.status == status
    assert play["b"].wires[0].closed_at == 2.2
    assert verdicts(call) == [("a", "first", Verdict.REFUSED), ("b", "hedge", Verdict.ABANDONED)]


def test_a_refusal_that_a_stream_begins_with_is_told_by_its_status() -> None:
    said = error_event("no", code="content_filter")
    play = Player(endpoint("a", opens(0.1) + sends(0.2, said)), endpoint("b", streams("never"), tier=2))
    call = play.call()
    play.run()
    assert (call.status, call.body) == (400, said[6:-2])
    assert call.headers["content-type"] == "application/json"
    assert call.record.error == ""
    play = Player(endpoint("a", opens(0.1) + sends(12.0, said)), hedge="off")
    call = play.call()
    play.run()
    assert (call.status, call.error["code"]) == (200, "content_filter")  # its 200 has gone with the pings


def test_a_rivals_refusal_waits_for_the_late_attempt_which_may_know_more() -> None:
    refuses = endpoint("b", fails_with(400, 0.1, message="no tools here"), tier=2)
    play = Player(endpoint("a", streams("late", first=4.0)), refuses, hedge=1.0)
    call = play.call()
    play.run()
    assert call.text == "late"
    assert verdicts(call) == [("a", "first", Verdict.SERVED), ("b", "hedge", Verdict.REFUSED)]
    for silent, told_at in ((SILENT, 15.0), (fails_with(500, 3.0), 3.0), (opens() + cuts(5.0), 5.0)):
        play = Player(endpoint("a", silent), refuses, endpoint("c", streams("never"), tier=3), hedge=1.0)
        call = play.call()
        play.run()
        assert (call.status, call.error["message"]) == (400, "no tools here") or call.pinged_at
        assert call.error["message"] == "no tools here"
        assert call.ended_at == told_at
        assert len(play["c"].wires) == 0


def test_a_refusal_after_pings_is_an_error_inside_the_stream() -> None:
    play = Player(endpoint("a", fails_with(400, 12.0, code="content_policy_violation")))
    call = play.call()
    play.run()
    assert call.status == 200
    assert call.error["code"] == "content_policy_violation"
    assert not call.done


def test_a_refusal_of_another_shape_is_an_error_inside_the_stream_too() -> None:
    play = Player(endpoint("a", answers({"object": "error", "message": "too long", "code": 400}, 12.0, status=400)))
    call = play.call()
    play.run()
    assert call.status == 200
    assert "too long" in call.error["message"]  # both SDKs raise at an `error`, and at nothing else
    assert not call.done


def test_a_refusal_that_repeats_a_long_prompt_is_still_a_refusal() -> None:
    script = head(0.1, 400, JSON) + sends(0.1, b'{"error": {"message": "')
    for _ in range(100):
        script += sends(0.1, b"x" * 10_000)
    play = Player(*quick_and_slow(script + sends(0.2, b'"}}') + ends(0.2)))
    call = play.call()
    play.run()
    assert call.status == 400
    assert play["b"].wires == []
    assert verdicts(call) == [("a", "first", Verdict.REFUSED)]


def test_a_refusal_whose_body_is_cut_is_still_a_refusal() -> None:
    play = Player(*quick_and_slow(head(0.1, 400, JSON) + sends(0.1, b'{"error": {"mess') + cuts(0.2)))
    call = play.call()
    play.run()
    assert call.status == 400
    assert call.body == b'{"error": {"mess'
    assert call.length == len(call.body)


@pytest.mark.parametrize("code", ["content_policy_violation", "content_filter"])
def test_a_policy_refusal_is_asked_for_once_and_handed_on(code: str) -> None:
    refusal = b'{"error":{"message":"no","code":"%b"}}' % code.encode()
    play = Player(*quick_and_slow(answers(refusal, 0.1, status=400)))
    calls = [play.call(float(i)) for i in range(4)]
    play.run()
    assert [(call.status, call.body) for call in calls] == [(400, refusal)] * 4
    assert play["b"].wires == []
    assert len(play["a"].wires) == 4  # nothing was held against it
    assert play.metric("causes_total", endpoint="a", cause="policy") == 4


def test_a_refusal_in_an_answer_of_status_200_is_a_400() -> None:
    refusal = b'{"error":{"code":"1301","message":"unsafe"}}'
    play = Player(endpoint("a", answers(refusal, 0.1), kind="zhipu"), endpoint("b", streams("no"), tier=2))
    call = play.call(stream=False)
    play.run()
    assert (call.status, call.body) == (400, refusal)  # or both SDKs would take it for an answer, without choices
    assert play["b"].wires == []


# ---- An endpoint that says what is wrong with us, or for how long


def resets(seconds: float) -> str:
    """Zhipu's words, of the wall's clock."""
    return f"您的限额将在 {datetime.fromtimestamp(time.time() + seconds, BEIJING):%Y-%m-%d %H:%M:%S} 重置。"


def test_a_used_up_quota_is_left_alone_until_its_time_and_others_serve() -> None:
    used_up = fails_with(429, code="1308", message=resets(5 * 3600))
    play = Player(
        endpoint("a", used_up, streams("a"), kind="zhipu"),
        endpoint("b", streams("b"), tier=2),
    )
    calls = [play.call(hours * 3600.0) for hours in (0, 1, 4.9, 5.1)]
    play.run(36_000)
    assert [call.text for call in calls] == ["b", "b", "b", "a"]
    assert len(play["a"].wires) == 2
    assert play.endpoint("a").breaker.failures_in_a_row == 0


def test_where_all_quotas_are_used_up_the_client_is_told_at_once_until_when() -> None:
    used_up = fails_with(429, code="1310", message=resets(7200))
    play = Player(endpoint("a", used_up, streams("a"), kind="zhipu"), hedge="off")
    first, second, third = play.call(0.0), play.call(3600.0), play.call(7300.0)
    play.run(36_000)
    assert [first.status, second.status, third.status] == [429, 429, 200]
    assert len(play["a"].wires) == 2  # a quota that is used up is not asked even as the last one
    assert first.error["code"] == second.error["code"] == "endpoints_busy"
    assert int(first.headers["retry-after-ms"]) == pytest.approx(7_200_000, abs=3000)
    assert int(second.headers["retry-after-ms"]) == pytest.approx(3_600_000, abs=3000)


def test_arrears_inside_a_stream_are_tried_every_five_minutes() -> None:
    arrears = opens() + sends(0.1, error_event(code="1113"))
    play = Player(endpoint("a", arrears, kind="zhipu"), endpoint("b", streams("b"), tier=2))
    calls = [play.call(i * 10.0) for i in range(100)]
    play.run()
    assert all(call.text == "b" for call in calls)
    assert play["a"].asked_at == [0.0, 310.0, 620.0, 930.0]


def test_the_last_endpoint_is_asked_though_it_refuses_our_key() -> None:
    play = Player(endpoint("a", fails_with(401), streams("paid")), hedge="off")
    refused, served = play.call(0.0), play.call(10.0)
    play.run()
    assert (refused.status, len(refused.record.attempts)) == (502, 1)
    assert served.text == "paid"


def test_our_own_fault_at_one_does_not_hide_that_the_other_is_busy() -> None:
    play = Player(endpoint("a", fails_with(401)), endpoint("b", fails_with(429, retry_after=7), tier=2))
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], call.headers["retry-after-ms"]) == (429, "endpoints_busy", "7000")


def takes(play: Player, name: str, capacity: int, first: float = 0.5) -> None:
    """From now on it refuses each request beyond so many at once, at once."""

    def one() -> Script:
        return fails_with(429, 0.01) if play[name].busy >= capacity else streams("ok", first=first)

    play[name].plays(one)


def test_a_throttled_endpoint_gets_as_many_as_it_takes_and_the_rest_goes_elsewhere() -> None:
    play = Player(
        endpoint("a", SILENT, concurrency=40), endpoint("b", streams("b", first=0.5), tier=2), hedge="off", seed=2
    )
    takes(play, "a", 10)
    calls = [play.call(i / 40) for i in range(4000)]  # 24 at once, of which 10 have room
    play.run_until(50.0)
    assert 7 <= play.endpoint("a").most <= 11
    assert play.metric("attempts_limit", endpoint="a") == play.endpoint("a").most
    play.run()
    assert all(call.status == 200 for call in calls)
    asked = [line.verdict for call in calls for line in call.record.attempts if line.endpoint.name == "a"]
    assert 0 < asked.count(Verdict.BUSY) / len(asked) < 0.04
    assert len(asked) > 100 * 10 / 0.6 * 0.8  # four fifths of what it could have taken
    assert play.endpoint("a").breaker.failures_in_a_row == 0


def test_and_more_again_when_it_takes_more() -> None:
    play = Player(endpoint("a", SILENT, concurrency=40), endpoint("b", streams("b", first=0.5), tier=2), hedge="off")
    takes(play, "a", 4)
    play.at(20.0, lambda: takes(play, "a", 100))
    for i in range(4000):
        play.call(i / 40)
    play.run_until(20.0)
    assert play.endpoint("a").most <= 5
    play.run_until(99.0)
    assert play.endpoint("a").most > 20
    play.run()


@pytest.mark.parametrize("names", ["a", "ab", "abcdefgh"])
def test_endpoints_that_are_always_busy_are_not_hammered(names: str) -> None:
    play = Player(*(endpoint(name, fails_with(429, 0.01), tier=tier) for tier, name in enumerate(names, 1)))
    call = play.call()
    play.run()
    began = [line.began for line in call.record.attempts]
    assert call.status == 429
    assert len(began) <= 6
    assert max(Counter(line.endpoint.name for line in call.record.attempts).values()) <= 2


@pytest.mark.parametrize(
    "wrong",
    [
        sse({"object": "error", "message": "no engine", "type": "InternalServerError", "code": 500}),
        sse({"detail": "no engine"}),
        sse({"error": "no engine", "error_type": "generation"}),
        b'event: error\ndata: {"message": "no engine"}\n\n',
        sse({"choices": [], "error": {"message": "no engine"}}),
    ],
)
def test_an_error_in_any_shape_never_wins_a_race(wrong: bytes) -> None:
    play = Player(endpoint("a", opens(0.1) + sends(2.1, wrong)), endpoint("b", streams("rival", first=1.0), tier=2))
    call = play.call()
    play.run()
    assert call.text == "rival"
    assert call.first_token_at == 3.0
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "hedge", Verdict.SERVED)]


def test_an_error_in_a_shape_that_no_sdk_raises_at_goes_on_in_one_that_they_do() -> None:
    wrong = sse({"object": "error", "message": "no engine", "type": "InternalServerError", "code": 500})
    play = Player(endpoint("a", opens() + says(0.1, "hi") + sends(0.2, wrong)))
    call = play.call()
    play.run()
    assert call.error == {"object": "error", "message": "no engine", "type": "InternalServerError", "code": 500}
    assert not call.done


# ---- A request that is too long for somebody

TOO_LONG = fails_with(400, code="context_length_exceeded", type="invalid_request_error")


def test_what_is_too_long_for_one_goes_to_one_with_a_larger_context() -> None:
    play = Player(
        endpoint("a", TOO_LONG, context=8192),
        endpoint("b", streams("no")),
        endpoint("c", streams("long", first=0.3), context="128k", tier=2),
        retry_budget=0,
        seed=3,
    )
    calls = [play.call(float(i)) for i in range(20)]
    play.run()
    asked_a = [call for call in calls if verdicts(call)[0][0] == "a"]
    assert asked_a
    for call in asked_a:
        assert call.text == "long"
        assert call.record.first_token == pytest.approx(0.4)
        assert verdicts(call) == [("a", "first", Verdict.REFUSED), ("c", "retry", Verdict.SERVED)]
    assert play.endpoint("a").latency("first_token").unknown
    assert play.metric("causes_total", endpoint="a", cause="too_long") == len(asked_a)


def test_what_is_too_long_for_all_gets_the_first_refusal() -> None:
    refusal = b'{"error":{"code":"context_length_exceeded","message":"8192"}}'
    play = Player(
        endpoint("a", answers(refusal, 0.1, status=400), context=8192),
        endpoint("b", TOO_LONG, context=16384, tier=2),
        endpoint("c", TOO_LONG, context=16384, tier=3),
        endpoint("d", TOO_LONG, tier=4),
    )
    call = play.call()
    play.run()
    assert (call.status, call.body) == (400, refusal)
    assert call.headers["x-router-endpoint"] == "a"
    assert call.headers["x-router-attempts"] == "2"  # c's context is no larger, d's is not said
    assert call.ended_at == 0.2
    assert [verdict for _, _, verdict in verdicts(call)] == [Verdict.REFUSED, Verdict.REFUSED]


@pytest.mark.parametrize(
    "failure",
    [fails_with(500), fails_with(429), fails_with(400), refuses_connection(0.1), opens() + cuts(0.1)],
)
def test_where_the_larger_one_fails_the_refusal_stands(failure: Script) -> None:
    play = Player(endpoint("a", TOO_LONG), endpoint("b", failure, context="1M", tier=2))
    call = play.call()
    play.run()
    assert (call.status, call.error["code"]) == (400, "context_length_exceeded")
    assert len(play["b"].wires) == 1
    assert call.ended_at == 0.2


@pytest.mark.parametrize("refusal", [fails_with(400), fails_with(400, code="content_filter")])
def test_where_the_larger_one_refuses_the_request_itself_nobody_else_is_asked(refusal: Script) -> None:
    play = Player(
        endpoint("a", TOO_LONG, context=8192),
        endpoint("b", refusal, context=16384, tier=2),
        endpoint("c", streams("round it"), context=32768, tier=3),
    )
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], play["c"].wires) == (400, "context_length_exceeded", [])


def test_where_the_larger_one_stays_silent_the_refusal_stands() -> None:
    play = Player(endpoint("a", TOO_LONG), endpoint("b", SILENT, context="1M", tier=2), deadline=5)
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], call.ended_at) == (400, "context_length_exceeded", 5.0)


def test_after_pings_the_refusal_is_told_inside_the_stream() -> None:
    slow = fails_with(400, 12.0, code="context_length_exceeded")
    play = Player(endpoint("a", slow), endpoint("b", fails_with(500), context="1M", tier=2), hedge="off")
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], call.done) == (200, "context_length_exceeded", False)
    quiet = Player(endpoint("a", slow), endpoint("b", streams("long"), context="1M", tier=2), hedge="off")
    served = quiet.call()
    quiet.run()
    assert (served.text, served.done) == ("long", True)


def test_an_error_event_says_too_long_as_well() -> None:
    script = opens() + sends(0.1, error_event("This model's maximum context length is 8192 tokens.", code=400))
    play = Player(endpoint("a", script), endpoint("b", streams("long"), context="1M", tier=2))
    call = play.call()
    play.run()
    assert call.text == "long"
    alone = Player(endpoint("a", script), endpoint("b", fails_with(500), context="1M", tier=2))
    told = alone.call()
    alone.run()
    assert "maximum context length" in told.error["message"]
    assert not told.done


def test_an_answer_that_is_awaited_whole_goes_to_the_larger_one_too() -> None:
    play = Player(endpoint("a", TOO_LONG), endpoint("b", answers(completion("long")), context="1M", tier=2))
    call = play.call(stream=False)
    play.run()
    assert call.json == completion("long")


def test_a_rival_with_the_larger_context_is_not_asked_again() -> None:
    play = Player(
        endpoint("a", fails_with(400, 2.1, code="context_length_exceeded")),
        endpoint("b", streams("long", first=1.0), context="1M", tier=2),
    )
    call = play.call()
    play.run()
    assert call.text == "long"
    assert verdicts(call) == [("a", "first", Verdict.REFUSED), ("b", "hedge", Verdict.SERVED)]


def test_a_rival_with_no_larger_context_does_not_keep_the_larger_one_waiting() -> None:
    play = Player(
        endpoint("a", fails_with(400, 2.1, code="context_length_exceeded")),
        endpoint("b", SILENT, tier=2),
        endpoint("c", streams("long", first=0.3), context="1M", tier=3),
    )
    call = play.call()
    play.run()
    assert call.text == "long"
    assert play["c"].asked_at == [2.1]
    assert play["b"].wires[0].closed_at == 2.4


def test_a_larger_one_that_is_full_is_waited_for_in_line() -> None:
    play = Player(
        endpoint("a", streams("a"), TOO_LONG),
        endpoint(
            "b", streams("short", first=1.0), streams("long"), models=["chat", "big"], context="1M", concurrency=1
        ),
        hedge="off",
        models={"chat": {"queue_wait": 5}},
    )
    play.call(0.0, model="big")
    calls = [play.call(0.01), play.call(0.02)]
    play.run()
    assert [call.text for call in calls] == ["a", "long"]
    assert verdicts(calls[1]) == [("a", "first", Verdict.REFUSED), ("b", "retry", Verdict.SERVED)]
    late = Player(
        endpoint("a", TOO_LONG),
        endpoint("b", streams("short", first=9.0), models=["chat", "big"], context="1M", concurrency=1),
        hedge="off",
        queue_wait=5,
    )
    late.call(0.0, model="big")
    call = late.call(1.0)
    late.run()
    assert (call.status, call.error["code"], call.ended_at) == (400, "context_length_exceeded", 6.1)


def test_where_nobody_has_more_it_is_a_refusal_as_any() -> None:
    play = Player(endpoint("a", TOO_LONG, context=8192), endpoint("b", streams("no"), context=8192, tier=2))
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], play["b"].wires) == (400, "context_length_exceeded", [])


def test_a_client_that_leaves_while_the_larger_one_is_asked_ends_the_call() -> None:
    play = Player(endpoint("a", TOO_LONG), endpoint("b", SILENT, context="1M", tier=2))
    call = play.call(leaves_at=1.0)
    play.run()
    assert play["b"].wires[0].closed_at == 1.0
    assert call.record.error == "client_left"


# ---- The deadline


def test_no_first_token_in_time_is_a_504_that_is_not_to_be_retried() -> None:
    play = Player(endpoint("a", SILENT), endpoint("b", opens(0.1), tier=2), deadline=5)
    call = play.call()
    play.run()
    assert call.status == 504
    assert call.ended_at == 5.0
    assert call.error["code"] == "deadline_exceeded"
    assert call.headers["x-should-retry"] == "false"
    assert [play[name].wires[0].closed_at for name in "ab"] == [5.0, 5.0]
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.ABANDONED)]


def test_the_deadline_counts_from_the_arrival_over_all_attempts() -> None:
    play = Player(endpoint("a", fails_with(500, 3.0)), endpoint("b", SILENT, tier=2), deadline=5, hedge="off")
    call = play.call(1.0)
    play.run()
    assert call.ended_at == 6.0
    assert call.status == 504


def test_after_pings_the_deadline_is_told_inside_the_stream() -> None:
    play = Player(endpoint("a", SILENT), deadline=30)
    call = play.call()
    play.run()
    assert call.status == 200
    assert call.pinged_at == [10.0, 25.0]
    assert call.ended_at == 30.0
    assert call.error["code"] == "deadline_exceeded"
    assert not call.done
    assert call.record.error == "deadline_exceeded"


def test_one_endpoint_may_have_less_time_than_the_others() -> None:
    play = Player(endpoint("a", SILENT, deadline=3), endpoint("b", SILENT, tier=2), deadline=6, hedge="off")
    call = play.call()
    play.run()
    assert play["a"].wires[0].closed_at == 3.0
    assert play["b"].asked_at == [3.0]
    assert call.ended_at == 6.0
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "retry", Verdict.ABANDONED)]


@pytest.mark.parametrize("start", [0.0, 5.224365126749774, 123456.789])
def test_an_endpoint_whose_own_time_is_over_is_not_asked(start: float) -> None:
    play = Player(
        endpoint("a", SILENT, deadline=3),
        endpoint("b", SILENT, deadline=3, tier=2),
        endpoint("c", streams("c"), tier=3),
        hedge="off",
        deadline=6,
        start=start,
    )
    call = play.call()
    play.run()
    assert play["b"].wires == []
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("c", "retry", Verdict.SERVED)]


def test_the_time_that_a_request_took_to_come_counts() -> None:
    play = Player(endpoint("a", SILENT, deadline=1), endpoint("b", streams("b"), tier=2), deadline=10)
    late, too_late = play.call(20.0, took=1.5), play.call(30.0, took=11)
    play.run()
    assert verdicts(late) == [("b", "first", Verdict.SERVED)]
    assert late.first_token_at == 20.3
    assert too_late.ended_at == 30.0
    assert too_late.status == 504
    assert too_late.record.attempts == []


# ---- The client leaves


def test_a_client_that_leaves_before_the_first_token_stops_the_endpoint_at_once() -> None:
    play = Player(endpoint("a", streams("late", first=3.0)))
    call = play.call(leaves_at=0.4)
    play.run()
    assert play["a"].wires[0].closed_at == 0.4
    assert call.status is None
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED)]
    assert (call.record.status, call.record.error, call.record.ended) == (499, "client_left", 0.4)
    assert play.endpoint("a").latency("first_token").unknown
    assert play.endpoint("a").breaker.failures_in_a_row == 0


def test_a_client_that_leaves_during_a_race_stops_both() -> None:
    play = Player(endpoint("a", SILENT), endpoint("b", SILENT, tier=2))
    call = play.call(leaves_at=2.5)
    play.run()
    assert [play[name].wires[0].closed_at for name in "ab"] == [2.5, 2.5]
    assert {verdict for _, _, verdict in verdicts(call)} == {Verdict.ABANDONED}


def test_a_client_that_leaves_after_the_first_token_stops_the_endpoint_at_once() -> None:
    play = Player(endpoint("a", streams(*"many words", first=0.3, gap=0.1)))
    call = play.call(leaves_at=0.55)
    play.run()
    assert play["a"].wires[0].closed_at == 0.55
    assert call.text == "man"
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED)]
    assert call.record.error == "client_left"
    assert play.endpoint("a").latency("first_token").mean(0.55) < 0.5  # its first token was seen all the same
    assert play.endpoint("a").breaker.failures_in_a_row == 0


def test_a_client_that_leaves_while_a_retry_is_waited_for_is_not_asked_for() -> None:
    play = Player(endpoint("a", fails_with(500, 0.1)))
    play.call(leaves_at=0.2)
    play.run()
    assert len(play["a"].wires) == 1


def test_a_client_that_leaves_after_pings_is_told_nothing_more() -> None:
    play = Player(endpoint("a", SILENT))
    call = play.call(leaves_at=11.0)
    play.run()
    assert call.writes == [(10.0, b": ping\n\n")]
    assert play["a"].wires[0].closed_at == 11.0
    assert call.record.error == "client_left"


# ---- Many calls


def test_traffic_moves_away_from_the_slow_one_of_three() -> None:
    quick, slow = streams("hi", first=0.2, gap=0.02), streams("hi", first=3.0, gap=0.02)
    play = Player(endpoint("a", quick), endpoint("b", slow), endpoint("c", quick))
    calls = [play.call(i / 10) for i in range(600)]
    play.run()
    assert all(call.text == "hi" for call in calls)
    first_tokens = sorted(call.record.first_token or 0 for call in calls)
    assert first_tokens[300] == pytest.approx(0.2)
    assert first_tokens[-12] == pytest.approx(0.2)  # all but two in a hundred
    asked_first = [call.record.attempts[0].endpoint.name for call in calls]
    assert asked_first.count("b") <= 0.02 * 600 + 3
    extra = sum(len(call.record.attempts) - 1 for call in calls)
    assert extra <= 0.1 * 600 + RESERVE
    assert play.metric("hedges_total", outcome="won") > 0


def test_an_endpoint_that_becomes_slow_is_left_before_its_calls_have_ended() -> None:
    play = Player(endpoint("a", streams("a", first=0.2)), endpoint("b", streams("b", first=1.0)), hedge="off")
    calls = [play.call(i / 10) for i in range(400)]
    play.at(20.0, lambda: play["a"].plays(streams("a", first=8.0)))
    play.run()
    asked = [call.record.attempts[0].endpoint.name for call in calls]
    assert asked[100:200].count("a") >= 90
    assert asked[220:280].count("a") <= 2  # its oldest waiting attempt says so, long before the first one ends


def test_a_frozen_endpoint_costs_the_calls_in_flight_a_hedge_and_later_ones_nothing() -> None:
    frozen = [*[streams("a", first=0.2)] * 30, SILENT]
    play = Player(endpoint("a", *frozen), endpoint("b", streams("b", first=0.3)), seed=3)
    calls = [play.call(i / 2) for i in range(120)]
    play.run()
    assert all(call.status == 200 for call in calls)
    hit = [call for call in calls if any(line.verdict is Verdict.ABANDONED for line in call.record.attempts)]
    assert 1 <= len(hit) <= 8
    assert max(call.record.first_token or 0 for call in calls) < 1.5
    assert sum(len(call.record.attempts) - 1 for call in calls) <= 0.1 * 120 + RESERVE


def test_a_call_whose_first_connection_had_died_is_only_later() -> None:
    """The pool sends again on a new connection, free of charge; the call sees a late success at the same endpoint."""
    play = Player(endpoint("a", streams("hi", first=0.8)), endpoint("b", SILENT, tier=2))
    call = play.call()
    play.run()
    assert call.first_token_at == 0.8
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]
    assert play["b"].wires == []


# ---- Abandoning


def test_a_silent_endpoint_is_given_up_where_a_later_tier_can_take_over() -> None:
    play = Player(*quick_and_slow(SILENT), hedge="off", abandon=4)
    call = play.call()
    play.run()
    assert play["a"].wires[0].closed_at == 4.0
    assert play["b"].asked_at == [4.0]
    assert call.first_token_at == 4.3
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "retry", Verdict.SERVED)]
    assert outcome_of(call.record.attempts[0]).reason == "no first token in time"


def test_the_last_live_attempt_keeps_the_whole_deadline() -> None:
    play = Player(endpoint("a", streams("at last", first=50.0)), hedge="off", abandon=4, deadline=60)
    call = play.call(stream=True)
    play.run()
    assert call.text == "at last"
    assert call.first_token_at == 50.0
    assert len(play["a"].wires) == 1


def test_of_three_the_oldest_makes_room_for_the_third() -> None:
    play = Player(
        endpoint("a", SILENT),
        endpoint("b", SILENT, tier=2),
        endpoint("c", streams("third", first=0.3), tier=3),
        abandon=5,
        hedge=1,
    )
    call = play.call()
    play.run()
    assert play["a"].wires[0].closed_at == 5.0
    assert play["b"].asked_at == [1.0]
    assert play["c"].asked_at == [5.0]
    assert call.first_token_at == 5.3
    assert play["b"].wires[0].closed_at == 5.3


def test_an_answer_that_is_awaited_whole_is_not_given_up_for_its_silence() -> None:
    play = Player(
        endpoint("a", answers(completion("long"), 40.0)),
        endpoint("b", answers(completion("b"), 60.0), tier=2),
        abandon=5,
    )
    call = play.call(stream=False)
    play.run()
    assert play["b"].asked_at == [5.0]  # a rival instead
    assert call.ended_at == 40.0
    assert verdicts(call) == [("a", "first", Verdict.SERVED), ("b", "hedge", Verdict.ABANDONED)]


# ---- Pings


def test_a_client_that_waits_long_gets_pings_and_then_its_tokens() -> None:
    play = Player(endpoint("a", streams("at last", first=27.0)))
    call = play.call()
    play.run()
    assert call.pinged_at == [10.0, 25.0]
    assert call.status == 200
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert call.first_token_at == 27.0
    assert call.text == "at last"
    assert call.done
    assert call.body == b": ping\n\n" * 2 + play["a"].wires[0].sent
    assert b"id:" not in call.body  # or openai-python takes the next ping for an empty event


def test_after_pings_a_failure_is_told_inside_the_stream() -> None:
    play = Player(endpoint("a", fails_with(401, 12.0)))
    call = play.call()
    play.run()
    assert call.status == 200
    assert call.error["code"] == "endpoints_failed"
    assert call.body.count(b"data:") == 1
    assert not call.done
    assert call.ended_at == 12.0


def test_after_pings_another_endpoint_can_still_answer() -> None:
    play = Player(*quick_and_slow(fails_with(500, 12.0)), hedge="off")
    call = play.call()
    play.run()
    assert call.pinged_at == [10.0]
    assert call.text == "quick"
    assert call.first_token_at == 12.3


def test_a_client_that_does_not_stream_gets_no_pings() -> None:
    play = Player(endpoint("a", answers(completion(), 40.0)))
    call = play.call(stream=False)
    play.run()
    assert call.status == 200
    assert [at for at, _ in call.writes] == [40.0]


# ---- Breaking in the middle


BREAKS = {
    "cut": cuts(1.0),
    "ended without a word": ends(1.0),
    "an error event": sends(1.0, error_event()),
    "an error event that names a busy engine": sends(1.0, error_event(type="overloaded_error")),
    "finished with network_error": sends(1.0, event(finish="network_error")) + ends(1.0),
}


@pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS.keys())
def test_a_stream_that_breaks_ends_with_one_error_and_no_done(broken: Script) -> None:
    play = Player(endpoint("a", opens() + says(0.3, "Hel", "lo") + broken), endpoint("b", streams("other"), tier=2))
    call = play.call()
    play.run()
    assert call.status == 200
    assert call.text == "Hello"
    assert call.ended_at == 1.0
    assert call.error["message"]
    assert call.body.count(b'"error"') == 1
    assert b"[DONE]" not in call.body
    assert call.record.error == "stream_broken"
    assert play["b"].wires == []  # nobody else could go on with it
    assert call.record.attempts[0].verdict in (Verdict.FAULT, Verdict.BUSY)


def test_an_error_event_is_passed_on_in_the_endpoints_own_words() -> None:
    own = error_event("CUDA out of memory", code=500)
    play = Player(endpoint("a", opens() + says(0.3, "Hel") + sends(1.0, own + DONE)))
    call = play.call()
    play.run()
    assert call.body.endswith(own)


def test_half_an_event_before_the_cut_is_not_passed_on() -> None:
    play = Player(endpoint("a", opens() + says(0.3, "Hel") + sends(0.4, b'data: {"choices": [{"del') + cuts(1.0)))
    call = play.call()
    play.run()
    assert b'"del' not in call.body.replace(b'"delta"', b"")
    assert call.error["code"] == "stream_broken"
    assert "'a'" in call.error["message"]


def test_a_broken_stream_is_a_failure_of_its_endpoint() -> None:
    play = Player(endpoint("a", opens() + says(0.3, "Hel") + cuts(1.0)))
    for i in range(3):
        play.call(i * 2.0)
    play.run()
    assert play.endpoint("a").breaker.state(5.0) is State.OPEN
    assert play.metric("attempts_total", endpoint="a", verdict="fault") == 3


def test_a_stream_is_whole_without_done_where_it_has_finished() -> None:
    play = Player(endpoint("a", streams("whole", done=False, usage=(3, 1))))
    call = play.call()
    play.run()
    assert call.text == "whole"
    assert call.body == play["a"].wires[0].sent
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]
    assert (call.record.error, call.record.prompt_tokens, call.record.completion_tokens) == ("", 3, 1)


def test_a_finished_stream_that_is_cut_is_whole() -> None:
    play = Player(endpoint("a", opens() + says(0.3, "whole") + sends(0.4, event(finish="stop")) + cuts(0.5)))
    call = play.call()
    play.run()
    assert call.record.error == ""
    assert call.ended_at == 0.5
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_all_of_several_choices_must_have_finished() -> None:
    one = sse({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]})
    play = Player(endpoint("a", opens() + sends(0.3, one) + ends(0.5)))
    call = play.call(n=2)
    play.run()
    assert call.error["code"] == "stream_broken"


def test_an_event_that_lacks_only_its_blank_line_is_delivered() -> None:
    play = Player(endpoint("a", opens() + says(0.3, "whole") + sends(0.4, event(finish="stop").rstrip()) + ends(0.5)))
    call = play.call()
    play.run()
    assert call.body.endswith(event(finish="stop"))
    assert call.record.error == ""


def test_done_is_the_end_though_http_does_not_end() -> None:
    play = Player(endpoint("a", opens() + says(0.5, "whole") + sends(6.0, event(finish="stop")) + sends(6.1, DONE)))
    call = play.call()
    play.run()
    assert call.ended_at == 6.1 + HTTP_END  # and not when it has stood still for too long
    assert play["a"].wires[0].closed_at == call.ended_at
    assert (call.text, call.record.error) == ("whole", "")
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_the_end_of_http_may_follow_done_a_moment_later() -> None:
    play = Player(endpoint("a", opens() + says(0.5, "whole") + sends(0.6, event(finish="stop") + DONE) + ends(0.9)))
    call = play.call()
    play.run()
    assert call.ended_at == 0.9
    assert call.record.error == ""


def test_an_empty_stream_is_left_at_its_done() -> None:
    play = Player(*quick_and_slow(opens(0.1) + sends(0.2, DONE)))
    call = play.call()
    play.run()
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "retry", Verdict.SERVED)]
    assert call.record.attempts[0].ended == 0.2


# ---- Standing still


def test_a_stream_that_stands_still_is_broken_off_exactly_then() -> None:
    play = Player(endpoint("a", opens() + says(0.5, "Hel", "lo", gap=1.0)), stall=7)
    call = play.call()
    play.run()
    assert call.ended_at == 8.5
    assert play["a"].wires[0].closed_at == 8.5
    assert call.error["code"] == "stream_broken"
    assert "stood still for 7 s" in call.error["message"]
    assert verdicts(call) == [("a", "first", Verdict.FAULT)]


def test_comments_are_no_progress() -> None:
    comments: Script = ()
    for i in range(1, 40):
        comments += sends(0.5 + i, COMMENT)
    play = Player(endpoint("a", opens() + says(0.5, "Hel") + comments), stall=7.25)
    call = play.call()
    play.run()
    assert call.ended_at == 7.75
    assert call.body.count(COMMENT) == 7  # passed on all the same


def test_a_slow_stream_that_moves_is_let_alone() -> None:
    play = Player(endpoint("a", streams(*"slowly", first=1.0, gap=6.9)), stall=7)
    call = play.call()
    play.run()
    assert call.text == "slowly"
    assert call.done


def test_a_finished_stream_that_is_never_closed_is_whole() -> None:
    script = opens() + says(0.5, "whole") + sends(1.0, event(finish="stop") + event(usage=(3, 1)))
    play = Player(endpoint("a", script), stall=7)
    call = play.call()
    play.run()
    assert call.ended_at == 8.0
    assert call.record.error == ""
    assert call.record.completion_tokens == 1
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_a_model_may_have_a_stall_of_its_own() -> None:
    play = Player(endpoint("a", opens() + says(0.5, "Hel")), models={"chat": {"stall": 2}})
    call = play.call()
    play.run()
    assert call.ended_at == 2.5


# ---- A client that reads slowly


LONG = "x" * 50_000  # two of them are more than a client's buffer


def test_a_slow_client_makes_its_own_exchange_wait_and_nobody_else() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4, first=0.3, gap=0.1)))
    slow = play.call(stops_reading_at=0.0, reads_again_at=60.0)
    other = play.call(0.05)
    play.run()
    wire, its = play["a"].wires
    assert wire.paused_at == [0.4]
    assert wire.resumed_at == [60.0]
    assert slow.ended_at == 60.0
    assert slow.text == LONG * 4
    assert slow.body == wire.sent
    assert its.paused_at == []
    assert other.ended_at == pytest.approx(0.75)
    assert verdicts(slow) == [("a", "first", Verdict.SERVED)]


def test_while_a_client_reads_nothing_its_endpoint_does_not_stand_still() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4)), stall=7)
    call = play.call(stops_reading_at=0.0, reads_again_at=100.0)
    play.run()
    assert call.text == LONG * 4
    assert call.record.error == ""


def test_a_client_that_reads_nothing_for_two_minutes_is_cut_off() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4)))
    call = play.call(stops_reading_at=0.0)
    play.run()
    assert call.aborted_at == 120.4
    assert call.ended_at is None
    assert play["a"].wires[0].closed_at == 120.4
    assert call.record.error == "client_left"
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED)]


def test_a_stream_that_stands_still_after_its_client_has_caught_up_is_noticed_in_time() -> None:
    play = Player(endpoint("a", opens() + says(0.3, LONG, LONG)), stall=7)
    call = play.call(stops_reading_at=0.0, reads_again_at=20.0)
    play.run()
    assert call.ended_at == 27.0
    assert call.error["code"] == "stream_broken"


def test_a_client_that_is_full_before_its_first_token_makes_its_endpoint_wait_from_then_on() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4, first=0.3, gap=0.1)))
    call = play.call()
    play.at(0.0, lambda: tell(call, "full"))  # it has not read its last answer on this connection yet
    play.at(60.0, lambda: tell(call, "drained"))
    play.run()
    assert play["a"].wires[0].paused_at == [0.3]
    assert play["a"].wires[0].resumed_at == [60.0]
    assert (call.ended_at, call.text) == (60.0, LONG * 4)


def test_a_client_that_stays_full_from_the_start_is_cut_off_as_any() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4, first=0.3)))
    call = play.call()
    play.at(0.0, lambda: tell(call, "full"))
    play.run()
    assert (call.aborted_at, call.record.error) == (120.3, "client_left")


def test_a_client_that_has_caught_up_before_its_first_token_is_as_any() -> None:
    play = Player(endpoint("a", streams("hi", first=0.3)))
    call = play.call()
    play.at(0.0, lambda: tell(call, "full"))
    play.at(0.2, lambda: tell(call, "drained"))
    play.run()
    assert play["a"].wires[0].paused_at == []
    assert call.text == "hi"


def tell(call: ScriptedClient, what: str) -> None:
    getattr(call.owner, what)()


# ---- Answers that do not stream


def test_a_complete_answer_has_its_length_and_passes_byte_for_byte() -> None:
    body = b'{"id":  "x", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n'
    play = Player(endpoint("a", answers(body, 0.5)))
    call = play.call(stream=False)
    play.run()
    assert (call.status, call.body, call.length) == (200, body, len(body))
    assert call.headers["x-router-endpoint"] == "a"
    assert call.headers["server-timing"] == "first-token;dur=500.0"
    assert (call.record.prompt_tokens, call.record.completion_tokens) == (3, 5)
    assert call.record.stream is False


def test_an_answer_is_hedged_on_being_complete() -> None:
    slow = head(0.1, 200, JSON) + sends(0.2, b'{"choices": ') + sends(9.0, b"[]}") + ends(9.0)
    play = Player(endpoint("a", slow), endpoint("b", answers(completion("quick"), 0.5), tier=2), hedge=1)
    call = play.call(stream=False)
    play.run()
    assert call.ended_at == 1.5
    assert call.json == completion("quick")
    assert play["a"].wires[0].closed_at == 1.5
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.SERVED)]


def test_what_is_awaited_whole_has_a_scale_of_its_own() -> None:
    play = Player(endpoint("a", answers(completion(), 14.0)), endpoint("b", SILENT, tier=2))
    call = play.call(stream=False)
    play.run()
    assert call.ended_at == 14.0
    assert play["b"].wires == []  # which would have been asked after 2 s for a first token
    assert play.endpoint("a").latency("first_token").unknown
    assert not play.endpoint("a").latency("answer").unknown


def test_embeddings_race_on_the_complete_answer() -> None:
    vectors = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 2}}
    play = Player(endpoint("a", SILENT), endpoint("b", answers(vectors, 0.2), tier=2))
    call = play.call(path=EMBEDDINGS, input="hi", stream=True)  # which means nothing there
    play.run()
    assert call.json == vectors
    assert call.ended_at == 2.2
    assert play["b"].wires[0].line == "POST /v1/embeddings HTTP/1.1"
    assert call.record.operation == "embeddings"
    assert not play.endpoint("b").latency("embedding").unknown


def test_a_stream_that_is_answered_with_plain_json_is_passed_on() -> None:
    play = Player(endpoint("a", answers(completion("whole"), 0.5)))
    call = play.call(stream=True)
    play.run()
    assert call.json == completion("whole")
    assert call.length == len(call.body)
    assert call.headers["content-type"] == "application/json"
    assert call.record.completion_tokens == 5


def test_plain_json_after_pings_is_one_event_of_a_whole_stream() -> None:
    play = Player(endpoint("a", answers(b'{"choices": [],\n "usage": null}', 12.0)))
    call = play.call(stream=True)
    play.run()
    assert call.pinged_at == [10.0]
    assert call.events == [{"choices": [], "usage": None}]
    assert call.done


def test_an_unasked_stream_is_passed_on_as_one() -> None:
    play = Player(endpoint("a", streams("Hel", "lo")))
    call = play.call(stream=False)
    play.run()
    assert call.text == "Hello"
    assert call.length is None
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_an_answer_that_is_too_long_is_a_failure() -> None:
    play = Player(*quick_and_slow(answers(completion("x" * 5000), 0.1)), limits=Limits(answer=1000))
    call = play.call()
    play.run()
    assert call.text == "quick"


# ---- Refused at the door


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


def test_an_unknown_model_is_a_404_that_lists_the_known_and_guesses() -> None:
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


def test_one_call_too_many_is_told_to_come_back() -> None:
    play = Player(endpoint("a", streams("hi", first=1.0)), max_calls=2)
    calls = [play.call(i / 10) for i in range(3)] + [play.call(2.0)]
    play.run()
    assert [call.status for call in calls] == [200, 200, 429, 200]
    assert calls[2].error["code"] == "overloaded"
    assert calls[2].headers["retry-after-ms"] == "500"
    assert calls[2].headers["x-should-retry"] == "true"
    assert calls[2].ended_at == 0.2


# ---- What an endpoint is sent


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


def test_a_request_that_needs_no_change_is_sent_as_it_came() -> None:
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
def test_whatever_a_client_asks_of_zhipu_ends_with_an_answer(temperature: bytes) -> None:
    play = Player(endpoint("z", streams("hi"), kind="zhipu"))
    call = play.call(body=b'{"model": "chat", "stream": true, "temperature": %b}' % temperature)
    play.run()
    assert call.status in (200, 400)


def test_what_is_the_clients_business_with_us_is_withheld() -> None:
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


def test_what_is_the_endpoints_business_with_us_is_withheld_from_the_client() -> None:
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


# ---- Who is asked


def open_breaker(play: Player, name: str) -> None:
    """Three failed calls in a row, at 0, 0.01 and 0.02 s."""
    for i in range(3):
        play.call(i / 100)
    play.run_until(1.0)
    assert play.endpoint(name).breaker.state(1.0) is State.OPEN


def test_an_endpoint_whose_breaker_is_open_is_not_asked() -> None:
    play = Player(endpoint("a", fails_with(500, 0.001)), endpoint("b", streams("b"), tier=2))
    open_breaker(play, "a")
    call = play.call(1.5)
    play.run()
    assert len(play["a"].wires) == 3
    assert verdicts(call) == [("b", "first", Verdict.SERVED)]


def test_while_all_have_named_a_time_to_come_back_nobody_is_asked_and_the_client_is_told_at_once() -> None:
    away = [fails_with(429, 0.1, retry_after=30), streams("back")]
    play = Player(endpoint("a", *away), endpoint("b", *away))
    play.call()
    told, later = play.call(10.0), play.call(31.0)
    play.run()
    assert (told.status, told.error["code"], told.ended_at) == (429, "endpoints_busy", 10.0)
    assert float(told.headers["retry-after-ms"]) == pytest.approx(20_100)
    assert told.headers["x-router-attempts"] == "0"
    assert later.text == "back"


def test_a_half_open_trial_is_hedged_as_soon_as_it_takes_longer_than_it_does_as_a_rule() -> None:
    play = Player(endpoint("a", *[fails_with(500, 0.001)] * 3, SILENT), endpoint("b", streams("b"), tier=2))
    open_breaker(play, "a")
    trial, beside = play.call(3.0), play.call(3.1)
    play.run()
    assert play["a"].asked_at[3:] == [3.0]  # one trial, and no other while it is out
    assert trial.first_token_at == 3.0 + 1.0 + 0.3
    assert verdicts(trial) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.SERVED)]
    assert verdicts(beside) == [("b", "first", Verdict.SERVED)]


def test_a_trial_that_serves_brings_the_endpoint_back() -> None:
    play = Player(
        endpoint("a", *[fails_with(500, 0.001)] * 3, streams("back", first=0.02)), endpoint("b", SILENT, tier=2)
    )
    play["b"].plays(streams("b"))
    open_breaker(play, "a")
    call = play.call(3.0)
    play.run()
    assert call.text == "back"
    assert play.endpoint("a").breaker.state(4.0) is State.CLOSED


def test_the_last_endpoint_is_never_ejected() -> None:
    play = Player(endpoint("a", *[fails_with(401, 0.001)] * 3, streams("back")))
    open_breaker(play, "a")
    call = play.call(1.0)
    play.run()
    assert call.text == "back"


def test_a_newcomer_gets_one_trial_and_no_flood() -> None:
    play = Player(endpoint("a", streams("a", first=0.2, gap=0.01)), endpoint("b", SILENT), hedge="off", deadline=30)
    play.endpoint("a").latency("first_token").observe(0.2, 0.0)
    calls = [play.call(i / 10) for i in range(100)]
    play.run_until(10.0)
    assert len(play["b"].wires) <= 3  # one, and now and then one to explore
    assert len(play["b"].wires) >= 1
    play.run()
    assert sum(call.text == "a" for call in calls) >= 97


def test_no_more_attempts_at_once_than_an_endpoint_takes() -> None:
    play = Player(endpoint("a", streams("a", first=1.0), concurrency=2), endpoint("b", streams("b", first=1.0), tier=2))
    calls = [play.call(i / 100) for i in range(4)]
    play.run()
    assert [call.text for call in calls] == ["a", "a", "b", "b"]


def test_where_all_are_full_and_nobody_may_wait_the_client_is_told_to_come_back() -> None:
    play = Player(
        endpoint("a", streams("a", first=1.0), concurrency=1),
        endpoint("b", SILENT, concurrency=1),
        deadline=5,
        queue=0,
    )
    calls = [play.call(i / 100) for i in range(3)]
    play.run()
    full = calls[2]
    assert full.status == 429
    assert full.error["code"] == "overloaded"
    assert full.headers["retry-after-ms"] == "1000"
    assert full.ended_at == 0.02
    assert full.record.attempts == []


def test_a_limit_counts_all_models_of_an_endpoint() -> None:
    play = Player(endpoint("a", streams("a", first=1.0), concurrency=1, models=["chat", "code"]))
    first, second = play.call(), play.call(0.1, model="code")
    play.run()
    assert (first.ended_at, play["a"].asked_at) == (1.1, [0.0, 1.1])
    assert second.whole


def test_a_later_tier_is_asked_when_the_earlier_is_out() -> None:
    play = Player(
        endpoint("a", refuses_connection(0.1)),
        endpoint("b", refuses_connection(0.1)),
        endpoint("c", streams("c"), tier=2),
    )
    call = play.call()
    play.run()
    assert [line.endpoint.name for line in call.record.attempts][2] == "c"
    assert call.first_token_at == 0.5


def test_a_later_tier_is_not_asked_while_the_earlier_is_well() -> None:
    play = Player(endpoint("a", streams("a", first=1.5)), endpoint("b", streams("b", first=0.01), tier=2))
    calls = [play.call(i * 2.0) for i in range(20)]
    play.run()
    assert all(call.text == "a" for call in calls)


def test_patience_waits_for_the_earlier_tier() -> None:
    play = Player(
        endpoint("a", fails_with(429, 0.1, retry_after=3), streams("cheap")),
        endpoint("b", streams("dear"), tier=2),
        patience=5,
    )
    call = play.call()
    play.run()
    assert play["a"].asked_at == [0.0, 3.1]
    assert call.text == "cheap"
    assert call.first_token_at == 3.4


def test_patience_has_an_end() -> None:
    play = Player(
        endpoint("a", fails_with(429, 0.1, retry_after=8)), endpoint("b", streams("dear"), tier=2), patience=5
    )
    call = play.call()
    play.run()
    assert play["b"].asked_at == [0.1]
    assert call.text == "dear"


def test_a_trial_that_is_out_is_not_joined_by_those_who_have_patience() -> None:
    failing = [fails_with(408, 0.001)] * 3
    play = Player(
        endpoint("a", *failing, streams("back", first=4.0)),
        endpoint("b", streams("b"), tier=2),
        hedge="off",
        patience=1,
    )
    open_breaker(play, "a")
    trial, beside = play.call(3.0), play.call(3.1)
    play.run()
    assert (trial.text, beside.text) == ("back", "b")
    assert beside.first_token_at == 3.4


def test_an_answer_says_what_was_asked_of_whom() -> None:
    play = Player(endpoint("a", fails_with(500, 0.1)), endpoint("b", streams("b"), tier=2))
    call = play.call()
    play.run()
    line = call.record.attempts[0]
    assert (line.endpoint.name, line.endpoint.model, line.role, line.began, line.ended) == (
        "a",
        "chat",
        "first",
        0.0,
        0.1,
    )
    assert (line.verdict, outcome_of(line).reason) == (Verdict.FAULT, "status 500")
    assert json.loads(json.dumps(call.headers))["x-router-attempts"] == "2"


# ---- Servers that tell their load


def two_of_one_kind() -> Player:
    """`a`, which is known as the quicker one, and `b` beside it."""
    play = Player(endpoint("a", streams("a"), kind="vllm"), endpoint("b", streams("b", first=0.9), kind="sglang"))
    for _ in range(6):
        play.call()
        play.run()
    return play


def test_a_server_with_a_queue_is_left_alone_until_it_has_none_or_says_no_more() -> None:
    play = two_of_one_kind()
    now = play.scheduler.now()
    play.endpoint("a").says(ServerLoad(running=4.0, waiting=1.0), now, now + 5.0)
    calls = [play.call(now + at) for at in (0.0, 4.9, 5.0)]
    play.run()
    assert [call.text for call in calls] == ["b", "b", "a"]
    now = play.scheduler.now()
    play.endpoint("a").says(ServerLoad(running=4.0, waiting=1.0), now, now + 5.0)
    play.endpoint("b").says(ServerLoad(running=4.0, waiting=1.0), now, now + 5.0)
    call = play.call(now)
    play.run()
    assert call.text == "a"


def test_a_tier_whose_servers_are_all_hot_still_serves() -> None:
    play = Player(endpoint("a", streams("a"), kind="vllm"), endpoint("b", streams("b"), tier=2))
    play.endpoint("a").says(ServerLoad(running=40.0, waiting=9.0, kv=1.0), 0.0, 5.0)
    call = play.call()
    play.run()
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_a_rival_is_sought_among_the_cold_ones() -> None:
    play = Player(
        endpoint("a", streams("a", first=9.0)),
        endpoint("hot", streams("hot"), kind="vllm", tier=2),
        endpoint("cold", streams("cold"), kind="vllm", tier=2),
        hedge="1s",
    )
    play.endpoint("hot").says(ServerLoad(waiting=1.0), 0.0, 5.0)
    call = play.call()
    play.run()
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("cold", "hedge", Verdict.SERVED)]


# ---- Conversations that stay where they are


def conversation(number: int, turns: int = 1) -> list[dict[str, str]]:
    begun = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Tell me of {number}."}]
    return begun + [{"role": "assistant", "content": "…"}, {"role": "user", "content": "Go on."}] * (turns - 1)


def three(**policy: Any) -> Player:
    """Three endpoints that are known and about as quick."""
    play = Player(*(endpoint(name, streams(name)) for name in "abc"), models={"chat": policy}, hedge="off")
    for _ in range(30):
        play.call()
        play.run()
    assert not any(each.latency("first_token").unknown for each in play.table.endpoints)
    return play


def told(play: Player, **fields: Any) -> str:
    call = play.call(**fields)
    play.run()
    return call.text


def test_a_conversation_stays_at_one_endpoint_and_different_ones_are_spread() -> None:
    play = three(affinity="prefix")
    first = [told(play, messages=conversation(number)) for number in range(30)]
    assert set(first) == {"a", "b", "c"}
    later = [told(play, messages=conversation(number, turns=3)) for number in range(30)]
    assert sum(one != other for one, other in zip(first, later, strict=True)) <= 2  # one in a hundred goes anywhere


def test_one_without_affinity_does_not() -> None:
    play = three()
    assert len({told(play, messages=conversation(1)) for _ in range(30)}) > 1


def test_a_header_may_say_which_conversation_it_is() -> None:
    play = three(affinity="header:X-Session-Id")
    sessions = [[(b"x-session-id", b"%d" % number)] for number in range(10)]
    first = [told(play, messages=conversation(number), headers=each) for number, each in enumerate(sessions)]
    later = [told(play, messages=conversation(99), headers=each) for each in sessions]
    assert len(set(first)) > 1
    assert sum(one != other for one, other in zip(first, later, strict=True)) <= 1


def test_a_conversation_leaves_an_endpoint_that_is_out_or_later_than_the_margin_and_comes_back() -> None:
    play = three(affinity="prefix", affinity_margin="1s")
    chat = conversation(1)
    own = told(play, messages=chat)
    now, endpoint = play.scheduler.now(), play.endpoint(own)
    endpoint.cooldown.busy(now, 5.0)
    assert told(play, messages=chat) != own
    play.run_until(now + 6.0)
    assert told(play, messages=chat) == own
    for _ in range(40):
        endpoint.latency("first_token").observe(8.0, play.scheduler.now())
    assert told(play, messages=chat) != own


def test_retries_and_rivals_of_a_sticky_call_go_where_they_always_do() -> None:
    play = three(affinity="prefix")
    chat = conversation(1)
    own = told(play, messages=chat)
    play[own].plays(fails_with(500, 0.1), streams(own))
    call = play.call(messages=chat)
    play.run()
    assert [role for _, role, _ in verdicts(call)] == ["first", "retry"]
    assert verdicts(call)[0][0] == own
    assert call.text != own
    assert call.done


# ---- How long its prompt is


def test_a_long_prompt_goes_where_it_is_read_sooner() -> None:
    play = Player(endpoint("local", streams("local")), endpoint("hosted", streams("hosted")))
    for size in range(0, 6000, 100):
        play.endpoint("local").latency("first_token").observe(0.1 + 3e-4 * size, 0.0, size)
        play.endpoint("hosted").latency("first_token").observe(0.8, 0.0, size)
    short, long = ([{"role": "user", "content": "word " * words}] for words in (100, 8000))
    assert [told(play, messages=each) for each in (short, long, short, long)] == ["local", "hosted"] * 2


# ---- Why it went there

ASKS_WHY = [(b"x-router-debug", b"1")]


def told_why(call: ScriptedClient) -> Any:
    """What its header says, which is one line of ASCII, and what the record keeps."""
    line = call.headers["x-router-debug"]
    assert line.isascii()
    assert len(line) <= 4096
    assert call.record.why is not None
    assert bytes(call.record.why) == line.encode()
    return json.loads(line)


def test_who_asks_why_is_told_what_was_compared_when_its_first_attempt_was_chosen() -> None:
    play = Player(endpoint("a", streams("hi")), endpoint("b", streams("hi", first=1.0)), hedge="5s")
    for name, seconds in (("a", 0.3), ("b", 1.0)):
        for _ in range(20):
            play.endpoint(name).latency("first_token").observe(seconds, 0.0)
    call = play.call(headers=ASKS_WHY)
    play.run()
    told = told_why(call)
    assert told["asked"] == call.headers["x-router-endpoint"] == "a"
    assert told["why"] == "a: 0.30 s expected, the lowest; b costs 1.0 s; a rival (b) would be asked after 5.0 s"
    assert (told["hedge_after"], told["rival"], told["left_out"]) == (5.0, "b", 0)
    assert [(each["endpoint"], each["cost"], each["waiting"]) for each in told["candidates"]] == [
        ("a", 0.3, 0),
        ("b", 1.0, 0),
    ]


def test_nobody_else_is_told_why_and_no_endpoint_hears_of_it() -> None:
    play = Player(endpoint("a", streams("hi")))
    asking, other, refusing = play.call(headers=ASKS_WHY), play.call(), play.call(headers=[(b"x-router-debug", b"0")])
    play.run()
    assert "x-router-debug" in asking.headers
    assert [call.record.why for call in (other, refusing)] == [None, None]
    assert all("x-router-debug" not in call.headers for call in (other, refusing))
    assert all("x-router-debug" not in wire.headers for wire in play["a"].wires)


def test_an_endpoints_own_word_on_that_does_not_pass() -> None:
    play = Player(endpoint("a", answers(completion(), headers=[*JSON, (b"x-router-debug", b"theirs")])))
    asking, other = play.call(stream=False, headers=ASKS_WHY), play.call(stream=False)
    play.run()
    assert told_why(asking)["asked"] == "a"
    assert "x-router-debug" not in other.headers


def test_why_is_of_the_first_attempt_whoever_answers() -> None:
    play = Player(*quick_and_slow(fails_with(500)))
    call = play.call(headers=ASKS_WHY)
    play.run()
    assert call.headers["x-router-endpoint"] == "b"
    assert told_why(call)["asked"] == "a"


def test_a_call_that_fails_and_one_that_gets_pings_are_told_why_too() -> None:
    play = Player(endpoint("a", fails_with(500)), retry_budget=0)
    failed = play.call(headers=ASKS_WHY)
    play.run()
    assert failed.status == 502
    assert told_why(failed)["asked"] == "a"
    play = Player(endpoint("a", streams("late", first=30.0)))
    late = play.call(headers=ASKS_WHY)
    play.run()
    assert late.writes[0] == (10.0, b": ping\n\n")
    assert told_why(late)["asked"] == "a"


def test_one_for_whom_nobody_could_be_asked_is_told_why() -> None:
    play = Player(endpoint("a", streams("hi")))
    play.endpoint("a").cooldown.busy(0.0, 30.0)
    call = play.call(headers=ASKS_WHY)
    play.run()
    assert call.status == 429
    told = told_why(call)
    assert told["asked"] is None
    assert told["why"] == "nobody can be asked: a call would be refused; a is out: left alone for 30 s"


def test_one_that_waited_in_line_is_told_of_the_moment_in_which_it_was_called() -> None:
    play = Player(endpoint("a", streams("hi"), concurrency=1))
    play.call()
    call = play.call(0.1, headers=ASKS_WHY)
    play.run()
    assert call.record.queued > 0.0
    told = told_why(call)
    assert (told["asked"], told["candidates"][0].get("out")) == ("a", None)


def test_what_is_told_of_very_many_endpoints_is_short() -> None:
    names = [f"{'long-' * 12}{i}" for i in range(60)]
    play = Player(*(endpoint(name, streams("hi")) for name in names), hedge="off")
    for name in names:
        play.endpoint(name).cooldown.busy(0.0, 5.0)
    play.endpoint(names[33]).cooldown.busy(0.0, None)
    call = play.call(6.0, headers=ASKS_WHY)
    play.run()
    told = told_why(call)
    assert told["asked"] == call.headers["x-router-endpoint"]
    assert 5 < len(told["candidates"]) < 25
    assert len(told["candidates"]) + told["left_out"] == 60


def test_a_conversation_that_is_drawn_elsewhere_is_told_so() -> None:
    play = Player(*(endpoint(name, streams("hi")) for name in "abcdef"), models={"chat": {"affinity": "header:x-who"}})
    for name in "abcdef":
        play.endpoint(name).latency("first_token").observe(0.3, 0.0)
    calls = [play.call(headers=[*ASKS_WHY, (b"x-who", b"%d" % i)]) for i in range(12)]
    play.run()
    drawn = [told for call in calls if " was asked: its conversation stays there, " in (told := told_why(call))["why"]]
    assert drawn
    assert all(told["why"].startswith(told["asked"]) for told in drawn)


def test_why_holds_no_secret() -> None:
    play = Player(endpoint("a", streams("hi"), api_key="sk-ours", headers={"x-own": "s3cr3t"}))
    call = play.call(headers=[*ASKS_WHY, (b"authorization", b"Bearer sk-theirs")])
    play.run()
    line = call.headers["x-router-debug"]
    assert not any(secret in line for secret in ("sk-", "s3cr3t", "http", "/v1"))


def test_who_may_not_read_the_state_is_not_told_why() -> None:
    play = Player(endpoint("a", streams("hi")))
    call = play.call(headers=[*ASKS_WHY, (b"host", b"evil.test")])
    other = play.call(headers=[(b"host", b"evil.test")])
    play.run()
    assert (call.status, json.loads(call.body)["error"]["code"]) == (403, "forbidden_host")
    assert other.status == 200
