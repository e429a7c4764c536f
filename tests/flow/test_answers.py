"""Answers that do not stream."""

from __future__ import annotations

from router.core.verdict import Verdict
from router.upstream.exchange import Limits
from tests.flow.timelines import quick_and_slow, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import JSON, SILENT, answers, completion, ends, head, sends, streams
from tests.support.player import EMBEDDINGS


def test_a_complete_answer_has_its_length_and_passes_byte_for_byte() -> None:
    body = b'{"id":  "x", "choices": [{"text": "x"}], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n'
    play = Player(endpoint("a", answers(body, 0.5)))
    call = play.call(stream=False)
    play.run()
    assert (call.status, call.body, call.length) == (200, body, len(body))
    assert call.headers["x-router-endpoint"] == "a"
    assert call.headers["server-timing"] == "first-token;dur=500.0"
    assert (call.record.prompt_tokens, call.record.completion_tokens) == (3, 5)
    assert call.record.stream is False


def test_the_first_complete_answer_wins_the_race() -> None:
    slow = head(0.1, 200, JSON) + sends(0.2, b'{"choices": ') + sends(9.0, b"[]}") + ends(9.0)
    play = Player(endpoint("a", slow), endpoint("b", answers(completion("quick"), 0.5), tier=2), hedge=1)
    call = play.call(stream=False)
    play.run()
    assert call.ended_at == 1.5
    assert call.json == completion("quick")
    assert play["a"].wires[0].closed_at == 1.5
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.SERVED)]


def test_complete_answers_have_a_latency_of_their_own() -> None:
    play = Player(endpoint("a", answers(completion(), 14.0)), endpoint("b", SILENT, tier=2))
    call = play.call(stream=False)
    play.run()
    assert call.ended_at == 14.0
    assert play["b"].wires == []  # a hedge on a first token would have begun after 2 s
    assert play.endpoint("a").forecast.latency("first_token").unknown
    assert not play.endpoint("a").forecast.latency("answer").unknown


def test_embeddings_race_on_the_complete_answer() -> None:
    vectors = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 2}}
    play = Player(endpoint("a", SILENT), endpoint("b", answers(vectors, 0.2), tier=2))
    call = play.call(path=EMBEDDINGS, input="hi", stream=True)  # `stream` has no meaning for embeddings
    play.run()
    assert call.json == vectors
    assert call.ended_at == 2.2
    assert play["b"].wires[0].line == "POST /v1/embeddings HTTP/1.1"
    assert call.record.operation == "embeddings"
    assert not play.endpoint("b").forecast.latency("embedding").unknown


def test_a_plain_json_answer_to_a_streaming_call_is_passed_on() -> None:
    play = Player(endpoint("a", answers(completion("whole"), 0.5)))
    call = play.call(stream=True)
    play.run()
    assert call.json == completion("whole")
    assert call.length == len(call.body)
    assert call.headers["content-type"] == "application/json"
    assert call.record.completion_tokens == 5


def test_plain_json_after_pings_is_one_event_of_a_complete_stream() -> None:
    play = Player(endpoint("a", answers(b'{"choices": [{"text": "x"}],\n "usage": null}', 12.0)))
    call = play.call(stream=True)
    play.run()
    assert call.pinged_at == [10.0]
    assert call.events == [{"choices": [{"text": "x"}], "usage": None}]
    assert call.done


def test_a_stream_that_was_not_requested_is_passed_on_as_a_stream() -> None:
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
