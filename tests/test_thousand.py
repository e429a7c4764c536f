"""A thousand endpoints: a shortlist costs no waiting, compared with a full scan on the same draws, at other rates too.

The scenario `thousand` itself, with its 100 calls per second, is played by `test_scenarios.py`.
"""

from __future__ import annotations

import pytest

from loadtest.latency.arrivals import Poisson
from loadtest.latency.scenarios import find
from tests import seeds

SEED = 1


@pytest.mark.parametrize("rate", [20.0, 400.0])
def test_a_shortlist_costs_no_waiting(rate: float) -> None:
    scenario = find("thousand").model_copy(update={"arrivals": Poisson(rate=rate)})
    reached = {mark.mark: mark for mark in seeds.played(scenario, SEED).marks}
    assert reached[seeds.FULL_SCAN].ok
