"""A transcript: the texts that a client has received, and whether a second answer can be compared with them."""

from __future__ import annotations

import pytest

from router.core.stream.splice import Diverged, Replay
from router.core.stream.transcript import MAX_TEXT, MAX_UNREAD, Transcript
from tests.core.stream.helpers import chunk, sse, transcript_of


def test_a_transcript_has_the_texts_of_all_parts_and_choices() -> None:
    had = transcript_of(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="hm"),
        chunk(content="Hel") + b": ping\n\n" + chunk(content="lo"),
        chunk(1, content="Other", finish="stop"),
        chunk(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        sse({"choices": [], "usage": {"prompt_tokens": 1}}),
    )
    had.read()
    assert had.texts == {
        (0, ("reasoning_content",)): "hm",
        (0, ("content",)): "Hello",
        (1, ("content",)): "Other",
        (0, ("tool_calls", 0, "name")): "f",
        (0, ("tool_calls", 0, "arguments")): '{"a"',
    }
    assert had.facts == {"id": "one", "created": 1, "model": "of-one"}
    assert had.finished == {1}
    assert had.tokens == 6
    assert not had.mixed
    assert had.plain is None


def test_a_long_answer_is_read_as_it_comes_and_a_huge_one_is_dropped() -> None:
    had = Transcript()
    for _ in range(3 * MAX_UNREAD // 1000):
        had.note(chunk(content="x" * 1000))
    assert sum(map(len, had.texts.values())) >= 2 * MAX_UNREAD
    for _ in range(MAX_TEXT // 1000):
        had.note(chunk(content="x" * 1000))
    had.read()
    assert had.mixed
    assert not had.texts
    with pytest.raises(Diverged):
        Replay(had)


@pytest.mark.parametrize(
    "event",
    [
        sse([1, 2]),
        sse({"progress": 3}),
        sse({"choices": "none"}),
        chunk(audio={"data": "AAAA"}),
        chunk(content="a picture: ", picture=["AAAA"]),
        chunk(tool_calls=[{"index": 0, "id": "c1", "type": "custom", "custom": {"name": "sql", "input": "select "}}]),
        chunk(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "sql", "arguments": {"query": "select 1"}}}]),
        sse({"choices": [{"index": 0, "delta": 3}]}),
        b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n',  # half of a surrogate pair
        b'data: {"choices":[{"delta":{},"logprobs":{"content":[{"logprob":-1e999}]}}]}\n\n',
    ],
)
def test_output_that_is_not_text_cannot_be_compared(event: bytes) -> None:
    had = transcript_of(chunk(content="Hello"), event)
    with pytest.raises(Diverged, match="cannot be compared"):
        Replay(had)
    assert had.plain is None


@pytest.mark.parametrize(
    ("events", "plain"),
    [
        ([chunk(content="Hel"), chunk(content="lo ")], "Hello "),
        ([chunk(reasoning_content="hm"), chunk(content="Hello")], "Hello"),
        ([sse({"choices": [{"index": 0, "text": "Once"}]})], "Once"),
        ([chunk(reasoning_content="hm")], None),
        ([chunk(content="Hel"), chunk(content="lo", thought="hm")], None),
        ([chunk(content="Hel"), sse({"choices": [{"delta": {"content": "lo"}, "text": "lo"}]})], None),
        ([chunk(content="Hello"), chunk(tool_calls=[{"index": 0, "id": "c1", "type": "function"}])], None),
        ([chunk(content="Hello", finish="stop")], None),
        ([chunk(content="Hello"), chunk(1, content="Hi")], None),
        ([chunk(1, content="Hi")], None),
        ([chunk(content="Hello"), chunk(tool_calls=[{"index": 0, "function": {"name": "f"}}])], None),
        ([chunk(content="Hello"), chunk(refusal="No")], None),
    ],
)
def test_only_a_single_unfinished_text_is_plain(events: list[bytes], plain: str | None) -> None:
    assert transcript_of(*events).plain == plain
