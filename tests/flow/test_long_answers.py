"""Answers that do not stream and are too long to be held: passed on as they come, at the pace of their client."""

from __future__ import annotations

import json

import pytest

from router.core.verdict import Verdict
from router.errors import Stopping
from router.upstream.exchange import MAX_CHECKED, Limits
from tests.flow.timelines import quick_and_slow, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import JSON, SILENT, Script, answers, completion, cuts, ends, head, sends

PIECE = 100_000  # bytes; more than a client's buffer
BODY = json.dumps(completion("x" * (2 * MAX_CHECKED))).encode()
LENGTH = [(b"content-length", b"%d" % len(BODY))]


def in_pieces(gap: float = 0.1, *, length: bool = True) -> Script:
    """The answer, a piece in each `gap`."""
    pieces = [BODY[at : at + PIECE] for at in range(0, len(BODY), PIECE)]
    script = head(gap, 200, JSON + (LENGTH if length else []))
    for number, piece in enumerate(pieces, 1):
        script += sends(gap * number, piece)
    return script + ends(gap * len(pieces))


BEGINS = -(-MAX_CHECKED // PIECE) * 0.1  # seconds after which more than MAX_CHECKED bytes have come


@pytest.mark.parametrize("length", [True, False])
def test_a_long_answer_is_passed_on_as_it_comes(length: bool) -> None:
    play = Player(endpoint("a", in_pieces(length=length)))
    call = play.call(stream=False)
    play.run()
    assert call.body == BODY
    assert call.length == (len(BODY) if length else None)
    assert call.writes[0][0] == pytest.approx(BEGINS)
    assert call.ended_at == pytest.approx(-(-len(BODY) // PIECE) * 0.1)
    assert (call.record.status, call.record.error) == (200, "")
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_a_slow_client_pauses_its_own_endpoint() -> None:
    play = Player(endpoint("a", in_pieces()), stall=7)
    slow = play.call(stream=False, stops_reading_at=0.0, reads_again_at=60.0)
    other = play.call(0.05, stream=False)
    play.run()
    wire, other_wire = play["a"].wires
    assert wire.paused_at == [pytest.approx(BEGINS)]
    assert wire.resumed_at == [60.0]
    assert len([at for at, _ in slow.writes if at < 60.0]) == 1
    assert (slow.body, slow.ended_at) == (BODY, 60.0)
    assert other_wire.paused_at == []
    assert other.body == BODY
    assert verdicts(slow) == [("a", "first", Verdict.SERVED)]


def test_a_client_that_reads_nothing_for_two_minutes_is_cut_off() -> None:
    play = Player(endpoint("a", in_pieces()))
    call = play.call(stream=False, stops_reading_at=0.0)
    play.run()
    assert call.aborted_at == pytest.approx(120.0 + BEGINS)
    assert play["a"].wires[0].closed_at == call.aborted_at
    assert call.record.error == "client_left"
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED)]


def test_a_client_that_leaves_stops_its_endpoint() -> None:
    play = Player(endpoint("a", in_pieces()))
    call = play.call(stream=False, leaves_at=BEGINS + 0.25)
    play.run()
    assert play["a"].wires[0].closed_at == call.left_at
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED)]


def test_a_long_answer_that_breaks_is_cut() -> None:
    broken = in_pieces()[:-5] + cuts(3.0)
    play = Player(*quick_and_slow(broken))
    call = play.call(stream=False)
    play.run()
    assert call.aborted_at == 3.0
    assert BODY.startswith(call.body)
    assert call.record.error == "stream_broken"
    assert verdicts(call) == [("a", "first", Verdict.FAULT)]
    assert play["b"].wires == []


def test_a_long_answer_that_stands_still_is_cut() -> None:
    play = Player(endpoint("a", in_pieces()[:-5]), stall=7)
    call = play.call(stream=False)
    play.run()
    last = max(at for at, _ in call.writes)
    assert call.aborted_at == pytest.approx(last + 7)
    assert verdicts(call) == [("a", "first", Verdict.FAULT)]


def test_the_first_long_answer_to_begin_wins_the_race() -> None:
    play = Player(endpoint("a", SILENT), endpoint("b", in_pieces(), tier=2), hedge=1)
    call = play.call(stream=False)
    play.run()
    assert call.body == BODY
    assert play["a"].wires[0].closed_at == pytest.approx(1.0 + BEGINS)
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.SERVED)]


def test_an_answer_whose_length_is_beyond_the_limit_fails_before_it_begins() -> None:
    play = Player(endpoint("a", in_pieces()), endpoint("b", answers(completion("b"), 0.1), tier=2), limits=_limit())
    call = play.call(stream=False)
    play.run()
    assert call.json == completion("b")


def test_an_answer_that_grows_beyond_the_limit_is_cut() -> None:
    play = Player(endpoint("a", in_pieces(length=False)), limits=_limit())
    call = play.call(stream=False)
    play.run()
    assert call.aborted_at is not None
    assert verdicts(call) == [("a", "first", Verdict.FAULT)]


def test_a_long_answer_after_pings_is_held_to_become_one_event() -> None:
    slow = head(12.0, 200, JSON) + sends(12.0, BODY[:-10]) + sends(13.0, BODY[-10:]) + ends(13.0)
    play = Player(endpoint("a", slow))
    call = play.call(stream=True)
    play.run()
    assert call.pinged_at == [10.0]
    assert call.events == [json.loads(BODY)]
    assert call.done


def test_a_router_that_stops_cuts_a_long_answer() -> None:
    play = Player(endpoint("a", in_pieces()))
    call = play.call(stream=False)

    def stop() -> None:
        assert call.owner is not None
        call.owner.stop(Stopping("The router stops."))

    play.at(BEGINS + 0.25, stop)
    play.run()
    assert call.aborted_at == pytest.approx(BEGINS + 0.25)
    assert call.record.error == Stopping.code


def _limit() -> Limits:
    return Limits(answer=MAX_CHECKED + 3 * PIECE)
