"""Answers that are none: another endpoint is asked, and the one that gave them attracts no traffic."""

from __future__ import annotations

from typing import Any

import pytest

from router.core.demand import FIRST_TOKEN
from router.core.verdict import Verdict
from router.upstream.exchange import Limits
from tests.flow.timelines import quick_and_slow, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import (
    DONE,
    Script,
    answers,
    completion,
    ends,
    event,
    fails_with,
    head,
    opens,
    says,
    sends,
    sse,
    streams,
)
from tests.support.player import EMBEDDINGS

EMPTY: dict[str, Any] = {"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 3}}
ABORTED = opens() + sends(0.1, event(finish="abort") + DONE)


NO_ANSWERS: list[Any] = [
    *(EMPTY, {}, None, [], "ok", {"status": "ok", "version": "1.2.3"}, {"choices": None}),
    *({"choices": [choice]} for choice in (None, {}, {"message": None}, {"message": {"role": "assistant"}})),
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {"choices": [{"index": 0, "text": "", "finish_reason": "null"}]},
]


@pytest.mark.parametrize("body", NO_ANSWERS)
def test_a_200_without_an_answer_fails_over(body: Any) -> None:
    play = Player(endpoint("a", answers(body, 0.1)), endpoint("b", answers(completion("good"), 0.2), tier=2))
    calls = [play.call(stream=False), play.call(20.0, stream=True)]
    play.run()
    assert [call.json for call in calls] == [completion("good")] * 2
    assert verdicts(calls[0])[0] == ("a", "first", Verdict.FAULT)


@pytest.mark.parametrize(
    "body", [{"message": {"content": ""}, "finish_reason": "length"}, {"message": {"content": "hi"}}]
)
def test_an_empty_message_with_a_finish_reason_and_a_message_without_one_are_answers(body: dict[str, Any]) -> None:
    play = Player(endpoint("a", answers({"choices": [body]}, 0.1)), endpoint("b", answers(completion("b")), tier=2))
    call = play.call(stream=False)
    play.run()
    assert call.json == {"choices": [body]}


def test_a_stream_of_choices_without_values_is_no_answer() -> None:
    play = Player(*quick_and_slow(opens() + sends(0.1, sse({"choices": [None]}) + DONE)))
    call = play.call()
    play.run()
    assert (call.text, call.done) == ("quick", True)


VECTORS: list[Any] = [[], None, ""]
NO_VECTORS: list[Any] = [{"data": [{"index": 0, "embedding": vector}]} for vector in VECTORS]


@pytest.mark.parametrize("body", [{}, {"data": []}, {"choices": [{}]}, {"data": [{}]}, *NO_VECTORS])
def test_an_embedding_without_data_fails_over(body: Any) -> None:
    vectors = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}]}
    play = Player(endpoint("a", answers(body, 0.1)), endpoint("b", answers(vectors, 0.2), tier=2))
    call = play.call(path=EMBEDDINGS, input="hi", stream=False)
    play.run()
    assert call.json == vectors


@pytest.mark.parametrize("quick", [answers(EMPTY, 0.01), ABORTED])
def test_quick_answers_that_are_none_attract_no_traffic(quick: Script) -> None:
    streamed = quick is ABORTED
    good = streams("good", first=0.15) if streamed else answers(completion("good"), 0.15)
    play = Player(endpoint("a", quick), endpoint("b", good))
    calls = [play.call(float(number), stream=streamed, user=f"{number}") for number in range(30)]
    play.run()
    assert [call.status for call in calls] == [200] * 30
    assert all("good" in (call.text if streamed else call.body.decode()) for call in calls)
    assert len(play["a"].wires) <= 6


FAILED_REASONS = (
    *("abort", "error", "insufficient_system_resource", "network_error", "engine_error", "ERROR", "upstreamError"),
    *("timed_out", "request cancelled", "MALFORMED_FUNCTION_CALL", "out-of-memory", "interrupted"),
)


@pytest.mark.parametrize("reason", FAILED_REASONS)
def test_a_failed_finish_before_a_token_fails_over_and_after_it_ends_with_an_error(reason: str) -> None:
    play = Player(*quick_and_slow(opens() + sends(0.1, event(finish=reason) + DONE)))
    call = play.call()
    play.run()
    assert (call.text, call.done) == ("quick", True)
    play = Player(endpoint("a", opens() + says(0.1, "one", " two") + sends(0.5, event(finish=reason) + DONE)))
    call = play.call()
    play.run()
    assert (call.text, call.done, call.error["code"]) == ("one two", False, "stream_broken")
    assert reason in call.error["message"]
    assert verdicts(call) == [("a", "first", Verdict.FAULT)]


def test_a_failed_finish_after_a_token_is_rescued() -> None:
    broken = opens() + says(0.1, "one") + sends(0.3, event(finish="abort") + DONE)
    play = Player(endpoint("a", broken), endpoint("b", streams("one", " two"), tier=2))
    call = play.call(seed=1)
    play.run()
    assert (call.text, call.done) == ("one two", True)


def test_a_refused_key_with_status_400_fails_over_and_cools_down() -> None:
    refused = {"error": {"code": 400, "message": "API key expired.", "details": [{"reason": "API_KEY_INVALID"}]}}
    play = Player(*quick_and_slow(answers([refused], 0.1, status=400)))
    calls = [play.call(float(number)) for number in range(3)]
    play.run()
    assert [call.text for call in calls] == ["quick"] * 3
    assert play.metric("causes_total", endpoint="a", cause="denied") >= 1


