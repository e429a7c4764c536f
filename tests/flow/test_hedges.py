"""Hedges: when a second endpoint is asked beside a late attempt, and how the loser ends."""

from __future__ import annotations

import pytest

from router.core.choice.budget import RESERVE
from router.core.verdict import Verdict
from tests.flow.timelines import quick_and_slow, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, fails_with, streams
from tests.support.outcomes import outcome_of


def test_a_hedge_that_wins_ends_the_wait() -> None:
    play = Player(endpoint("a", streams("late", first=9.0)), endpoint("b", streams("quick", first=0.3), tier=2))
    call = play.call()
    play.run()
    assert play["b"].asked_at == [2.0]
    assert call.text == "quick"
    assert call.first_token_at == 2.3
    assert call.headers["x-router-endpoint"] == "b"
    assert call.headers["x-router-attempts"] == "2"
    assert play["a"].wires[0].closed_at == 2.3  # at the same instant, which stops its generation
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.SERVED)]
    late, quick = call.record.attempts
    assert (late.ended, late.first_token_at, outcome_of(late).reason) == (2.3, None, "another attempt was first")
    assert (quick.began, quick.first_token_at) == (2.0, 2.3)


def test_the_losers_wait_counts_as_a_lower_bound() -> None:
    play = Player(*quick_and_slow(SILENT))
    before = play.endpoint("a").forecast.latency("first_token").mean(0.0)
    play.call()
    play.run_until(2.3)
    assert before == 1.0
    assert play.endpoint("a").forecast.latency("first_token").mean(2.3) == pytest.approx(2.3)
    assert play.endpoint("a").availability.breaker.failures_in_a_row == 0
    play.run()


def test_a_losing_hedge_is_closed_at_once_and_not_held_against_its_endpoint() -> None:
    play = Player(endpoint("a", streams("slow", first=2.1)), endpoint("b", SILENT, tier=2))
    call = play.call()
    play.run()
    assert call.text == "slow"
    assert call.first_token_at == 2.1
    assert play["b"].wires[0].closed_at == 2.1
    assert verdicts(call) == [("a", "first", Verdict.SERVED), ("b", "hedge", Verdict.ABANDONED)]
    assert play.endpoint("b").forecast.latency("first_token").unknown  # 0.1 s without a token is no evidence


def test_a_failed_hedge_leaves_the_race_to_the_slow_attempt() -> None:
    play = Player(endpoint("a", streams("slow", first=3.0)), endpoint("b", fails_with(500, 0.1), tier=2))
    call = play.call()
    play.run()
    assert call.text == "slow"
    assert call.first_token_at == 3.0
    assert verdicts(call) == [("a", "first", Verdict.SERVED), ("b", "hedge", Verdict.FAULT)]


def test_a_slow_attempt_that_fails_leaves_the_race_to_the_hedge() -> None:
    play = Player(endpoint("a", fails_with(500, 2.1)), endpoint("b", streams("hedge", first=1.0), tier=2))
    call = play.call()
    play.run()
    assert call.text == "hedge"
    assert call.first_token_at == 3.0
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "hedge", Verdict.SERVED)]


def test_two_first_tokens_at_the_same_instant_make_one_answer() -> None:
    play = Player(endpoint("a", streams("a", first=2.5)), endpoint("b", streams("b", first=0.5), tier=2))
    call = play.call()
    play.run()
    assert call.text == "a"  # the attempt that began first
    assert play["b"].wires[0].closed_at == 2.5


def test_a_configured_hedge_delay_is_kept() -> None:
    play = Player(*quick_and_slow(SILENT), hedge="250ms")
    call = play.call()
    play.run()
    assert play["b"].asked_at == [0.25]
    assert call.first_token_at == 0.55


def test_hedge_off_means_no_hedge() -> None:
    play = Player(endpoint("a", streams("late", first=9.0)), endpoint("b", streams("quick"), tier=2), hedge="off")
    call = play.call()
    play.run()
    assert play["b"].wires == []
    assert call.first_token_at == 9.0


def test_a_measured_endpoint_is_late_by_its_own_history() -> None:
    play = Player(endpoint("a", *[streams("usual", first=0.2)] * 20, SILENT), endpoint("b", streams("quick"), tier=2))
    for i in range(20):
        play.call(float(i))
    last = play.call(20.0)
    play.run()
    assert 20.2 < play["b"].asked_at[0] < 23.0  # b is unmeasured: up to twice its prior
    assert last.text == "quick"


def test_a_third_endpoint_is_not_asked_beside_two() -> None:
    play = Player(*(endpoint(name, SILENT, tier=tier) for tier, name in enumerate("abc", 1)), deadline=10, abandon=60)
    call = play.call()
    play.run()
    assert [play[name].asked_at for name in "abc"] == [[0.0], [2.0], []]
    assert call.status == 504


def test_hedges_stop_when_their_budget_is_empty() -> None:
    slow, quick = endpoint("a", streams("late", first=1.8)), endpoint("b", streams("quick"), tier=2)
    none = Player(slow, quick, hedge=1.0, hedge_budget=0)
    none.call()
    none.run()
    assert not none["b"].wires
    play = Player(slow, quick, hedge=1.0, hedge_budget=0.001)
    calls = [play.call(i / 100) for i in range(6)]
    play.run()
    assert len(play["b"].wires) == RESERVE
    assert [call.text for call in calls] == ["quick"] * 3 + ["late"] * 3


def test_calls_move_away_after_three_late_attempts_even_without_budget() -> None:
    """A cold start with a frozen endpoint: the reserve pays three hedges, and their losers open the breaker."""
    play = Player(endpoint("a", SILENT), endpoint("b", streams("quick"), tier=2), hedge_budget=0.001)
    calls = [play.call(i / 10) for i in range(20)]
    play.run()
    assert all(call.text == "quick" for call in calls)
    assert max(call.record.first_token or 0.0 for call in calls) < 3.0
    assert 0.0 <= play.table.retries.level(3.0) < 1.0  # the retry budget pays for the first of them
    given_up = [call for call in calls if verdicts(call)[0][2] is Verdict.FAULT]
    assert given_up  # the others leave without a second attempt beside the first
