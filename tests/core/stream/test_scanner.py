"""The scanner: a stream is forwarded and read the same however it is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.stream.scanner import EventTooLarge, Scanner
from tests.core.helpers import properties

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
DONE = b"data: [DONE]\n\n"


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def finish(reason: str = "stop", index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {}, "finish_reason": reason}]}


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def run(*chunks: bytes, choices: int = 1, limit: int = 4 << 20) -> tuple[Scanner, bytes]:
    scanner = Scanner(choices, limit)
    return scanner, b"".join([*map(scanner.feed, chunks), scanner.finish()])


def facts(scanner: Scanner) -> tuple[object, ...]:
    usage = scanner.usage and (scanner.usage.prompt_tokens, scanner.usage.completion_tokens)
    return (scanner.first_token, scanner.done, scanner.error, scanner.events, scanner.malformed, scanner.whole, usage)


def events(stream: bytes) -> list[list[bytes]]:
    """The events that an SSE client reads (WHATWG): a simple, slow reference."""
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    found: list[list[bytes]] = [[]]
    for line in lines:
        if line:
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [lines for lines in found if any(not line.startswith(b":") for line in lines)]


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(stream) + 1) for place in at), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


# Cuts.

GOOD: list[list[bytes]] = [
    [b": ping"],
    [b"data: " + json.dumps(ROLE).encode()],
    [b"data: " + json.dumps(delta(content="tschüß 你好 🙂"), ensure_ascii=False).encode()],
    [b"data:" + json.dumps(delta(reasoning_content="hm")).encode()],
    [b"event: message", b"data: " + json.dumps(delta(content="x")).encode()],
    [b'data: {"choices": [', b'data: {"delta": {"content": "two lines"}}]}'],
    [b": note", b"data: " + json.dumps(finish()).encode()],
    [b"data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}).encode()],
    [b"data: {}"],
]
BAD: list[list[bytes]] = [
    [b"data: {oops"],
    [b"data: \xff"],
    [b"id: 7"],
    [b"retry: 100"],
    [b"event: ping"],
    [b"data: [DONE]"],
    [b'data: {"error": {"message": "no"}}'],
    [b"data: " + json.dumps(finish("network_error")).encode()],
]
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
cuts = st.lists(st.integers(0, 10_000), max_size=12)


def streams(of: list[list[bytes]]) -> st.SearchStrategy[bytes]:
    """Events with line ends of one kind, the last event perhaps without its blank line."""
    return st.builds(
        lambda parts, end, cut_off: (
            b"".join(end.join(lines) + end + end for lines in parts)[: -len(end) or None]
            if cut_off and parts
            else b"".join(end.join(lines) + end + end for lines in parts)
        ),
        st.lists(st.sampled_from(of), max_size=8),
        ends,
        st.booleans(),
    )


@properties
@given(stream=streams(GOOD), at=cuts)
def test_a_stream_is_forwarded_and_read_the_same_however_it_is_cut(stream: bytes, at: list[int]) -> None:
    scanner, forwarded = run(*cut(stream, at))
    whole, _ = run(stream)
    assert facts(scanner) == facts(whole)
    assert forwarded.rstrip(b"\r\n") == stream.rstrip(b"\r\n")
    assert events(forwarded) == events(stream)


@properties
@given(stream=streams(GOOD + BAD), at=cuts)
def test_a_stream_with_bad_events_is_forwarded_the_same_however_it_is_cut(stream: bytes, at: list[int]) -> None:
    scanner, forwarded = run(*cut(stream, at))
    whole, expected = run(stream)
    assert facts(scanner) == facts(whole)
    assert events(forwarded) == events(expected)


@properties
@given(stream=streams(GOOD + BAD), at=cuts)
def test_only_whole_events_are_forwarded_at_any_time(stream: bytes, at: list[int]) -> None:
    scanner, forwarded = Scanner(), b""
    for chunk in cut(stream, at):
        forwarded += scanner.feed(chunk)
        assert forwarded.endswith((b"\n\n", b"\r\r", b"\r\n\r\n", b"\n")) or not forwarded
        broken = b'data: {"error": {}}\n\n'
        assert events(forwarded + broken)[-1:] == events(broken)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_forwarded_with_its_last_byte(end: bytes) -> None:
    scanner, whole = Scanner(), event(delta(content="x")).rstrip() + end + end
    assert b"".join(scanner.feed(bytes([byte])) for byte in whole[:-1]) == b""
    assert not scanner.first_token
    assert scanner.feed(whole[-1:]) == whole
    assert scanner.first_token


# The first token.


@pytest.mark.parametrize(
    "data",
    [
        ROLE,
        delta(),
        delta(content=None, reasoning_content=None, tool_calls=None, refusal=None),
        delta(content="", reasoning_content="", reasoning="", tool_calls=[], function_call=None, audio=None),
        {"choices": [{"index": 0, "text": "", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "", "finish_reason": ""}]},
        {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": "null"}]},
        delta(role="assistant", reasoning_details=[], thinking="", audio={}, logprobs=None),
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": []},
        {"choices": None},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}},
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
        {},
    ],
)
def test_an_event_without_output_is_forwarded_and_no_first_token(data: object) -> None:
    scanner, forwarded = run(event(data))
    assert not scanner.first_token
    assert forwarded == event(data)


@pytest.mark.parametrize(
    "data",
    [
        delta(content="x"),
        delta(content=" "),
        delta(role="assistant", content="x"),
        delta(reasoning_content="hm"),
        delta(reasoning="hm"),
        delta(refusal="no"),
        delta(tool_calls=[{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}]),
        delta(function_call={"name": "f", "arguments": ""}),
        delta(audio={"id": "audio_1"}),
        delta(reasoning_details=[{"type": "reasoning.text", "text": "hm "}]),
        delta(thinking="hm"),
        delta(reasoning_text="hm"),
        delta(thinking_blocks=[{"type": "thinking", "thinking": "hm"}]),
        delta(whatever_comes_next={"a": 1}),
        delta(content=[{"type": "text", "text": "x"}]),
        {"choices": [{"index": 0, "text": "x", "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "x"}}]},
        finish("stop"),
        finish("length"),
        finish("content_filter"),
        {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]},
    ],
)
def test_any_output_or_finish_reason_is_a_first_token(data: object) -> None:
    scanner, forwarded = run(event(ROLE), event(data))
    assert scanner.first_token
    assert forwarded == event(ROLE) + event(data)


def test_a_comment_is_forwarded_and_no_first_token() -> None:
    scanner, forwarded = run(b": ping\n\n", b":\n\n")
    assert not scanner.first_token
    assert scanner.events == 0
    assert forwarded == b": ping\n\n:\n\n"


def test_an_error_in_an_event_of_unknown_form_is_an_error() -> None:
    scanner, forwarded = run(event({"error": "no", "choices": {}}))
    assert scanner.error == "no"
    assert forwarded == b""


def test_output_of_unknown_form_is_a_first_token() -> None:
    scanner, forwarded = run(b'data: {"choices": {"delta": 1}}\n\n')
    assert scanner.first_token
    assert forwarded == b'data: {"choices": {"delta": 1}}\n\n'


# Errors, and other events that are not forwarded.


@pytest.mark.parametrize("before", [b"", event(ROLE), event(delta(content="x"))])
@pytest.mark.parametrize(
    "error", [{"message": "no", "code": 500}, "no", {"code": "1302"}], ids=["object", "text", "vendor's"]
)
def test_nothing_is_forwarded_from_an_error_event_on(before: bytes, error: object) -> None:
    failed = event({"error": error})
    for chunks in ([before + failed + event(finish()) + DONE], [before, failed, event(finish()), DONE]):
        scanner, forwarded = run(*chunks)
        assert forwarded == before
        assert scanner.error == (error if isinstance(error, dict) else {"error": error})  # with the keys beside it
        assert scanner.error_event == failed
        assert not scanner.whole


def test_an_error_that_is_null_is_no_error() -> None:
    scanner, forwarded = run(event({"error": None, **delta(content="x")}))
    assert scanner.error is None
    assert scanner.first_token
    assert forwarded


@pytest.mark.parametrize(
    "reason", ["network_error", "abort", "error", "insufficient_system_resource", "Abort", {"type": "abort"}]
)
@pytest.mark.parametrize("before", [b"", event(ROLE), event(delta(content="x"))])
def test_a_finish_reason_that_is_a_failure_is_an_error_without_an_event_to_forward(before: bytes, reason: Any) -> None:
    scanner, forwarded = run(before + event(finish(reason)) + DONE)
    assert forwarded == before
    assert scanner.error
    assert scanner.first_token is (b"content" in before and b"role" not in before)
    assert scanner.error_event == b""
    assert not scanner.whole


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {oops\n\n",
        b'data: {"error": "\xff"}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "\xff"}, "finish_reason": null}]}\n\n',
        b"data: [oops\n\n",
        b"data: \n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_a_malformed_event_is_dropped_and_the_others_are_forwarded(bad: bytes) -> None:
    for between in (b"", b"\r\n"):  # alone, and beside another line end
        scanner, forwarded = run(between + event(delta(content="x")) + bad + event(finish()) + DONE)
        assert events(forwarded) == events(event(delta(content="x")) + event(finish()) + DONE)
        assert scanner.events == 2
        assert scanner.whole


def test_the_events_around_a_dropped_one_are_forwarded_byte_for_byte() -> None:
    before, after = b": ping\r\n\r\ndata: {}\r\n\r\n", b"\r\ndata: [DONE]\r\n\r\n"
    _, forwarded = run(before + b"data: {oops\r\n\r\n" + after)
    assert forwarded == before + after


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("kept", [b"id: 7", b"id:7", b"id", b"retry: 100", b"retry"])
def test_lines_that_clients_remember_beyond_an_event_are_not_forwarded(kept: bytes, end: bytes) -> None:
    data = b'data: {"choices":[{"index":0,"delta":{"content":"id: 7"}}]}'
    for lines in ([kept, data], [data, kept], [b"event: x", kept, data], [kept, data, b"idle: 1"]):
        scanner, forwarded = run(end.join(lines) + end + end, event(delta(content="!")))
        assert scanner.events == 2
        assert forwarded.splitlines() == [
            *(line for line in lines if line != kept),
            b"",
            *event(delta(content="!")).splitlines(),
        ]


@pytest.mark.parametrize("lone", [b"id: 7\n\n", b"retry: 100\n\n", b"event: ping\n\n", b"id: 7\nevent: ping\n\n"])
def test_an_event_without_data_is_not_forwarded(lone: bytes) -> None:
    scanner, forwarded = run(event(ROLE) + lone + event(delta(content="x")))
    assert forwarded == event(ROLE) + event(delta(content="x"))
    assert scanner.malformed == 0


@pytest.mark.parametrize("at", range(5))
def test_a_byte_order_mark_is_removed_and_hides_no_event(at: int) -> None:
    """openai-python reads the mark as a part of the first line, which is then no `data:` line."""
    stream = b"\xef\xbb\xbf" + event(delta(content="x"))
    scanner, forwarded = run(stream[:at], stream[at:])
    assert forwarded == event(delta(content="x"))
    assert (scanner.first_token, scanner.events) == (True, 1)


@pytest.mark.parametrize("first", [event(ROLE), b": ping\n\n", b"data: oops\n\n"])
def test_a_later_byte_order_mark_has_no_meaning(first: bytes) -> None:
    scanner, forwarded = run(first, b"\xef\xbb\xbf" + event(delta(content="x")))
    assert not scanner.first_token
    assert b"\xef" not in forwarded


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_named_error_is_an_error_with_any_line_end(end: bytes) -> None:
    scanner, forwarded = run(b"event: error" + end + b"data: gone" + end + end)
    assert (scanner.error, forwarded) == ({"message": "an error"}, b"")


def test_a_line_may_end_in_cr_where_an_event_ends_in_lf() -> None:
    stream = b'data: {"choices":[]}\r\r' + event(delta(content="x"))
    scanner, forwarded = run(stream)
    assert (scanner.events, scanner.malformed, forwarded) == (2, 0, stream)
    scanner, forwarded = run(b'data: {"a":1,\r"b":2}\n\n')  # white space in JSON, but two lines for an SDK
    assert (scanner.malformed, forwarded) == (1, b"")


# The end.


def test_done_is_the_end_and_no_event() -> None:
    scanner, forwarded = run(DONE)
    assert (scanner.done, scanner.whole, scanner.first_token, scanner.events) == (True, True, False, 0)
    assert forwarded == DONE


@pytest.mark.parametrize("at", [0, 3, 20, 200])
def test_nothing_is_forwarded_after_done(at: int) -> None:
    after = event(delta(content="x")) + event({"error": {"message": "too late"}})
    stream = event(finish()) + DONE + after
    place = len(stream) - len(after) + at
    scanner, forwarded = run(stream[:place], stream[place:])
    assert forwarded == event(finish()) + DONE
    assert (scanner.error, scanner.events, scanner.whole) == (None, 1, True)


@pytest.mark.parametrize("last", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n", b"data: [DONE]\r\n\r"])
def test_a_last_event_without_its_blank_line_gets_one(last: bytes) -> None:
    scanner, forwarded = run(event(finish()), last)
    assert forwarded == event(finish()) + DONE
    assert scanner.done


def test_a_part_of_an_event_is_not_forwarded() -> None:
    scanner, forwarded = run(event(delta(content="x")), b'data: {"choices": [{"del')
    assert forwarded == event(delta(content="x"))
    assert not scanner.whole


def test_an_answer_is_complete_when_every_choice_has_finished() -> None:
    scanner = Scanner(choices=2)
    scanner.feed(event(delta(content="x")) + event(finish(index=1)))
    assert not scanner.whole
    scanner.feed(event(finish("length", index=0)))
    assert scanner.whole


def test_both_choices_may_finish_in_one_event() -> None:
    both = {"choices": [*finish()["choices"], *finish(index=1)["choices"]]}
    assert run(event(both), choices=2)[0].whole


def test_the_last_usage_counts() -> None:
    reports = [{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": n}} for n in (1, 2)]
    scanner, _ = run(*map(event, reports), event({**finish(), "usage": None}), DONE)
    assert scanner.usage is not None
    assert (scanner.usage.prompt_tokens, scanner.usage.completion_tokens) == (3, 2)


ODD: list[tuple[Any, Any]] = [
    ({"prompt_tokens": "5", "completion_tokens": 2}, (None, 2)),
    ({"prompt_tokens": 1.5, "completion_tokens": [1]}, (None, None)),
    ({"prompt_tokens": True, "completion_tokens": -1}, (None, None)),
    ({}, (None, None)),
    *((usage, None) for usage in list[Any](("none", [], [{}], 7, 0.5, True, False, None))),
]


@pytest.mark.parametrize(("usage", "read"), ODD)
def test_odd_usage_is_read_as_far_as_possible_and_changes_nothing_else(usage: Any, read: tuple[object, ...]) -> None:
    scanner, forwarded = run(event({**ROLE, "usage": usage}))
    assert (forwarded, scanner.first_token) == (event({**ROLE, "usage": usage}), False)
    scanner.feed(event({**delta(content="x"), "usage": usage}) + event({**finish(), "usage": usage}))
    assert (scanner.first_token, scanner.whole, scanner.events, scanner.malformed) == (True, True, 3, 0)
    assert facts(scanner)[-1] == read


@pytest.mark.parametrize(("usage", "_"), ODD)
def test_odd_usage_hides_no_error(usage: Any, _: object) -> None:
    for before in (b"", event(delta(content="x"))):
        scanner, forwarded = run(before + event({"usage": usage, "error": {"code": "boom"}}))
        assert (scanner.error, forwarded) == ({"code": "boom"}, before)


# Reasons that are taken back, and choices that were not asked for.


def both(reason: str = "stop", text: str = "x") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("sent", "whole"),
    [
        ([both()], True),
        ([finish()], True),
        ([finish(), delta(content="x")], False),
        ([finish(), delta(content=""), delta(role="assistant"), {"choices": []}], True),
        ([finish(), delta(content="x"), finish()], True),
        ([both()] * 6, False),  # a reason in every event: only the end of the stream tells
        ([*[both()] * 6, finish()], True),
        ([both("null"), both("null")], False),
        *(([both(none), both(none), finish(none)], False) for none in ("None", "NULL", "undefined", "nil", " ", "n/a")),
        ([both("FINISH_REASON_UNSPECIFIED")] * 2, False),
        ([delta(content="x"), finish(""), finish("null")], False),
        ([delta(content="x"), finish(index=1)], False),  # no such choice
        ([delta(content="x"), {"choices": [{"index": None, "delta": {}, "finish_reason": "stop"}]}], True),
        (
            [delta(content="x"), *({"choices": [{"index": i, "finish_reason": "stop"}]} for i in ("0", 0.5, True))],
            False,
        ),
    ],
)
def test_output_after_a_finish_reason_takes_it_back(sent: list[Any], whole: bool) -> None:
    scanner, forwarded = run(*map(event, sent))
    assert (scanner.whole, scanner.finished) == (whole, whole)
    assert forwarded == b"".join(map(event, sent))
    assert run(*map(event, sent), DONE)[0].whole


def test_a_reason_of_one_choice_is_taken_back_by_its_own_output_only() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "x"}}]}
    scanner, _ = run(event(finish()), event(other), event(finish(index=1)), choices=2)
    assert scanner.whole
    scanner, _ = run(event(finish()), event(finish(index=1)), event(other), choices=2)
    assert not scanner.whole


def test_a_reason_in_every_event_is_one_for_an_endpoint_that_always_gives_one() -> None:
    scanner = Scanner(must_finish=True)
    scanner.feed(event(both()) * 6 + DONE)
    assert (scanner.error, scanner.whole) == (None, True)


def test_choices_that_were_not_asked_for_are_not_kept() -> None:
    scanner, _ = run(*(event(finish(index=number)) for number in range(1, 2000)))
    assert len(scanner._finished) == 0


# JSON that only Python reads, and JSON that is no chunk.


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"},"finish_reason":null}]}',
        b'{"choices":[{"index":0,"delta":{"content":"x"},"logprobs":{"content":[{"token":"x","logprob":-Infinity}]}}]}',
        b'{"choices":[{"index":0,"delta":{"content":"x"},"logprobs":NaN}]}',
        b'{"choices":[{"index":0,"delta":{"content":1e999}}]}',
    ],
)
@pytest.mark.parametrize("before", [b"", event(delta(content="x")), event(finish())])
def test_what_python_reads_is_forwarded_byte_for_byte(before: bytes, data: bytes) -> None:
    sent = b"data: " + data + b"\n\n"
    scanner, forwarded = run(before + sent)
    assert forwarded == before + sent
    assert (scanner.first_token, scanner.malformed, scanner.error) == (True, 0, None)
    assert not scanner.whole  # after a reason to finish it is output
    scanner, forwarded = run(before + sent + b'data: {"error":{"code":"boom","x":NaN}}\n\n')
    assert (forwarded, scanner.error["code"]) == (before + sent, "boom")


@pytest.mark.parametrize("value", [b"1", b"null", b"true", b'"ping"', b"[]", b'[{"error":1}]', b"NaN"])
def test_json_that_is_no_object_is_a_heartbeat(value: bytes) -> None:
    sent = b"data: " + value + b"\n\n"
    scanner, forwarded = run(sent)
    assert (forwarded, scanner.first_token, scanner.malformed) == (sent, False, 0)


@pytest.mark.parametrize("count", [-1, (1 << 31) + 1, 10**400, 1e400, True, "5", None])
def test_a_count_of_tokens_that_no_answer_has_is_ignored(count: Any) -> None:
    usage = json.dumps({"usage": {"prompt_tokens": count, "completion_tokens": 1 << 31}}).encode()
    scanner, _ = run(event(delta(content="x")), b"data: " + usage + b"\n\n")
    assert facts(scanner)[-1] == (None, 1 << 31)


# The limit.


def test_an_event_that_does_not_end_within_the_limit_is_too_large() -> None:
    scanner = Scanner(limit=1000)
    scanner.feed(b"data: " + b"x" * 990)
    with pytest.raises(EventTooLarge):
        scanner.feed(b"x" * 10)


def test_the_limit_applies_to_one_event_and_not_to_the_stream() -> None:
    scanner = Scanner(limit=1000)
    for _ in range(100):
        scanner.feed(event(delta(content="x" * 500))[:-1])
        scanner.feed(b"\n")
    assert scanner.events == 100
