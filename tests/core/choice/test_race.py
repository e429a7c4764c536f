"""Which endpoints one call tries, and when: timelines of a race alone, told as its shell tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from random import Random

import pytest

from router.core.choice.affinity import Affinity
from router.core.choice.budget import RESERVE, Budget
from router.core.choice.candidates import HOLD, PAUSE, RECHECK
from router.core.choice.hedge_plan import HedgePlan
from router.core.choice.hedge_window import MIN_HEDGES, HedgeWindow
from router.core.choice.race import MAX_ATTEMPTS, Race
from router.core.choice.route import Route, Tier
from router.core.demand import FIRST_TOKEN, KINDS, Demand, DemandKind
from router.core.endpoint.breaker import FIRST_WAIT, State
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.endpoint.latency import SETTLE_TIME
from router.core.endpoint.server_load import ServerLoad
from router.core.endpoint.waiting_queue import QueueLimit
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import Rules, Steady, T, busy, endpoint, full, learn, trip

AGAIN = PAUSE * 1.5  # with chance that holds still


def way(
    tiers: Sequence[Sequence[Endpoint]],
    policies: Mapping[Endpoint, Rules],
    patience: float = 0.0,
    hedges: Budget | None = None,
    retries: Budget | None = None,
    queue: QueueLimit | None = None,
    plan: HedgePlan | None = None,
) -> Route:
    """A route by hand."""
    deadlines = [rules.deadline for rules in policies.values()]
    return Route(
        model="chat",
        tiers=tuple(Tier(number, tuple(tier)) for number, tier in enumerate(tiers, 1)),
        policies=policies,
        hedges=hedges or Budget(),
        retries=retries or Budget(),
        deadline=max(deadlines),
        shortest_deadline=min(deadlines),
        patience=patience,
        resume="off",
        affinity="off",
        affinity_margin=0.0,
        queue=queue or QueueLimit(),
        plan=plan or HedgePlan(),
        window=HedgeWindow(),
    )


class Call:
    """One race and its shell; times are seconds since the call came."""

    def __init__(
        self,
        *tiers: Sequence[Endpoint],
        rules: Rules | None = None,
        own: Mapping[Endpoint, Rules] | None = None,
        wait: DemandKind = "first_token",
        hedges: Budget | None = None,
        retries: Budget | None = None,
        plan: HedgePlan | None = None,
        affinity: Affinity | None = None,
    ) -> None:
        rules = rules or Rules()
        policies = {e: (own or {}).get(e, rules) for tier in tiers for e in tier}
        self.way = way(tiers, policies, rules.patience, hedges, retries, plan=plan)
        self.race = Race(self.way, Demand(wait), T, Steady(), affinity=affinity)
        self.attempts: dict[str, Attempt] = {}  # the last one at each

    def at(self, seconds: float) -> list[str]:
        """Time has come, or there was news: what is given up and what begins."""
        now, seen = T + seconds, []
        for late in self.race.give_up(now):
            self.race.failed(late, Outcome(Verdict.FAULT, passing=False), now)
            seen.append(f"give up {late.endpoint.name}")
        while attempt := self.race.next_attempt(now):
            self.attempts[attempt.endpoint.name] = attempt
            seen.append(f"{attempt.role} {attempt.endpoint.name}")
        return seen

    def fails(
        self,
        name: str,
        seconds: float,
        verdict: Verdict = Verdict.FAULT,
        *,
        retry_after: float | None = None,
        passing: bool = True,
    ) -> list[str]:
        self.race.failed(self.attempts[name], Outcome(verdict, retry_after=retry_after, passing=passing), T + seconds)
        return self.at(seconds)

    def token(self, name: str, seconds: float) -> list[str]:
        """The first token; who lost."""
        return [loser.endpoint.name for loser in self.race.commit(self.attempts[name], T + seconds)]

    @property
    def wakes(self) -> float:
        return self.race.wake_at - T

    @property
    def lost(self) -> bool:
        return self.race.lost


def three() -> tuple[Endpoint, Endpoint, Endpoint]:
    """Three in the order in which they are liked."""
    return endpoint("a", 0.25), endpoint("b", 1.0), endpoint("c", 4.0)


def broke() -> Budget:
    return Budget(reserve=0.0)


# Requests that are too long.


def too_long(call: Call, name: str, seconds: float) -> list[str]:
    assert call.race.longer(call.attempts[name], T + seconds)
    return call.fails(name, seconds, Verdict.REFUSED, passing=False)


def test_what_is_too_long_for_one_is_asked_of_each_with_a_larger_context_once_and_free() -> None:
    a, b, c = three()
    d = endpoint("d", 9.0)
    a.context, b.context, c.context, d.context = 8000, 8000, 32_000, 128_000
    call = Call([a], [b], [c], [d], retries=broke())
    assert call.at(0) == ["first a"]
    assert too_long(call, "a", 1) == ["retry c"]
    assert call.fails("c", 2) == ["retry d"]
    assert call.fails("d", 3) == []
    assert call.lost


def test_the_largest_that_was_too_small_counts() -> None:
    a, b, c = three()
    a.context, b.context, c.context = 32_000, 128_000, 64_000
    call = Call([a], [b], [c])
    call.at(0)
    assert too_long(call, "a", 1) == ["retry b"]
    assert not call.race.longer(call.attempts["b"], T + 2)


def test_one_whose_context_is_not_said_has_the_smallest() -> None:
    a, b, c = three()
    c.context = 1000
    call = Call([a], [b], [c])
    call.at(0)
    assert too_long(call, "a", 1) == ["retry c"]


def test_where_nobody_says_how_large_his_context_is_another_tier_is_asked_but_none_that_only_simulates() -> None:
    a, b, c = three()
    alike = Call([a, b, c])
    alike.at(0)
    assert not alike.race.longer(alike.attempts["a"], T + 1)
    call = Call([a, b], [c], [made_up := endpoint("d")])
    made_up.simulated = True
    call.at(0)
    assert too_long(call, "a", 1) == ["retry c"]
    assert not call.race.longer(call.attempts["c"], T + 2)


def test_a_late_one_with_a_larger_context_is_hedged_with_such_only() -> None:
    a, b, c = three()
    d = endpoint("d", 9.0)
    a.context, c.context, d.context = 1000, 8000, 8000
    call = Call([a], [b], [c], [d], rules=Rules(hedge=2.0, hedge_budget=1.0))
    call.at(0)
    assert too_long(call, "a", 1) == ["retry c"]
    assert call.wakes == 3
    assert call.at(3) == ["hedge d"]
    assert call.token("d", 4) == ["c"]


# Slow ones.


def test_the_first_attempt_begins_at_once_at_the_cheapest() -> None:
    call = Call(three())
    assert call.at(0.0) == ["first a"]
    assert call.wakes == 60.0  # its deadline
    assert not call.lost


def test_a_hedge_begins_exactly_when_the_first_is_late_and_both_stay_in_the_race() -> None:
    call = Call(three(), rules=Rules(hedge=2.0))
    call.at(0.0)
    assert call.wakes == 2.0
    assert call.at(1.875) == []
    assert call.at(2.0) == ["hedge b"]
    assert [attempt.endpoint.name for attempt in call.race.live] == ["a", "b"]
    assert call.wakes == 60.0
    assert call.at(30.0) == []  # one hedge at a time
    assert call.way.hedges.level(T + 2.0) == pytest.approx(RESERVE - 1.0)
    assert call.way.retries.level(T + 2.0) == pytest.approx(RESERVE)


def test_no_delay_is_a_race_from_the_start() -> None:
    assert Call(three(), rules=Rules(hedge=0.0)).at(0.0) == ["first a", "hedge b"]


def test_auto_hedges_as_the_plan_says_and_off_never() -> None:
    a, b, _ = three()
    auto, off = Call([a, b], rules=Rules(hedge="auto")), Call([a, b], rules=Rules(hedge="off"))
    auto.at(0.0), off.at(0.0)
    assert auto.wakes == pytest.approx(0.5, rel=0.01)  # twice what is expected, where nothing was planned yet
    assert off.at(59.0) == []


def late(*rivals: Endpoint, less_welcome: Sequence[Endpoint] = ()) -> list[str]:
    """Who is asked beside one that usually takes 0.25 s, when it has taken a second."""
    call = Call([endpoint("a", 0.25), *rivals], less_welcome, rules=Rules(hedge="auto", hedge_budget=0.1))
    assert call.at(0.0) == ["first a"]
    return call.at(1.0)


def test_under_auto_no_rival_is_one_that_is_no_better_off_itself() -> None:
    fine, slower, hot, busy_one, full_one = (endpoint(name, 0.5, limit=1) for name in "bcdef")
    assert late(fine) == ["hedge b"]
    waiting = endpoint("g", None)
    learn(waiting, *[0.5] * 5)  # too few to tell trouble from chance
    waiting.begin(T - 0.5)
    assert late(waiting) == []  # it keeps somebody waiting for as long as the late one does
    learn(slower, *[2.0] * 3)
    assert late(slower) == []  # it has just become slower, and nobody knows how slow
    assert slower.forecast.latency("first_token").settled(T + SETTLE_TIME)
    hot.forecast.report(ServerLoad(waiting=2.0), T, T + 5.0)
    assert late(hot) == []
    busy(busy_one, 5.0)
    assert late(busy_one) == []
    full(full_one)
    assert late(full_one) == []


def test_under_auto_there_is_no_rival_from_whom_no_more_is_to_be_hoped_for() -> None:
    a, b = endpoint("a", None), endpoint("b", 30.0)
    learn(a, *[0.5] * 97, *[2.0] * 30)
    call = Call([a, b], rules=Rules(hedge="auto", hedge_budget=0.1))
    assert call.at(0.0) == ["first a"]
    assert call.at(1.9) == []  # it will be there in a moment, most likely


def test_under_auto_the_rival_is_of_the_good_ones_the_one_measured_longest_ago() -> None:
    good, better, dear = endpoint("good", None), endpoint("better", 0.5), endpoint("dear", None)
    learn(good, *[0.55] * 100, now=T - 1.0)
    learn(dear, *[0.8] * 100, now=T - 10.0)
    assert late(good, better, dear) == ["hedge good"]


def test_under_auto_a_less_welcome_one_is_a_rival_where_it_is_much_quicker() -> None:
    assert late(endpoint("b", 1.0), less_welcome=[endpoint("c", 0.7)]) == ["hedge c"]
    assert late(endpoint("b", 1.0), less_welcome=[endpoint("c", 0.8)]) == ["hedge b"]


def test_under_auto_few_hedges_wait_at_once_and_more_when_they_win() -> None:
    a, b, dear = endpoint("a", 0.25), endpoint("b", 0.3), endpoint("dear", 5.0)
    hedges = [dear.begin(T - 0.01, role="hedge") for _ in range(int(MIN_HEDGES))]
    call = Call([a, b, dear], rules=Rules(hedge="auto", hedge_budget=0.1))
    assert call.at(0.0) == ["first a"]
    assert call.at(0.7) == []
    hedges.pop().end(Outcome(Verdict.ABANDONED), T + 0.7)
    assert call.at(0.7 + RECHECK) == ["hedge b"]
    call.token("b", 1.0)
    assert call.way.window.size(T + 1.0) > MIN_HEDGES


def test_a_conversation_that_stays_with_its_cache_gets_a_rival_only_when_it_is_late_there() -> None:
    own, quicker, plan = endpoint("own", 0.4), endpoint("quicker", 0.1), HedgePlan()
    plan.renew([[own, quicker]], Budget(), T)
    for conversation in range(100):  # until one's lot falls on it
        affinity = Affinity(b"%d" % conversation, margin=0.5)
        call = Call([own, quicker], rules=Rules(hedge="auto"), plan=plan, affinity=affinity)
        if call.at(0.0) == ["first own"]:
            break
        call.race.abandon(T)
    unusual = own.forecast.late_after(FIRST_TOKEN, T)
    assert plan.delay(own, FIRST_TOKEN, T) < unusual  # what anybody else would get
    assert call.wakes == pytest.approx(unusual)


def test_a_breakers_trial_is_hedged_early_under_auto() -> None:
    a = endpoint("a")
    trip(a, T - FIRST_WAIT)
    call = Call([a], [endpoint("b")], rules=Rules(hedge="auto"))
    assert call.at(0.0) == ["first a"]
    assert call.wakes == pytest.approx(
        a.forecast.typical(FIRST_TOKEN, T)
    )  # when it takes longer than it does as a rule
    assert call.at(1.01) == ["hedge b"]
    assert call.way.hedges.level(T + 1.01) == pytest.approx(RESERVE)  # it is our experiment


def test_without_budget_there_is_no_hedge_until_calls_have_paid_for_one() -> None:
    call = Call(three(), rules=Rules(hedge=2.0), hedges=broke())
    call.at(0.0)
    assert call.at(2.0) == []
    assert call.wakes == 2.0 + RECHECK
    call.way.hedges.deposit(1.5, T + 2.125)
    assert call.at(2.0 + RECHECK) == ["hedge b"]


def test_without_another_endpoint_available_there_is_no_hedge_until_there_is() -> None:
    a, b, _ = three()
    busy(b, 3.0)
    call = Call([a, b], rules=Rules(hedge=2.0))
    call.at(0.0)
    assert call.at(2.0) == []
    assert call.at(3.0) == ["hedge b"]


def test_where_every_endpoint_was_tried_nobody_looks_for_a_rival_again_and_again() -> None:
    call = Call([endpoint("a")], rules=Rules(hedge=2.0, abandon=4.0))
    call.at(0.0)
    assert call.at(2.0) == []
    assert call.wakes == 4.0
    assert call.at(4.0) == []
    assert call.wakes == 60.0


def test_a_hedge_goes_to_the_next_tier_where_its_own_has_no_other() -> None:
    a, b, c = three()
    assert Call([c], [a, b], rules=Rules(hedge=0.0)).at(0.0) == ["first c", "hedge a"]


def test_a_hedge_goes_to_one_that_has_just_failed_where_there_is_no_other() -> None:
    a, b, _ = three()
    b.begin(T).end(Outcome(Verdict.FAULT), T)
    assert Call([a, b], rules=Rules(hedge=0.0)).at(0.0) == ["first a", "hedge b"]


def test_a_hedge_that_fails_is_replaced_when_the_first_is_late_as_it_is() -> None:
    call = Call(three(), rules=Rules(hedge=2.0))
    call.at(0.0), call.at(2.0)
    assert call.fails("b", 3.0) == ["hedge c"]


# Failed ones.


def test_a_failure_is_retried_at_once_elsewhere() -> None:
    call = Call(three())
    call.at(0.0)
    assert call.fails("a", 0.5) == ["retry b"]
    assert call.fails("b", 0.5) == ["retry c"]


@pytest.mark.parametrize("verdict", [Verdict.FAULT, Verdict.BUSY])
def test_a_retry_at_a_sound_endpoint_costs_no_budget(verdict: Verdict) -> None:
    call = Call(three(), retries=broke())
    call.at(0.0)
    assert call.fails("a", 0.5, verdict) == ["retry b"]


def test_a_retry_at_an_unsound_endpoint_is_paid_for() -> None:
    a, b, _ = three()
    b.begin(T).end(Outcome(Verdict.FAULT), T)
    rich, poor = Call([a, b]), Call([a, b], retries=broke())
    rich.at(0.0), poor.at(0.0)
    assert rich.fails("a", 0.0) == ["retry b"]
    assert rich.way.retries.level(T) == pytest.approx(RESERVE - 1.0)
    assert poor.fails("a", 0.0) == []
    assert poor.lost


def test_who_cannot_pay_for_an_unsound_endpoint_still_gets_a_sound_one() -> None:
    a, b, c = three()
    trip(b, T - FIRST_WAIT)  # half-open: cheaper than c, and unsound
    for _ in range(2):
        b.forecast.latency("first_token").forget()
    call = Call([a], [b], [c], retries=broke())
    call.at(0.0)
    assert call.fails("a", 0.5) == ["retry c"]


def test_the_same_endpoint_is_asked_again_after_a_pause_once_and_for_budget() -> None:
    call = Call([endpoint("a")])
    call.at(0.0)
    assert call.fails("a", 1.0) == []
    assert call.wakes == 1.0 + AGAIN
    assert not call.lost
    assert call.at(1.25) == []
    assert call.at(1.0 + AGAIN) == ["retry a"]
    assert call.way.retries.level(T + 1.0 + AGAIN) == pytest.approx(RESERVE - 1.0)
    assert call.fails("a", 2.0) == []
    assert call.lost


def test_who_has_no_budget_does_not_ask_a_failed_endpoint_again() -> None:
    call = Call([endpoint("a")], retries=broke())
    call.at(0.0)
    call.fails("a", 1.0)
    assert call.at(1.0 + AGAIN) == []
    assert call.lost


def test_an_endpoint_whose_failure_will_not_pass_is_not_asked_again() -> None:
    call = Call([endpoint("a")])
    call.at(0.0)
    assert call.fails("a", 1.0, passing=False) == []
    assert call.lost


def test_an_untried_endpoint_that_is_out_is_asked_before_one_that_has_failed() -> None:
    a, b, _ = three()
    trip(b)
    call = Call([a, b])
    call.at(0.0)
    assert call.fails("a", 0.5) == ["retry b"]


def test_a_short_busy_spell_is_waited_out_and_a_long_one_is_told() -> None:
    short, long = Call([endpoint("a")], retries=broke()), Call([endpoint("a")])
    short.at(0.0), long.at(0.0)
    assert short.fails("a", 1.0, Verdict.BUSY, retry_after=HOLD) == []
    assert short.wakes == 1.0 + HOLD
    assert short.at(1.0 + HOLD) == ["retry a"]
    assert long.fails("a", 1.0, Verdict.BUSY, retry_after=HOLD + 0.125) == []
    assert long.lost


def test_a_call_waits_out_no_pause_beyond_its_deadline() -> None:
    call = Call([endpoint("a")], rules=Rules(deadline=2.0))
    call.at(0.0)
    assert call.fails("a", 1.75) == []
    assert call.lost


def test_no_call_makes_more_than_so_many_attempts() -> None:
    names = [f"e{n}" for n in range(MAX_ATTEMPTS + 2)]
    call = Call([endpoint(name) for name in names])
    begun = call.at(0.0)
    while begun and not call.lost:
        (name,) = [line.split()[1] for line in begun]
        begun = call.fails(name, 0.0)
    assert call.race.attempts == MAX_ATTEMPTS
    assert call.lost


def test_nobody_begins_after_the_deadline() -> None:
    call = Call(three())
    call.at(0.0)
    assert call.fails("a", 60.0) == []
    assert call.lost


# None available.


def test_the_last_endpoint_is_asked_though_it_is_out_and_never_when_it_is_full() -> None:
    out, taken = endpoint("out"), endpoint("taken", limit=1)
    trip(out)
    full(taken)
    assert Call([out]).at(0.0) == ["first out"]
    call = Call([taken])
    assert call.at(0.0) == []
    assert call.lost


def test_the_next_tier_is_asked_where_the_first_is_out() -> None:
    a, b, _ = three()
    busy(a, 1.0)
    assert Call([a], [b]).at(0.0) == ["first b"]


def test_patience_holds_in_the_better_tier() -> None:
    a, b, _ = three()
    busy(a, 1.0)
    call = Call([a], [b], rules=Rules(patience=1.5))
    assert call.at(0.0) == []
    assert not call.lost
    assert call.wakes == 1.0
    assert call.at(1.0) == ["first a"]


def test_patience_waits_for_the_one_that_is_back_first() -> None:
    a, b, c = three()
    busy(a, 1.25)
    busy(b, 1.0)
    call = Call([a, b], [c], rules=Rules(patience=1.5))
    assert call.at(0.0) == []
    assert call.wakes == 1.0
    assert call.at(1.0) == ["first b"]


def test_patience_is_not_spent_where_the_better_tier_comes_back_too_late() -> None:
    a, b, _ = three()
    busy(a, 2.0)
    assert Call([a], [b], rules=Rules(patience=1.5)).at(0.0) == ["first b"]


def test_patience_asks_a_failed_endpoint_again_before_the_next_tier() -> None:
    a, b, _ = three()
    call = Call([a], [b], rules=Rules(patience=1.5))
    call.at(0.0)
    assert call.fails("a", 1.0) == []
    assert call.at(1.0 + AGAIN) == ["retry a"]
    assert call.fails("a", 1.4375) == ["retry b"]


def test_a_rescue_has_no_patience_with_the_one_that_broke() -> None:
    a, b, _ = three()
    call = Call([a], [b], rules=Rules(patience=1.5))
    call.at(0.0)
    call.race.commit(call.attempts["a"], T + 0.5)
    call.attempts["a"].end(Outcome(Verdict.FAULT), T + 1.0)
    call.race = Race(call.way, FIRST_TOKEN, T + 1.0, Steady(), history=call.race.history)
    assert call.at(1.0) == ["rescue b"]


def test_patience_sends_no_second_attempt_to_an_endpoint_on_trial() -> None:
    a, b, _ = three()
    trip(a, T - FIRST_WAIT)
    assert a.begin(T).trial
    assert a.availability.breaker.state(T) is State.HALF_OPEN
    assert Call([a], [b], rules=Rules(patience=1.5)).at(0.0) == ["first b"]


# Giving up.


def test_an_attempt_is_given_up_when_it_is_too_old_and_another_can_take_over() -> None:
    call = Call(three(), rules=Rules(abandon=15.0))
    call.at(0.0)
    assert call.wakes == 15.0
    assert call.at(15.0) == ["give up a", "retry b"]
    assert call.at(30.0) == ["give up b", "retry c"]


def test_the_last_live_attempt_keeps_the_calls_whole_deadline() -> None:
    a, b, _ = three()
    busy(b, 16.0)
    call = Call([a, b], rules=Rules(abandon=15.0))
    call.at(0.0)
    assert call.at(15.0) == []
    assert call.wakes == 15.0 + RECHECK
    assert call.at(16.0) == ["give up a", "retry b"]
    assert call.at(59.0) == []
    assert [attempt.endpoint.name for attempt in call.race.live] == ["b"]


def test_an_attempt_is_not_given_up_for_one_that_cannot_be_paid_for() -> None:
    a, b, _ = three()
    b.begin(T).end(Outcome(Verdict.FAULT), T)
    call = Call([a, b], rules=Rules(abandon=15.0), retries=broke())
    call.at(0.0)
    assert call.at(15.0) == []
    assert not call.lost


def test_an_attempt_is_not_given_up_when_the_call_may_make_no_other() -> None:
    names = [f"e{n}" for n in range(MAX_ATTEMPTS + 1)]
    call = Call([endpoint(name) for name in names], rules=Rules(abandon=15.0))
    (begun,) = call.at(0.0)
    for _ in range(MAX_ATTEMPTS - 1):
        (begun,) = call.fails(begun.split()[1], 0.0)
    assert call.at(15.0) == []
    assert not call.lost


def test_of_two_the_older_makes_room_for_a_third() -> None:
    call = Call(three(), rules=Rules(hedge=2.0, abandon=15.0))
    call.at(0.0), call.at(2.0)
    assert call.at(15.0) == ["give up a", "hedge c"]


def test_an_old_attempt_at_a_complete_answer_gets_a_rival_and_is_not_given_up() -> None:
    call = Call(
        [endpoint("a", wait="answer")],
        [endpoint("b", wait="answer")],
        rules=Rules(hedge=30.0, abandon=15.0),
        wait="answer",
    )
    call.at(0.0)
    assert call.wakes == 15.0
    assert call.at(15.0) == ["hedge b"]
    assert call.at(59.0) == []
    assert call.way.retries.level(T + 15.0) == pytest.approx(RESERVE - 1.0)  # it is paid for as a failure
    assert call.way.hedges.level(T + 15.0) == pytest.approx(RESERVE)


def test_an_answer_gets_no_rival_where_hedging_is_off() -> None:
    ways = [endpoint("a", wait="answer")], [endpoint("b", wait="answer")]
    call = Call(*ways, rules=Rules(hedge="off", abandon=15.0), wait="answer")
    call.at(0.0)
    assert call.wakes == 60.0  # its deadline
    assert call.at(59.0) == []


def test_a_stand_in_is_no_rival_of_one_that_is_at_work_but_of_another_stand_in_and_of_nobody() -> None:
    real, first, second = endpoint("real"), endpoint("stand-in"), endpoint("other stand-in")
    first.simulated = second.simulated = True
    call = Call([real], [first], rules=Rules(hedge=1.0))
    call.at(0.0)
    assert call.at(59.0) == []
    assert call.fails("real", 59.0) == ["retry stand-in"]
    both = Call([first], [second], rules=Rules(hedge=1.0))
    both.at(0.0)
    assert both.at(1.0) == ["hedge other stand-in"]


def test_an_endpoints_own_deadline_ends_its_attempt_and_another_takes_over() -> None:
    a, b, _ = three()
    call = Call([a, b], own={a: Rules(deadline=5.0)})
    call.at(0.0)
    assert call.wakes == 5.0
    assert call.at(5.0) == ["give up a", "retry b"]
    assert call.wakes == 60.0


def test_an_endpoint_whose_own_deadline_is_over_is_not_asked() -> None:
    a, b, c = three()
    call = Call([a, b, c], rules=Rules(hedge=6.0), own={b: Rules(deadline=5.0)})
    call.at(0.0)
    assert call.at(6.0) == ["hedge c"]
    late = Call([a], [b], own={b: Rules(deadline=5.0)})
    late.at(0.0)
    assert late.fails("a", 5.0, passing=False) == []
    assert late.lost


def test_an_endpoint_is_not_asked_again_beyond_its_own_deadline() -> None:
    a, b, _ = three()
    call = Call([a], [b], own={a: Rules(deadline=2.0)})
    call.at(0.0)
    assert call.fails("a", 1.75) == ["retry b"]
    assert call.fails("b", 1.875) == []
    assert call.wakes == 1.875 + AGAIN
    assert call.at(1.875 + AGAIN) == ["retry b"]


# The end.


def test_the_first_token_wins_and_the_losers_are_returned_all_ended() -> None:
    a, b, _ = three()
    call = Call([a, b], rules=Rules(hedge=2.0))
    call.at(0.0), call.at(2.0)
    before = a.forecast.latency("first_token").mean(T + 2.5)
    assert call.token("b", 2.5) == ["a"]
    loser, winner = call.attempts["a"], call.attempts["b"]
    assert call.race.winner is winner
    assert (loser.verdict, loser.ended) == (Verdict.ABANDONED, T + 2.5)
    assert (winner.ended, winner.first_token_at) == (None, T + 2.5)
    assert a.forecast.latency("first_token").mean(T + 2.5) > before  # at least what it had waited
    assert (a.availability.in_flight, b.availability.in_flight) == (0, 1)
    assert not call.lost


def test_after_the_end_nothing_is_due() -> None:
    won, left = Call(three(), rules=Rules(hedge=2.0)), Call(three(), rules=Rules(hedge=2.0))
    won.at(0.0), left.at(0.0)
    won.token("a", 1.0)
    left.race.abandon(T + 1.0)
    for call in (won, left):
        assert call.wakes == inf
        assert not call.race.live
    assert won.at(99.0) == []


def test_a_refusal_settles_the_race_without_a_first_token() -> None:
    a, b, _ = three()
    call = Call([a, b], rules=Rules(hedge=2.0))
    call.at(0.0), call.at(2.0)
    assert [loser.endpoint.name for loser in call.race.settle(call.attempts["a"], T + 2.5)] == ["b"]
    assert call.attempts["a"].first_token_at is None
    assert call.race.winner is call.attempts["a"]


def test_when_the_call_is_over_all_that_run_are_ended_and_returned() -> None:
    a, b, _ = three()
    call = Call([a, b], rules=Rules(hedge=2.0))
    call.at(0.0), call.at(2.0)
    assert [loser.endpoint.name for loser in call.race.abandon(T + 3.0)] == ["a", "b"]
    assert (a.availability.in_flight, b.availability.in_flight) == (0, 0)
    assert call.race.abandon(T + 4.0) == []


def test_an_ordinary_call_pays_its_shares_once() -> None:
    call = Call(three(), rules=Rules(hedge_budget=0.25, retry_budget=0.5))
    call.at(0.0)
    call.fails("a", 0.0)
    call.fails("b", 0.0)
    assert call.way.hedges.level(T) == RESERVE + 0.25
    assert call.way.retries.level(T) == RESERVE + 0.5


# Anything.

KINDS_OF_END = [
    Verdict.FAULT,
    Verdict.FAULT,
    Verdict.BUSY,
    Verdict.REFUSED,
    Verdict.SERVED,
    None,
    None,
]  # None: silence


def some_rules(rng: Random) -> Rules:
    return Rules(
        deadline=rng.choice([1.0, 5.0, 60.0]),
        hedge=rng.choice(["auto", "off", 0.0, 0.3, 2.0]),
        abandon=rng.choice([0.1, 1.0, 15.0]),
        hedge_budget=rng.choice([0.0, 0.1, 1.0]),
        retry_budget=rng.choice([0.0, 0.2, 1.0]),
    )


class AnyCall:
    """A race in which anything may happen, and what must hold all the while."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.now = rng, T
        self.endpoints = [
            endpoint(f"e{n}", rng.choice([None, 0.1, 1.0]), limit=rng.choice([None, 1, 2]))
            for n in range(rng.randint(1, 8))
        ]
        self.longer: list[Endpoint] | None = None  # who may take what was too long for others
        tiers: list[list[Endpoint]] = [[] for _ in range(rng.randint(1, 3))]
        for e in self.endpoints:
            rng.choice(tiers).append(e)
            e.context = rng.choice([0, 0, 8000, 128_000])
        rules = some_rules(rng)
        policies = {e: replace(rules, deadline=some_rules(rng).deadline) for e in self.endpoints}
        reserves = [Budget(rng.choice([0.0, 1.0, RESERVE])) for _ in range(2)]
        queue = QueueLimit(rng.choice([0, 5]), rng.choice([0.5, 10.0]))
        self.way = way(
            [t for t in tiers if t], policies, rng.choice([0.0, 0.0, 1.0, 5.0]), reserves[0], reserves[1], queue
        )
        self.others: list[Attempt] = []  # of other calls, all the time under way
        for _ in range(rng.randint(0, 10)):
            self.something_else()
        self.race = Race(self.way, Demand(rng.choice(KINDS)), T, rng)
        self.attempts: list[Attempt] = []
        self.ends: dict[Attempt, tuple[float, Verdict]] = {}
        self.leaves_at = T + rng.expovariate(1 / 30)

    def something_else(self) -> None:
        """Another call begins or ends somewhere, well or badly, or a probe is answered."""
        e = self.rng.choice(self.endpoints)
        what = self.rng.randrange(4)
        if what == 0 and e.availability.allows(self.now):
            self.others.append(e.begin(self.now))
        elif what == 1 and self.others:
            other = self.others.pop(self.rng.randrange(len(self.others)))
            other.end(Outcome(self.rng.choice(list(Verdict)), retry_after=self.rng.choice([None, 0.5, 5.0])), self.now)
        elif what == 2:
            e.availability.probed(self.rng.random() < 0.5, self.now)
        elif not e.availability.full:
            trip(e, self.now)

    def run(self) -> None:
        for _ in range(1000):
            self.advance()
            if self.over():
                break
            wake = self.race.wake_at
            assert wake <= self.race.deadline
            until = [wake, self.leaves_at, *(at for at, _ in self.ends.values()), self.now + self.rng.expovariate(1.0)]
            self.now = min(until)
            if self.now >= self.leaves_at:
                break
            for attempt in [attempt for attempt, (at, _) in self.ends.items() if at <= self.now]:
                self.news(attempt)
                if self.over():
                    break
            else:
                if self.now == until[-1]:
                    self.something_else()
        else:
            raise AssertionError("it has been woken a thousand times")
        self.end()

    def over(self) -> bool:
        return self.race.winner is not None or self.race.lost or self.now >= self.race.deadline

    def advance(self) -> None:
        """As dispatch does, again and again while it is asked for at once."""
        if self.now >= self.race.deadline:
            return
        for _ in range(2 * MAX_ATTEMPTS):
            for late in self.race.give_up(self.now):
                assert late in self.race.live
                self.ends.pop(late, None)
                self.race.failed(late, Outcome(Verdict.FAULT, passing=self.rng.random() < 0.5), self.now)
            while (attempt := self.race.next_attempt(self.now)) is not None:
                self.began(attempt)
            self.holds()
            if self.race.lost:
                self.lost_for_a_reason()
                return
            if self.race.wake_at > self.now:
                return
        raise AssertionError(f"busy at {self.now}: it wants to wake at {self.race.wake_at}")

    def began(self, attempt: Attempt) -> None:
        assert attempt.began == self.now < self.race.began + self.way.policies[attempt.endpoint].deadline
        assert attempt.ended is None
        assert self.longer is None or attempt.endpoint in self.longer
        assert self.longer is None or attempt.endpoint not in [other.endpoint for other in self.attempts]
        self.attempts.append(attempt)
        verdict = self.rng.choice(KINDS_OF_END)
        if verdict is not None:
            self.ends[attempt] = (
                self.now + self.rng.choice([0.0, self.rng.random(), self.rng.expovariate(0.1)]),
                verdict,
            )

    def news(self, attempt: Attempt) -> None:
        _, verdict = self.ends.pop(attempt)
        if verdict is Verdict.SERVED:
            losers = self.race.commit(attempt, self.now)
        elif verdict is Verdict.REFUSED and not (self.rng.random() < 0.7 and self.too_long(attempt)):
            losers = self.race.settle(attempt, self.now)
        elif verdict is Verdict.REFUSED:
            self.race.failed(attempt, Outcome(verdict, passing=False), self.now)
            self.advance()
            return
        else:
            after = self.rng.choice([None, 0.1, 1.0, 30.0])
            self.race.failed(attempt, Outcome(verdict, retry_after=after, passing=self.rng.random() < 0.7), self.now)
            self.advance()
            return
        assert all(loser.ended == self.now for loser in losers)
        attempt.end(Outcome(verdict), self.now + 10.0)

    def too_long(self, attempt: Attempt) -> bool:
        if not self.race.longer(attempt, self.now):
            return False
        refusing = attempt.endpoint
        alike = self.way.tier_of(refusing).endpoints
        if any(e.context for e in self.endpoints):
            larger = [e for e in self.endpoints if e.context > refusing.context]
        else:
            larger = [e for e in self.endpoints if e not in alike]
        self.longer = [e for e in larger if self.longer is None or e in self.longer]
        return True

    def holds(self) -> None:
        race = self.race
        assert len(race.live) <= 2
        assert len({attempt.endpoint for attempt in race.live}) == len(race.live)
        assert race.live == [attempt for attempt in self.attempts if attempt.ended is None]
        assert race.attempts == len(self.attempts) <= MAX_ATTEMPTS
        tried = [attempt.endpoint for attempt in self.attempts]
        assert all(tried.count(e) <= 2 for e in tried)
        assert all(
            e.availability.slots.configured is None or e.availability.slots.used <= e.availability.slots.configured
            for e in self.endpoints
        )
        for budget in (self.way.hedges, self.way.retries):
            assert budget.level(self.now) >= -1e-9

    def lost_for_a_reason(self) -> None:
        """No call is lost while an endpoint that nothing speaks against has not been asked."""
        if len(self.attempts) < MAX_ATTEMPTS:
            tried = {attempt.endpoint for attempt in self.attempts}
            for e in self.endpoints:
                in_time = self.now < T + self.way.policies[e].deadline
                wanted = self.way.policies[e].retry_budget > 0.0
                asked = e in tried or (self.longer is not None and e not in self.longer)
                assert asked or not e.availability.sound(self.now) or not in_time or not wanted

    def end(self) -> None:
        self.race.abandon(self.now)
        assert all(attempt.ended is not None for attempt in self.attempts)
        assert self.race.wake_at == inf
        for other in self.others:
            other.end(Outcome(Verdict.ABANDONED), self.now)
        for e in self.endpoints:
            assert (e.availability.in_flight, len(e.forecast.pending), e.availability.slots.used) == (0, 0, 0)
        served = [attempt for attempt in self.attempts if attempt is self.race.winner]
        assert len(served) <= 1


@pytest.mark.parametrize("hundred", range(20))
def test_anything_may_happen_and_nothing_is_left_running_or_counted(hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        try:
            AnyCall(Random(seed)).run()
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
