"""One answer from two streams: the client gets each text once, and from one answer, however the streams are cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.stream.splice import RESTART, SEAM, Continuation, Diverged, Replay
from tests.core.helpers import properties
from tests.core.stream.helpers import DONE, Json, chunk, chunks_in, cut, deltas, sse, text, transcript_of

# ---- Replay


@properties
@given(
    whole=st.text(min_size=1, max_size=60),
    had=st.integers(1, 60),
    first=st.lists(st.integers(0, 60), max_size=8),
    second=st.lists(st.integers(0, 60), max_size=8),
)
def test_a_replay_ends_in_the_whole_text_however_both_streams_are_cut(
    whole: str, had: int, first: list[int], second: list[int]
) -> None:
    begun = whole[: 1 + had % len(whole)]
    transcript = transcript_of(*(chunk(content=piece) for piece in cut(begun, first)))
    replay = Replay(transcript)
    events = [chunk(id="two", role="assistant", content="")]
    events += [chunk(id="two", content=piece) for piece in cut(whole, second)]
    events += [chunk(id="two", finish="stop"), sse({"choices": [], "usage": {"completion_tokens": 9}}), DONE]
    passed = b"".join(replay.feed(event) for event in events) + replay.finish()
    assert begun + text(passed) == whole
    assert not any("role" in delta for delta in deltas(passed))
    assert {chunk["id"] for chunk in chunks_in(passed)} == {"one"}
    assert chunks_in(passed)[-1]["usage"] == {"completion_tokens": 9}
    assert chunks_in(passed)[-2]["choices"][0]["finish_reason"] == "stop"
    assert passed.endswith(DONE)


@properties
@given(
    whole=st.text("ab", min_size=1, max_size=20), other=st.text("ab", min_size=1, max_size=20), had=st.integers(1, 20)
)
def test_a_replay_never_adds_the_text_of_a_different_answer(whole: str, other: str, had: int) -> None:
    begun = whole[:had]
    replay = Replay(transcript_of(chunk(content=begun)))
    events = [chunk(id="two", content=letter) for letter in other]
    events += [chunk(id="two", finish="stop"), DONE]
    passed: list[bytes] = []
    if other.startswith(begun):
        passed.extend(map(replay.feed, events))
        assert begun + text(b"".join(passed)) == other
    else:
        with pytest.raises(Diverged):
            passed.extend(map(replay.feed, events))
        assert b"".join(passed) == b""


def test_a_replay_follows_each_choice_separately() -> None:
    replay = Replay(transcript_of(chunk(0, content="AB"), chunk(1, content="12", finish="stop")))
    assert replay.feed(chunk(1, id="two", content="1")) == b""
    assert text(replay.feed(chunk(0, id="two", content="ABC"))) == "C"
    caught_up = [replay.caught_up]
    assert replay.feed(chunk(1, id="two", content="2", finish="stop")) == b""
    assert [*caught_up, replay.caught_up] == [False, True]
    assert text(replay.feed(chunk(0, id="two", content="D"))) == "D"
    with pytest.raises(Diverged, match="longer"):
        replay.feed(chunk(1, id="two", content="3"))


def test_a_choice_with_only_a_role_does_not_get_the_role_twice() -> None:
    replay = Replay(transcript_of(chunk(content="Hello"), chunk(1, role="assistant", content="")))
    events = chunk(content="Hello"), chunk(1, role="assistant", content=""), chunk(1, role="assistant", content="Hi")
    assert deltas(b"".join(map(replay.feed, events))) == [{"content": "Hi"}]


def test_the_arguments_of_a_tool_call_continue_and_its_id_is_not_sent_twice() -> None:
    def call(name: str = "", arguments: str = "", **more: Any) -> bytes:
        function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value}
        return chunk(id="two", tool_calls=[{"index": 0, **more, "function": function}])

    replay = Replay(transcript_of(call("weather", '{"city": ', id="c1", type="function")))
    assert replay.feed(call("weather", id="c2", type="function")) == b""
    passed = replay.feed(call(arguments='{"city": "Berlin', id="c2"))
    assert deltas(passed) == [{"tool_calls": [{"index": 0, "function": {"arguments": '"Berlin'}}]}]
    second = {"index": 1, "id": "c3", "type": "function", "function": {"name": "time", "arguments": ""}}
    passed = replay.feed(chunk(id="two", tool_calls=[{"index": 0, "function": {"arguments": '"}'}}, second]))
    assert deltas(passed) == [{"tool_calls": [{"index": 0, "function": {"arguments": '"}'}}, second]}]


@pytest.mark.parametrize("function", [{}, {"function": {"name": "", "arguments": ""}}])
def test_a_tool_call_with_only_an_id_is_not_begun_twice(function: Json) -> None:
    def begun(id: str) -> bytes:
        return chunk(id="two", tool_calls=[{"index": 0, "id": id, "type": "function", **function}])

    had = transcript_of(begun("c1"))
    assert had.plain is None
    replay = Replay(had)
    assert replay.feed(begun("c2")) == b""
    passed = replay.feed(chunk(id="two", tool_calls=[{"index": 0, "function": {"name": "time", "arguments": "{}"}}]))
    assert deltas(passed) == [{"tool_calls": [{"index": 0, "function": {"name": "time", "arguments": "{}"}}]}]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([chunk(content="Hullo")], "another text"),
        ([chunk(content="Hel", finish="stop")], "shorter"),
        ([chunk(content="Hel"), DONE], "shorter"),
        ([chunk(reasoning_content="hm")], "another order"),
        ([chunk(audio={"data": "AAAA"})], "compared"),
        ([sse(3)], "not a chunk"),
        ([b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n'], "cannot be read"),
    ],
)
def test_a_replay_forwards_nothing_of_a_different_answer(events: list[bytes], why: str) -> None:
    replay = Replay(transcript_of(chunk(content="Hello")))
    *before, last = events
    assert b"".join(map(replay.feed, before)) == b""
    with pytest.raises(Diverged, match=why):
        replay.feed(last)


def test_a_replay_that_ends_before_the_clients_text_is_shorter() -> None:
    replay = Replay(transcript_of(chunk(content="Hello")))
    replay.feed(chunk(content="Hell"))
    with pytest.raises(Diverged, match="shorter"):
        replay.finish()


def test_log_probabilities_are_forwarded_if_the_tokens_end_at_the_same_places() -> None:
    def token(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}
        return sse({"choices": [choice]})

    replay = Replay(transcript_of(token("Hel")))
    assert replay.feed(token("Hel")) == b""
    (choice,) = chunks_in(replay.feed(token("lo")))[0]["choices"]
    assert choice["logprobs"] == {"content": [{"token": "lo"}]}
    replay = Replay(transcript_of(token("Hel")))
    with pytest.raises(Diverged, match="tokens"):
        replay.feed(token("Hello"))


def test_a_replay_forwards_comments_and_after_it_caught_up_any_output() -> None:
    replay = Replay(transcript_of(chunk(content="Hel")))
    assert replay.feed(b": alive\n\n" + chunk(content="H")) == b": alive\n\n"
    assert deltas(replay.feed(chunk(content="ello"))) == [{"content": "lo"}]
    assert deltas(replay.feed(chunk(audio={"data": "AA"}))) == [{"audio": {"data": "AA"}}]


# ---- Continuation


def continued(begun: str, *pieces: str, finish: bool = True) -> str:
    """The client's text after a continuation in these pieces."""
    transcript = transcript_of(chunk(role="assistant", content=""), *(chunk(content=letter) for letter in begun))
    splice = Continuation(transcript, begun.rstrip())
    passed = b"".join(splice.feed(chunk(id="two", role="assistant", content=piece)) for piece in pieces)
    passed += splice.feed(chunk(id="two", finish="stop") + DONE) if finish else b""
    passed += splice.finish()
    assert {chunk["id"] for chunk in chunks_in(passed)} <= {"one"}
    assert {chunk["model"] for chunk in chunks_in(passed)} <= {"of-one"}
    assert not any("role" in delta for delta in deltas(passed))
    return begun + text(passed)


