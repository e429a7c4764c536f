"""The JSON of one chunk: which texts and other output are in it, and how it is reduced and rewritten."""

from __future__ import annotations

from typing import Any

import pytest

from router.core.stream.chunks import (
    Diverged,
    choices_of,
    combined_usage,
    decoded,
    encoded,
    has_other_output,
    reduced,
    texts_of,
    with_text,
)
from tests.core.stream.helpers import DONE, Json, sse

CALL = {"index": 2, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_chunk_is_decoded_and_encoded_unchanged() -> None:
    chunk = {"id": "x", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    assert decoded(sse(chunk)) == chunk
    assert decoded(encoded(chunk)) == chunk


@pytest.mark.parametrize("event", [b": ping", b"", DONE, b"event: ping"])
def test_a_comment_and_done_hold_no_chunk(event: bytes) -> None:
    assert decoded(event) is None


@pytest.mark.parametrize("data", [b"oops", b"[1]", b"3", b'{"choices":"none"}', b'{"x":1e999}', b'{"x":"\\ud800"}'])
def test_an_event_that_is_no_chunk_diverges(data: bytes) -> None:
    with pytest.raises(Diverged):
        decoded(b"data: " + data)


def test_choices_without_an_index_are_the_first() -> None:
    chunk: Json = {"choices": [{"index": 1}, {}, {"index": "x"}, None, 3]}
    assert list(choices_of(chunk)) == [(1, {"index": 1}), (0, {}), (0, {"index": "x"})]
    assert list(choices_of({"choices": None})) == list(choices_of({})) == []


@pytest.mark.parametrize(
    ("choice", "texts"),
    [
        ({"text": "Once"}, {("text",): "Once"}),
        ({"delta": {"role": "assistant", "content": "Hi", "reasoning": ""}}, {("content",): "Hi"}),
        ({"delta": {"refusal": "No", "content": None}}, {("refusal",): "No"}),
        (
            {"delta": {"tool_calls": [CALL]}},
            {("tool_calls", 2, "name"): "f", ("tool_calls", 2, "arguments"): "{}"},
        ),
        ({"delta": {"tool_calls": [{"id": "c1"}]}}, {("tool_calls", 0, "name"): ""}),
        ({"delta": {"function_call": {"name": "f", "arguments": 3}}}, {("function_call", "name"): "f"}),
        ({"delta": None}, {}),
        ({"delta": 3}, {}),
    ],
)
def test_the_texts_of_a_choice_are_found_by_part(choice: Json, texts: dict[Any, str]) -> None:
    assert texts_of(choice) == texts


@pytest.mark.parametrize(
    ("choice", "other"),
    [
        ({}, False),
        ({"delta": {"role": "assistant", "content": "Hi", "audio": None}}, False),
        ({"delta": {"tool_calls": [CALL]}}, False),
        ({"delta": 3}, True),
        ({"delta": {"audio": {"data": "AA"}}}, True),
        ({"delta": {"tool_calls": [{**CALL, "type": "custom", "custom": {"input": "x"}}]}}, True),
        ({"delta": {"tool_calls": [{**CALL, "function": {"arguments": {"a": 1}}}]}}, True),
    ],
)
def test_output_that_is_not_text_is_noticed(choice: Json, other: bool) -> None:
    assert has_other_output(choice) is other


def test_a_reduced_choice_has_only_the_missing_texts() -> None:
    choice: Json = {"index": 0, "delta": {"role": "assistant", "content": "Hello", "audio": {"data": "AA"}}}
    missing: dict[Any, str] = {("content",): "lo"}
    assert reduced(choice, missing, set(), others=False) == {"index": 0, "delta": {"content": "lo"}}
    both = {"content": "lo", "audio": {"data": "AA"}}
    assert reduced(choice, missing, set(), others=True) == {"index": 0, "delta": both}
    assert reduced(choice, {}, set(), others=False) is None
    assert reduced({"text": "Hello"}, {("text",): "lo"}, set(), others=False) == {"text": "lo"}


def test_a_choice_with_a_finish_reason_is_never_dropped() -> None:
    choice: Json = {"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}
    assert reduced(choice, {}, set(), others=False) == {"index": 0, "delta": {}, "finish_reason": "stop"}


def test_a_known_tool_call_is_reduced_to_its_missing_texts() -> None:
    choice: Json = {"delta": {"tool_calls": [CALL]}}
    missing: dict[Any, str] = {("tool_calls", 2, "arguments"): "}"}
    rest = {"index": 2, "function": {"arguments": "}"}}
    assert reduced(choice, missing, {("tool_calls", 2, "name")}, others=False) == {"delta": {"tool_calls": [rest]}}
    assert reduced(choice, missing, set(), others=False) == choice  # the client has nothing of the call yet


@pytest.mark.parametrize(
    ("choice", "changed"),
    [
        ({"text": "a"}, {"text": "b"}),
        ({"delta": {"content": "a", "x": 1}}, {"delta": {"content": "b", "x": 1}}),
        ({"index": 1}, {"index": 1, "delta": {"content": "b"}}),
    ],
)
def test_the_text_of_a_choice_is_replaced(choice: Json, changed: Json) -> None:
    assert with_text(choice, "b") == changed


def test_usage_is_combined_as_if_one_endpoint_had_answered() -> None:
    usage = {"prompt_tokens": 25, "completion_tokens": 4, "total_tokens": 29}
    assert combined_usage(usage, 5) == {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
    assert combined_usage(usage, 30)["prompt_tokens"] == 0


def test_usage_that_has_no_counts_is_left_unchanged() -> None:
    assert combined_usage({"prompt_tokens": "25", "completion_tokens": 4}, 5) == {
        "prompt_tokens": "25",
        "completion_tokens": 4,
    }
