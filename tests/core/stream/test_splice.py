"""One answer made of two streams: however they are cut, the client has each text once, and one endpoint's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.stream.scanner import data_of, split
from router.core.stream.splice import AGAIN, DIGEST, MOST, SEAM, Continuation, Diverged, Replay, Transcript
from tests.core.helpers import properties

DONE = b"data: [DONE]\n\n"
Json = dict[str, Any]


def sse(shape: Any) -> bytes:
    return b"data: " + json.dumps(shape).encode() + b"\n\n"


def chunk(index: int = 0, *, id: str = "one", finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return sse({"id": id, "created": 1, "model": f"of-{id}", "choices": [choice]})


def told(*events: bytes) -> Transcript:
    transcript = Transcript()
    for event in events:
        transcript.note(event)
    return transcript


def shapes(data: bytes) -> list[Json]:
    datas = [data_of(event) for event in split(data)]
    return [json.loads(said) for said in datas if said and said != b"[DONE]"]


def deltas(data: bytes) -> list[Json]:
    return [choice.get("delta", {}) for shape in shapes(data) for choice in shape["choices"]]


def text(data: bytes, part: str = "content", index: int = 0) -> str:
    choices = [choice for shape in shapes(data) for choice in shape["choices"] if choice["index"] == index]
    return "".join(choice.get("delta", {}).get(part) or "" for choice in choices)


def cut(whole: str, places: list[int]) -> list[str]:
    places = sorted({place % (len(whole) + 1) for place in places})
    return [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True) if a < b]


# ---- What the client has


def test_a_transcript_has_the_texts_of_all_parts_and_choices() -> None:
    had = told(
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


def test_a_long_answer_is_read_as_it_comes_and_a_huge_one_forgotten() -> None:
    had = Transcript()
    for _ in range(3 * DIGEST // 1000):
        had.note(chunk(content="x" * 1000))
    assert sum(map(len, had.texts.values())) >= 2 * DIGEST
    for _ in range(MOST // 1000):
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
        b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n',  # half a character
        b'data: {"choices":[{"delta":{},"logprobs":{"content":[{"logprob":-1e999}]}}]}\n\n',
    ],
)
def test_what_is_no_text_can_not_be_compared(event: bytes) -> None:
    had = told(chunk(content="Hello"), event)
    with pytest.raises(Diverged, match="can't be compared"):
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
def test_only_one_text_that_is_not_at_its_end_is_plain(events: list[bytes], plain: str | None) -> None:
    assert told(*events).plain == plain


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
    transcript = told(*(chunk(content=piece) for piece in cut(begun, first)))
    replay = Replay(transcript)
    given = [chunk(id="two", role="assistant", content="")]
    given += [chunk(id="two", content=piece) for piece in cut(whole, second)]
    given += [chunk(id="two", finish="stop"), sse({"choices": [], "usage": {"completion_tokens": 9}}), DONE]
    passed = b"".join(replay.feed(event) for event in given) + replay.finish()
    assert begun + text(passed) == whole
    assert not any("role" in delta for delta in deltas(passed))
    assert {shape["id"] for shape in shapes(passed)} == {"one"}
    assert shapes(passed)[-1]["usage"] == {"completion_tokens": 9}
    assert shapes(passed)[-2]["choices"][0]["finish_reason"] == "stop"
    assert passed.endswith(DONE)


@properties
@given(
    whole=st.text("ab", min_size=1, max_size=20), other=st.text("ab", min_size=1, max_size=20), had=st.integers(1, 20)
)
def test_a_replay_never_adds_to_a_text_what_another_answer_says(whole: str, other: str, had: int) -> None:
    begun = whole[:had]
    replay = Replay(told(chunk(content=begun)))
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


def test_a_replay_knows_each_choice_by_itself() -> None:
    replay = Replay(told(chunk(0, content="AB"), chunk(1, content="12", finish="stop")))
    assert replay.feed(chunk(1, id="two", content="1")) == b""
    assert text(replay.feed(chunk(0, id="two", content="ABC"))) == "C"
    caught_up = [replay.caught_up]
    assert replay.feed(chunk(1, id="two", content="2", finish="stop")) == b""
    assert [*caught_up, replay.caught_up] == [False, True]
    assert text(replay.feed(chunk(0, id="two", content="D"))) == "D"
    with pytest.raises(Diverged, match="longer"):
        replay.feed(chunk(1, id="two", content="3"))


def test_a_choice_that_has_only_its_role_yet_does_not_get_it_twice() -> None:
    replay = Replay(told(chunk(content="Hello"), chunk(1, role="assistant", content="")))
    events = chunk(content="Hello"), chunk(1, role="assistant", content=""), chunk(1, role="assistant", content="Hi")
    assert deltas(b"".join(map(replay.feed, events))) == [{"content": "Hi"}]


def test_a_tool_calls_arguments_go_on_and_its_id_is_not_said_twice() -> None:
    def call(name: str = "", arguments: str = "", **more: Any) -> bytes:
        function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value}
        return chunk(id="two", tool_calls=[{"index": 0, **more, "function": function}])

    replay = Replay(told(call("weather", '{"city": ', id="c1", type="function")))
    assert replay.feed(call("weather", id="c2", type="function")) == b""
    passed = replay.feed(call(arguments='{"city": "Berlin', id="c2"))
    assert deltas(passed) == [{"tool_calls": [{"index": 0, "function": {"arguments": '"Berlin'}}]}]
    second = {"index": 1, "id": "c3", "type": "function", "function": {"name": "time", "arguments": ""}}
    passed = replay.feed(chunk(id="two", tool_calls=[{"index": 0, "function": {"arguments": '"}'}}, second]))
    assert deltas(passed) == [{"tool_calls": [{"index": 0, "function": {"arguments": '"}'}}, second]}]


@pytest.mark.parametrize("function", [{}, {"function": {"name": "", "arguments": ""}}])
def test_a_tool_call_that_has_only_its_id_yet_is_not_begun_twice(function: Json) -> None:
    def begun(id: str) -> bytes:
        return chunk(id="two", tool_calls=[{"index": 0, "id": id, "type": "function", **function}])

    had = told(begun("c1"))
    assert had.plain is None
    replay = Replay(had)
    assert replay.feed(begun("c2")) == b""
    passed = replay.feed(chunk(id="two", tool_calls=[{"index": 0, "function": {"name": "time", "arguments": "{}"}}]))
    assert deltas(passed) == [{"tool_calls": [{"index": 0, "function": {"name": "time", "arguments": "{}"}}]}]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([chunk(content="Hullo")], "another"),
        ([chunk(content="Hel", finish="stop")], "shorter"),
        ([chunk(content="Hel"), DONE], "shorter"),
        ([chunk(reasoning_content="hm")], "another order"),
        ([chunk(audio={"data": "AAAA"})], "compared"),
        ([sse(3)], "a shape of its own"),
        ([b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n'], "can't be read"),
    ],
)
def test_a_replay_that_is_another_answer_passes_nothing(events: list[bytes], why: str) -> None:
    replay = Replay(told(chunk(content="Hello")))
    *before, last = events
    assert b"".join(map(replay.feed, before)) == b""
    with pytest.raises(Diverged, match=why):
        replay.feed(last)


def test_a_replay_that_ends_before_the_clients_text_is_shorter() -> None:
    replay = Replay(told(chunk(content="Hello")))
    replay.feed(chunk(content="Hell"))
    with pytest.raises(Diverged, match="shorter"):
        replay.finish()


def test_log_probabilities_pass_where_tokens_end_where_they_ended() -> None:
    def token(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}
        return sse({"choices": [choice]})

    replay = Replay(told(token("Hel")))
    assert replay.feed(token("Hel")) == b""
    (choice,) = shapes(replay.feed(token("lo")))[0]["choices"]
    assert choice["logprobs"] == {"content": [{"token": "lo"}]}
    replay = Replay(told(token("Hel")))
    with pytest.raises(Diverged, match="tokens"):
        replay.feed(token("Hello"))


def test_comments_pass_in_a_replay_and_so_does_output_of_all_kinds_once_it_has_caught_up() -> None:
    replay = Replay(told(chunk(content="Hel")))
    assert replay.feed(b": alive\n\n" + chunk(content="H")) == b": alive\n\n"
    assert deltas(replay.feed(chunk(content="ello"))) == [{"content": "lo"}]
    assert deltas(replay.feed(chunk(audio={"data": "AA"}))) == [{"audio": {"data": "AA"}}]


# ---- Continuation


def continued(begun: str, *pieces: str, finish: bool = True) -> str:
    """The client's text after a continuation in these pieces."""
    transcript = told(chunk(role="assistant", content=""), *(chunk(content=letter) for letter in begun))
    splice = Continuation(transcript, begun.rstrip())
    passed = b"".join(splice.feed(chunk(id="two", role="assistant", content=piece)) for piece in pieces)
    passed += splice.feed(chunk(id="two", finish="stop") + DONE) if finish else b""
    passed += splice.finish()
    assert {shape["id"] for shape in shapes(passed)} <= {"one"}
    assert {shape["model"] for shape in shapes(passed)} <= {"of-one"}
    assert not any("role" in delta for delta in deltas(passed))
    return begun + text(passed)


