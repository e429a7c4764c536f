"""Timelines of a race: when the attempts of one call begin and end, and which budget pays for them."""

from __future__ import annotations

from math import inf

import pytest

from router.core.choice.affinity import Affinity
from router.core.choice.budget import RESERVE, Budget
from router.core.choice.candidates import HOLD, RECHECK
from router.core.choice.hedge_plan import HedgePlan
from router.core.choice.hedge_window import MIN_HEDGES
from router.core.choice.race import MAX_ATTEMPTS
from router.core.demand import FIRST_TOKEN, DemandKind
from router.core.endpoint.breaker import FIRST_WAIT
from router.core.verdict import Outcome, Verdict
from tests.core.choice.timelines import AGAIN, Call, empty_budget, three
from tests.core.helpers import PassivePolicy, T, busy, endpoint, trip

# Hedges.


def test_the_first_attempt_begins_at_once_at_the_cheapest_endpoint() -> None:
    call = Call(three())
    assert call.at(0.0) == ["first a"]
    assert call.wakes == 60.0  # its deadline
    assert not call.lost


def test_a_hedge_begins_exactly_when_the_first_attempt_is_late_and_both_stay_in_the_race() -> None:
    call = Call(three(), policy=PassivePolicy(hedge=2.0))
    call.at(0.0)
    assert call.wakes == 2.0
    assert call.at(1.875) == []
    assert call.at(2.0) == ["hedge b"]
    assert [attempt.endpoint.name for attempt in call.race.live] == ["a", "b"]
    assert call.wakes == 60.0
    assert call.at(30.0) == []  # one hedge at a time
    assert call.route.hedges.level(T + 2.0) == pytest.approx(RESERVE - 1.0)
    assert call.route.retries.level(T + 2.0) == pytest.approx(RESERVE)


def test_with_a_hedge_delay_of_zero_both_attempts_begin_at_once() -> None:
    assert Call(three(), policy=PassivePolicy(hedge=0.0)).at(0.0) == ["first a", "hedge b"]


def test_auto_hedges_after_the_planned_delay_and_off_never() -> None:
    a, b, _ = three()
    auto, off = Call([a, b], policy=PassivePolicy(hedge="auto")), Call([a, b], policy=PassivePolicy(hedge="off"))
    auto.at(0.0), off.at(0.0)
    assert auto.wakes == pytest.approx(0.5, rel=0.01)  # twice the expected wait: nothing is planned yet
    assert off.at(59.0) == []


def test_under_auto_few_hedges_wait_at_once_and_each_win_allows_more() -> None:
    a, b, dear = endpoint("a", 0.25), endpoint("b", 0.3), endpoint("dear", 5.0)
    call = Call([a, b, dear], policy=PassivePolicy(hedge="auto", hedge_budget=0.1))
    call.route.window.pending = int(MIN_HEDGES)  # of other calls
    assert call.at(0.0) == ["first a"]
    assert call.at(0.7) == []
    call.route.window.pending -= 1
    assert call.at(0.7 + RECHECK) == ["hedge b"]
    assert call.route.window.pending == MIN_HEDGES
    call.token("b", 1.0)
    assert call.route.window.pending == MIN_HEDGES - 1
    assert call.route.window.size(T + 1.0) > MIN_HEDGES


def test_a_call_with_affinity_is_hedged_only_when_it_is_late_at_its_own_endpoint() -> None:
    own, quicker, plan = endpoint("own", 0.4), endpoint("quicker", 0.1), HedgePlan()
    plan.renew([[own, quicker]], Budget(), T)
    for conversation in range(100):  # until the key of one draws this endpoint
        affinity = Affinity(b"%d" % conversation, margin=0.5)
        call = Call([own, quicker], policy=PassivePolicy(hedge="auto"), plan=plan, affinity=affinity)
        if call.at(0.0) == ["first own"]:
            break
        call.race.abandon(T)
    unusual = own.forecast.late_after(FIRST_TOKEN, T)
    assert plan.delay(own, FIRST_TOKEN, T) < unusual  # the delay without affinity
    assert call.wakes == pytest.approx(unusual)


