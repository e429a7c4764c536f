"""Refusals: an endpoint's 400 reaches the client as it is, and no other endpoint is asked."""

from __future__ import annotations

import pytest

from router.core.verdict import Verdict
from tests.flow.timelines import quick_and_slow, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import (
    JSON,
    SILENT,
    answers,
    cuts,
    ends,
    error_event,
    fails_with,
    head,
    opens,
    sends,
    streams,
)


def test_a_refusal_reaches_the_client_unchanged() -> None:
    refusal = b'{"error": {"message": "what?",  "code":"invalid_value"}}\n'
    play = Player(*quick_and_slow(answers(refusal, 0.1, status=400, headers=[*JSON, (b"openai-version", b"1")])))
    call = play.call()
    play.run()
    assert call.status == 400
    assert call.body == refusal
    assert call.headers["content-type"] == "application/json"
    assert call.headers["openai-version"] == "1"
    assert call.ended_at == 0.1
    assert play["b"].wires == []
    assert verdicts(call) == [("a", "first", Verdict.REFUSED)]
    assert play.endpoint("a").forecast.latency("first_token").unknown  # a quick refusal is no measurement
    assert play.endpoint("a").availability.breaker.failures_in_a_row == 0
    assert call.record.first_token is None


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_cancels_the_hedge(status: int) -> None:
    play = Player(endpoint("a", fails_with(status, 2.2)), endpoint("b", SILENT, tier=2))
    call = play.call()
    play.run()
    assert call.status == status
    assert play["b"].wires[0].closed_at == 2.2
    assert verdicts(call) == [("a", "first", Verdict.REFUSED), ("b", "hedge", Verdict.ABANDONED)]


def test_a_refusal_at_the_start_of_a_stream_becomes_a_status() -> None:
    refusal = error_event("no", code="content_filter")
    play = Player(endpoint("a", opens(0.1) + sends(0.2, refusal)), endpoint("b", streams("never"), tier=2))
    call = play.call()
    play.run()
    assert (call.status, call.body) == (400, refusal[6:-2])
    assert call.headers["content-type"] == "application/json"
    assert call.record.error == ""
    play = Player(endpoint("a", opens(0.1) + sends(12.0, refusal)), hedge="off")
    call = play.call()
    play.run()
    assert (call.status, call.error["code"]) == (200, "content_filter")  # the pings had begun a 200


def test_a_hedges_refusal_waits_for_the_late_attempt() -> None:
    refuses = endpoint("b", fails_with(400, 0.1, message="no tools here"), tier=2)
    play = Player(endpoint("a", streams("late", first=4.0)), refuses, hedge=1.0)
    call = play.call()
    play.run()
    assert call.text == "late"
    assert verdicts(call) == [("a", "first", Verdict.SERVED), ("b", "hedge", Verdict.REFUSED)]
    for silent, ends_at in ((SILENT, 15.0), (fails_with(500, 3.0), 3.0), (opens() + cuts(5.0), 5.0)):
        play = Player(endpoint("a", silent), refuses, endpoint("c", streams("never"), tier=3), hedge=1.0)
        call = play.call()
        play.run()
        assert (call.status, call.error["message"]) == (400, "no tools here") or call.pinged_at
        assert call.error["message"] == "no tools here"
        assert call.ended_at == ends_at
        assert len(play["c"].wires) == 0


def test_a_refusal_after_pings_is_an_error_inside_the_stream() -> None:
    play = Player(endpoint("a", fails_with(400, 12.0, code="content_policy_violation")))
    call = play.call()
    play.run()
    assert call.status == 200
    assert call.error["code"] == "content_policy_violation"
    assert not call.done


def test_a_refusal_in_another_format_is_an_error_inside_the_stream_too() -> None:
    play = Player(endpoint("a", answers({"object": "error", "message": "too long", "code": 400}, 12.0, status=400)))
    call = play.call()
    play.run()
    assert call.status == 200
    assert "too long" in call.error["message"]  # both SDKs raise only at an `error`
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
def test_a_policy_refusal_is_passed_on_after_one_attempt(code: str) -> None:
    refusal = b'{"error":{"message":"no","code":"%b"}}' % code.encode()
    play = Player(*quick_and_slow(answers(refusal, 0.1, status=400)))
    calls = [play.call(float(i)) for i in range(4)]
    play.run()
    assert [(call.status, call.body) for call in calls] == [(400, refusal)] * 4
    assert play["b"].wires == []
    assert len(play["a"].wires) == 4  # no failure of the endpoint
    assert play.metric("causes_total", endpoint="a", cause="policy") == 4


def test_a_refusal_in_an_answer_of_status_200_is_a_400() -> None:
    refusal = b'{"error":{"code":"1301","message":"unsafe"}}'
    play = Player(endpoint("a", answers(refusal, 0.1), kind="zhipu"), endpoint("b", streams("no"), tier=2))
    call = play.call(stream=False)
    play.run()
    assert (call.status, call.body) == (400, refusal)  # both SDKs would take a 200 for an answer without choices
    assert play["b"].wires == []
