"""Timelines of streams that break after their first token, in virtual time: which endpoint continues, or how the stream
ends.

`a` is asked first and breaks; `b` is in the second tier. Every timeline ends with nothing left.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.core.choice.budget import RESERVE
from router.core.choice.race import MAX_ATTEMPTS
from router.core.verdict import Verdict
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import (
    DONE,
    SILENT,
    Script,
    answers,
    completion,
    cuts,
    ends,
    error_event,
    event,
    fails_with,
    finishes,
    opens,
    says,
    sends,
    sse,
    streams,
)

WORDS = ("The ", "quick ", "brown ", "fox")
WHOLE = "".join(WORDS)
BEGUN = opens(0.1) + says(0.2, *WORDS[:2])  # until 0.3
CUT = BEGUN + cuts(0.5)
AGAIN = streams(*WORDS, first=0.3, usage=(5, 4))
REST = streams("brown ", "fox", first=0.3, usage=(7, 2))
MESSAGES = [{"role": "user", "content": "What jumps?"}]


def broken_and_sound(*a: Script, b: Script = AGAIN, resume: str = "replay", **policy: Any) -> Player:
    return Player(endpoint("a", *(a or (CUT,))), endpoint("b", b, tier=2, kind="vllm"), resume=resume, **policy)


def verdicts(call: ScriptedClient) -> list[tuple[str, str, Verdict | None]]:
    return [(line.endpoint.name, line.role, line.verdict) for line in call.record.attempts]


def assert_broken(call: ScriptedClient, *, by: str = "a") -> None:
    """Assert that the client was told that its stream is incomplete."""
    assert call.error["code"] == "stream_broken"
    assert call.error["type"] == "upstream_error"
    assert f"'{by}'" in call.error["message"]
    assert not call.done
    assert call.record.error == "stream_broken"


# ---- Replay


def test_another_endpoint_answers_again_and_the_client_gets_the_missing_rest() -> None:
    play = broken_and_sound()
    call = play.call()
    play.run()
    assert call.text == WHOLE
    assert call.done
    assert call.events[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 4}
    assert sum("role" in choice["delta"] for choice in call.choices) == 1
    assert play["b"].asked_at == [0.5]
    assert play["b"].wires[0].request.body == play["a"].wires[0].request.body
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "rescue", Verdict.SERVED)]
    sizes = [play.endpoint(name).forecast.latency("first_token").mean_size(play.scheduler.now()) for name in "ab"]
    assert sizes[0] == sizes[1] > 0.0  # both read the same prompt
    record = call.record
    assert (record.status, record.error, record.endpoint, record.first_token) == (200, "", "b", 0.2)
    assert record.completion_tokens == 4
    assert play.metric("attempts_total", role="rescue", verdict="served") == 1
    assert play.metric("first_token_seconds_count", endpoint="a") == 1
    assert play.metric("first_token_seconds_count", endpoint="b") == 0


@pytest.mark.parametrize(
    "script",
    [
        BEGUN + cuts(0.5),
        BEGUN + ends(0.5),
        BEGUN + sends(0.5, error_event()),
        BEGUN + sends(0.5, error_event("slow down", code="rate_limit_exceeded")),
        BEGUN + sends(0.5, b'data: {"choices": [{"delta": {"con') + cuts(0.6),
        BEGUN + sends(0.5, sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "network_error"}]})),
        BEGUN,
    ],
    ids=["cut", "ended early", "error event", "busy", "half an event", "network_error", "stalls"],
)
def test_every_way_to_break_is_rescued(script: Script) -> None:
    play = broken_and_sound(script, stall=2)
    call = play.call()
    play.run()
    assert call.text == WHOLE
    assert call.done
    assert call.record.error == ""


def test_done_without_a_finish_reason_is_no_end_for_an_endpoint_that_has_sent_one_before() -> None:
    """A gateway in between ends every stream with [DONE], even one that was cut."""
    cut_and_done = BEGUN + sends(0.5, DONE) + ends(0.5)
    play = broken_and_sound(AGAIN, cut_and_done)
    whole, cut = play.call(0.0), play.call(10.0)
    play.run()
    assert whole.text == cut.text == WHOLE
    assert [role for _, role, _ in verdicts(cut)] == ["first", "rescue"]
    play = broken_and_sound(AGAIN, cut_and_done, resume="off")
    whole, cut = play.call(0.0), play.call(10.0)
    play.run()
    assert_broken(cut)
    play = broken_and_sound(cut_and_done)  # unknown for an endpoint that has sent no finish_reason yet
    call = play.call()
    play.run()
    assert (call.text, call.done, call.record.error) == ("The quick ", True, "")


def test_a_stream_that_ends_with_a_refusal_is_not_rescued() -> None:
    play = broken_and_sound(BEGUN + sends(0.5, error_event("no", code="content_policy_violation")))
    call = play.call()
    play.run()
    assert call.error["code"] == "content_policy_violation"
    assert len(play["b"].wires) == 0


def test_an_endpoint_that_refuses_a_rescue_is_not_asked_again() -> None:
    for refusal in (
        fails_with(400, 0.1),
        fails_with(500, 0.1, code="invalid_request_error"),
        opens(0.1) + sends(0.2, error_event("no", code="invalid_request_error")) + ends(0.2),
        answers({"error": {"message": "no", "code": "invalid_request_error"}}, 0.1),
    ):
        play = broken_and_sound(b=refusal, retry_budget=2)
        call = play.call()
        play.run()
        assert_broken(call)
        assert len(play["b"].wires) == 1


def test_a_stream_with_a_finish_reason_needs_no_rescue() -> None:
    play = broken_and_sound(BEGUN + sends(0.4, event(finish="stop")) + cuts(0.5))
    call = play.call()
    play.run()
    assert call.text == "The quick "
    assert len(play["b"].wires) == 0


def test_the_client_gets_comments_during_a_rescue() -> None:
    slow = opens(0.1) + says(20.0, *WORDS[:2], gap=8.0) + says(36.0, *WORDS[2:]) + finishes(37.0)
    play = broken_and_sound(b=slow, abandon=100, hedge="off")
    call = play.call()
    play.run()
    assert call.text == WHOLE
    first, *others = call.pinged_at
    assert first == 0.5
    assert len(others) >= 2  # one before the first token, one while the known part is skipped


def test_usage_reported_by_the_broken_stream_is_not_counted_for_the_rescue() -> None:
    chunk = {
        "choices": [{"index": 0, "delta": {"content": "The "}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1},
    }
    play = broken_and_sound(opens(0.1) + sends(0.2, sse(chunk)) + cuts(0.5), b=streams(*WORDS))
    call = play.call()
    play.run()
    assert (call.text, call.record.completion_tokens) == (WHOLE, None)
    assert play.metric("tokens_total") == 0


def test_a_different_answer_ends_the_stream_with_an_error() -> None:
    play = broken_and_sound(b=streams("The ", "slow ", "green ", "turtle"))
    call = play.call()
    play.run()
    assert call.text == "The quick "
    assert_broken(call, by="b")
    assert "the second answer has another text" in call.error["message"]
    assert verdicts(call)[1] == ("b", "rescue", Verdict.ABANDONED)
    assert play["b"].wires[0].end == "closed"


def test_a_shorter_answer_ends_the_stream_with_an_error() -> None:
    play = broken_and_sound(b=streams("The "))
    call = play.call()
    play.run()
    assert call.text == "The quick "
    assert_broken(call, by="b")


def test_the_same_endpoint_is_asked_once_more_if_there_is_no_other() -> None:
    play = Player(endpoint("a", CUT, AGAIN), resume="replay")
    call = play.call()
    play.run()
    assert call.text == WHOLE
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("a", "rescue", Verdict.SERVED)]
    assert play["a"].asked_at[1] >= 0.75  # after the pause of a retry


def test_a_rescue_that_breaks_is_rescued() -> None:
    three = BEGUN + says(0.4, WORDS[2]) + cuts(0.5)
    play = Player(endpoint("a", CUT), endpoint("b", three, tier=2), endpoint("c", AGAIN, tier=3), resume="replay")
    call = play.call()
    play.run()
    assert call.text == WHOLE
    assert [name for name, _, _ in verdicts(call)] == ["a", "b", "c"]


def test_an_endpoint_that_breaks_at_the_same_place_each_time_is_not_asked_for_ever() -> None:
    play = Player(endpoint("a", CUT), endpoint("b", CUT), resume="replay")
    call = play.call()
    play.run()
    assert_broken(call, by=call.record.endpoint)
    assert len(call.record.attempts) <= 4


def test_attempts_are_counted_over_all_races_of_a_call() -> None:
    play = Player(*(endpoint(f"e{i}", CUT) for i in range(9)), resume="replay", retry_budget=10)
    call = play.call()
    play.run()
    assert len(call.record.attempts) == MAX_ATTEMPTS
    assert call.error


def test_a_late_rescue_is_hedged() -> None:
    play = Player(
        endpoint("a", CUT), endpoint("b", SILENT, tier=2), endpoint("c", AGAIN, tier=3), resume="replay", hedge=1.0
    )
    call = play.call()
    play.run()
    assert call.text == WHOLE
    assert verdicts(call)[1:] == [("b", "rescue", Verdict.ABANDONED), ("c", "hedge", Verdict.SERVED)]


def test_the_original_failure_is_reported_however_the_rescue_failed() -> None:
    for b in (
        fails_with(400, 0.1, message="no prefill here", code="invalid_request_error"),
        fails_with(503, 0.1),
        answers(completion(), 0.1),
        opens(0.1) + sends(0.2, error_event("what?", code="invalid_request_error")),
    ):
        play = broken_and_sound(b=b, retry_budget=0.2)
        call = play.call()
        play.run()
        assert_broken(call)
        assert call.text == "The quick "


def test_an_endpoint_that_ended_with_an_error_event_is_quoted() -> None:
    play = broken_and_sound(BEGUN + sends(0.5, error_event("out of memory")), b=fails_with(503, 0.1))
    call = play.call()
    play.run()
    assert call.error["message"] == "out of memory"
    assert call.record.error == "stream_broken"


def test_the_deadline_of_a_rescue_begins_with_it() -> None:
    late = opens(0.1) + says(0.2, "The ") + says(50.0, "quick ") + cuts(51.0)
    play = broken_and_sound(late, deadline=20, stall=100)
    call = play.call()
    play.run()
    assert call.text == WHOLE
    play = broken_and_sound(late, b=SILENT, deadline=20, stall=100, hedge="off", abandon=100)
    call = play.call()
    play.run()
    assert_broken(call)
    assert call.ended_at == 71.0


def test_a_client_that_leaves_during_a_rescue_stops_it() -> None:
    for at in (0.6, 0.85, 1.05):  # before the first token of the rescue, while it catches up, and afterwards
        play = broken_and_sound()
        call = play.call(leaves_at=at)
        play.run()
        assert call.record.error == "client_left"
        assert play["b"].wires[0].end == "closed"


def test_a_client_that_reads_slowly_pauses_what_rescues_it() -> None:
    big = ["x" * 30_000] * 8
    play = Player(
        endpoint("a", opens(0.1) + says(0.2, *big[:4]) + cuts(0.6)),
        endpoint("b", streams(*big, first=0.3), tier=2),
        resume="replay",
    )
    call = play.call(stops_reading_at=0.55, reads_again_at=5.0)
    play.run()
    assert call.text == "".join(big)
    assert play["b"].wires[0].paused_at


# ---- The budget


def test_a_rescue_is_paid_from_the_retry_budget() -> None:
    play = broken_and_sound(retry_budget=0.001)
    calls = [play.call(i / 10) for i in range(6)]
    play.run()
    rescued = [call for call in calls if call.text == WHOLE and any(role == "rescue" for _, role, _ in verdicts(call))]
    assert len(rescued) == RESERVE
    assert all(call.error for call in calls if not call.done)
    assert play.table.retries.level(2.0) < 1.0


def test_without_a_budget_there_is_no_rescue() -> None:
    play = broken_and_sound(retry_budget=0)
    call = play.call()
    play.run()
    assert_broken(call)
    assert call.ended_at == 0.5
    assert len(play["b"].wires) == 0


# ---- The setting `resume`


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 0.0}, {"seed": 7}, {"seed": 0}])
def test_auto_rescues_requests_for_a_reproducible_answer(fields: dict[str, Any]) -> None:
    play = broken_and_sound(resume="auto")
    call = play.call(**fields)
    play.run()
    assert call.text == WHOLE


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.7}, {"temperature": None}, {"seed": None}, {"temperature": "0"}, {"temperature": False}],
)
def test_auto_does_not_rescue_other_requests(fields: dict[str, Any]) -> None:
    play = broken_and_sound(resume="auto")
    call = play.call(**fields)
    play.run()
    assert_broken(call)
    assert len(play["b"].wires) == 0


def test_resume_off_stays_off() -> None:
    play = broken_and_sound(resume="off")
    call = play.call(temperature=0)
    play.run()
    assert_broken(call)


def test_a_models_resume_overrides_the_defaults() -> None:
    play = Player(endpoint("a", CUT), endpoint("b", AGAIN, tier=2), resume="off", models={"chat": {"resume": "replay"}})
    call = play.call()
    play.run()
    assert call.text == WHOLE


# ---- Continue


def sent_body(play: Player, name: str = "b") -> dict[str, Any]:
    body = json.loads(bytes(play[name].wires[0].request.body))
    assert isinstance(body, dict)
    return body


def test_an_endpoint_with_prefill_continues_the_clients_text() -> None:
    play = broken_and_sound(b=REST, resume="continue")
    call = play.call(messages=MESSAGES, max_tokens=100)
    play.run()
    assert call.text == WHOLE
    assert call.done
    body = sent_body(play)
    assert body["messages"] == [*MESSAGES, {"role": "assistant", "content": "The quick"}]
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    assert body["max_tokens"] == 98
    assert call.events[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


@pytest.mark.parametrize(
    ("prefill", "message"),
    [("prefix", {"prefix": True}), ("partial", {"partial": True}), ("trailing", {})],
)
def test_each_kind_of_server_is_asked_to_continue_in_its_own_way(prefill: str, message: dict[str, Any]) -> None:
    play = Player(endpoint("a", CUT), endpoint("b", REST, tier=2, prefill=prefill), resume="continue")
    call = play.call(messages=MESSAGES)
    play.run()
    assert call.text == WHOLE
    assert sent_body(play)["messages"][-1] == {"role": "assistant", "content": "The quick"} | message
    assert "continue_final_message" not in sent_body(play)


def test_only_endpoints_with_prefill_are_asked_to_continue() -> None:
    play = Player(
        endpoint("a", CUT),
        endpoint("b", AGAIN, tier=2),
        endpoint("off", REST, tier=2, kind="vllm", prefill="off"),
        endpoint("c", REST, tier=3, kind="vllm"),
        resume="continue",
    )
    call = play.call(messages=MESSAGES)
    play.run()
    assert call.text == WHOLE
    assert [name for name, _, _ in verdicts(call)] == ["a", "c"]


def test_a_broken_endpoint_without_prefill_is_not_asked_again_while_those_with_prefill_are_full() -> None:
    """The call is not moved back to `a` when its time in the queue is over, either."""
    play = Player(
        endpoint("a", CUT, models=["chat"]),
        endpoint("b", streams("long", first=60.0), tier=2, kind="vllm", concurrency=1, models=["chat", "other"]),
        resume="continue",
        hedge="off",
        queue_wait=5,
    )
    play.call(0.0, model="other")
    call = play.call(1.0, messages=MESSAGES)
    play.run()
    assert_broken(call)
    assert play["a"].asked_at == [1.0]


def test_without_an_endpoint_with_prefill_the_stream_ends_with_the_error() -> None:
    play = Player(endpoint("a", CUT), endpoint("b", AGAIN, tier=2), resume="continue")
    call = play.call(messages=MESSAGES, temperature=0)
    play.run()
    assert_broken(call)
    assert len(play["b"].wires) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"messages": "none"},
        {"messages": None},
    ],
)
def test_only_plain_text_is_continued(fields: dict[str, Any]) -> None:
    play = broken_and_sound(b=REST, resume="continue")
    call = play.call(**({"messages": MESSAGES} | fields))
    play.run()
    assert_broken(call)
    assert len(play["b"].wires) == 0


def test_a_tool_call_that_has_begun_is_not_continued() -> None:
    tool = sse({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}}]})
    play = broken_and_sound(BEGUN + sends(0.4, tool) + cuts(0.5), b=REST, resume="continue")
    call = play.call(messages=MESSAGES)
    play.run()
    assert_broken(call)


def test_a_refused_prefill_never_hides_the_original_failure() -> None:
    play = broken_and_sound(b=fails_with(400, 0.1, message="no prefill"), resume="continue")
    call = play.call(messages=MESSAGES)
    play.run()
    assert_broken(call)
    assert "no prefill" not in call.error["message"]


def test_messages_nested_too_deep_to_be_read_twice_end_the_stream_with_an_error() -> None:
    """The rescue parses the messages deeper in the stack, where the recursion limit is closer."""
    for depth in range(900, 1000):
        play = broken_and_sound(b=REST, resume="continue")
        messages = b'[{"content":' + b"[" * depth + b"]" * depth + b"}]"
        call = play.call(body=b'{"model":"chat","stream":true,"messages":' + messages + b"}")
        play.run()
        if call.status == 200:
            assert call.done or call.error["code"] == "stream_broken"


def test_the_text_so_far_is_appended_to_a_completions_prompt() -> None:
    def piece(at: float, text: str) -> Script:
        return sends(at, sse({"choices": [{"index": 0, "text": text}]}))

    end = sends(0.5, sse({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}) + b"data: [DONE]\n\n")
    play = Player(
        endpoint("a", opens(0.1) + piece(0.2, "there was ") + cuts(0.3)),
        endpoint("b", opens(0.1) + piece(0.2, "a fox") + end + ends(0.6), tier=2),
        resume="continue",
    )
    call = play.call(path="/v1/completions", prompt="Once ")
    play.run()
    assert "".join(choice.get("text") or "" for choice in call.choices) == "there was a fox"
    assert call.done
    assert sent_body(play)["prompt"] == "Once there was"


# ---- Headers of the SDKs


def test_no_attempt_outlives_the_clients_timeout() -> None:
    for name in (b"x-stainless-read-timeout", b"x-stainless-timeout"):
        play = Player(endpoint("a", SILENT), hedge="off")
        call = play.call(headers=[(name, b"5.5")])
        play.run()
        assert call.status == 504
        assert call.ended_at == 6.5  # a second after the client's own timeout, which the client is to see


@pytest.mark.parametrize("value", [b"600", b"0", b"-1", b"nan", b"inf", b"soon", b""])
def test_a_client_timeout_that_is_longer_or_invalid_changes_nothing(value: bytes) -> None:
    play = Player(endpoint("a", SILENT), hedge="off", deadline=20)
    call = play.call(headers=[(b"x-stainless-read-timeout", value)])
    play.run()
    assert call.ended_at == 20.0


@pytest.mark.parametrize(("value", "attempts"), [(b"0", 6), (b"1", 3), (b"2", 2), (b"9", 2), (b"x", 6)])
def test_a_client_that_has_asked_before_gets_fewer_attempts(value: bytes, attempts: int) -> None:
    play = Player(*(endpoint(f"e{i}", fails_with(500, 0.01)) for i in range(9)), retry_budget=10)
    call = play.call(headers=[(b"x-stainless-retry-count", value)])
    play.run()
    assert len(call.record.attempts) == attempts
