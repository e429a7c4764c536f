"""The scenarios of `loadtest.latency`, played in virtual time on the decision code alone, exactly repeatable.

`python -m loadtest run` plays the same scenarios over the wire, with the noise of a real machine.
"""

from __future__ import annotations

import pytest

from loadtest.latency.marks import Reached, marks, times
from loadtest.latency.references import clairvoyant, informed
from loadtest.latency.scenarios import Scenario, Without, load
from tests.support.fleet import Fleet

SEED, OTHER_SEEDS = 1, (2, 3)
SCENARIOS = {name: scenario for name, scenario in load().items() if not scenario.needs_a_trace}
# Scenarios in which `informed` does not hedge: the search for the price of a hedge would only take time.
HEDGES = {"roadmap": 0.1, "long-prompts": 0.1}


def without(scenario: Scenario, name: str, seed: int) -> dict[int, float]:
    """First-token times without one endpoint."""
    fewer = scenario.without(name)
    return dict(times(Fleet(fewer, seed, fewer.arriving(seed)).play().calls))


def played(name: str, seed: int) -> list[Reached]:
    scenario = SCENARIOS[name]
    calls = scenario.arriving(seed)
    run = Fleet(scenario, seed, calls).play()
    references = {
        "informed": informed(scenario, seed, calls, budget=HEDGES.get(name, 0.0)),
        "clairvoyant": clairvoyant(scenario, seed, calls),
    }
    compared = {mark.endpoint for mark in scenario.marks if isinstance(mark, Without)}
    return marks(scenario, run, references, {other: without(scenario, other, seed) for other in compared})


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_reaches_its_marks(name: str) -> None:
    """The median over three seeds must reach every mark: one seed may miss a mark by chance."""
    reached = played(name, SEED)
    assert reached
    missed = {mark.mark for mark in reached if not mark.ok}
    for seed in OTHER_SEEDS if missed else ():
        assert not [mark for mark in played(name, seed) if mark.mark in missed and not mark.ok]


def test_a_scenario_played_twice_is_the_same() -> None:
    scenario = SCENARIOS["roadmap"].model_copy(update={"calls": 400})
    one, other = (Fleet(scenario, SEED, scenario.arriving(SEED)).play() for _ in range(2))
    assert one == other
