"""Streams that break after their first token, and those that are complete nevertheless."""

from __future__ import annotations

import pytest

from router.core.endpoint.breaker import State
from router.core.verdict import Verdict
from router.proxy.relay import HTTP_END
from tests.flow.timelines import quick_and_slow, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import DONE, Script, cuts, ends, error_event, event, opens, says, sends, sse, streams

BREAKS = {
    "cut": cuts(1.0),
    "ended without a word": ends(1.0),
    "an error event": sends(1.0, error_event()),
    "an error event that names a busy engine": sends(1.0, error_event(type="overloaded_error")),
    "finished with network_error": sends(1.0, event(finish="network_error")) + ends(1.0),
}


@pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS.keys())
def test_a_stream_that_breaks_ends_with_one_error_and_no_done(broken: Script) -> None:
    play = Player(endpoint("a", opens() + says(0.3, "Hel", "lo") + broken), endpoint("b", streams("other"), tier=2))
    call = play.call()
    play.run()
    assert call.status == 200
    assert call.text == "Hello"
    assert call.ended_at == 1.0
    assert call.error["message"]
    assert call.body.count(b'"error"') == 1
    assert b"[DONE]" not in call.body
    assert call.record.error == "stream_broken"
    assert play["b"].wires == []  # no other endpoint can continue it
    assert call.record.attempts[0].verdict in (Verdict.FAULT, Verdict.BUSY)


def test_an_error_event_is_passed_on_in_the_endpoints_own_words() -> None:
    own = error_event("CUDA out of memory", code=500)
    play = Player(endpoint("a", opens() + says(0.3, "Hel") + sends(1.0, own + DONE)))
    call = play.call()
    play.run()
    assert call.body.endswith(own)


def test_half_an_event_before_the_cut_is_not_passed_on() -> None:
    play = Player(endpoint("a", opens() + says(0.3, "Hel") + sends(0.4, b'data: {"choices": [{"del') + cuts(1.0)))
    call = play.call()
    play.run()
    assert b'"del' not in call.body.replace(b'"delta"', b"")
    assert call.error["code"] == "stream_broken"
    assert "'a'" in call.error["message"]


def test_a_broken_stream_counts_as_a_failure_of_its_endpoint() -> None:
    play = Player(endpoint("a", opens() + says(0.3, "Hel") + cuts(1.0)))
    for i in range(3):
        play.call(i * 2.0)
    play.run()
    assert play.endpoint("a").availability.breaker.state(5.0) is State.OPEN
    assert play.metric("attempts_total", endpoint="a", verdict="fault") == 3


def test_a_finished_stream_is_complete_without_done() -> None:
    play = Player(endpoint("a", streams("whole", done=False, usage=(3, 1))))
    call = play.call()
    play.run()
    assert call.text == "whole"
    assert call.body == play["a"].wires[0].sent
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]
    assert (call.record.error, call.record.prompt_tokens, call.record.completion_tokens) == ("", 3, 1)


def test_a_finished_stream_that_is_cut_is_complete() -> None:
    play = Player(endpoint("a", opens() + says(0.3, "whole") + sends(0.4, event(finish="stop")) + cuts(0.5)))
    call = play.call()
    play.run()
    assert call.record.error == ""
    assert call.ended_at == 0.5
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_all_of_several_choices_must_have_finished() -> None:
    one = sse({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]})
    play = Player(endpoint("a", opens() + sends(0.3, one) + ends(0.5)))
    call = play.call(n=2)
    play.run()
    assert call.error["code"] == "stream_broken"


def test_an_event_that_lacks_only_its_blank_line_is_delivered() -> None:
    play = Player(endpoint("a", opens() + says(0.3, "whole") + sends(0.4, event(finish="stop").rstrip()) + ends(0.5)))
    call = play.call()
    play.run()
    assert call.body.endswith(event(finish="stop"))
    assert call.record.error == ""


def test_done_ends_a_stream_even_if_the_http_response_stays_open() -> None:
    play = Player(endpoint("a", opens() + says(0.5, "whole") + sends(6.0, event(finish="stop")) + sends(6.1, DONE)))
    call = play.call()
    play.run()
    assert call.ended_at == 6.1 + HTTP_END  # not after the stall time
    assert play["a"].wires[0].closed_at == call.ended_at
    assert (call.text, call.record.error) == ("whole", "")
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_the_http_response_may_end_a_moment_after_done() -> None:
    play = Player(endpoint("a", opens() + says(0.5, "whole") + sends(0.6, event(finish="stop") + DONE) + ends(0.9)))
    call = play.call()
    play.run()
    assert call.ended_at == 0.9
    assert call.record.error == ""


def test_an_empty_stream_fails_at_its_done() -> None:
    play = Player(*quick_and_slow(opens(0.1) + sends(0.2, DONE)))
    call = play.call()
    play.run()
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "retry", Verdict.SERVED)]
    assert call.record.attempts[0].ended == 0.2
