"""Stalls: a stream without progress is broken off."""

from __future__ import annotations

from router.core.verdict import Verdict
from tests.flow.timelines import verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import COMMENT, Script, event, opens, says, sends, streams


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
    assert call.ended_at == 8.0
    assert call.record.error == ""
    assert call.record.completion_tokens == 1
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_a_model_may_have_a_stall_of_its_own() -> None:
    play = Player(endpoint("a", opens() + says(0.5, "Hel")), models={"chat": {"stall": 2}})
    call = play.call()
    play.run()
    assert call.ended_at == 2.5
