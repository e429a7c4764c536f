"""Small scenarios for tests of the load test's pure side."""

from __future__ import annotations

from typing import Any

from loadtest.latency.scenarios import Scenario

QUICK = {"kind": "lognormal", "median": 0.5, "sigma": 0.3}
STALLING = {
    "kind": "mixture",
    "parts": [
        {"share": 0.98, "law": {"kind": "lognormal", "median": 0.5, "sigma": 0.3}},
        {"share": 0.02, "law": {"kind": "lognormal", "median": 20, "sigma": 0.1}},
    ],
}


def endpoint(name: str, law: Any = QUICK, **said: Any) -> dict[str, Any]:
    return {"name": name, "law": law, **said}


def constant(seconds: float) -> dict[str, Any]:
    return {"kind": "constant", "seconds": seconds}


def fleet(*endpoints: dict[str, Any], **said: Any) -> Scenario:
    """Ten calls a second, of which none is a warm-up."""
    usual = {"name": "small", "story": "", "arrivals": {"kind": "poisson", "rate": 10}, "calls": 600, "warmup": 0}
    return Scenario.model_validate({**usual, "endpoints": endpoints, **said})
