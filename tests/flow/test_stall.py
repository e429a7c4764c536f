"""Stalls: a stream without progress is broken off."""

from __future__ import annotations

import pytest

from router.core.verdict import Verdict
from tests.flow.timelines import verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import COMMENT, DONE, Script, cuts, event, finishes, opens, says, sends, streams


def test_a_stalled_stream_is_broken_off_exactly_at_its_time() -> None:
    play = Player(endpoint("a", opens() + says(0.5, "Hel", "lo", gap=1.0)), stall=7)
    call = play.call()
    play.run()
    assert call.ended_at == 8.5
    assert play["a"].wires[0].closed_at == 8.5
    assert call.error["code"] == "stream_broken"
    assert "stood still for 7 s" in call.error["message"]
    assert verdicts(call) == [("a", "first", Verdict.FAULT)]


def test_comments_are_not_progress() -> None:
    comments: Script = ()
    for i in range(1, 40):
        comments += sends(0.5 + i, COMMENT)
    play = Player(endpoint("a", opens() + says(0.5, "Hel") + comments), stall=7.25)
    call = play.call()
    play.run()
    assert call.ended_at == 7.75
    assert call.body.count(COMMENT) == 7  # passed on nevertheless


def test_a_slow_stream_that_makes_progress_continues() -> None:
    play = Player(endpoint("a", streams(*"slowly", first=1.0, gap=6.9)), stall=7)
    call = play.call()
    play.run()
    assert call.text == "slowly"
    assert call.done


def test_a_finished_stream_that_is_never_closed_is_complete() -> None:
    script = opens() + says(0.5, "whole") + sends(1.0, event(finish="stop") + event(usage=(3, 1)))
    play = Player(endpoint("a", script), stall=7)
    call = play.call()
    play.run()
    assert call.ended_at == 3.0  # two seconds after the reason to finish
    assert call.record.error == ""
    assert call.record.completion_tokens == 1
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_a_model_may_have_a_stall_of_its_own() -> None:
    play = Player(endpoint("a", opens() + says(0.5, "Hel")), models={"chat": {"stall": 2}})
    call = play.call()
    play.run()
    assert call.ended_at == 2.5


PING = b'data: {"type":"keepalive","sequence_number":1}\n\n'


def beats(beat: bytes, first: float, last: float) -> Script:
    """A heartbeat every second."""
    script: Script = ()
    at = first
    while at <= last:
        script += sends(at, beat)
        at += 1.0
    return script


@pytest.mark.parametrize(
    "beat", [PING, b'data: {"choices":[]}\n\n', b"event: ping\ndata: {}\n\n", b"data: 1\n\n", COMMENT]
)
def test_heartbeats_of_any_form_are_not_progress(beat: bytes) -> None:
    play = Player(endpoint("a", opens() + says(0.5, "Hel") + beats(beat, 1.0, 100.0)))
    call = play.call()
    play.run()
    assert call.ended_at == 30.5
    assert "stood still for 30 s" in call.error["message"]


def test_empty_deltas_are_progress() -> None:
    empty = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":null}]}\n\n'
    play = Player(endpoint("a", opens() + says(0.5, "Hel") + beats(empty, 1.0, 100.0) + finishes(101.0)))
    call = play.call()
    play.run()
    assert (call.text, call.done, call.ended_at) == ("Hel", True, 101.0)


def test_a_tool_call_may_be_silent_for_longer() -> None:
    begun = b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f"}}]}}]}\n\n'
    play = Player(endpoint("a", opens() + sends(0.5, begun) + finishes(110.0)))
    call = play.call()
    play.run()
    assert (call.done, call.ended_at) == (True, 110.0)
    play = Player(endpoint("a", opens() + says(0.25, "Hm") + sends(0.5, begun)))
    call = play.call()
    play.run()
    assert (call.done, call.ended_at) == (False, 120.5)


@pytest.mark.parametrize("beat", [PING, COMMENT, b'data: {"choices":[]}\n\n'])
def test_heartbeats_do_not_keep_a_finished_stream_open(beat: bytes) -> None:
    script = opens() + says(0.5, "whole") + sends(1.0, event(finish="stop")) + beats(beat, 1.5, 60.0)
    play = Player(endpoint("a", script))
    call = play.call()
    play.run()
    assert (call.text, call.ended_at, call.record.error) == ("whole", 3.0, "")
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_output_after_a_finish_reason_lifts_the_bound_on_the_end() -> None:
    script = opens() + says(0.5, "a") + sends(1.0, event(finish="stop")) + says(2.0, "b") + finishes(12.0)
    play = Player(endpoint("a", script))
    call = play.call()
    play.run()
    assert (call.text, call.done, call.ended_at) == ("ab", True, 12.0)


def test_a_finish_reason_in_every_event_hides_no_cut() -> None:
    script = opens() + tuple(step for i in range(6) for step in sends(0.5 + i / 10, event(f" w{i}", finish="stop")))
    play = Player(endpoint("a", script + cuts(1.5)))
    call = play.call()
    play.run()
    assert (call.text, call.done, call.error["code"]) == (" w0 w1 w2 w3 w4 w5", False, "stream_broken")


def test_usage_after_the_finish_reason_is_waited_for() -> None:
    script = opens() + says(0.5, "a") + sends(1.0, event(finish="stop")) + sends(2.5, event(usage=(3, 1)) + DONE)
    play = Player(endpoint("a", script))
    call = play.call()
    play.run()
    assert (call.done, call.record.completion_tokens, call.ended_at) == (True, 1, 3.5)  # a second for HTTP's own end


def test_reasoning_under_a_new_name_is_output() -> None:
    thought = (
        b'data: {"choices":[{"index":0,"delta":{"reasoning_details":[{"type":"reasoning.text","text":"hm "}]}}]}\n\n'
    )
    thinks = opens() + tuple(step for i in range(40) for step in sends(0.1 + i / 10, thought)) + says(5.0, "yes")
    play = Player(endpoint("a", thinks + finishes(6.0)), endpoint("b", streams("no"), tier=2), abandon=1)
    call = play.call()
    play.run()
    assert (call.text, call.body.count(b"reasoning_details")) == ("yes", 40)
    assert len(play["b"].wires) == 0