def test_a_continuation_is_forwarded_under_the_first_id_and_model() -> None:
    assert continued("The quick brown", " fox", " jumps") == "The quick brown fox jumps"
    assert continued("The quick brown", " fox", " jumps", finish=False) == "The quick brown fox jumps"


def test_white_space_at_the_seam_is_forwarded_once() -> None:
    assert continued("The quick ", " brown") == "The quick brown"
    assert continued("The quick ", "brown") == "The quick brown"
    assert continued("One\n\n", "\n\nTwo") == "One\n\nTwo"


def test_a_repetition_at_the_seam_is_removed() -> None:
    assert continued("It was the best of times,", " the best of times, it was") == "It was the best of times, it was"


def test_a_short_overlap_at_the_seam_is_a_coincidence() -> None:
    assert continued("so far, so", " so good") == "so far, so so good"


def test_a_continuation_that_begins_the_answer_again_diverges() -> None:
    begun = "The quick brown fox jumps over the lazy dog"
    assert len(begun) > RESTART
    with pytest.raises(Diverged, match="again"):
        continued(begun, begun, " and then")


def test_a_continuation_that_begins_a_short_answer_again_diverges() -> None:
    for begun in ("The ", "w0", "Yes, "):
        with pytest.raises(Diverged, match="again"):
            continued(begun, begun, "quick brown fox")