def test_a_continuation_goes_on_under_the_first_ones_name() -> None:
    assert continued("The quick brown", " fox", " jumps") == "The quick brown fox jumps"
    assert continued("The quick brown", " fox", " jumps", finish=False) == "The quick brown fox jumps"


def test_white_space_at_the_end_was_not_given_to_it_and_comes_once() -> None:
    assert continued("The quick ", " brown") == "The quick brown"
    assert continued("The quick ", "brown") == "The quick brown"
    assert continued("One\n\n", "\n\nTwo") == "One\n\nTwo"


def test_a_repetition_at_the_seam_is_left_out() -> None:
    assert continued("It was the best of times,", " the best of times, it was") == "It was the best of times, it was"


def test_a_short_likeness_at_the_seam_is_chance() -> None:
    assert continued("so far, so", " so good") == "so far, so so good"


def test_a_continuation_that_begins_again_is_another_answer() -> None:
    begun = "The quick brown fox jumps over the lazy dog"
    assert len(begun) > AGAIN
    with pytest.raises(Diverged, match="again"):
        continued(begun, begun, " and then")


def test_so_it_is_where_the_client_has_little() -> None:
    for begun in ("The ", "w0", "Yes, "):
        with pytest.raises(Diverged, match="again"):
            continued(begun, begun, "quick brown fox")


