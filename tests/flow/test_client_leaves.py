"""Clients that leave: every attempt is closed at once."""

from __future__ import annotations

from router.core.verdict import Verdict
from tests.flow.timelines import verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, fails_with, streams


def test_a_client_that_leaves_before_the_first_token_stops_the_endpoint_at_once() -> None:
    play = Player(endpoint("a", streams("late", first=3.0)))
    call = play.call(leaves_at=0.4)
    play.run()
    assert play["a"].wires[0].closed_at == 0.4
    assert call.status is None
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED)]
    assert (call.record.status, call.record.error, call.record.ended) == (499, "client_left", 0.4)
    assert play.endpoint("a").forecast.latency("first_token").unknown
    assert play.endpoint("a").availability.breaker.failures_in_a_row == 0


def test_a_client_that_leaves_during_a_race_stops_both_attempts() -> None:
    play = Player(endpoint("a", SILENT), endpoint("b", SILENT, tier=2))
    call = play.call(leaves_at=2.5)
    play.run()
    assert [play[name].wires[0].closed_at for name in "ab"] == [2.5, 2.5]
    assert {verdict for _, _, verdict in verdicts(call)} == {Verdict.ABANDONED}


def test_a_client_that_leaves_after_the_first_token_stops_the_endpoint_at_once() -> None:
    play = Player(endpoint("a", streams(*"many words", first=0.3, gap=0.1)))
    call = play.call(leaves_at=0.55)
    play.run()
    assert play["a"].wires[0].closed_at == 0.55
    assert call.text == "man"
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED)]
    assert call.record.error == "client_left"
    # The first token was observed before the client left.
    assert play.endpoint("a").forecast.latency("first_token").mean(0.55) < 0.5
    assert play.endpoint("a").availability.breaker.failures_in_a_row == 0


def test_no_retry_is_made_for_a_client_that_has_left() -> None:
    play = Player(endpoint("a", fails_with(500, 0.1)))
    play.call(leaves_at=0.2)
    play.run()
    assert len(play["a"].wires) == 1


def test_a_client_that_leaves_after_pings_is_sent_nothing_more() -> None:
    play = Player(endpoint("a", SILENT))
    call = play.call(leaves_at=11.0)
    play.run()
    assert call.writes == [(10.0, b": ping\n\n")]
    assert play["a"].wires[0].closed_at == 11.0
    assert call.record.error == "client_left"
