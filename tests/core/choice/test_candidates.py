"""The candidates of a call: the endpoint that it asks next, and the one that is asked beside a late attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from router.core.choice.candidates import NONE, RECHECK, Candidates
from router.core.choice.race import Race
from router.core.demand import FIRST_TOKEN
from router.core.endpoint.breaker import FIRST_WAIT, State
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.endpoint.latency import SETTLE_TIME
from router.core.endpoint.server_load import ServerLoad
from router.core.endpoint.waiting_queue import QueueLimit
from router.core.verdict import Outcome, Verdict
from tests.core.choice.timelines import AGAIN, Call, empty_budget, three
from tests.core.helpers import PassivePolicy, Steady, T, busy, endpoint, fill, learn, make_route, trip

# The order: tiers, patience, and the last resort.


def test_an_untried_endpoint_that_is_out_is_asked_before_a_failed_one() -> None:
    a, b, _ = three()
    trip(b)
    call = Call([a, b])
    call.at(0.0)
    assert call.fails("a", 0.5) == ["retry b"]


def test_the_only_endpoint_is_asked_though_its_breaker_is_open_but_not_if_it_is_full() -> None:
    out, taken = endpoint("out"), endpoint("taken", limit=1)
    trip(out)
    fill(taken)
    assert Call([out]).at(0.0) == ["first out"]
    call = Call([taken])
    assert call.at(0.0) == []
    assert call.lost


def test_the_next_tier_is_asked_if_the_first_is_out() -> None:
    a, b, _ = three()
    busy(a, 1.0)
    assert Call([a], [b]).at(0.0) == ["first b"]


def test_with_patience_a_call_waits_for_the_preferred_tier() -> None:
    a, b, _ = three()
    busy(a, 1.0)
    call = Call([a], [b], policy=PassivePolicy(patience=1.5))
    assert call.at(0.0) == []
    assert not call.lost
    assert call.wakes == 1.0
    assert call.at(1.0) == ["first a"]


def test_with_patience_a_call_waits_for_the_endpoint_that_recovers_first() -> None:
    a, b, c = three()
    busy(a, 1.25)
    busy(b, 1.0)
    call = Call([a, b], [c], policy=PassivePolicy(patience=1.5))
    assert call.at(0.0) == []
    assert call.wakes == 1.0
    assert call.at(1.0) == ["first b"]


def test_a_call_does_not_wait_if_the_preferred_tier_recovers_after_its_patience() -> None:
    a, b, _ = three()
    busy(a, 2.0)
    assert Call([a], [b], policy=PassivePolicy(patience=1.5)).at(0.0) == ["first b"]


def test_with_patience_a_failed_endpoint_is_asked_again_before_the_next_tier() -> None:
    a, b, _ = three()
    call = Call([a], [b], policy=PassivePolicy(patience=1.5))
    call.at(0.0)
    assert call.fails("a", 1.0) == []
    assert call.at(1.0 + AGAIN) == ["retry a"]
    assert call.fails("a", 1.4375) == ["retry b"]


def test_a_rescue_does_not_wait_for_the_endpoint_whose_stream_broke() -> None:
    a, b, _ = three()
    call = Call([a], [b], policy=PassivePolicy(patience=1.5))
    call.at(0.0)
    call.race.commit(call.attempts["a"], T + 0.5)
    call.attempts["a"].end(Outcome(Verdict.FAULT), T + 1.0)
    call.race = Race(call.route, FIRST_TOKEN, T + 1.0, Steady(), history=call.race.history)
    assert call.at(1.0) == ["rescue b"]


def test_with_patience_no_second_attempt_is_sent_beside_a_breakers_trial() -> None:
    a, b, _ = three()
    trip(a, T - FIRST_WAIT)
    assert a.begin(T).trial
    assert a.availability.breaker.state(T) is State.HALF_OPEN
    assert Call([a], [b], policy=PassivePolicy(patience=1.5)).at(0.0) == ["first b"]


# Hedge targets.


def hedge_beside_late(*targets: Endpoint, next_tier: Sequence[Endpoint] = ()) -> list[str]:
    """The hedge beside an attempt that has waited for a second at an endpoint that usually takes 0.25 s, if any."""
    call = Call([endpoint("a", 0.25), *targets], next_tier, policy=PassivePolicy(hedge="auto", hedge_budget=0.1))
    assert call.at(0.0) == ["first a"]
    return call.at(1.0)


def test_under_auto_no_endpoint_that_is_itself_late_slower_hot_busy_or_full_is_a_hedge_target() -> None:
    fine, slower, hot, busy_one, full_one = (endpoint(name, 0.5, limit=1) for name in "bcdef")
    assert hedge_beside_late(fine) == ["hedge b"]
    also_late = endpoint("g", None)
    learn(also_late, *[0.5] * 5)  # too few to tell trouble from chance
    also_late.begin(T - 0.5)
    assert hedge_beside_late(also_late) == []  # a call waits there for as long
    learn(slower, *[2.0] * 3)
    assert hedge_beside_late(slower) == []  # it has just become slower, by an unknown amount
    assert slower.forecast.latency("first_token").settled(T + SETTLE_TIME)
    hot.forecast.report(ServerLoad(waiting=2.0), T, T + 5.0)
    assert hedge_beside_late(hot) == []
    busy(busy_one, 5.0)
    assert hedge_beside_late(busy_one) == []
    fill(full_one)
    assert hedge_beside_late(full_one) == []


def test_under_auto_there_is_no_hedge_if_no_other_endpoint_is_expected_to_be_faster() -> None:
    a, b = endpoint("a", None), endpoint("b", 30.0)
    learn(a, *[0.5] * 97, *[2.0] * 30)
    call = Call([a, b], policy=PassivePolicy(hedge="auto", hedge_budget=0.1))
    assert call.at(0.0) == ["first a"]
    assert call.at(1.9) == []  # its token is expected sooner than that of b


def test_under_auto_the_hedge_target_is_the_good_endpoint_that_was_measured_longest_ago() -> None:
    good, better, dear = endpoint("good", None), endpoint("better", 0.5), endpoint("dear", None)
    learn(good, *[0.55] * 100, now=T - 1.0)
    learn(dear, *[0.8] * 100, now=T - 10.0)
    assert hedge_beside_late(good, better, dear) == ["hedge good"]


def test_under_auto_an_endpoint_of_the_next_tier_is_the_hedge_target_if_it_is_much_quicker() -> None:
    assert hedge_beside_late(endpoint("b", 1.0), next_tier=[endpoint("c", 0.7)]) == ["hedge c"]
    assert hedge_beside_late(endpoint("b", 1.0), next_tier=[endpoint("c", 0.8)]) == ["hedge b"]


def test_a_simulated_endpoint_is_asked_beside_another_simulated_one_but_not_beside_a_real_one() -> None:
    real, first, second = endpoint("real"), endpoint("simulated"), endpoint("other")
    first.simulated = second.simulated = True
    call = Call([real], [first], policy=PassivePolicy(hedge=1.0))
    call.at(0.0)
    assert call.at(59.0) == []
    assert call.fails("real", 59.0) == ["retry simulated"]
    both = Call([first], [second], policy=PassivePolicy(hedge=1.0))
    both.at(0.0)
    assert both.at(1.0) == ["hedge other"]


# Prompts that are too long.


def too_long(call: Call, name: str, seconds: float) -> list[str]:
    """The prompt is too long for this endpoint; return what follows at once."""
    assert call.race.longer(call.attempts[name], T + seconds)
    return call.fails(name, seconds, Verdict.REFUSED, passing=False)


def test_a_prompt_that_is_too_long_is_sent_to_each_endpoint_with_a_larger_context_once_and_free() -> None:
    a, b, c = three()
    d = endpoint("d", 9.0)
    a.context, b.context, c.context, d.context = 8000, 8000, 32_000, 128_000
    call = Call([a], [b], [c], [d], retries=empty_budget())
    assert call.at(0) == ["first a"]
    assert too_long(call, "a", 1) == ["retry c"]
    assert call.fails("c", 2) == ["retry d"]
    assert call.fails("d", 3) == []
    assert call.lost


def test_after_two_refusals_only_contexts_larger_than_both_are_left() -> None:
    a, b, c = three()
    a.context, b.context, c.context = 32_000, 128_000, 64_000
    call = Call([a], [b], [c])
    call.at(0)
    assert too_long(call, "a", 1) == ["retry b"]
    assert not call.race.longer(call.attempts["b"], T + 2)


def test_an_unknown_context_counts_as_the_smallest_if_any_is_configured() -> None:
    a, b, c = three()
    c.context = 1000
    call = Call([a], [b], [c])
    call.at(0)
    assert too_long(call, "a", 1) == ["retry c"]


def test_if_no_context_is_configured_the_endpoints_of_other_tiers_are_left_except_simulated_ones() -> None:
    a, b, c = three()
    alike = Call([a, b, c])
    alike.at(0)
    assert not alike.race.longer(alike.attempts["a"], T + 1)
    call = Call([a, b], [c], [simulated := endpoint("d")])
    simulated.simulated = True
    call.at(0)
    assert too_long(call, "a", 1) == ["retry c"]
    assert not call.race.longer(call.attempts["c"], T + 2)


def test_a_late_attempt_with_a_larger_context_is_hedged_at_another_larger_context_only() -> None:
    a, b, c = three()
    d = endpoint("d", 9.0)
    a.context, c.context, d.context = 1000, 8000, 8000
    call = Call([a], [b], [c], [d], policy=PassivePolicy(hedge=2.0, hedge_budget=1.0))
    call.at(0)
    assert too_long(call, "a", 1) == ["retry c"]
    assert call.wakes == 3
    assert call.at(3) == ["hedge d"]
    assert call.token("d", 4) == ["c"]


# `Candidates` alone: what was tried, pauses, and the queue.


def candidates(
    *tiers: Sequence[Endpoint],
    failed_before: Mapping[Endpoint, bool] | None = None,
    patience: float = 0.0,
    queue: QueueLimit | None = None,
) -> Candidates:
    """The candidates of a call that came at T."""
    route = make_route(tiers, patience=patience, queue=queue)
    return Candidates(route, FIRST_TOKEN, T, Steady(), failed_before=failed_before)


def asks(of: Candidates, now: float, live: Sequence[Attempt] = ()) -> str | float:
    """The name of the endpoint to ask now; else in how many seconds to look again."""
    chosen = of.next(live, now, T + 60.0)
    return chosen.endpoint.name if chosen.endpoint else chosen.then - now


FAILED, PERMANENT = Outcome(Verdict.FAULT), Outcome(Verdict.FAULT, passing=False)


def test_looking_for_the_next_endpoint_changes_nothing() -> None:
    of = candidates(three())
    assert [asks(of, T) for _ in range(3)] == ["a", "a", "a"]


def test_endpoints_that_were_asked_are_not_untried_any_more() -> None:
    a, b, c = three()
    of = candidates([a, b], [c])
    assert of.all_untried((), T) == [a, b, c]
    of.begun(a)
    assert of.all_untried((), T) == [b, c]
    assert of.untried((), T) is b
    assert of.untried((), T, lambda e: e is not b) is c
    assert of.untried((), T, lambda e: e is a) is None


def test_a_failed_endpoint_may_be_asked_once_more_if_its_failure_may_pass() -> None:
    a, b, _ = three()
    of = candidates([a, b])
    for each, outcome in ((a, FAILED), (b, PERMANENT)):
        of.begun(each)
        of.failed(each, outcome, T)
    assert of.failed_endpoints == {a: True, b: False}
    assert asks(of, T) == AGAIN
    assert asks(of, T + AGAIN) == "a"
    of.failed(a, FAILED, T + AGAIN)
    assert of.failed_endpoints == {a: False, b: False}
    assert asks(of, T + 2.0 * AGAIN) == inf


def test_the_endpoints_that_failed_before_a_rescue_are_asked_last_and_after_a_pause() -> None:
    a, b, c = three()
    of = candidates([a, b], [c], failed_before={a: True, b: False})
    assert of.failed_endpoints == {a: True, b: False}
    assert of.all_untried((), T) == [c]
    assert asks(of, T) == "c"
    of.begun(c)
    of.failed(c, PERMANENT, T)
    assert asks(of, T) == AGAIN
    assert asks(of, T + AGAIN) == "a"


def test_an_endpoint_that_failed_before_a_rescue_is_not_asked_a_third_time() -> None:
    a, *_ = three()
    of = candidates([a], failed_before={a: True})
    of.begun(a)
    of.failed(a, FAILED, T + AGAIN)
    assert of.failed_endpoints == {a: False}
    assert asks(of, T + 1.0) == inf


def test_a_rescue_does_not_wait_for_a_preferred_tier_whatever_the_patience() -> None:
    a, b, _ = three()
    busy(a, 1.0)
    assert asks(candidates([a], [b], patience=5.0), T) == 1.0
    assert asks(candidates([a], [b], patience=5.0, failed_before={}), T) == "b"


def test_a_rescue_without_failed_endpoints_asks_the_cheapest() -> None:
    assert asks(candidates(three(), failed_before={}), T) == "a"


def test_a_call_is_queued_for_all_full_endpoints_until_its_time_in_the_queue_is_over() -> None:
    a, b = endpoint("a", 0.25, limit=1), endpoint("b", 1.0, limit=1)
    fill(a)
    fill(b)
    of = candidates([a], [b], queue=QueueLimit(5, 10.0))
    assert of.queue_until == inf
    chosen = of.next((), T, T + 60.0)
    assert (chosen.endpoint, chosen.then, list(chosen.wanted)) == (None, T + 10.0, [a, b])
    assert of.queue_until == T + 10.0
    assert of.next((), T + 4.0, T + 60.0) == chosen
    assert of.next((), T + 10.0, T + 60.0) == NONE


def test_a_call_is_queued_no_longer_than_its_deadline_and_anew_after_an_attempt() -> None:
    a = endpoint("a", limit=1)
    fill(a)
    of = candidates([a, endpoint("b")], queue=QueueLimit(5, 10.0))
    of.begun(b := of.all_untried((), T)[1])
    of.failed(b, PERMANENT, T)
    assert of.next((), T, T + 3.0).then == of.queue_until == T + 3.0
    of.begun(b)
    assert of.queue_until == inf


def test_a_queued_call_looks_again_soon_for_an_endpoint_that_is_out_but_not_full() -> None:
    taken, out = endpoint("taken", limit=1), endpoint("out")
    fill(taken)
    trip(out)
    of = candidates([taken, out], queue=QueueLimit(5, 10.0))
    chosen = of.next((), T, T + 60.0)
    assert (chosen.then, list(chosen.wanted)) == (T + RECHECK, [taken])


def test_without_a_queue_a_call_does_not_wait_for_a_full_endpoint() -> None:
    a = endpoint("a", limit=1)
    fill(a)
    assert candidates([a], queue=QueueLimit(0, 10.0)).next((), T, T + 60.0) == NONE
    assert candidates([a], queue=QueueLimit(5, 0.0)).next((), T, T + 60.0) == NONE


def test_only_an_endpoint_with_a_larger_context_may_take_a_longer_prompt() -> None:
    a, b, c = three()
    a.context, b.context, c.context = 8000, 8000, 32_000
    of = candidates([a, b, c])
    assert (of.only_longer, of.may_take_longer(c)) == (False, False)
    of.begun(a)
    of.longer(a)
    assert (of.only_longer, of.may_take_longer(b), of.may_take_longer(c)) == (True, False, True)
    assert of.all_untried((), T) == [c]
    assert asks(of, T) == "c"