def test_a_continuation_that_begins_to_reason_is_another_answer() -> None:
    splice = Continuation(told(chunk(content="Hello")), "Hello")
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


def test_the_seam_is_looked_at_before_its_text_is_passed_on() -> None:
    splice = Continuation(told(chunk(content="Hello")), "Hello")
    assert splice.feed(chunk(content="x" * (SEAM - 1))) == b""
    assert text(splice.feed(chunk(content="y"))) == "x" * (SEAM - 1) + "y"
    assert text(splice.feed(chunk(content="z"))) == "z"


def test_usage_is_added_up() -> None:
    splice = Continuation(told(*(chunk(content=letter) for letter in "Hello")), "Hello")
    usage = {"prompt_tokens": 25, "completion_tokens": 4, "total_tokens": 29, "prompt_tokens_details": {"x": 1}}
    passed = splice.feed(chunk(content=" you", finish="stop") + sse({"choices": [], "usage": usage}))
    assert shapes(passed)[-1]["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "total_tokens": 29,
        "prompt_tokens_details": {"x": 1},
    }


def test_a_completion_goes_on_in_its_own_shape() -> None:
    def piece(text: str, **more: Any) -> bytes:
        return sse({"id": "x", "choices": [{"index": 0, "text": text, **more}]})

    splice = Continuation(told(piece("Once upon")), "Once upon")
    passed = splice.feed(piece(" a time")) + splice.feed(piece("", finish_reason="stop") + DONE)
    assert "".join(shape["choices"][0]["text"] for shape in shapes(passed)) == " a time"


@pytest.mark.parametrize("begun", [chunk(content="x", finish="stop"), chunk(reasoning_content="hm"), sse(3)])
def test_what_is_no_plain_text_is_not_continued(begun: bytes) -> None:
    with pytest.raises(Diverged):
        Continuation(told(begun), "x")
