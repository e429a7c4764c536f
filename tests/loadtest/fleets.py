"""Small scenarios for tests of the pure modules of `loadtest.latency`."""

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


def endpoint(name: str, law: Any = QUICK, **keys: Any) -> dict[str, Any]:
    return {"name": name, "law": law, **keys}


def constant(seconds: float) -> dict[str, Any]:
    return {"kind": "constant", "seconds": seconds}


def fleet(*endpoints: dict[str, Any], **keys: Any) -> Scenario:
    """A scenario with ten calls per second and no warm-up."""
    usual = {"name": "small", "story": "", "arrivals": {"kind": "poisson", "rate": 10}, "calls": 600, "warmup": 0}
    return Scenario.model_validate({**usual, "endpoints": endpoints, **keys})
