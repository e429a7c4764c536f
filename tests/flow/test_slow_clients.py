"""Clients that read slowly: back pressure, and the time after which they are cut off."""

from __future__ import annotations

import pytest

from router.core.verdict import Verdict
from tests.flow.timelines import verdicts
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import opens, says, streams

LONG = "x" * 50_000  # two of these exceed the client's buffer


def test_a_slow_client_pauses_only_its_own_exchange() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4, first=0.3, gap=0.1)))
    slow = play.call(stops_reading_at=0.0, reads_again_at=60.0)
    other = play.call(0.05)
    play.run()
    wire, other_wire = play["a"].wires
    assert wire.paused_at == [0.4]
    assert wire.resumed_at == [60.0]
    assert slow.ended_at == 60.0
    assert slow.text == LONG * 4
    assert slow.body == wire.sent
    assert other_wire.paused_at == []
    assert other.ended_at == pytest.approx(0.75)
    assert verdicts(slow) == [("a", "first", Verdict.SERVED)]


def test_a_client_that_does_not_read_is_not_a_stall_of_its_endpoint() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4)), stall=7)
    call = play.call(stops_reading_at=0.0, reads_again_at=100.0)
    play.run()
    assert call.text == LONG * 4
    assert call.record.error == ""


def test_a_client_that_reads_nothing_for_two_minutes_is_cut_off() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4)))
    call = play.call(stops_reading_at=0.0)
    play.run()
    assert call.aborted_at == 120.4
    assert call.ended_at is None
    assert play["a"].wires[0].closed_at == 120.4
    assert call.record.error == "client_left"
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED)]


def test_a_stall_after_the_client_has_caught_up_is_noticed_in_time() -> None:
    play = Player(endpoint("a", opens() + says(0.3, LONG, LONG)), stall=7)
    call = play.call(stops_reading_at=0.0, reads_again_at=20.0)
    play.run()
    assert call.ended_at == 27.0
    assert call.error["code"] == "stream_broken"


def test_a_client_that_is_full_before_its_first_token_pauses_its_endpoint_from_then_on() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4, first=0.3, gap=0.1)))
    call = play.call()
    play.at(0.0, lambda: notify(call, "full"))  # it still reads the last answer on this connection
    play.at(60.0, lambda: notify(call, "drained"))
    play.run()
    assert play["a"].wires[0].paused_at == [0.3]
    assert play["a"].wires[0].resumed_at == [60.0]
    assert (call.ended_at, call.text) == (60.0, LONG * 4)


def test_a_client_that_stays_full_from_the_start_is_cut_off_too() -> None:
    play = Player(endpoint("a", streams(*[LONG] * 4, first=0.3)))
    call = play.call()
    play.at(0.0, lambda: notify(call, "full"))
    play.run()
    assert (call.aborted_at, call.record.error) == (120.3, "client_left")


def test_a_client_that_has_caught_up_before_its_first_token_pauses_nothing() -> None:
    play = Player(endpoint("a", streams("hi", first=0.3)))
    call = play.call()
    play.at(0.0, lambda: notify(call, "full"))
    play.at(0.2, lambda: notify(call, "drained"))
    play.run()
    assert play["a"].wires[0].paused_at == []
    assert call.text == "hi"


def notify(call: ScriptedClient, event: str) -> None:
    """Call one of the callbacks of the answer's owner."""
    getattr(call.owner, event)()
