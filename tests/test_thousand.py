"""A thousand endpoints: calls wait no longer with a shortlist than with a scan of all endpoints, on the same draws."""

from __future__ import annotations

from statistics import fmean

import pytest

from loadtest.latency.scenarios import Scenario
from router.core.choice import route as routes
from tests.support.fleet import Fleet

SEEDS = (1,)
MOST = 1.02  # times the mean of a full scan


def scenario(rate: float) -> Scenario:
    """Endpoints of five speeds; three calls in a hundred stall."""

    def law(median: float) -> object:
        quick = {"share": 0.97, "law": {"kind": "lognormal", "median": median, "sigma": 0.35}}
        stall = {"share": 0.03, "law": {"kind": "lognormal", "median": 6 * median, "sigma": 0.2}}
        return {"kind": "mixture", "parts": [quick, stall]}

    medians = (0.2, 0.3, 0.4, 0.6, 0.8)
    endpoints = [{"name": f"e{number}", "law": law(medians[number % len(medians)])} for number in range(1000)]
    return Scenario.model_validate(
        {
            "name": "thousand",
            "story": "A thousand endpoints of five speeds.",
            "arrivals": {"kind": "poisson", "rate": rate},
            "calls": 2500,
            "warmup": 1000,
            "endpoints": endpoints,
        }
    )


def mean(of: Scenario, seed: int) -> float:
    """The mean first-token time, seconds."""
    run = Fleet(of, seed, of.arriving(seed)).play()
    times = [call.first_token for call in run.calls[of.warmup :]]
    return fmean(each if each is not None else 120.0 for each in times)


def test_a_shortlist_costs_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    of = scenario(rate=100.0)
    with_shortlists = fmean(mean(of, seed) for seed in SEEDS)
    monkeypatch.setattr(routes, "LARGE", 10_000)
    assert with_shortlists <= MOST * fmean(mean(of, seed) for seed in SEEDS)
