"""The record of a call: its fields, their order in the access log, and that no two records share anything."""

from __future__ import annotations

from inspect import signature

import msgspec
import pytest

from router.core.endpoint.endpoint import Endpoint
from router.core.record import RECORD_FIELDS, AttemptRecord, CallRecord
from tests.core.helpers import T


def test_a_new_record_has_the_facts_of_its_arrival_only() -> None:
    record = CallRecord("req_1", "chat/completions", T)
    facts = {name: getattr(record, name) for name in RECORD_FIELDS}
    assert facts == {
        "request_id": "req_1",
        "operation": "chat/completions",
        "arrived": T,
        "model": "",
        "stream": False,
        "status": 0,
        "error": "",
        "endpoint": "",
        "queued": 0.0,
        "first_token": None,
        "ended": None,
        "prompt_tokens": None,
        "completion_tokens": None,
        "attempts": [],
        "why": None,
    }


def test_the_fields_are_the_constructors_in_its_order() -> None:
    assert tuple(signature(CallRecord).parameters) == RECORD_FIELDS


def test_each_argument_is_kept_under_its_own_name() -> None:
    attempts: list[AttemptRecord] = [Endpoint("a").begin(T)]
    why = msgspec.Raw(b"{}")
    record = CallRecord(
        "req_1", "completions", 1.0, "chat", True, 200, "late", "a", 2.0, 3.0, 4.0, 5, 6, attempts=attempts, why=why
    )
    values = [getattr(record, name) for name in RECORD_FIELDS]
    assert values == ["req_1", "completions", 1.0, "chat", True, 200, "late", "a", 2.0, 3.0, 4.0, 5, 6, attempts, why]
    assert record.attempts is attempts


def test_each_record_has_attempts_of_its_own() -> None:
    one, other = (CallRecord("req", "embeddings", T) for _ in range(2))
    one.attempts.append(Endpoint("a").begin(T))
    assert (len(one.attempts), other.attempts) == (1, [])


def test_a_record_is_equal_to_itself_only_and_can_be_a_key() -> None:
    one, other = (CallRecord("req", "embeddings", T) for _ in range(2))
    assert one != other
    assert {one: 1, other: 2}[one] == 1


def test_a_record_has_no_other_attribute() -> None:
    with pytest.raises(AttributeError):
        CallRecord("req", "embeddings", T).other = 1  # type: ignore[attr-defined]
