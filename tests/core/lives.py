"""Seeded histories of an endpoint, as its latency sees them: quiet and busy, light and heavy tails, faults and gaps."""

from __future__ import annotations

from math import exp
from random import Random

from router.core.endpoint.latency import Latency


def lived(seed: int, *, sized: bool = False, loaded: bool = False) -> tuple[Latency, float]:
    """The latency learned from the history of this seed, and the time of its last observation or a while later."""
    rng = Random(seed)
    latency, now = Latency(rng.choice((0.05, 1.0, 10.0))), rng.choice((0.0, 1000.0, 1e9))
    for _ in range(rng.randrange(6)):
        now = _spell(latency, rng, now, sized, loaded)
    return latency, now


def _spell(latency: Latency, rng: Random, now: float, sized: bool, loaded: bool) -> float:
    median, sigma = exp(rng.uniform(-4.0, 3.0)), rng.choice((0.0, 0.1, 0.5, 1.5))
    stalls, gap = rng.choice((0.0, 0.0, 0.05, 0.3)), rng.choice((0.0, 0.01, 0.1, 1.0, 10.0, 60.0))
    slope = rng.choice((0.0, 1e-4, 1e-3)) if sized else 0.0
    for _ in range(rng.choice((1, 3, 12, 40, 150))):
        now += gap * rng.expovariate(1.0)
        size = rng.choice((0.0, 10.0, 1000.0, 30000.0, 20000.0 * rng.random())) if sized else 0.0
        load = rng.choice((0.0, 1.0, 5.0, 50.0)) if loaded else 0.0
        wait = rng.uniform(5.0, 100.0) if rng.random() < stalls else median * exp(rng.gauss(0.0, sigma)) + slope * size
        what = rng.random()
        if what < 0.85:
            latency.observe(wait, now, size, load)
        elif what < 0.97:
            latency.observe_at_least(rng.random() * wait, now, size, load)
        else:
            latency.penalise(5.0, now)
        if rng.random() < 0.1:
            latency.draw()
    return now + (rng.choice((10.0, 100.0, 1000.0, 1e5)) if rng.random() < 0.2 else 0.0)
