"""Requests that are too long for one endpoint: one with a larger context is asked."""

from __future__ import annotations

import pytest

from router.core.verdict import Verdict
from tests.flow.timelines import verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import (
    SILENT,
    Script,
    answers,
    completion,
    cuts,
    error_event,
    fails_with,
    opens,
    refuses_connection,
    sends,
    streams,
)

TOO_LONG = fails_with(400, code="context_length_exceeded", type="invalid_request_error")


def test_a_prompt_too_long_for_one_endpoint_goes_to_one_with_a_larger_context() -> None:
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
    assert play.endpoint("a").forecast.latency("first_token").unknown
    assert play.metric("causes_total", endpoint="a", cause="too_long") == len(asked_a)


def test_a_prompt_too_long_for_all_endpoints_gets_the_first_refusal() -> None:
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
    assert call.headers["x-router-attempts"] == "2"  # c's context is no larger, d's is not configured
    assert call.ended_at == 0.2
    assert [verdict for _, _, verdict in verdicts(call)] == [Verdict.REFUSED, Verdict.REFUSED]


@pytest.mark.parametrize(
    "failure",
    [fails_with(500), fails_with(429), fails_with(400), refuses_connection(0.1), opens() + cuts(0.1)],
)
def test_the_refusal_stands_if_the_larger_endpoint_fails(failure: Script) -> None:
    play = Player(endpoint("a", TOO_LONG), endpoint("b", failure, context="1M", tier=2))
    call = play.call()
    play.run()
    assert (call.status, call.error["code"]) == (400, "context_length_exceeded")
    assert len(play["b"].wires) == 1
    assert call.ended_at == 0.2


@pytest.mark.parametrize("refusal", [fails_with(400), fails_with(400, code="content_filter")])
def test_no_third_endpoint_is_asked_if_the_larger_one_refuses_the_request_itself(refusal: Script) -> None:
    play = Player(
        endpoint("a", TOO_LONG, context=8192),
        endpoint("b", refusal, context=16384, tier=2),
        endpoint("c", streams("round it"), context=32768, tier=3),
    )
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], play["c"].wires) == (400, "context_length_exceeded", [])


def test_the_refusal_stands_if_the_larger_endpoint_stays_silent() -> None:
    play = Player(endpoint("a", TOO_LONG), endpoint("b", SILENT, context="1M", tier=2), deadline=5)
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], call.ended_at) == (400, "context_length_exceeded", 5.0)


def test_after_pings_the_refusal_is_sent_inside_the_stream() -> None:
    slow = fails_with(400, 12.0, code="context_length_exceeded")
    play = Player(endpoint("a", slow), endpoint("b", fails_with(500), context="1M", tier=2), hedge="off")
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], call.done) == (200, "context_length_exceeded", False)
    quiet = Player(endpoint("a", slow), endpoint("b", streams("long"), context="1M", tier=2), hedge="off")
    served = quiet.call()
    quiet.run()
    assert (served.text, served.done) == ("long", True)


def test_an_error_event_may_report_a_prompt_that_is_too_long() -> None:
    script = opens() + sends(0.1, error_event("This model's maximum context length is 8192 tokens.", code=400))
    play = Player(endpoint("a", script), endpoint("b", streams("long"), context="1M", tier=2))
    call = play.call()
    play.run()
    assert call.text == "long"
    alone = Player(endpoint("a", script), endpoint("b", fails_with(500), context="1M", tier=2))
    refused = alone.call()
    alone.run()
    assert "maximum context length" in refused.error["message"]
    assert not refused.done


def test_a_call_that_does_not_stream_goes_to_the_larger_endpoint_too() -> None:
    play = Player(endpoint("a", TOO_LONG), endpoint("b", answers(completion("long")), context="1M", tier=2))
    call = play.call(stream=False)
    play.run()
    assert call.json == completion("long")


def test_a_hedge_target_with_the_larger_context_is_not_asked_again() -> None:
    play = Player(
        endpoint("a", fails_with(400, 2.1, code="context_length_exceeded")),
        endpoint("b", streams("long", first=1.0), context="1M", tier=2),
    )
    call = play.call()
    play.run()
    assert call.text == "long"
    assert verdicts(call) == [("a", "first", Verdict.REFUSED), ("b", "hedge", Verdict.SERVED)]


def test_a_hedge_with_no_larger_context_does_not_delay_the_larger_endpoint() -> None:
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


def test_a_call_queues_for_a_larger_endpoint_that_is_full() -> None:
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


def test_without_a_larger_context_too_long_is_an_ordinary_refusal() -> None:
    play = Player(endpoint("a", TOO_LONG, context=8192), endpoint("b", streams("no"), context=8192, tier=2))
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], play["b"].wires) == (400, "context_length_exceeded", [])


def test_a_client_that_leaves_while_the_larger_endpoint_is_asked_ends_the_call() -> None:
    play = Player(endpoint("a", TOO_LONG), endpoint("b", SILENT, context="1M", tier=2))
    call = play.call(leaves_at=1.0)
    play.run()
    assert play["b"].wires[0].closed_at == 1.0
    assert call.record.error == "client_left"