def test_a_breakers_trial_is_hedged_early_under_auto() -> None:
    a = endpoint("a")
    trip(a, T - FIRST_WAIT)
    call = Call([a], [endpoint("b")], policy=PassivePolicy(hedge="auto"))
    assert call.at(0.0) == ["first a"]
    assert call.wakes == pytest.approx(a.forecast.typical(FIRST_TOKEN, T))
    assert call.at(1.01) == ["hedge b"]
    assert call.route.hedges.level(T + 1.01) == pytest.approx(RESERVE)  # free: the trial is the router's own experiment


def test_with_an_empty_budget_there_is_no_hedge_until_calls_have_paid_for_one() -> None:
    call = Call(three(), policy=PassivePolicy(hedge=2.0), hedges=empty_budget())
    call.at(0.0)
    assert call.at(2.0) == []
    assert call.wakes == 2.0 + RECHECK
    call.route.hedges.deposit(1.5, T + 2.125)
    assert call.at(2.0 + RECHECK) == ["hedge b"]


def test_a_hedge_waits_until_another_endpoint_is_available() -> None:
    a, b, _ = three()
    busy(b, 3.0)
    call = Call([a, b], policy=PassivePolicy(hedge=2.0))
    call.at(0.0)
    assert call.at(2.0) == []
    assert call.at(3.0) == ["hedge b"]


def test_once_every_endpoint_was_tried_the_race_looks_for_no_hedge_target_again() -> None:
    call = Call([endpoint("a")], policy=PassivePolicy(hedge=2.0, abandon=4.0))
    call.at(0.0)
    assert call.at(2.0) == []
    assert call.wakes == 4.0
    assert call.at(4.0) == []
    assert call.wakes == 60.0


def test_a_hedge_goes_to_the_next_tier_if_its_own_has_no_other_endpoint() -> None:
    a, b, c = three()
    assert Call([c], [a, b], policy=PassivePolicy(hedge=0.0)).at(0.0) == ["first c", "hedge a"]


def test_a_hedge_goes_to_an_endpoint_that_has_just_failed_if_there_is_no_other() -> None:
    a, b, _ = three()
    b.begin(T).end(Outcome(Verdict.FAULT), T)
    assert Call([a, b], policy=PassivePolicy(hedge=0.0)).at(0.0) == ["first a", "hedge b"]


def test_a_hedge_that_fails_is_replaced_at_once_while_the_first_attempt_is_late() -> None:
    call = Call(three(), policy=PassivePolicy(hedge=2.0))
    call.at(0.0), call.at(2.0)
    assert call.fails("b", 3.0) == ["hedge c"]


# Failures and retries.


def test_a_failure_is_retried_at_once_at_another_endpoint() -> None:
    call = Call(three())
    call.at(0.0)
    assert call.fails("a", 0.5) == ["retry b"]
    assert call.fails("b", 0.5) == ["retry c"]


@pytest.mark.parametrize("verdict", [Verdict.FAULT, Verdict.BUSY])
def test_a_retry_at_a_sound_endpoint_costs_no_budget(verdict: Verdict) -> None:
    call = Call(three(), retries=empty_budget())
    call.at(0.0)
    assert call.fails("a", 0.5, verdict) == ["retry b"]


def test_a_retry_at_an_unsound_endpoint_is_paid_from_the_retry_budget() -> None:
    a, b, _ = three()
    b.begin(T).end(Outcome(Verdict.FAULT), T)
    rich, poor = Call([a, b]), Call([a, b], retries=empty_budget())
    rich.at(0.0), poor.at(0.0)
    assert rich.fails("a", 0.0) == ["retry b"]
    assert rich.route.retries.level(T) == pytest.approx(RESERVE - 1.0)
    assert poor.fails("a", 0.0) == []
    assert poor.lost


