"""What a decision costs, counted in calls of functions, which no neighbour changes: it grows as the endpoints do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from tests.bench.decision import Decision, main

CALLS = 50


def counted(what: Callable[[], object], times: int = CALLS) -> float:
    """Calls of functions, of ours and built in, for each time."""
    count = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        for _ in range(times):
            what()
    finally:
        sys.setprofile(None)
    return count / times


def test_a_decision_grows_no_worse_than_linearly() -> None:
    ten, hundred, thousand = (counted(Decision(endpoints).call) for endpoints in (10, 100, 1000))
    assert hundred <= 10.0 * ten
    assert thousand <= 10.5 * hundred


def test_a_plan_is_bounded() -> None:
    def renewed(endpoints: int) -> float:
        decision = Decision(endpoints)

        def renew() -> None:
            decision.learn()
            decision.renew()

        return counted(renew, 2) - counted(decision.learn, 2)

    assert renewed(1000) <= 3.0 * renewed(100)


def test_its_figures_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--endpoints", "1,3", "--calls", "3", "--rounds", "1"])
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.split("    ")[0] == "endpoints"
    assert [row.split()[0] for row in rows] == ["1", "3"]
    assert all(float(figure.replace(",", "")) > 0.0 for row in rows for figure in row.split())
