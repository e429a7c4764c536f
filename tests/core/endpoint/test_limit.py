"""The limit of concurrent attempts, learned from refusals."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.endpoint.limit import FORGET_AFTER, PROBE_AFTER, Limit
from tests.core.helpers import T, properties


def shrunk(running: int, now: float = T) -> Limit:
    limit = Limit()
    limit.throttled(running, now, now)
    return limit


def serve(limit: Limit, count: int, running: int | None = None, now: float = T) -> None:
    for _ in range(count):
        limit.served(int(limit.most) if running is None else running, now)


def test_there_is_no_limit_before_a_refusal() -> None:
    assert Limit().most == inf


@pytest.mark.parametrize(("running", "most"), [(1, 1), (2, 1), (3, 2), (10, 7), (100, 70)])
def test_a_refusal_sets_the_limit_to_seven_tenths_of_what_ran(running: int, most: int) -> None:
    assert shrunk(running).most == most


def test_refusals_of_attempts_sent_before_do_not_shrink_the_limit_further() -> None:
    limit = Limit()
    for running in range(30, 10, -1):
        limit.throttled(running, T - 1, T)
    assert limit.most == 21
    limit.throttled(20, T, T + 1)  # sent after it
    assert limit.most == 14


def test_the_limit_grows_by_one_for_as_many_served_attempts_as_it_is_high() -> None:
    limit = shrunk(100)
    serve(limit, 69)
    assert limit.most == 70
    serve(limit, 1)
    assert limit.most == 71
    serve(limit, 71)
    assert limit.most == 72


def test_the_step_that_was_refused_last_takes_more_served_attempts() -> None:
    limit = shrunk(4)
    serve(limit, 2)
    assert limit.most == 3
    serve(limit, PROBE_AFTER - 1)
    assert limit.most == 3
    serve(limit, 1)
    assert limit.most == 4  # not refused: it grows as before
    serve(limit, 4)
    assert limit.most == 5


def test_an_unused_limit_does_not_grow_and_is_removed_in_time() -> None:
    limit = shrunk(20)
    serve(limit, 100, running=7)
    assert limit.most == 14
    serve(limit, 1, running=7, now=T + FORGET_AFTER)
    assert limit.most == inf
    used = shrunk(20)
    serve(used, 1, running=8, now=T + 10 * FORGET_AFTER)
    assert used.most == 14


def test_a_limit_of_one_is_left_again_with_a_single_caller() -> None:
    limit = shrunk(1)
    serve(limit, 1, running=1)
    assert limit.most == 2
    serve(limit, 100, running=1, now=T + FORGET_AFTER)
    assert limit.most == inf


@properties
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["throttled", "served"]), st.integers(1, 50), st.floats(0, 5), st.floats(0, 5)),
        max_size=60,
    )
)
def test_the_limit_is_never_below_one_and_only_refusals_lower_it(steps: list[tuple[str, int, float, float]]) -> None:
    limit, now = Limit(), T
    for what, running, gap, took in steps:
        before, now = limit.most, now + gap
        if what == "throttled":
            limit.throttled(running, now - took, now)
            assert 1 <= limit.most <= before
            assert limit.most <= max(1, 0.7 * running) or limit.most == before
        elif before != inf:
            limit.served(running, now)
            assert limit.most in (before, before + 1, inf)
        assert limit.most == inf or limit.most == int(limit.most)


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 10, 30])
def test_under_load_the_capacity_is_found_with_few_refusals(capacity: int) -> None:
    """Demand exceeds the capacity; attempts take two to four ticks, and one too many is refused at once."""
    limit, rng, now, asked, refused, used = Limit(), Random(1), 0.0, 0, 0, 0.0
    ends: list[float] = []
    warm = 200 + 20 * capacity
    for number in range(5000):
        now += 0.01
        for end in [end for end in ends if end <= now]:
            limit_before = len(ends)
            ends.remove(end)
            if limit.most != inf:
                limit.served(limit_before, now)
        while len(ends) < limit.most:
            asked += number > warm
            if len(ends) >= capacity:
                refused += number > warm
                limit.throttled(len(ends) + 1, now, now)
                break
            ends.append(now + rng.uniform(0.02, 0.04))
        used += len(ends) if number > warm else 0
    assert refused / asked < 0.05
    assert used / (5000 - warm) > 0.75 * capacity


def test_the_limit_follows_a_growing_capacity() -> None:
    limit = shrunk(4)
    for _ in range(2000):
        limit.served(int(limit.most), T)
    assert limit.most > 40
