"""Progress of a stream: what counts against `stall`, and what is only a sign of life."""

from __future__ import annotations

import json

import pytest

from router.core.stream.progress import LONG_READ, MAX_READS, Progress, progresses


def note(progress: Progress, events: bytes, at: float) -> None:
    """Feed a progress as the relay does."""
    progress.unread.append((at, events))
    if len(progress.unread) > MAX_READS or len(events) > LONG_READ:
        progress.look()


def choice(**fields: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **fields}]}).encode() + b"\n\n"


TOKEN = choice(delta={"content": "x"}, finish_reason=None)
PING = b'data: {"type":"keepalive","sequence_number":1}\n\n'
TOOL = choice(delta={"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}]})


@pytest.mark.parametrize(
    "events",
    [
        TOKEN,
        TOKEN.replace(b"\n", b"\r\n"),
        choice(delta={"reasoning_details": [{"type": "reasoning.text", "text": "hm "}]}),
        choice(delta={"thinking": "hm"}),
        choice(text="x"),
        choice(delta={}),  # vLLM, while it holds the arguments of a tool call back
        choice(delta={"content": ""}, finish_reason="stop"),
        TOOL,
        b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n',  # only Python reads these two
        b'data: {"choices":[{"index":0,"delta":{"content":"x"},"logprobs":NaN}]}\n\n',
        b'data: {"choices":[{"delta":"x"}]}\n\n',  # output of an unknown form
        PING + TOKEN + PING,
    ],
)
def test_output_an_empty_delta_a_finish_reason_and_usage_are_progress(events: bytes) -> None:
    assert progresses(events)


@pytest.mark.parametrize(
    "events",
    [
        b"",
        b": ping\n\n",
        PING,
        b"event: ping\ndata: {}\n\n",
        b'data: {"choices":[]}\n\n',
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":null}\n\n',
        choice(delta=None),
        choice(delta={"content": ""}),
        choice(delta={"role": "assistant"}),
        choice(delta={"content": None, "tool_calls": [], "reasoning": {}}),
        choice(text="", finish_reason="null"),
        choice(delta={"content": ""}, finish_reason="undefined"),
        b'data: {"choices":[],"usage":{}}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n',
        b'data: {"choices":[null]}\n\n',
        b'data: {"choices":"ping"}\n\n',
        choice(delta=[]),
        choice(delta=""),
        *(b"data: %b\n\n" % value for value in (b"1", b"null", b"true", b'"ping"', b"[]", b'[{"choices":[1]}]')),
        b"data: oops\n\n",
    ],
)
def test_heartbeats_of_any_form_are_no_progress(events: bytes) -> None:
    assert not progresses(events)


def test_the_time_of_the_last_progress_is_exact_with_heartbeats_before_and_after() -> None:
    progress = Progress(0.0)
    for at, events in ((1.0, PING), (2.0, TOKEN), (3.0, TOKEN), (4.0, PING), (5.0, b": ping\n\n")):
        note(progress, events, at)
    progress.look()
    assert progress.at == 3.0
    note(progress, PING, 6.0)
    progress.look()
    assert progress.at == 3.0


def test_few_events_are_kept_unread() -> None:
    progress = Progress(0.0)
    for number in range(10 * MAX_READS):
        note(progress, TOKEN, float(number))
        assert len(progress.unread) <= MAX_READS
    note(progress, TOKEN + b": " + b"x" * LONG_READ + b"\n\n", 1000.0)
    assert (progress.unread, progress.at) == ([], 1000.0)


@pytest.mark.parametrize("after", [b"", TOKEN, PING])
def test_a_tool_call_has_begun_once_one_was_seen(after: bytes) -> None:
    progress = Progress(0.0)
    note(progress, TOKEN, 1.0)
    progress.look()
    assert not progress.tool_call
    note(progress, TOOL, 2.0)
    note(progress, after, 3.0)
    progress.look()
    assert progress.tool_call


def test_a_text_about_tool_calls_is_none() -> None:
    progress = Progress(0.0)
    note(progress, choice(delta={"content": '"tool_calls":[{'}), 1.0)
    note(progress, choice(delta={"content": "x", "tool_calls": None}), 2.0)
    progress.look()
    assert not progress.tool_call
