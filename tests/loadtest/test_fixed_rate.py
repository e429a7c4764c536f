"""The bench's streams at one fixed rate: which rate is chosen, which gateways are left out, and what the table says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from loadtest.cost import report
from loadtest.cost.fixed_rate import RATES, Look, Survey, survey


def costs(us_per_stream: Mapping[str, float]) -> Callable[[str, int], Look]:
    """Gateways that each use so many µs of their core per stream, and fall behind once the core is full."""

    def look(name: str, rate: int) -> Look:
        busy = us_per_stream[name] * rate / 1e6
        return Look(min(1.0, busy), min(float(rate), 1e6 / us_per_stream[name]))

    return look


def surveyed(us_per_stream: Mapping[str, float], highest: int = 100_000) -> Survey:
    return survey(us_per_stream, costs(us_per_stream), lambda rate: rate <= highest)


def test_quick_gateways_are_compared_at_the_highest_rate() -> None:
    found = surveyed({"nginx": 100, "router": 200})
    assert (found.rate, found.limit, found.left_out) == (2_000, "", {})
    assert tuple(found.looks) == RATES


def test_the_slowest_gateway_below_70_percent_decides_the_rate() -> None:
    found = surveyed({"nginx": 100, "router": 200, "other": 500})
    assert found.rate == 1_000
    assert found.limit == "at 1,500 streams/s: other 75% busy"
    assert 2_000 not in found.looks


def test_exactly_70_percent_is_too_busy() -> None:
    assert surveyed({"nginx": 100, "other": 700}).rate == 500


def test_a_gateway_that_is_too_busy_at_the_lowest_rate_is_left_out_and_does_not_decide() -> None:
    found = surveyed({"nginx": 100, "router": 200, "slow": 20_000})
    assert (found.rate, found.left_out) == (2_000, {"slow": 1.0})
    assert all("slow" not in found.looks[rate] for rate in RATES[1:])


def test_no_rate_is_chosen_if_every_gateway_is_too_busy_at_the_lowest() -> None:
    found = surveyed({"slow": 20_000, "slower": 40_000})
    assert found.rate is None
    assert set(found.left_out) == {"slow", "slower"}
    assert found.limit == "no gateway is below 70% busy at 500 streams/s"


def test_a_rate_that_the_load_does_not_hold_is_not_used() -> None:
    found = surveyed({"nginx": 100, "router": 200}, highest=1_000)
    assert found.rate == 1_000
    assert found.limit == "load and endpoints alone do not hold 1,500 streams/s"


def test_no_rate_is_chosen_if_the_load_does_not_hold_the_lowest() -> None:
    found = surveyed({"nginx": 100}, highest=0)
    assert (found.rate, found.looks) == (None, {})


def test_streams_that_are_late_at_a_gateway_with_spare_time_are_the_loads_fault() -> None:
    def look(name: str, rate: int) -> Look:
        return Look(0.3, 800.0 if name == "router" and rate > 500 else rate)

    found = survey(["nginx", "router"], look, lambda _: True)
    assert found.rate == 500
    assert found.limit.startswith("1,000 streams/s were not reached at router, which had spare time")


def test_one_disturbed_look_does_not_leave_a_gateway_out() -> None:
    looks = iter([Look(0.9, 500), Look(0.2, 500), Look(0.3, 1_000), Look(0.8, 1_500), Look(0.75, 1_500)])
    found = survey(["router"], lambda *_: next(looks), lambda _: True)
    assert (found.rate, found.left_out, found.limit) == (1_000, {}, "at 1,500 streams/s: router 75% busy")


def answer(us: float, busy: float, waited: float = 0.0) -> dict[str, Any]:
    return {
        "bad": 0,
        "broken": 0,
        "requests_per_second": 1_500.0,
        "events_per_second": 33_000.0,
        "reads_per_request": 20.0,
        "pids": {"us_per_request": us, "busy": busy, "waited": waited},
    }


RESULT: dict[str, Any] = {
    "rate": 1_500,
    "limit": "at 2,000 streams/s: other 75% busy",
    "left_out": {"slow": 0.98},
    "rounds": {"nginx": [answer(200, 0.3), answer(220, 0.33)], "router": [answer(300, 0.45, 0.2), answer(308, 0.46)]},
    "ratios": {"router": [1.5, 1.4]},
}


def test_the_table_has_costs_ratios_the_rate_and_who_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_fixed_rate(RESULT)
    lines = capsys.readouterr().out.splitlines()
    assert "1,500/s" in lines[1]
    assert lines[3].split() == ["1", "200.0", "300.0*", "(1.50)"]
    assert lines[5].split() == ["median", "210.0", "304.0", "(1.45)"]
    assert "  no higher rate, because at 2,000 streams/s: other 75% busy" in lines
    assert lines[-1] == "  left out, too busy at 500 streams/s: slow 98% busy"
    assert not any("more than 70%" in line for line in lines)


def test_the_table_says_if_a_gateway_was_too_busy_after_all(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_fixed_rate({**RESULT, "rounds": {**RESULT["rounds"], "router": [answer(500, 0.75)] * 2}})
    assert "router was more than 70% busy" in capsys.readouterr().out


def test_the_report_says_why_nothing_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    limit = "load and endpoints alone do not hold 500 streams/s"
    report.print_fixed_rate({"rate": None, "limit": limit, "left_out": {}, "rounds": {}, "ratios": {}})
    assert capsys.readouterr().out.strip() == f"e. streams at a fixed rate: not measured; {limit}"
