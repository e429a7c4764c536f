"""The work of a decision: function calls, whose number does not depend on the machine, linear in the endpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from tests.bench.decision import Decision, main

CALLS = 50


def function_calls(action: Callable[[], object], times: int = CALLS) -> float:
    """The mean number of function calls, built-in functions included, in one action."""
    count = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        for _ in range(times):
            action()
    finally:
        sys.setprofile(None)
    return count / times


def test_the_work_of_a_decision_grows_at_most_linearly_with_the_endpoints() -> None:
    ten, hundred, thousand = (function_calls(Decision(endpoints).call) for endpoints in (10, 100, 1000))
    assert hundred <= 10.0 * ten
    assert thousand <= 10.5 * hundred


def test_the_work_of_a_renewal_is_bounded() -> None:
    def work(endpoints: int) -> float:
        decision = Decision(endpoints)

        def renew() -> None:
            decision.learn()
            decision.renew()

        return function_calls(renew, 2) - function_calls(decision.learn, 2)

    assert work(1000) <= 3.0 * work(100)


def test_the_benchmark_prints_a_row_of_figures_per_number_of_endpoints(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--endpoints", "1,3", "--calls", "3", "--rounds", "1"])
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.split("    ")[0] == "endpoints"
    assert [row.split()[0] for row in rows] == ["1", "3"]
    assert all(float(figure.replace(",", "")) > 0.0 for row in rows for figure in row.split())
