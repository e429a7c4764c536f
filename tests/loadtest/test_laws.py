"""Laws: draws, survival and mean belong to one distribution, and draws depend only on names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from loadtest.latency.draws import uniform
from loadtest.latency.laws import AnyLaw, DataError, Given, Law
from tests.loadtest.fleets import QUICK, STALLING, constant

DRAWS = 20_000
CHANCES = [uniform(1, "tested", k) for k in range(DRAWS)]
# The largest distance between a law and DRAWS draws from it exceeds this once in ten thousand times.
KOLMOGOROV = 2.23 / math.sqrt(DRAWS)
AT, TOKENS = 100.0, 1000

MEASURED = {"far": [0.2, 0.3, 0.3, 0.4, 9.0]}
GIVEN = Given(seed=3, endpoint="tested", data=MEASURED)
LAWS: dict[str, Any] = {
    "constant": constant(0.7),
    "lognormal": QUICK,
    "stalls": STALLING,
    "measured": {"kind": "empirical", "endpoint": "far", "stand_in": QUICK},
    "linear": {"kind": "linear", "per_token": 0.0003, "base": QUICK},
    "linear stalls": {"kind": "linear", "per_token": 0.001, "base": STALLING},
    "schedule": {"kind": "schedule", "every": 60, "laws": [{"at": 0, "law": constant(9)}, {"at": 30, "law": QUICK}]},
    "two states": {
        "kind": "two-state", "normal": QUICK, "contended": STALLING, "normal_for": 20, "contended_for": 10,
    },
}  # fmt: skip


def law(keys: Any, given: Given = GIVEN) -> Law:
    read: Law = TypeAdapter(AnyLaw).validate_python(keys)
    return read.bound(given)


BOUND = {name: law(keys) for name, keys in LAWS.items()}


@pytest.fixture(params=BOUND)
def any_law(request: pytest.FixtureRequest) -> Law:
    return BOUND[request.param]


def test_draws_follow_the_survival_function(any_law: Law) -> None:
    drawn = np.array([any_law.first_token(u, AT, TOKENS) for u in CHANCES])
    points = np.geomspace(0.01, 200, 400)
    survived = (drawn[None, :] > points[:, None]).mean(axis=1)
    assert np.abs(survived - any_law.survival(points, AT, TOKENS)).max() < KOLMOGOROV


def test_the_mean_is_the_mean_of_the_draws(any_law: Law) -> None:
    drawn = np.array([any_law.first_token(u, AT, TOKENS) for u in CHANCES])
    assert abs(drawn.mean() - any_law.mean(AT, TOKENS)) <= 4 * drawn.std() / math.sqrt(DRAWS) + 1e-9


@given(u=st.floats(0, 1, exclude_min=True, exclude_max=True), at=st.floats(0, 1e5), tokens=st.integers(1, 100_000))
def test_every_quantile_is_a_time(u: float, at: float, tokens: int) -> None:
    for each in BOUND.values():
        assert 0 < each.first_token(u, at, tokens) < math.inf


@given(at=st.floats(0, 1000), later=st.floats(0, 1000), u=st.floats(0.01, 0.99))
def test_times_of_the_same_state_have_the_same_law(at: float, later: float, u: float) -> None:
    for each in BOUND.values():
        if each.state(at) == each.state(later):
            assert each.first_token(u, at, TOKENS) == each.first_token(u, later, TOKENS)
            assert each.mean(at, TOKENS) == each.mean(later, TOKENS)


def test_a_prompts_size_adds_its_time() -> None:
    tested = law({"kind": "linear", "per_token": 0.0003, "base": constant(0.15)})
    assert tested.first_token(0.5, 0, 1000) == pytest.approx(0.45)
    assert tested.reads
    assert not law(QUICK).reads


def test_a_schedule_changes_at_its_times_and_repeats() -> None:
    tested = law(
        {"kind": "schedule", "every": 180, "laws": [{"at": 0, "law": constant(1)}, {"at": 60, "law": constant(2)}]}
    )
    assert [tested.mean(at) for at in (0, 59.9, 60, 179.9, 180, 240)] == [1, 1, 2, 2, 1, 2]


def test_spells_are_drawn_per_endpoint_with_their_configured_means() -> None:
    keys = {
        "kind": "two-state", "normal": constant(1), "contended": constant(9), "normal_for": 30, "contended_for": 10,
    }  # fmt: skip
    ours, again, others = (law(keys, Given(1, name)) for name in ("a", "a", "b"))
    moments = np.arange(0, 5000, 0.5)
    contended = [[each.mean(at) == 9 for at in moments] for each in (ours, again, others)]
    assert contended[0] == contended[1] != contended[2]
    assert 0.15 < np.mean(contended[0]) < 0.35
    fixed = law({**keys, "periods": "fixed"})
    assert [fixed.mean(at) for at in (0, 29, 30, 39, 40, 70)] == [1, 1, 9, 9, 1, 9]


def test_without_data_the_stand_in_is_used_and_with_data_the_endpoint_must_exist() -> None:
    keys = {"kind": "empirical", "endpoint": "near", "stand_in": constant(3)}
    assert law(keys, Given(1, "x")).mean() == 3
    with pytest.raises(DataError, match="no first-token times of near; it has far"):
        law(keys)


def test_a_law_that_depends_on_a_run_cannot_be_read_unbound() -> None:
    for kind in ("measured", "two states"):
        with pytest.raises(TypeError, match="not bound"):
            TypeAdapter(AnyLaw).validate_python(LAWS[kind]).first_token(0.5)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"kind": "mixture", "parts": [{"share": 0.5, "law": QUICK}]}, "come to 0.5 instead of 1"),
        ({"kind": "schedule", "laws": [{"at": 5, "law": QUICK}]}, "begin at 0 and rise"),
        ({"kind": "schedule", "every": 5, "laws": [{"at": 0, "law": QUICK}, {"at": 9, "law": QUICK}]}, "more than"),
        ({"kind": "lognormal", "median": -1, "sigma": 1}, "greater than 0"),
    ],
)
def test_an_invalid_law_is_refused(keys: Any, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        law(keys)


# ---- Draws


def test_draws_are_uniform_and_independent_of_each_other() -> None:
    assert np.abs(np.sort(CHANCES) - (np.arange(DRAWS) + 0.5) / DRAWS).max() < KOLMOGOROV
    for other in (
        [uniform(2, "tested", k) for k in range(DRAWS)],
        [uniform(1, "other", k) for k in range(DRAWS)],
        [uniform(1, "tested", k, 1) for k in range(DRAWS)],
        [uniform(1, "tested", k, what="error") for k in range(DRAWS)],
    ):
        assert abs(np.corrcoef(CHANCES, other)[0, 1]) < 4 / math.sqrt(DRAWS)


@given(seed=st.integers(), endpoint=st.text(), k=st.integers(), attempt=st.integers(0, 9))
def test_a_draw_is_a_function_of_its_names(seed: int, endpoint: str, k: int, attempt: int) -> None:
    drawn = uniform(seed, endpoint, k, attempt)
    assert 0 < drawn < 1
    assert drawn == uniform(seed, endpoint, k, attempt)
