"""Health: slow to fall, quick to rise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.core.endpoint.health import FALL, Health
from tests.core.helpers import properties

observations = st.lists(st.booleans(), max_size=20)


def seen(*oks: bool) -> Health:
    health = Health()
    for ok in oks:
        health.observe(ok)
    return health


def test_one_that_nobody_has_looked_at_is_up() -> None:
    assert seen().up


def test_one_miss_is_enough_until_something_was_seen() -> None:
    assert not seen(False).up


def test_one_that_was_seen_falls_after_several_misses_in_a_row() -> None:
    assert seen(True, *[False] * (FALL - 1)).up
    assert not seen(True, *[False] * FALL).up


def test_a_success_between_misses_makes_them_count_anew() -> None:
    assert seen(True, False, False, True, False, False).up


@properties
@given(before=observations)
def test_one_success_makes_it_rise(before: list[bool]) -> None:
    assert seen(*before, True).up


@properties
@given(before=observations)
def test_it_falls_for_good_reason_only(before: list[bool]) -> None:
    if not seen(*before).up:
        assert not any(before[-FALL:])


@properties
@given(before=observations, ok=st.booleans())
def test_an_observation_says_whether_it_flipped(before: list[bool], ok: bool) -> None:
    health = seen(*before)
    was = health.up
    assert health.observe(ok) is (health.up != was)
