"""The demand of a call: what its client waits for, and the size of its prompt."""

from __future__ import annotations

import pytest

from router.core.demand import ANY_REQUEST, FIRST_TOKEN, KINDS, Demand
from router.core.endpoint.forecast import PRIORS
from tests.core.helpers import CHAT


def test_a_demand_has_a_kind_and_a_size_of_zero_unless_given() -> None:
    assert (Demand("answer").kind, Demand("answer").size) == ("answer", 0.0)
    assert Demand("embedding", 12.5).size == 12.5


def test_the_demand_of_a_stream_of_unknown_size_is_shared() -> None:
    assert (FIRST_TOKEN.kind, FIRST_TOKEN.size) == ("first_token", 0.0)


def test_every_kind_has_an_expected_wait_before_anything_is_measured() -> None:
    assert set(PRIORS) == set(KINDS)
    assert len(KINDS) == len(set(KINDS)) == 3


@pytest.mark.parametrize(
    ("demand", "text"),
    [
        (Demand("first_token", 1234.0), "<Demand first_token 1234>"),
        (Demand("answer"), "<Demand answer 0>"),
        (Demand("embedding", 0.5), "<Demand embedding 0.5>"),
    ],
)
def test_the_repr_of_a_demand_names_kind_and_size(demand: Demand, text: str) -> None:
    assert repr(demand) == text


def test_a_demand_takes_no_other_attribute() -> None:
    with pytest.raises(AttributeError):
        FIRST_TOKEN.tokens = 1  # type: ignore[attr-defined]


def test_equal_requests_have_equal_fingerprints_and_their_bodies_are_not_kept() -> None:
    bodies = [b"a" * 10, b"b" * 10, b"a" * (3 << 20), b"b" + b"a" * ((3 << 20) - 1), b"a" * ((3 << 20) - 1) + b"b"]
    prints = [Demand("answer", 0.0, CHAT, body).fingerprint for body in bodies]
    assert len(set(prints)) == len(bodies)
    assert prints == [Demand("first_token", 5.0, "embeddings", bytes(bytearray(body))).fingerprint for body in bodies]
    demand = Demand("answer", 0.0, CHAT, bodies[2])
    assert (demand.fingerprint, demand._body) == (prints[2], None)
    assert demand.fingerprint == prints[2]


def test_a_demand_without_a_body_is_of_any_request() -> None:
    assert FIRST_TOKEN.fingerprint == ANY_REQUEST