def test_a_call_that_cannot_pay_for_an_unsound_endpoint_is_retried_at_a_sound_one() -> None:
    a, b, c = three()
    trip(b, T - FIRST_WAIT)  # half-open: cheaper than c, and unsound
    for _ in range(2):
        b.forecast.latency("first_token").forget()
    call = Call([a], [b], [c], retries=empty_budget())
    call.at(0.0)
    assert call.fails("a", 0.5) == ["retry c"]


def test_a_failed_endpoint_is_asked_again_once_after_a_pause_and_paid_from_the_retry_budget() -> None:
    call = Call([endpoint("a")])
    call.at(0.0)
    assert call.fails("a", 1.0) == []
    assert call.wakes == 1.0 + AGAIN
    assert not call.lost
    assert call.at(1.25) == []
    assert call.at(1.0 + AGAIN) == ["retry a"]
    assert call.route.retries.level(T + 1.0 + AGAIN) == pytest.approx(RESERVE - 1.0)
    assert call.fails("a", 2.0) == []
    assert call.lost


def test_with_an_empty_budget_a_failed_endpoint_is_not_asked_again() -> None:
    call = Call([endpoint("a")], retries=empty_budget())
    call.at(0.0)
    call.fails("a", 1.0)
    assert call.at(1.0 + AGAIN) == []
    assert call.lost


def test_an_endpoint_whose_failure_is_permanent_is_not_asked_again() -> None:
    call = Call([endpoint("a")])
    call.at(0.0)
    assert call.fails("a", 1.0, passing=False) == []
    assert call.lost


def test_a_short_retry_after_is_waited_out_and_a_long_one_loses_the_call() -> None:
    short, long = Call([endpoint("a")], retries=empty_budget()), Call([endpoint("a")])
    short.at(0.0), long.at(0.0)
    assert short.fails("a", 1.0, Verdict.BUSY, retry_after=HOLD) == []
    assert short.wakes == 1.0 + HOLD
    assert short.at(1.0 + HOLD) == ["retry a"]
    assert long.fails("a", 1.0, Verdict.BUSY, retry_after=HOLD + 0.125) == []
    assert long.lost


def test_a_call_waits_out_no_pause_beyond_its_deadline() -> None:
    call = Call([endpoint("a")], policy=PassivePolicy(deadline=2.0))
    call.at(0.0)
    assert call.fails("a", 1.75) == []
    assert call.lost


def test_no_call_makes_more_than_the_maximum_of_attempts() -> None:
    names = [f"e{n}" for n in range(MAX_ATTEMPTS + 2)]
    call = Call([endpoint(name) for name in names])
    begun = call.at(0.0)
    while begun and not call.lost:
        (name,) = [line.split()[1] for line in begun]
        begun = call.fails(name, 0.0)
    assert call.race.attempts == MAX_ATTEMPTS
    assert call.lost


def test_no_attempt_begins_after_the_deadline() -> None:
    call = Call(three())
    call.at(0.0)
    assert call.fails("a", 60.0) == []
    assert call.lost


# Giving up.


def test_an_attempt_as_old_as_abandon_is_given_up_if_another_endpoint_can_take_over() -> None:
    call = Call(three(), policy=PassivePolicy(abandon=15.0))
    call.at(0.0)
    assert call.wakes == 15.0
    assert call.at(15.0) == ["give up a", "retry b"]
    assert call.at(30.0) == ["give up b", "retry c"]


def test_a_hedge_beside_an_attempt_whose_breaker_has_opened_is_paid_from_the_retry_budget() -> None:
    a, b, _ = three()
    call = Call([a, b], policy=PassivePolicy(hedge=2.0))
    call.at(0.0)
    trip(a, T + 1.0)
    assert call.at(2.0) == ["hedge b"]
    assert call.route.retries.level(T + 2.0) == pytest.approx(RESERVE - 1.0)
    assert call.route.hedges.level(T + 2.0) == pytest.approx(RESERVE)


