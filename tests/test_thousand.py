"""A thousand endpoints: a shortlist costs no waiting, compared with a full scan on the same draws, at a high rate too.

The scenario `thousand` itself, with 100 calls per second, is played by `test_scenarios.py`.
"""

from __future__ import annotations

from loadtest.latency.arrivals import Poisson
from loadtest.latency.scenarios import find
from tests import seeds

SEED, RATE = 1, 400.0


def test_a_shortlist_costs_no_waiting() -> None:
    scenario = find("thousand").model_copy(update={"arrivals": Poisson(rate=RATE)})
    reached = {mark.mark: mark for mark in seeds.played(scenario, SEED).marks}
    assert reached[seeds.FULL_SCAN].ok
