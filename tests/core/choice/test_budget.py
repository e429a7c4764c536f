"""The budget of extra attempts: ordinary calls pay for them, and there is a small reserve."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.choice.budget import RESERVE, TAU, Budget
from tests.core.helpers import T, properties

# Seconds since the step before; the share of a call, or None for an extra attempt.
Steps = list[tuple[float, float | None]]

steps = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.01, 1.0, 20.0, 500.0]), st.one_of(st.none(), st.floats(0.0, 10.0))),
    max_size=120,
)
NOISE = 1e-6


def drain(budget: Budget, now: float) -> int:
    """Withdraw until the budget is empty; return how often that succeeded."""
    spent = 0
    while budget.withdraw(now):
        spent += 1
    return spent


@properties
@given(steps=steps)
def test_no_more_is_spent_than_calls_have_paid_plus_the_reserve_and_its_regrowth(steps: Steps) -> None:
    budget, now, paid, spent = Budget(), T, 0.0, 0
    for gap, share in steps:
        now += gap
        if share is not None:
            budget.deposit(share, now)
            paid += share
        else:
            spent += budget.withdraw(now)
        assert spent <= paid + RESERVE + RESERVE * (now - T) / TAU + NOISE


@properties
@given(steps=steps)
def test_the_level_is_at_least_zero_and_at_most_the_reserve_and_the_recent_payments(
    steps: Steps,
) -> None:
    budget, now, paid = Budget(), T, 0.0
    for gap, share in steps:
        now += gap
        paid *= exp(-gap / TAU)
        if share is not None:
            budget.deposit(share, now)
            paid += share
        else:
            budget.withdraw(now)
        assert -NOISE <= budget.level(now) <= RESERVE + paid + NOISE


@properties
@given(steps=steps)
def test_an_extra_attempt_is_allowed_exactly_when_the_level_pays_for_it(steps: Steps) -> None:
    budget, now = Budget(), T
    for gap, share in steps:
        now += gap
        before = budget.level(now)
        if share is not None:
            budget.deposit(share, now)
            assert budget.level(now) == pytest.approx(before + share)
        elif budget.withdraw(now):
            assert before >= 1.0
            assert budget.level(now) == pytest.approx(before - 1.0)
        else:
            assert before < 1.0
            assert budget.level(now) == before


@properties
@given(steps=steps, reserve=st.sampled_from([0.0, 3.0]), later=st.sampled_from([0.0, 10.0, 1e9]))
def test_the_pressure_is_a_share_and_is_one_when_the_budget_is_empty_and_reading_changes_nothing(
    steps: Steps, reserve: float, later: float
) -> None:
    budget, now = Budget(reserve=reserve), T
    for gap, share in steps:
        now += gap
        if share is not None:
            budget.deposit(share, now)
        else:
            before = budget.pressure(now)
            if budget.withdraw(now):
                assert budget.pressure(now) > before
    level = budget.level(now)
    assert 0.0 <= budget.pressure(now + later) <= 1.0
    assert (budget.pressure(now) == 1.0) == (level <= 0.0) or level < NOISE
    assert budget.level(now) == level


@properties
@given(steps=steps)
def test_the_reserve_grows_back(steps: Steps) -> None:
    budget, now = Budget(), T
    for gap, share in steps:
        now += gap
        if share is None:
            budget.withdraw(now)
        else:
            budget.deposit(share, now)
    assert budget.level(now + 30 * TAU) == pytest.approx(RESERVE)


def test_a_burst_without_any_call_spends_the_reserve_and_no_more() -> None:
    budget = Budget()
    assert drain(budget, T) == RESERVE
    assert drain(budget, T + 1.0) == 0


@pytest.mark.parametrize("calls_a_second", [1, 10, 100])
def test_in_the_long_run_the_share_of_extra_attempts_holds_at_every_rate(calls_a_second: int) -> None:
    budget, spent, minutes = Budget(), 0, 10
    calls = 60 * minutes * calls_a_second
    for call in range(calls):
        now = T + call / calls_a_second
        budget.deposit(0.1, now)
        spent += budget.withdraw(now)
    regrown = RESERVE * 60 * minutes / TAU
    assert 0.1 * calls * 0.9 <= spent <= 0.1 * calls + RESERVE + regrown


def test_old_payments_expire() -> None:
    budget = Budget()
    for _ in range(1000):
        budget.deposit(1.0, T)
    assert drain(budget, T + 20 * TAU) == RESERVE


def test_without_a_reserve_every_extra_attempt_must_be_paid_for() -> None:
    budget = Budget(reserve=0.0)
    assert not budget.withdraw(T)
    for _ in range(10):
        budget.deposit(0.125, T)
    assert drain(budget, T) == 1


def test_the_pressure_is_the_share_withdrawn_of_payments_and_reserve() -> None:
    budget = Budget()
    assert budget.pressure(T) == 0.0
    budget.deposit(1.0, T)
    assert budget.pressure(T) == 0.0
    budget.withdraw(T)
    assert budget.pressure(T) == pytest.approx(0.25)
    while budget.withdraw(T):
        pass
    assert budget.pressure(T) == 1.0
    assert budget.pressure(T + 30.0 * TAU) == pytest.approx(0.0, abs=1e-9)
    assert Budget(utilization=lambda: 1.0, max_utilization=0.8).pressure(T) == 1.0


def test_above_the_maximum_utilization_the_budget_is_empty_and_keeps_its_balance() -> None:
    utilization = 0.5
    budget = Budget(utilization=lambda: utilization, max_utilization=0.8)
    budget.deposit(2.0, T)
    utilization = 0.8
    assert budget.level(T) == RESERVE + 2.0
    utilization = 0.81
    assert (budget.level(T), budget.withdraw(T)) == (0.0, False)
    budget.deposit(1.0, T)
    utilization = 0.0
    assert budget.level(T) == RESERVE + 3.0