def test_without_budget_a_call_gives_up_an_attempt_whose_breaker_has_opened_and_retries_at_a_sound_endpoint() -> None:
    a, b, _ = three()
    call = Call([a, b], policy=PassivePolicy(hedge=2.0), retries=empty_budget())
    call.at(0.0)
    trip(a, T + 1.0)
    assert call.at(2.0) == []
    assert call.wakes == 2.0
    assert call.at(2.0) == ["give up a", "retry b"]


@pytest.mark.parametrize("kind", ["first_token", "answer"])
def test_without_budget_an_attempt_stays_if_no_endpoint_is_sound_or_a_complete_answer_is_awaited(
    kind: DemandKind,
) -> None:
    a, b, _ = three()
    call = Call([a, b], policy=PassivePolicy(hedge=2.0), retries=empty_budget(), kind=kind)
    call.at(0.0)
    trip(a, T + 1.0)
    if kind == "first_token":
        b.begin(T).end(Outcome(Verdict.FAULT), T)
    assert call.at(2.0) == []
    assert call.wakes == 2.0 + RECHECK


def test_the_only_running_attempt_may_take_the_whole_deadline_of_the_call() -> None:
    a, b, _ = three()
    busy(b, 16.0)
    call = Call([a, b], policy=PassivePolicy(abandon=15.0))
    call.at(0.0)
    assert call.at(15.0) == []
    assert call.wakes == 15.0 + RECHECK
    assert call.at(16.0) == ["give up a", "retry b"]
    assert call.at(59.0) == []
    assert [attempt.endpoint.name for attempt in call.race.live] == ["b"]


def test_an_attempt_is_not_given_up_for_one_that_cannot_be_paid_for() -> None:
    a, b, _ = three()
    b.begin(T).end(Outcome(Verdict.FAULT), T)
    call = Call([a, b], policy=PassivePolicy(abandon=15.0), retries=empty_budget())
    call.at(0.0)
    assert call.at(15.0) == []
    assert not call.lost


def test_an_attempt_is_not_given_up_if_the_call_may_make_no_other() -> None:
    names = [f"e{n}" for n in range(MAX_ATTEMPTS + 1)]
    call = Call([endpoint(name) for name in names], policy=PassivePolicy(abandon=15.0))
    (begun,) = call.at(0.0)
    for _ in range(MAX_ATTEMPTS - 1):
        (begun,) = call.fails(begun.split()[1], 0.0)
    assert call.at(15.0) == []
    assert not call.lost


def test_of_two_running_attempts_the_older_is_given_up_for_a_third() -> None:
    call = Call(three(), policy=PassivePolicy(hedge=2.0, abandon=15.0))
    call.at(0.0), call.at(2.0)
    assert call.at(15.0) == ["give up a", "hedge c"]


def test_an_old_attempt_at_a_complete_answer_is_hedged_and_not_given_up() -> None:
    call = Call(
        [endpoint("a", kind="answer")],
        [endpoint("b", kind="answer")],
        policy=PassivePolicy(hedge=30.0, abandon=15.0),
        kind="answer",
    )
    call.at(0.0)
    assert call.wakes == 15.0
    assert call.at(15.0) == ["hedge b"]
    assert call.at(59.0) == []
    assert call.route.retries.level(T + 15.0) == pytest.approx(RESERVE - 1.0)  # paid for as a retry
    assert call.route.hedges.level(T + 15.0) == pytest.approx(RESERVE)


def test_an_attempt_at_a_complete_answer_is_not_hedged_if_hedging_is_off() -> None:
    tiers = [endpoint("a", kind="answer")], [endpoint("b", kind="answer")]
    call = Call(*tiers, policy=PassivePolicy(hedge="off", abandon=15.0), kind="answer")
    call.at(0.0)
    assert call.wakes == 60.0  # its deadline
    assert call.at(59.0) == []


# Deadlines of single endpoints.


