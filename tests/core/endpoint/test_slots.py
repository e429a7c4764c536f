"""The slots of one configured endpoint: bounded by the configured concurrency and by the pool's connections."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.endpoint.slots import Slots
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import T, properties


def test_without_a_configured_concurrency_slots_are_never_full() -> None:
    slots = Slots()
    assert (slots.configured, slots.capacity, slots.used) == (None, inf, 0)
    slots.used = 10**6
    assert not slots.full


def test_slots_are_full_from_the_configured_concurrency_on() -> None:
    slots = Slots(2)
    fullness = []
    for used in range(4):
        slots.used = used
        fullness.append(slots.full)
    assert fullness == [False, False, True, True]


@pytest.mark.parametrize(
    ("concurrency", "connections", "capacity"),
    [(None, inf, inf), (None, 8, 8), (3, inf, 3), (3, 8, 3), (8, 3, 3), (3, 3, 3)],
)
def test_the_capacity_is_the_lower_of_concurrency_and_connections(
    concurrency: int | None, connections: float, capacity: float
) -> None:
    slots = Slots(1)
    slots.configure(concurrency, connections)
    assert (slots.configured, slots.capacity) == (concurrency, capacity)
    assert type(slots.capacity) is float  # in both builds


def test_configuring_without_connections_lifts_the_bound_of_the_pool() -> None:
    slots = Slots()
    slots.configure(None, connections=1)
    slots.configure(5)
    assert slots.capacity == 5


def test_a_lower_capacity_keeps_the_slots_in_use_and_a_higher_one_frees_more() -> None:
    slots = Slots(3)
    slots.used = 3
    slots.configure(1)
    assert (slots.used, slots.full) == (3, True)
    slots.configure(4)
    assert (slots.used, slots.full) == (3, False)


def test_configuring_keeps_the_queue() -> None:
    slots = Slots(1)
    queue = slots.queue
    slots.configure(2, 5)
    assert slots.queue is queue
    assert slots.queue is not Slots(1).queue


@properties
@given(
    concurrency=st.none() | st.integers(1, 5),
    steps=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40),
)
def test_attempts_of_all_models_use_slots_and_only_up_to_the_capacity(
    concurrency: int | None, steps: list[tuple[int, bool]]
) -> None:
    slots, running = Slots(concurrency), list[Attempt]()
    models = [Endpoint("a", model, slots=slots) for model in ("small", "medium", "large")]
    for model, begins in steps:
        if begins and models[model].availability.allows(T):
            running.append(models[model].begin(T))
        elif running:
            running.pop(0).end(Outcome(Verdict.SERVED), T)
        assert slots.used == len(running) <= slots.capacity
        assert slots.full is all(endpoint.availability.full for endpoint in models)
