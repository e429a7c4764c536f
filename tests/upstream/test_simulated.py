"""The simulated endpoint: its times and its answers, on a manual clock."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.stream.scanner import Scanner
from router.upstream.exchange import Request
from router.upstream.simulated import SPREAD, Simulated
from tests.upstream.servers import SERVED, Call, Clock

FIRST, RATE = 0.5, 10.0


def pool() -> tuple[Simulated, Clock]:
    clock = Clock()
    return Simulated("made-up", clock, Random(7), first_token=FIRST, rate=RATE), clock


def asking(path: str = "/chat/completions", **body: Any) -> Request:
    head = f"POST {path} HTTP/1.1\r\nhost: simulated\r\n\r\n".encode()
    return Request(head, json.dumps({"model": "m", **body}).encode())


CHAT: dict[str, Any] = {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Hi there"}]}


def events(call: Call) -> list[Any]:
    data = [event.removeprefix(b"data: ") for event in call.body.split(b"\n\n") if event and event[:1] != b":"]
    assert data.pop() == b"[DONE]"
    return [json.loads(event) for event in data]


def test_a_stream_begins_at_its_time_and_continues_at_its_rate() -> None:
    simulated, clock = pool()
    call = Call.to(simulated, asking(**CHAT, stream=True))
    clock.forward(FIRST * (1 - SPREAD) - 0.001)
    assert (call.news_count, call.exchange.first_token, simulated.busy) == (0, False, 1)
    began = clock.now()
    while not call.news_count:
        clock.forward(0.001)
    assert call.exchange.first_token
    assert clock.now() - began <= 2 * SPREAD * FIRST + 0.002
    clock.forward(5 / RATE)
    assert call.news_count == 6
    clock.forward(100.0)
    assert call.outcome == SERVED
    assert (simulated.busy, clock.set, call.exchange.wire) == (0, 0, None)


def test_a_stream_says_that_it_is_simulated_and_repeats_the_question() -> None:
    simulated, clock = pool()
    call = Call.to(simulated, asking(**CHAT, stream=True))
    clock.forward(100.0)
    sent = events(call)
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in sent)
    assert text.startswith("[simulated by made-up: no model was asked]")
    assert "'Hi there'" in text
    assert sent[0]["choices"][0]["delta"]["role"] == "assistant"
    assert sent[-1]["choices"][0]["finish_reason"] == "stop"
    assert {event["object"] for event in sent} == {"chat.completion.chunk"}
    scanner = Scanner()
    assert scanner.feed(call.body) == call.body
    assert scanner.whole


def test_usage_is_sent_if_it_is_requested() -> None:
    simulated, clock = pool()
    asked = Call.to(simulated, asking(**CHAT, stream=True, stream_options={"include_usage": True}))
    silent = Call.to(simulated, asking(**CHAT, stream=True, stream_options={"include_usage": False}))
    clock.forward(100.0)
    last = events(asked)[-1]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    assert asked.exchange.usage is not None
    assert not [event for event in events(silent) if "usage" in event]


def test_an_answer_that_does_not_stream_takes_as_long_as_one_that_does() -> None:
    simulated, clock = pool()
    call = Call.to(simulated, asking(**CHAT))
    clock.forward(FIRST * (1 + SPREAD))
    assert call.news_count == 0
    clock.forward(100.0)
    assert (call.news_count, call.outcome) == (1, SERVED)
    answer = json.loads(call.body)
    assert answer["object"] == "chat.completion"
    assert "'Hi there'" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 10


@pytest.mark.parametrize("stream", [False, True])
def test_completions_have_their_own_form(stream: bool) -> None:
    simulated, clock = pool()
    call = Call.to(simulated, asking("/completions", prompt="Once upon", stream=stream))
    clock.forward(100.0)
    assert call.outcome == SERVED
    sent = events(call) if stream else [json.loads(call.body)]
    assert {event["object"] for event in sent} == {"text_completion"}
    assert "'Once upon'" in "".join(event["choices"][0]["text"] for event in sent)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None},
        {"messages": "text"},
        {"messages": [None, 7, "x"]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, None, {"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": [{"text": {"a": 1}}]}]},
        {"messages": [{"role": "user", "content": '\U0001f600 "quoted" \\ \x00'}]},
        {"messages": [], "stream_options": "all"},
        {"prompt": [[1, 2]]},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_odd_requests_are_answered(body: dict[str, Any], stream: bool) -> None:
    simulated, clock = pool()
    call = Call.to(simulated, asking(**body, stream=stream))
    clock.forward(100.0)
    assert call.outcome == SERVED


@pytest.mark.parametrize("after", [0.0, FIRST * (1 + SPREAD), 1.0])
def test_a_closed_exchange_leaves_nothing(after: float) -> None:
    simulated, clock = pool()
    call = Call.to(simulated, asking(**CHAT, stream=True))
    clock.forward(after)
    before = call.news_count
    call.exchange.close()
    call.exchange.close()
    clock.forward(100.0)
    assert (simulated.busy, clock.set, call.news_count) == (0, 0, before)


def test_a_paused_answer_waits_and_continues() -> None:
    simulated, clock = pool()
    call = Call.to(simulated, asking(**CHAT, stream=True))
    clock.forward(1.0)
    call.exchange.pause()
    before = call.news_count
    clock.forward(50.0)
    assert call.news_count <= before + 1
    call.exchange.resume()
    clock.forward(50.0)
    assert call.outcome == SERVED
    assert simulated.busy == 0


def test_many_at_once_are_counted() -> None:
    simulated, clock = pool()
    calls = [Call.to(simulated, asking(**CHAT, stream=index % 2 == 0)) for index in range(20)]
    assert (simulated.busy, repr(simulated)) == (20, "<Simulated made-up, 20 busy>")
    clock.forward(100.0)
    assert [call.outcome for call in calls] == [SERVED] * 20
    assert simulated.busy == 0


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("also", ['"x":1e999', '"temperature":1e999', '"x":{"y":[1e999]}', '"n":' + "9" * 5000])
def test_fields_without_effect_are_not_decoded(path: str, stream: bool, also: str) -> None:
    simulated, clock = pool()
    body = f'{{"model":"m","stream":{json.dumps(stream)},{also}}}'.encode()
    call = Call.to(simulated, Request(asking(path).head, body))
    clock.forward(100.0)
    assert (call.outcome, simulated.busy) == (SERVED, 0)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/v1/completions"])
@pytest.mark.parametrize(
    "value", [b"1e999", b'"\\ud800"', b'[{"role":"user","content":1e999}]', b"9" * 5000, b"[" * 100_000], ids=range(5)
)
def test_an_unreadable_request_is_refused_at_the_usual_time(path: str, value: bytes) -> None:
    simulated, clock = pool()
    body = b'{"model":"m","messages":%b,"prompt":%b,"input":%b}' % (value, value, value)
    call = Call.to(simulated, Request(asking(path).head, body))
    assert (call.news_count, simulated.busy) == (0, 1)
    clock.forward(FIRST * (1 + SPREAD))
    assert (call.news_count, call.outcome) == (1, ("refused", "status 400"))
    assert json.loads(call.body)["error"]["type"] == "invalid_request_error"
    assert (simulated.busy, clock.set, call.exchange.wire) == (0, 0, None)


KEYS = st.sampled_from(["role", "content", "text", "x"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    fields=st.dictionaries(st.sampled_from(["stream", "stream_options", "messages", "prompt", "input", "x"]), ANY_JSON),
    path=st.sampled_from(["/chat/completions", "/completions", "/v1/completions"]),
)
def test_any_request_gets_an_answer_or_a_refusal(fields: dict[str, Any], path: str) -> None:
    simulated, clock = pool()
    call = Call.to(simulated, asking(path, **fields))
    clock.forward(100.0)
    assert call.outcome[0] in ("served", "refused")
    assert (simulated.busy, clock.set) == (0, 0)


@pytest.mark.parametrize("digits", [4299, 4300, 4301])
def test_numbers_may_be_as_long_as_python_reads_them(digits: int) -> None:
    simulated, clock = pool()
    for path in ("/completions", "/chat/completions"):
        number = b"9" * digits
        body = b'{"prompt":%b,"messages":%b}' % (number, number)
        call = Call.to(simulated, Request(asking(path).head, body))
        clock.forward(100.0)
        assert call.outcome[0] in ("served", "refused")