def test_the_deadline_of_an_endpoint_ends_its_attempt_and_another_takes_over() -> None:
    a, b, _ = three()
    call = Call([a, b], own={a: PassivePolicy(deadline=5.0)})
    call.at(0.0)
    assert call.wakes == 5.0
    assert call.at(5.0) == ["give up a", "retry b"]
    assert call.wakes == 60.0


def test_an_endpoint_whose_own_deadline_is_over_is_not_asked() -> None:
    a, b, c = three()
    call = Call([a, b, c], policy=PassivePolicy(hedge=6.0), own={b: PassivePolicy(deadline=5.0)})
    call.at(0.0)
    assert call.at(6.0) == ["hedge c"]
    late = Call([a], [b], own={b: PassivePolicy(deadline=5.0)})
    late.at(0.0)
    assert late.fails("a", 5.0, passing=False) == []
    assert late.lost


def test_an_endpoint_is_not_asked_again_beyond_its_own_deadline() -> None:
    a, b, _ = three()
    call = Call([a], [b], own={a: PassivePolicy(deadline=2.0)})
    call.at(0.0)
    assert call.fails("a", 1.75) == ["retry b"]
    assert call.fails("b", 1.875) == []
    assert call.wakes == 1.875 + AGAIN
    assert call.at(1.875 + AGAIN) == ["retry b"]


# The end.


def test_the_first_token_wins_and_the_lost_attempts_are_ended_and_returned() -> None:
    a, b, _ = three()
    call = Call([a, b], policy=PassivePolicy(hedge=2.0))
    call.at(0.0), call.at(2.0)
    before = a.forecast.latency("first_token").mean(T + 2.5)
    assert call.token("b", 2.5) == ["a"]
    loser, winner = call.attempts["a"], call.attempts["b"]
    assert call.race.winner is winner
    assert (loser.verdict, loser.ended) == (Verdict.ABANDONED, T + 2.5)
    assert (winner.ended, winner.first_token_at) == (None, T + 2.5)
    assert a.forecast.latency("first_token").mean(T + 2.5) > before  # at least its duration so far
    assert (a.availability.in_flight, b.availability.in_flight) == (0, 1)
    assert not call.lost


def test_after_the_end_nothing_is_due() -> None:
    won, left = Call(three(), policy=PassivePolicy(hedge=2.0)), Call(three(), policy=PassivePolicy(hedge=2.0))
    won.at(0.0), left.at(0.0)
    won.token("a", 1.0)
    left.race.abandon(T + 1.0)
    for call in (won, left):
        assert call.wakes == inf
        assert not call.race.live
    assert won.at(99.0) == []


def test_a_refusal_settles_the_race_without_a_first_token() -> None:
    a, b, _ = three()
    call = Call([a, b], policy=PassivePolicy(hedge=2.0))
    call.at(0.0), call.at(2.0)
    assert [loser.endpoint.name for loser in call.race.settle(call.attempts["a"], T + 2.5)] == ["b"]
    assert call.attempts["a"].first_token_at is None
    assert call.race.winner is call.attempts["a"]


def test_when_the_call_is_over_all_running_attempts_are_ended_and_returned() -> None:
    a, b, _ = three()
    call = Call([a, b], policy=PassivePolicy(hedge=2.0))
    call.at(0.0), call.at(2.0)
    assert [loser.endpoint.name for loser in call.race.abandon(T + 3.0)] == ["a", "b"]
    assert (a.availability.in_flight, b.availability.in_flight) == (0, 0)
    assert call.race.abandon(T + 4.0) == []


def test_a_call_pays_its_shares_into_the_budgets_once() -> None:
    call = Call(three(), policy=PassivePolicy(hedge_budget=0.25, retry_budget=0.5))
    call.at(0.0)
    call.fails("a", 0.0)
    call.fails("b", 0.0)
    assert call.route.hedges.level(T) == RESERVE + 0.25
    assert call.route.retries.level(T) == RESERVE + 0.5
