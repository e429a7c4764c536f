"""An endpoint: when it may be asked, what it would cost, and that its attempts leave every counter as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import inf
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.demand import FIRST_TOKEN, KINDS, Demand, DemandKind
from router.core.endpoint.breaker import FIRST_WAIT, State
from router.core.endpoint.cooldown import FIRST_BACKOFF, MAX_RETRY_AFTER, OPERATOR_WAIT, RECENTLY
from router.core.endpoint.endpoint import (
    PENALTY,
    Attempt,
    Endpoint,
)
from router.core.endpoint.health import FALL
from router.core.endpoint.slots import Slots
from router.core.verdict import OURS, Cause, Outcome, Verdict
from tests.core.helpers import ANSWER, T, busy, endpoint, full, learn, properties, trip


def counters(of: Endpoint) -> tuple[int, int, int]:
    return of.availability.in_flight, len(of.forecast.pending), of.availability.slots.used


def lines_run(of: Callable[[], object]) -> int:
    """The cost in lines of the router's Python: exact, as a time is not; a collector's callbacks are not counted."""
    lines = 0

    def count(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        lines += event == "line" and "/router/core/" in frame.f_code.co_filename
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        of()
    finally:
        sys.settrace(before)
    return lines


# Counting.

steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "first_token", "end"]),
        st.integers(0, 30),  # which attempt
        st.sampled_from(list(Verdict)),
        st.sampled_from([0.0, 0.3, 20.0]),  # after how long
        st.sampled_from(KINDS),
        st.sampled_from([None, 0.0, 2.0, 1e9]),
    ),
    max_size=60,
)


@properties
@given(steps=steps)
def test_whatever_happens_to_attempts_each_counts_once_and_leaves_no_trace(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    subject = Endpoint("a", slots=Slots(3))
    attempts: list[Attempt] = []
    now = T
    for what, which, verdict, gap, wait, retry_after in steps:
        now += gap
        if what == "begin":
            attempts.append(subject.begin(now, Demand(wait)))
        elif attempts and what == "first_token":
            attempts[which % len(attempts)].first_token(now)
        elif attempts:
            attempts[which % len(attempts)].end(Outcome(verdict, retry_after=retry_after), now)
        live = [attempt for attempt in attempts if attempt.ended is None]
        silent = [attempt for attempt in live if attempt.first_token_at is None]
        assert counters(subject) == (len(live), len(silent), len(live))
        assert list(subject.forecast.pending) == silent  # oldest first
        assert sum(attempt.trial for attempt in live) <= 1
    for attempt in attempts:
        attempt.end(Outcome(Verdict.ABANDONED), now)
        attempt.end(Outcome(Verdict.FAULT), now)
    assert counters(subject) == (0, 0, 0)
    assert not any(subject.forecast._evidence.values())
    assert not any(subject.forecast._pending_count.values())
    assert subject.availability.allows(now + MAX_RETRY_AFTER)


@pytest.mark.parametrize("overtaken", [False, True])
def test_what_a_call_looks_at_does_not_grow_with_those_that_wait(overtaken: bool) -> None:
    few, many = endpoint(seconds=1.0), endpoint(seconds=1.0)
    for subject, waiting in ((few, 10), (many, 300)):
        for _ in range(waiting):
            subject.begin(T, FIRST_TOKEN if overtaken else ANSWER)
        if overtaken:
            subject.begin(T + 1.0).first_token(T + 2.0)

    def looked_at(subject: Endpoint) -> int:
        now = T + 20.0
        return lines_run(
            lambda: (
                subject.forecast.cost(FIRST_TOKEN, now),
                subject.forecast.late(now),
                subject.forecast.trouble("answer", now),
            )
        )

    assert looked_at(few) == looked_at(many)
    assert few.forecast.trouble("first_token", T + 20.0) == 0.0  # nobody has waited long but who was overtaken


def test_only_the_first_word_about_an_attempts_end_counts() -> None:
    subject = endpoint(seconds=None)
    attempt = subject.begin(T)
    attempt.end(Outcome(Verdict.REFUSED), T + 1.0)
    attempt.end(Outcome(Verdict.FAULT), T + 2.0)
    attempt.end(Outcome(Verdict.BUSY, retry_after=30.0), T + 2.0)
    attempt.first_token(T + 2.0)
    assert (attempt.verdict, attempt.ended, attempt.first_token_at) == (Verdict.REFUSED, T + 1.0, None)
    assert subject.availability.allows(T + 2.0)
    assert subject.availability.breaker.failures_in_a_row == 0
    assert subject.forecast.unmeasured("first_token")


def test_only_the_first_token_is_the_first() -> None:
    subject = endpoint(seconds=None)
    attempt = subject.begin(T)
    attempt.first_token(T + 1.0)
    attempt.first_token(T + 9.0)
    assert attempt.first_token_at == T + 1.0
    assert subject.forecast.latency("first_token").mean(T) == 1.0


def test_an_attempt_gives_back_the_slot_that_it_took_though_the_endpoint_has_moved_to_others() -> None:
    subject = endpoint(limit=1)
    before, after = subject.availability.slots, Slots(5)
    attempt = subject.begin(T)
    subject.availability.slots = after
    attempt.end(Outcome(Verdict.SERVED), T)
    assert (before.used, after.used) == (0, 0)


# What an attempt teaches.


@pytest.mark.parametrize("verdict", [Verdict.SERVED, Verdict.REFUSED, Verdict.BUSY])
def test_the_estimate_is_untouched_by_an_end_that_is(verdict: Verdict) -> None:
    subject = endpoint(seconds=0.5)
    subject.begin(T).end(Outcome(verdict), T + 30.0)
    assert subject.forecast.latency("first_token").mean(T) == endpoint(seconds=0.5).forecast.latency(
        "first_token"
    ).mean(T)


@pytest.mark.parametrize("wait", KINDS)
def test_a_first_token_is_learned_for_what_the_call_waited_for_and_for_nothing_else(wait: DemandKind) -> None:
    subject = endpoint(seconds=None)
    subject.begin(T, Demand(wait)).first_token(T + 3.0)
    assert [other for other in KINDS if not subject.forecast.unmeasured(other)] == [wait]
    assert subject.forecast.latency(wait).mean(T + 3.0) == pytest.approx(3.0)


def test_a_failure_is_not_fast() -> None:
    quick, slow = endpoint(seconds=None), endpoint(seconds=None)
    quick.begin(T).end(Outcome(Verdict.FAULT), T + 0.001)
    slow.begin(T).end(Outcome(Verdict.FAULT), T + 12.0)
    assert quick.forecast.latency("first_token").mean(T + 0.001) == pytest.approx(0.2 * 1.0 + 0.8 * PENALTY)
    assert slow.forecast.latency("first_token").mean(T + 12.0) == pytest.approx(0.2 * 1.0 + 0.8 * 12.0)


def test_a_stream_that_breaks_is_penalised_but_not_for_the_time_that_it_streamed() -> None:
    subject = endpoint(seconds=None)
    attempt = subject.begin(T)
    attempt.first_token(T + 1.0)
    attempt.end(Outcome(Verdict.FAULT), T + 600.0)
    learned, told = subject.forecast.latency("first_token"), endpoint(seconds=None).forecast.latency("first_token")
    told.observe(1.0, T + 1.0)
    told.observe(PENALTY, T + 600.0)
    assert learned.mean(T + 600.0) == told.mean(T + 600.0)


def test_an_attempt_that_lost_its_race_took_at_least_as_long_as_it_had() -> None:
    late, early, answered = (endpoint(seconds=1.0) for _ in range(3))
    late.begin(T).end(Outcome(Verdict.ABANDONED), T + 4.0)
    early.begin(T).end(Outcome(Verdict.ABANDONED), T + 0.2)
    attempt = answered.begin(T)
    attempt.first_token(T + 1.0)
    attempt.end(Outcome(Verdict.ABANDONED), T + 60.0)  # its client left: its first token is known
    assert late.forecast.latency("first_token").mean(T + 4.0) > 1.0
    assert early.forecast.latency("first_token").mean(T + 0.2) == 1.0
    assert answered.forecast.latency("first_token").mean(T + 60.0) == 1.0


def test_what_is_served_raises_health_and_what_fails_does_not_lower_it() -> None:
    subject = endpoint()
    for _ in range(FALL):
        subject.availability.probed(False, T)
    assert not subject.availability.allows(T)
    subject.begin(T).end(Outcome(Verdict.SERVED), T + 1.0)
    assert subject.availability.allows(T + 1.0)
    assert subject.availability.cooldown.served_at == T + 1.0
    for _ in range(2):
        subject.begin(T).end(Outcome(Verdict.FAULT), T + 1.0)
    assert subject.availability.health.up


def test_after_an_outage_the_estimate_begins_anew_with_the_trial() -> None:
    subject = endpoint(seconds=0.2)
    for _ in range(10):
        subject.begin(T).end(Outcome(Verdict.FAULT), T + 30.0)
    trial = subject.begin(T + 60.0)
    assert trial.trial
    trial.first_token(T + 60.5)
    trial.end(Outcome(Verdict.SERVED), T + 90.0)
    assert subject.availability.breaker.state(T + 90.0) is State.CLOSED
    assert subject.forecast.latency("first_token").mean(T + 90.0) == pytest.approx(0.5)


def test_a_probe_says_whether_the_endpoint_is_up_and_only_brings_the_trial_forward() -> None:
    subject = endpoint(seconds=None)
    assert subject.availability.probed(False, T)
    trip(subject)
    assert subject.availability.probed(True, T + 0.5)
    assert not subject.availability.probed(True, T + 0.5)
    assert subject.availability.breaker.state(T + 0.5) is State.HALF_OPEN


def test_only_a_server_that_probes_saw_dead_is_tried_sooner_when_they_see_it_alive() -> None:
    frozen, restarted = endpoint(), endpoint()
    for subject in (frozen, restarted):
        subject.availability.probed(True, T)
        trip(subject)
    restarted.availability.probed(False, T + 0.1)
    for subject in (frozen, restarted):
        subject.availability.probed(True, T + 0.5)
    assert not frozen.availability.allows(T + 0.5)
    assert restarted.availability.allows(T + 0.5)


# Whether it may be asked.


def test_a_busy_endpoint_is_out_for_as_long_as_it_said() -> None:
    subject = endpoint()
    busy(subject, 7.0)
    assert not subject.availability.allows(T + 6.999)
    assert subject.availability.recovers_at(T) == T + 7.0
    assert subject.availability.allows(T + 7.0)


def test_a_busy_endpoint_that_names_no_time_is_out_for_a_moment() -> None:
    subject = endpoint()
    subject.begin(T).end(Outcome(Verdict.BUSY), T)
    assert subject.availability.recovers_at(T) == T + FIRST_BACKOFF


def test_an_endpoint_that_stays_busy_is_left_alone_for_longer_each_time_until_it_serves() -> None:
    subject, now, waits = endpoint(), T, []
    for _ in range(6):
        subject.begin(now).end(Outcome(Verdict.BUSY), now)
        waits.append(subject.availability.recovers_at(now) - now)
        now += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]
    subject.begin(now).end(Outcome(Verdict.SERVED), now)
    subject.begin(now).end(Outcome(Verdict.BUSY), now)
    assert subject.availability.recovers_at(now) == now + FIRST_BACKOFF


def test_attempts_that_are_told_together_that_it_is_busy_count_as_one() -> None:
    subject = endpoint()
    for attempt in [subject.begin(T) for _ in range(5)]:
        attempt.end(Outcome(Verdict.BUSY), T)
    assert subject.availability.recovers_at(T) == T + FIRST_BACKOFF


def test_a_servers_word_is_taken_for_a_minute_at_most() -> None:
    subject = endpoint()
    busy(subject, 86400.0)
    assert subject.availability.recovers_at(T) == T + MAX_RETRY_AFTER


def test_a_shorter_word_later_does_not_shorten_a_longer_one() -> None:
    subject = endpoint()
    busy(subject, 20.0)
    busy(subject, 1.0)
    assert subject.availability.recovers_at(T) == T + 20.0


def test_an_endpoint_that_has_all_its_slots_taken_is_full_until_one_ends() -> None:
    subject = endpoint(limit=2)
    attempts = [subject.begin(T), subject.begin(T)]
    attempts[0].first_token(T)
    assert subject.availability.full
    assert not subject.availability.allows(T)
    assert subject.availability.recovers_at(T) == inf
    attempts[0].end(Outcome(Verdict.SERVED), T)
    assert subject.availability.allows(T)


def test_two_endpoints_of_one_entry_share_its_slots() -> None:
    slots = Slots(1)
    one, other = Endpoint("a", "small", slots=slots), Endpoint("a", "large", slots=slots)
    attempt = one.begin(T)
    assert not other.availability.allows(T)
    attempt.end(Outcome(Verdict.SERVED), T)
    assert other.availability.allows(T)


# What its errors do.


def ends(subject: Endpoint, cause: Cause, now: float = T, retry_after: float | None = None) -> None:
    subject.begin(now).end(Outcome(cause.verdict, "", retry_after, cause), now)


def test_one_that_is_throttled_takes_fewer_at_once_and_need_not_be_left_alone() -> None:
    subject = endpoint()
    running = [subject.begin(T) for _ in range(9)]
    ends(subject, Cause.THROTTLED)
    assert subject.availability.max_attempts == 7
    assert subject.availability.full
    assert subject.availability.recovers_at(T) == inf
    assert not subject.availability.allows(T)
    for attempt in running[:3]:
        attempt.end(Outcome(Verdict.SERVED), T)
    assert subject.availability.allows(T)
    assert subject.begin(T)
    assert subject.availability.full


def test_one_that_is_throttled_though_nothing_else_runs_is_out_for_a_moment() -> None:
    subject = endpoint()
    ends(subject, Cause.THROTTLED)
    assert subject.availability.recovers_at(T) == T + FIRST_BACKOFF
    named = endpoint()
    named.begin(T)
    ends(named, Cause.THROTTLED, retry_after=7.0)
    assert named.availability.cooldown.until == named.availability.cooldown.quiet_until == T + 7.0


def test_an_overload_is_not_for_its_callers_to_spare() -> None:
    subject = endpoint()
    for _ in range(9):
        subject.begin(T)
    ends(subject, Cause.OVERLOADED)
    assert subject.availability.max_attempts == inf
    assert subject.availability.recovers_at(T) == T + FIRST_BACKOFF


@properties
@given(
    told=st.none() | st.integers(1, 20),
    steps=st.lists(st.sampled_from([*Cause, "served", "begins"]), max_size=80),
)
def test_the_operators_limit_is_never_exceeded_whatever_is_learned(told: int | None, steps: list[Cause | str]) -> None:
    subject, running, now = endpoint(limit=told), [], T
    for step in steps:
        now += 1.0
        if step == "begins":
            if not subject.availability.full:
                running.append(subject.begin(now))
        elif running:
            attempt = running.pop(0)
            if isinstance(step, Cause):
                attempt.end(Outcome(step.verdict, "", None, step), now)
            else:
                attempt.end(Outcome(Verdict.SERVED), now)
        assert subject.availability.in_flight == len(running)
        assert 1 <= subject.availability.max_attempts <= (told or inf)
        assert told is None or subject.availability.in_flight <= told
        assert subject.availability.full is (subject.availability.in_flight >= subject.availability.max_attempts)
        assert not subject.availability.full or not subject.availability.allows(now)


def test_two_models_of_one_entry_have_a_learned_limit_each() -> None:
    slots = Slots(50)
    small, large = Endpoint("a", "small", slots=slots), Endpoint("a", "large", slots=slots)
    for _ in range(9):
        small.begin(T)
        large.begin(T)
    ends(large, Cause.THROTTLED)
    assert (small.availability.max_attempts, large.availability.max_attempts) == (50, 7)


def test_a_used_up_quota_is_out_until_its_own_time_even_as_the_last_one() -> None:
    subject = endpoint()
    ends(subject, Cause.QUOTA, retry_after=5 * 3600.0)
    assert subject.availability.cooldown.until == subject.availability.cooldown.quiet_until == T + 5 * 3600.0
    assert not subject.availability.allows(T + 5 * 3600.0 - 1)
    assert subject.availability.allows(T + 5 * 3600.0)


@pytest.mark.parametrize("cause", sorted(OURS, key=str))
def test_what_a_person_must_put_right_is_tried_every_five_minutes(cause: Cause) -> None:
    subject = endpoint()
    ends(subject, cause)
    assert subject.availability.cooldown.until == T + OPERATOR_WAIT
    assert subject.availability.cooldown.quiet_until == 0.0  # the last one is asked all the same
    assert subject.availability.allows(T + OPERATOR_WAIT)


def test_one_that_serves_as_the_last_one_is_back() -> None:
    subject = endpoint()
    before = subject.begin(T)
    ends(subject, Cause.DENIED, T + 1)
    before.end(Outcome(Verdict.SERVED), T + 2)  # which says nothing of a key that is refused since
    assert not subject.availability.allows(T + 2)
    assert subject.availability.cooldown.cause is Cause.DENIED
    subject.begin(T + 3).end(Outcome(Verdict.SERVED), T + 4)
    assert subject.availability.allows(T + 4)


def test_one_that_served_a_call_just_now_knows_our_model_and_path() -> None:
    subject = endpoint()
    subject.begin(T).end(Outcome(Verdict.SERVED), T)
    ends(subject, Cause.MISCONFIGURED, T + RECENTLY - 1)
    assert subject.availability.allows(T + RECENTLY - 1)
    ends(subject, Cause.MISCONFIGURED, T + RECENTLY)
    assert not subject.availability.allows(T + RECENTLY)
    keyless = endpoint()
    keyless.begin(T).end(Outcome(Verdict.SERVED), T)
    ends(keyless, Cause.DENIED)
    assert not keyless.availability.allows(T)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause.verdict is Verdict.REFUSED])
def test_a_request_that_is_its_own_fault_leaves_no_trace(cause: Cause) -> None:
    subject, untouched = endpoint(seconds=0.5), endpoint(seconds=0.5)
    for subject_now in range(20):
        ends(subject, cause, T + subject_now)
    now = T + 20
    assert subject.availability.allows(now)
    assert subject.availability.sound(now)
    assert subject.forecast.cost(FIRST_TOKEN, now) == untouched.forecast.cost(FIRST_TOKEN, now)
    assert (
        subject.availability.max_attempts,
        subject.availability.cooldown.until,
        subject.availability.breaker.failures_in_a_row,
    ) == (inf, 0.0, 0)
    assert subject.availability.health.up


def test_an_open_breaker_keeps_calls_away_until_its_trial_and_during_it() -> None:
    subject = endpoint()
    trip(subject)
    then = T + FIRST_WAIT
    assert not subject.availability.allows(T)
    assert subject.availability.recovers_at(T) == then
    assert subject.availability.allows(then)
    trial = subject.begin(then)
    assert not subject.availability.allows(then)
    assert subject.availability.recovers_at(then) == inf  # nobody knows what the trial will say
    trial.end(Outcome(Verdict.ABANDONED), then)
    assert subject.availability.recovers_at(then) == then


@pytest.mark.parametrize("spoil", [trip, full, lambda e: busy(e, 5.0), lambda e: e.availability.probed(False, T)])
def test_what_is_out_is_not_sound_and_does_not_recover_now(spoil) -> None:  # type: ignore[no-untyped-def]
    subject = endpoint(limit=3)
    assert subject.availability.sound(T)
    assert subject.availability.recovers_at(T) == T
    spoil(subject)
    assert not subject.availability.sound(T)
    assert not subject.availability.allows(T)
    assert subject.availability.recovers_at(T) > T


def test_one_failure_makes_it_unsound_though_available_and_one_success_sound_again() -> None:
    subject = endpoint()
    subject.begin(T).end(Outcome(Verdict.FAULT), T)
    assert subject.availability.allows(T)
    assert not subject.availability.sound(T)
    subject.begin(T).end(Outcome(Verdict.SERVED), T)
    assert subject.availability.sound(T)


# What it costs.


def test_an_idle_endpoint_costs_what_it_takes() -> None:
    assert endpoint(seconds=0.5).forecast.cost(FIRST_TOKEN, T) == pytest.approx(0.5, rel=0.01)


def test_the_cost_rises_with_every_one_that_waits_and_less_with_one_that_streams() -> None:
    subject = endpoint(seconds=1.0)
    costs = [subject.forecast.cost(FIRST_TOKEN, T)]
    attempts = []
    for _ in range(3):
        attempts.append(subject.begin(T))
        costs.append(subject.forecast.cost(FIRST_TOKEN, T))
    assert costs == pytest.approx([1.0, 1.125, 1.25, 1.375])  # an eighth each
    for attempt in attempts[:2]:
        attempt.first_token(T + 1.0)
    assert (
        1.1 < subject.forecast.cost(FIRST_TOKEN, T + 1.0) < 1.15
    )  # one waits, three are there; a little of it is usual


def test_as_many_as_were_there_when_it_was_measured_cost_nothing_more() -> None:
    subject = endpoint(seconds=None)
    for _ in range(50):
        beside = [subject.begin(T) for _ in range(3)]
        measured = subject.begin(T)
        measured.first_token(T + 1.0)
        for attempt in [measured, *beside]:
            attempt.end(Outcome(Verdict.REFUSED), T + 1.0)
    alone = subject.forecast.cost(FIRST_TOKEN, T + 1.0)
    subject.begin(T + 1.0), subject.begin(T + 1.0)
    assert subject.forecast.cost(FIRST_TOKEN, T + 1.0) == alone


def test_a_late_attempt_makes_its_endpoint_cost_more_now_and_not_after_a_timeout() -> None:
    subject = endpoint(seconds=1.0)
    subject.begin(T)
    assert subject.forecast.cost(FIRST_TOKEN, T + 1.0) == pytest.approx(1.125)
    late = [subject.forecast.cost(FIRST_TOKEN, T + seconds) for seconds in (3.0, 6.0, 12.0)]
    assert 1.5 < late[0] < late[1] < late[2]  # nobody ever waited for so long here
    subject.begin(T + 0.5)
    assert subject.forecast.cost(FIRST_TOKEN, T + 12.0) > 10.0  # two of them are no chance


def test_a_late_attempt_at_one_that_is_hardly_known_makes_it_cost_its_age() -> None:
    subject = endpoint(seconds=None)
    learn(subject, 1.0, 1.0)
    subject.begin(T)
    assert subject.forecast.cost(FIRST_TOKEN, T + 5.0) == pytest.approx(5.0 * 1.125)
    subject.begin(T + 5.0)
    assert subject.forecast.cost(FIRST_TOKEN, T + 5.0) == pytest.approx(5.0 * 1.25)  # the oldest one's


def test_a_stall_as_it_is_usual_there_says_little_of_the_endpoint() -> None:
    stalling = endpoint(seconds=None)
    learn(stalling, *([1.0] * 19 + [10.0]) * 10)
    before = stalling.forecast.cost(FIRST_TOKEN, T)
    stalling.begin(T)
    assert stalling.forecast.cost(FIRST_TOKEN, T + 5.0) < 1.5 * before


def test_a_long_prompt_makes_its_endpoint_neither_late_nor_lost() -> None:
    reads = endpoint(seconds=None)
    for size in range(0, 4000, 40):
        reads.forecast.latency("first_token").observe(0.2 + 0.0003 * size, T, float(size))
    reads.forecast.latency("first_token").draw()
    long = [reads.begin(T, Demand("first_token", 8000.0)) for _ in range(3)]
    assert not reads.forecast.late(T + 2.5)
    for attempt in long:
        attempt.end(Outcome(Verdict.ABANDONED), T + 2.5)
    assert reads.availability.allows(T + 2.5)
    short = [reads.begin(T + 3.0, Demand("first_token", 100.0)) for _ in range(3)]
    assert reads.forecast.late(T + 5.5)
    for attempt in short:
        attempt.end(Outcome(Verdict.ABANDONED), T + 5.5)
    assert not reads.availability.allows(T + 5.5)


def test_streams_say_nothing_of_plain_answers_that_are_frozen() -> None:
    subject = endpoint(seconds=0.2)
    learn(subject, *[5.0] * 50, wait="answer")
    for _ in range(3):
        subject.begin(T, ANSWER)
    frozen = subject.forecast.cost(ANSWER, T + 60.0)
    subject.begin(T + 59.0).first_token(T + 59.2)
    assert subject.forecast.cost(ANSWER, T + 60.0) == pytest.approx(frozen, rel=0.1)
    assert frozen > 20.0


def test_who_was_overtaken_by_a_later_one_says_nothing_of_now() -> None:
    subject = endpoint(seconds=1.0)
    subject.begin(T), subject.begin(T + 0.1)
    assert subject.forecast.cost(FIRST_TOKEN, T + 8.0) > 5.0
    subject.begin(T + 7.0).first_token(T + 8.0)
    assert subject.forecast.cost(FIRST_TOKEN, T + 8.0) < 1.5


def test_a_late_attempt_counts_beside_an_older_one_that_waits_for_something_else() -> None:
    subject = endpoint(seconds=None)
    learn(subject, 1.0)
    subject.begin(T, ANSWER)
    subject.begin(T + 1.0, FIRST_TOKEN)
    assert subject.forecast.cost(FIRST_TOKEN, T + 11.0) == pytest.approx(10.0 * 1.25)


def test_the_age_of_an_attempt_says_nothing_about_another_kind_of_wait() -> None:
    subject = endpoint(seconds=1.0)
    subject.begin(T, ANSWER)
    assert subject.forecast.cost(FIRST_TOKEN, T + 9.0) == pytest.approx(1.125, rel=0.01)


def test_a_newcomer_is_untried_then_dearer_than_any_other_while_on_trial_then_known() -> None:
    subject = endpoint(seconds=None)
    assert subject.forecast.unmeasured("first_token")
    assert subject.forecast.cost(FIRST_TOKEN, T) == 1.0
    attempt = subject.begin(T)
    assert not subject.forecast.unmeasured("first_token")
    assert subject.forecast.cost(FIRST_TOKEN, T) > endpoint(seconds=100.0, weight=0.1).forecast.cost(FIRST_TOKEN, T)
    attempt.first_token(T + 1.0)
    assert not subject.forecast.unmeasured("first_token")
    assert subject.forecast.cost(FIRST_TOKEN, T + 1.0) == pytest.approx(1.0 + 0.1 / 8)


def test_a_newcomer_whose_trial_said_nothing_is_untried_again() -> None:
    subject = endpoint(seconds=None)
    subject.begin(T).end(Outcome(Verdict.REFUSED), T)
    assert subject.forecast.unmeasured("first_token")


def test_an_endpoint_and_its_attempt_can_be_read_in_a_log() -> None:
    subject = Endpoint("a", "m")
    attempt = subject.begin(T)
    assert repr(subject) == "<Endpoint a/m 1 in flight, 1 pending>"
    assert repr(attempt) == "<Attempt first at a running>"
    attempt.end(Outcome(Verdict.BUSY), T)
    assert repr(attempt) == "<Attempt first at a busy>"


# When it is out though it says nothing.


def lose(of: Endpoint, began: float, seconds: float) -> None:
    of.begin(began).end(Outcome(Verdict.ABANDONED), began + seconds)


def test_three_late_losses_in_a_row_open_the_breaker_and_a_token_between_them_does_not() -> None:
    frozen, tail = endpoint(seconds=0.2), endpoint(seconds=0.2)
    for subject in (frozen, tail):
        lose(subject, T, 0.5)
        lose(subject, T + 1.0, 0.5)
    tail.begin(T + 2.0).first_token(T + 2.2)
    for subject in (frozen, tail):
        lose(subject, T + 3.0, 0.5)
    assert not frozen.availability.allows(T + 3.5)
    assert tail.availability.allows(T + 3.5)


def test_a_loss_that_was_not_late_says_nothing() -> None:
    subject = endpoint(seconds=0.2)
    for n in range(10):
        lose(subject, T + n, 0.3)
    assert subject.availability.allows(T + 10.0)


def test_a_trial_that_is_late_and_loses_has_failed_and_one_that_was_not_may_be_tried_again() -> None:
    subject = endpoint(seconds=0.2)
    for _ in range(30):
        subject.forecast.latency("first_token").observe(0.2, T)
    for n in range(3):
        lose(subject, T + n, 0.5)
    then = T + 2.5 + FIRST_WAIT
    assert subject.availability.allows(then)
    lose(subject, then, 0.125)
    assert subject.availability.allows(then + 0.125)
    lose(subject, then + 1.0, 0.3)
    assert not subject.availability.allows(then + 1.3 + FIRST_WAIT)
    assert subject.availability.allows(then + 1.3 + 2 * FIRST_WAIT)


def test_it_is_late_while_somebody_waits_much_longer_than_it_takes_as_a_rule() -> None:
    subject = endpoint(seconds=0.2)
    attempt = subject.begin(T)
    assert not subject.forecast.late(T + 0.35)
    assert subject.forecast.late(T + 0.5)
    attempt.end(Outcome(Verdict.ABANDONED), T + 0.9)
    assert not subject.forecast.late(T + 0.9)
