"""One endpoint that serves: its stream passes byte for byte, and its first token is measured."""

from __future__ import annotations

import pytest

from router.core.verdict import Verdict
from tests.flow.timelines import verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import COMMENT, DONE, ends, event, finishes, opens, says, sends, sse, streams


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
    assert play.endpoint("a").forecast.latency("first_token").mean(5.0) == pytest.approx(0.7)


def test_served_calls_are_counted_in_the_metrics() -> None:
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


def test_a_role_and_comments_are_not_a_first_token() -> None:
    play = Player(endpoint("a", opens(0.1) + sends(0.2, COMMENT) + says(0.9, "hi") + finishes(1.0)))
    call = play.call()
    play.run()
    assert call.first_token_at == 0.9
    assert call.record.first_token == 0.9
    assert call.body == play["a"].wires[0].sent  # with the comment


@pytest.mark.parametrize("delta", ["reasoning_content", "reasoning", "refusal", "tool_calls", "function_call"])
def test_any_output_is_a_first_token(delta: str) -> None:
    value = [{"index": 0}] if delta == "tool_calls" else {"name": "f"} if delta == "function_call" else "hm"
    token = sse({"choices": [{"index": 0, "delta": {delta: value}}]})
    play = Player(endpoint("a", opens(0.1) + sends(0.4, token) + finishes(0.5)))
    call = play.call()
    play.run()
    assert call.record.first_token == 0.4


def test_events_arrive_whole_however_the_network_cuts_them() -> None:
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
