"""The circuit breaker: its state diagram as a table, and that it never gets stuck."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from operator import methodcaller
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.core.endpoint.breaker import (
    FIRST_WAIT,
    IN_A_ROW,
    MAX_SURPRISE,
    MAX_WAIT,
    MIN_CALLS,
    MIN_RAMP,
    RAMP,
    UNLIKELY,
    WINDOW,
    Breaker,
    State,
)
from tests.core.helpers import T

RETRY = T + FIRST_WAIT  # when a breaker that opened at T allows its trial


def serve(breaker: Breaker, now: float) -> bool:
    """Serve an attempt that takes no time."""
    return breaker.success(now, now, trial=breaker.begin())


def fail(breaker: Breaker, now: float) -> bool:
    return breaker.failure(now, now, trial=breaker.begin())


def give_up(breaker: Breaker, now: float) -> None:
    breaker.inconclusive(trial=breaker.begin())


def closed() -> Breaker:
    return Breaker()


def nearly_open() -> Breaker:
    breaker = Breaker()
    for _ in range(IN_A_ROW - 1):
        assert not fail(breaker, T)
    return breaker


def opened() -> Breaker:
    breaker = nearly_open()
    assert fail(breaker, T)
    return breaker


# The state diagram: a state, what happens and when, and the state right after it.
TRANSITIONS: list[tuple[str, Callable[[], Breaker], Callable[[Breaker, float], object], float, State]] = [
    ("closed stays closed when served", closed, serve, T, State.CLOSED),
    ("closed stays closed after one failure", closed, fail, T, State.CLOSED),
    ("closed opens at the third failure in a row", nearly_open, fail, T, State.OPEN),
    ("closed stays closed when a success breaks the row", nearly_open, serve, T, State.CLOSED),
    ("closed stays closed after an attempt without a result", nearly_open, give_up, T, State.CLOSED),
    ("open stays open until the wait is over", opened, lambda *_: None, RETRY - 0.001, State.OPEN),
    ("open is half-open when the wait is over", opened, lambda *_: None, RETRY, State.HALF_OPEN),
    ("half-open closes when its trial is served", opened, serve, RETRY, State.CLOSED),
    ("half-open opens when its trial fails", opened, fail, RETRY, State.OPEN),
    ("half-open stays half-open when its trial has no result", opened, give_up, RETRY, State.HALF_OPEN),
    ("open closes when an attempt, sent anyway, is served", opened, serve, RETRY - 1.0, State.CLOSED),
]


@pytest.mark.parametrize(
    ("breaker", "happens", "now", "state"), [row[1:] for row in TRANSITIONS], ids=[r[0] for r in TRANSITIONS]
)
def test_each_transition_of_the_state_diagram(
    breaker: Callable[[], Breaker], happens: Callable[[Breaker, float], object], now: float, state: State
) -> None:
    machine = breaker()
    happens(machine, now)
    assert machine.state(now) is state
    assert machine.allows(now) is (state is not State.OPEN)


def test_opening_and_closing_are_reported_once() -> None:
    breaker = Breaker()
    assert [fail(breaker, T) for _ in range(5)] == [False, False, True, False, False]
    assert [serve(breaker, T + 100) for _ in range(3)] == [True, False, False]


# Half-open.


def test_half_open_lets_exactly_one_trial_through() -> None:
    breaker = opened()
    assert breaker.begin()
    assert not breaker.allows(RETRY)
    assert not breaker.allows(RETRY + 1000)
    assert not breaker.begin()  # asked anyway, as the last resort


def test_a_trial_without_a_result_is_handed_back_at_once() -> None:
    breaker = opened()
    trial = breaker.begin()
    breaker.inconclusive(trial=trial)
    assert breaker.allows(RETRY)
    assert breaker.begin()


def test_another_attempt_without_a_result_does_not_hand_back_the_trial() -> None:
    breaker = opened()
    assert breaker.begin()
    breaker.inconclusive(trial=False)
    assert not breaker.allows(RETRY)


def test_the_wait_doubles_with_each_failed_trial_up_to_its_maximum_and_starts_again_after_a_recovery() -> None:
    breaker, now = opened(), T
    waits = []
    for _ in range(6):
        assert breaker.retry_at is not None
        waits.append(breaker.retry_at - now)
        now = breaker.retry_at
        fail(breaker, now)
    assert waits == [2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    serve(breaker, now + MAX_WAIT)
    for _ in range(IN_A_ROW):
        fail(breaker, now + MAX_WAIT)
    assert breaker.retry_at == now + MAX_WAIT + FIRST_WAIT


@pytest.mark.parametrize("end", [serve, fail, give_up])
def test_after_any_end_of_a_trial_the_next_outage_has_one_too(end: Callable[[Breaker, float], object]) -> None:
    breaker = opened()
    end(breaker, RETRY)
    serve(breaker, T + 100.0)
    for _ in range(IN_A_ROW):
        fail(breaker, T + 200.0)
    assert not breaker.allows(T + 200.0)
    assert breaker.allows(T + 200.0 + FIRST_WAIT)


def test_an_attempt_that_began_before_the_opening_proves_nothing() -> None:
    breaker = nearly_open()
    old = [breaker.begin() for _ in range(3)]  # at T
    assert fail(breaker, T + 1.0)
    assert not breaker.success(T + 1.5, T, trial=old[0])
    assert not breaker.failure(T + 1.5, T, trial=old[1])
    breaker.inconclusive(trial=old[2])
    assert breaker.retry_at == T + 1.0 + FIRST_WAIT
    assert breaker.state(T + 2.0) is State.OPEN


def test_when_a_trial_fails_other_running_attempts_do_not_lengthen_the_wait() -> None:
    breaker = opened()
    trial, other = breaker.begin(), breaker.begin()
    breaker.failure(RETRY + 1.0, RETRY, trial=trial)
    breaker.failure(RETRY + 2.0, RETRY, trial=other)
    assert breaker.retry_at == RETRY + 1.0 + 2 * FIRST_WAIT


def test_a_hint_brings_the_trial_forward_and_does_not_close_the_breaker() -> None:
    breaker = opened()
    breaker.hint(T + 0.5)
    assert breaker.state(T + 0.5) is State.HALF_OPEN
    breaker.hint(T + 50.0)
    assert breaker.retry_at == T + 0.5
    closed = Breaker()
    closed.hint(T)
    assert closed.state(T) is State.CLOSED


# Lost races.


def lose(breaker: Breaker, now: float, chance: float = 0.0, began: float | None = None) -> None:
    """Lose a race late; `chance` is the share of the waits that last as long."""
    breaker.lost(now, now if began is None else began, trial=breaker.begin(), chance=chance)


def lost_often() -> Breaker:
    """A breaker that lost races have opened."""
    breaker = Breaker()
    for _ in range(3):
        assert breaker.retry_at is None
        lose(breaker, T)
    assert breaker.retry_at == RETRY
    return breaker


@pytest.mark.parametrize(("chance", "losses"), [(0.0, 3), (0.01, 3), (0.03, 4), (0.06, 5), (0.1, 6), (0.5, 18)])
def test_the_more_often_an_endpoint_stalls_the_more_lost_races_open_its_breaker(chance: float, losses: int) -> None:
    breaker = Breaker()
    for _ in range(losses - 1):
        lose(breaker, T, chance)
    assert breaker.state(T) is State.CLOSED
    lose(breaker, T, chance)
    assert breaker.state(T) is State.OPEN


@given(st.lists(st.floats(0.0, 1.0), max_size=30))
def test_lost_races_open_the_breaker_exactly_when_they_are_no_chance(chances: list[float]) -> None:
    """The breaker opens at the first row of at least three losses that is less likely than one in 160,000."""
    breaker, surprises = Breaker(), [min(MAX_SURPRISE, -log(max(chance, 1e-9))) for chance in chances]
    for number, chance in enumerate(chances, 1):
        lose(breaker, T, chance)
        unlikely = number >= 3 and sum(surprises[:number]) >= UNLIKELY
        assert (breaker.retry_at is not None) is unlikely
        if unlikely:
            assert exp(-sum(surprises[:number])) <= 1.0 / 160_000
            break


def test_a_first_token_ends_the_row_of_lost_races() -> None:
    breaker = Breaker()
    for second in range(20):
        lose(breaker, T + second)
        lose(breaker, T + second)
        breaker.token(T + second)
    assert breaker.retry_at is None
    assert breaker.losses_in_a_row == 0


def test_an_attempt_that_began_before_another_had_its_first_token_proves_nothing() -> None:
    """A queue, not a frozen endpoint: others are served while this one waits."""
    breaker = Breaker()
    breaker.token(T + 1.0)
    for _ in range(20):
        lose(breaker, T + 3.0, began=T + 0.9)
    assert breaker.retry_at is None
    for _ in range(3):
        lose(breaker, T + 3.0, began=T + 1.1)
    assert breaker.retry_at == T + 3.0 + FIRST_WAIT


def test_a_trial_that_loses_late_fails_however_likely_that_is() -> None:
    breaker = lost_often()
    lose(breaker, RETRY, chance=0.9)
    assert breaker.retry_at == RETRY + 2 * FIRST_WAIT


@given(st.floats(0.0, 200.0))
def test_a_trial_is_due_exactly_while_the_half_open_breaker_allows_one(seconds: float) -> None:
    breaker = opened()
    assert breaker.trial_due(T + seconds) is breaker.allows(T + seconds)
    breaker.begin()
    assert not breaker.trial_due(T + seconds)
    assert not closed().trial_due(T + seconds)


# The window.


def alternating(calls: int, every: float) -> Breaker:
    """A breaker after calls of which every other one fails, the last one too."""
    breaker = Breaker()
    for call in range(calls):
        (serve, fail)[call % 2](breaker, T + call * every)
    return breaker


def test_half_of_ten_failing_opens_the_breaker() -> None:
    assert alternating(MIN_CALLS - 2, every=1.0).retry_at is None
    assert alternating(MIN_CALLS, every=1.0).retry_at == T + 9.0 + FIRST_WAIT


def test_fewer_than_half_failing_does_not_open_the_breaker() -> None:
    breaker = Breaker()
    for call in range(300):
        (serve, serve, fail)[call % 3](breaker, T + call * 0.1)
    assert breaker.retry_at is None


def test_calls_that_are_older_than_the_window_do_not_count() -> None:
    assert alternating(200, every=WINDOW / 4).retry_at is None
    breaker = Breaker()
    for _ in range(1000):
        serve(breaker, T)
    later = T + 1.2 * WINDOW
    for call in range(MIN_CALLS):
        (serve, fail)[call % 2](breaker, later)
    assert breaker.state(later) is State.OPEN


def test_a_short_burst_of_failures_is_not_hidden_by_the_calls_before_it() -> None:
    breaker = Breaker()
    for call in range(1000):
        serve(breaker, T + call * 0.01)
    for _ in range(IN_A_ROW):
        fail(breaker, T + 10.0)
    assert breaker.state(T + 10.0) is State.OPEN


def test_failures_before_a_recovery_are_forgotten() -> None:
    breaker = alternating(MIN_CALLS, every=0.1)
    serve(breaker, T + 10.0)
    assert breaker.failures_in_a_row == 0
    fail(breaker, T + 10.0)
    assert breaker.state(T + 10.0) is State.CLOSED


# The slow start.


@pytest.mark.parametrize("outage", [FIRST_WAIT, 0.5 * RAMP, RAMP, 100.0 * RAMP])
def test_the_ramp_rises_evenly_after_a_recovery_from_a_tenth_to_one_for_as_long_as_the_outage(outage: float) -> None:
    breaker, back, length = opened(), T + outage, min(RAMP, outage)
    assert breaker.ramp(T) == 1.0  # no recovery yet
    serve(breaker, back)
    assert breaker.ramp(back) == breaker.ramp(back + 0.09 * length) == MIN_RAMP
    assert breaker.ramp(back + 0.5 * length) == 0.5
    assert breaker.ramp(back + length) == breaker.ramp(back + 9 * length) == 1.0


def test_after_an_outage_of_lost_races_alone_there_is_no_ramp_and_after_one_with_a_failure_there_is() -> None:
    for breaker, fails in ((lost_often(), False), (lost_often(), True)):
        if fails:
            fail(breaker, RETRY)
        serve(breaker, T + RAMP)
        assert breaker.ramp(T + RAMP) == (MIN_RAMP if fails else 1.0)


def test_the_outage_lasts_from_the_first_opening_and_the_next_one_starts_anew() -> None:
    breaker = opened()
    fail(breaker, RETRY)
    serve(breaker, T + 10.0)
    assert breaker.ramp(T + 15.0) == 0.5
    for _ in range(IN_A_ROW):
        fail(breaker, T + 100.0)
    serve(breaker, T + 104.0)
    assert breaker.ramp(T + 106.0) == 0.5


def test_a_breaker_that_never_opened_has_no_ramp() -> None:
    assert nearly_open().ramp(T) == 1.0


class AnyLife(RuleBasedStateMachine):
    """Attempts that begin and end in any order and manner, allowed or not."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now = Breaker(), T
        self.live: list[tuple[float, bool]] = []  # when each began, and whether it is the trial
        self.reports: list[Callable[[Breaker], Any]] = []  # all of them, so that another breaker gets into this state

    def report(self, method: str, *values: float, **named: bool) -> Any:
        self.reports.append(methodcaller(method, *values, **named))
        return self.reports[-1](self.breaker)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 3.0, 20.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(allowed_or_not=st.booleans())
    def begin(self, allowed_or_not: bool) -> None:
        if allowed_or_not or self.breaker.allows(self.now):
            self.live.append((self.now, self.report("begin")))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "failure", "inconclusive"]))
    def end(self, data: st.DataObject, how: str) -> None:
        began, trial = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        if how == "inconclusive":
            self.report("inconclusive", trial=trial)
        else:
            was = self.breaker.state(self.now)
            reported = self.report(how, self.now, began, trial=trial)
            flipped = (was is State.CLOSED) is not (self.breaker.state(self.now) is State.CLOSED)
            assert reported is flipped

    @rule()
    def probed(self) -> None:
        self.report("hint", self.now)

    @invariant()
    def at_most_one_trial_runs(self) -> None:
        trials = sum(trial for _, trial in self.live)
        assert trials <= 1
        if self.breaker.state(self.now) is State.HALF_OPEN:
            assert self.breaker.allows(self.now) is (trials == 0)

    @invariant()
    def a_closed_breaker_allows_and_an_open_one_does_not(self) -> None:
        assert self.breaker.allows(self.now) or self.breaker.state(self.now) is not State.CLOSED
        assert not self.breaker.allows(self.now) or self.breaker.state(self.now) is not State.OPEN

    @invariant()
    def it_is_never_stuck(self) -> None:
        """Once all attempts have ended a trial is allowed within MAX_WAIT, and its success closes the breaker."""
        breaker = Breaker()
        for report in self.reports:
            report(breaker)
        for _, trial in self.live:
            breaker.inconclusive(trial=trial)
        then = self.now + MAX_WAIT
        assert breaker.allows(then)
        serve(breaker, then)
        assert breaker.state(then) is State.CLOSED


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