@pytest.mark.parametrize(
    "message",
    [
        "Incorrect API key provided: xa***et.",
        "foo/bar is not a valid model ID",
        "Your credit balance is too low to access the API.",
        "This organization has been disabled.",
        "User location is not supported for the API use.",
        "The server is overloaded, please try again later.",
        "Failed to call a function. Please adjust your prompt.",
    ],
)
def test_words_in_a_400_send_this_call_elsewhere_and_prove_nothing(message: str) -> None:
    play = Player(*quick_and_slow(fails_with(400, message=message), streams("served")))
    calls = [play.call(0.0), play.call(10.0)]
    play.run()
    assert [call.text for call in calls] == ["quick", "served"]
    assert play.metric("causes_total", endpoint="a", cause="transient") == 1
    assert play.endpoint("a").availability.cooldown(FIRST_TOKEN) is None


@pytest.mark.parametrize("status", [402, 403, 404, 405, 406, 409, 410, 418, 423, 451, 499])
def test_a_4xx_that_does_not_blame_the_request_fails_over(status: int) -> None:
    play = Player(*quick_and_slow(fails_with(status, 0.1)))
    call = play.call()
    play.run()
    assert call.text == "quick"


def test_a_request_that_is_too_large_for_a_rate_is_asked_elsewhere_and_held_against_nobody() -> None:
    large = fails_with(413, 0.1, type="tokens", code="rate_limit_exceeded", message="Request too large")
    play = Player(*quick_and_slow(large))
    call = play.call()
    play.run()
    assert call.text == "quick"
    play = Player(endpoint("a", large))
    call = play.call()
    play.run()
    assert (call.status, call.error["message"]) == (413, "Request too large")
    assert len(play["a"].wires) == 1
    availability = play.endpoint("a").availability
    assert (availability.cooldown(FIRST_TOKEN), availability.limit.most) == (None, float("inf"))


def test_the_endpoints_words_are_quoted_for_each_endpoint() -> None:
    play = Player(
        endpoint("a", fails_with(501, message="This server does not support embeddings.", code=501)),
        endpoint("b", fails_with(404, message="The model `m` does not exist. Key: sk-abcdef123"), tier=2),
    )
    call = play.call()
    play.run()
    assert call.status == 502
    assert 'a: status 501 (501): "This server does not support embeddings."' in call.error["message"]
    assert 'b: status 404: "The model `m` does not exist. Key: ***"' in call.error["message"]


def test_an_event_beyond_the_limit_is_not_asked_for_again() -> None:
    large = opens() + sends(0.2, b"data: " + b"x" * 3000)
    play = Player(endpoint("a", large), endpoint("b", streams("never"), tier=2), limits=Limits(event=2000))
    call = play.call()
    play.run()
    assert (call.status, call.error["code"]) == (502, "endpoints_failed")
    assert (len(play["a"].wires), len(play["b"].wires)) == (1, 0)
    later = opens() + says(0.1, "one") + sends(0.2, b"data: " + b"x" * 3000)
    play = Player(endpoint("a", later), endpoint("b", streams("one", "two"), tier=2), limits=Limits(event=2000))
    call = play.call(seed=1)
    play.run()
    assert call.error["code"] == "stream_broken"
    assert len(play["b"].wires) == 0


def test_a_large_first_event_is_no_silence() -> None:
    large = "x" * (3 << 20)
    play = Player(endpoint("a", streams(large)))
    call = play.call()
    play.run()
    assert call.text == large


def test_a_stream_of_another_type_reaches_the_client_as_one() -> None:
    script = head(0.0, 200, [(b"content-type", b"text/plain")]) + sends(0.1, event("Hel") + event("lo"))
    play = Player(endpoint("a", script + sends(0.2, event(finish="stop") + DONE)))
    call = play.call()
    play.run()
    assert (call.text, call.done) == ("Hello", True)
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_malformed_events_are_skipped_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    script = opens() + sends(0.1, event("one") + b"data: {oops\n\n" * 2 + event(" two") + event(finish="stop") + DONE)
    play = Player(endpoint("a", script))
    calls = [play.call(0.0), play.call(5.0)]
    play.run()
    assert [call.text for call in calls] == ["one two"] * 2
    assert play.metric("malformed_events_total", endpoint="a") == 4
    assert ["not JSON" in record.getMessage() for record in caplog.records] == [True]


def test_every_prompt_of_a_list_must_finish() -> None:
    texts = [{"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}]
    texts += [{"choices": [{"index": 1, "text": text, "finish_reason": None}]} for text in "bcd"]
    cut = head(0.0, 200, [(b"content-type", b"text/event-stream")]) + sends(0.1, b"".join(map(sse, texts)))
    for prompt, whole in ((["one", "two"], False), ([[1, 2], [3]], False), ([1, 2, 3], True), ("one", True)):
        play = Player(endpoint("a", cut + ends(0.2)))
        call = play.call(path="/v1/completions", prompt=prompt)
        play.run()
        assert ("stream_broken" not in call.body.decode()) is whole, prompt


def test_a_body_with_a_byte_order_mark_is_read_and_goes_on_without_it() -> None:
    body = b'{"model":"chat","stream":true}'
    play = Player(endpoint("a", streams("Hello"), models=["chat"]))
    call = play.call(body=b"\xef\xbb\xbf" + body)
    play.run()
    assert call.text == "Hello"
    assert play["a"].wires[0].request.body == body
