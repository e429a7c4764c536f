"""Health: several misses to fall, one success to rise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.core.endpoint.health import FALL, Health
from tests.core.helpers import properties

observations = st.lists(st.booleans(), max_size=20)


def observed(*oks: bool) -> Health:
    health = Health()
    for ok in oks:
        health.observe(ok)
    return health


def test_an_endpoint_without_observations_is_up() -> None:
    assert observed().up


def test_the_first_observation_alone_decides() -> None:
    assert not observed(False).up


def test_after_a_success_several_misses_in_a_row_take_it_down() -> None:
    assert observed(True, *[False] * (FALL - 1)).up
    assert not observed(True, *[False] * FALL).up


def test_a_success_between_misses_restarts_the_count() -> None:
    assert observed(True, False, False, True, False, False).up


@properties
@given(before=observations)
def test_one_success_takes_it_up(before: list[bool]) -> None:
    assert observed(*before, True).up


@properties
@given(before=observations)
def test_it_is_down_only_after_misses_without_a_success(before: list[bool]) -> None:
    if not observed(*before).up:
        assert not any(before[-FALL:])


@properties
@given(before=observations, ok=st.booleans())
def test_an_observation_reports_whether_health_changed(before: list[bool], ok: bool) -> None:
    health = observed(*before)
    was = health.up
    assert health.observe(ok) is (health.up != was)