def test_a_continuation_that_begins_with_reasoning_diverges() -> None:
    splice = Continuation(transcript_of(chunk(content="Hello")), "Hello")
    with pytest.raises(Diverged, match="reason"):
        splice.feed(chunk(reasoning_content="Let me see"))


@properties
@given(
    begun=st.text("ab \n", min_size=1, max_size=40).filter(str.strip),
    rest=st.text("cd \n", max_size=120).filter(lambda rest: not rest[:1].isspace()),
    places=st.lists(st.integers(0, 120), max_size=8),
)
def test_a_continuation_that_repeats_nothing_loses_nothing(begun: str, rest: str, places: list[int]) -> None:
    assert continued(begun, *cut(rest, places)) == begun + rest


def test_the_seam_is_compared_before_any_text_is_forwarded() -> None:
    splice = Continuation(transcript_of(chunk(content="Hello")), "Hello")
    assert splice.feed(chunk(content="x" * (SEAM - 1))) == b""
    assert text(splice.feed(chunk(content="y"))) == "x" * (SEAM - 1) + "y"
    assert text(splice.feed(chunk(content="z"))) == "z"


def test_the_usage_of_both_endpoints_is_combined() -> None:
    splice = Continuation(transcript_of(*(chunk(content=letter) for letter in "Hello")), "Hello")
    usage = {"prompt_tokens": 25, "completion_tokens": 4, "total_tokens": 29, "prompt_tokens_details": {"x": 1}}
    passed = splice.feed(chunk(content=" you", finish="stop") + sse({"choices": [], "usage": usage}))
    assert chunks_in(passed)[-1]["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "total_tokens": 29,
        "prompt_tokens_details": {"x": 1},
    }


def test_a_completion_is_continued_in_its_own_form() -> None:
    def piece(text: str, **more: Any) -> bytes:
        return sse({"id": "x", "choices": [{"index": 0, "text": text, **more}]})

    splice = Continuation(transcript_of(piece("Once upon")), "Once upon")
    passed = splice.feed(piece(" a time")) + splice.feed(piece("", finish_reason="stop") + DONE)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks_in(passed)) == " a time"


@pytest.mark.parametrize("begun", [chunk(content="x", finish="stop"), chunk(reasoning_content="hm"), sse(3)])
def test_an_answer_that_is_not_plain_text_is_not_continued(begun: bytes) -> None:
    with pytest.raises(Diverged):
        Continuation(transcript_of(begun), "x")
