"""The header `x-router-debug`: its fields, and its bound."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.core.explain.explanation import explain
from router.proxy.debug import MAX_BYTES, MAX_CANDIDATES, header
from tests.support import Player, endpoint
from tests.support.endpoints import streams


def header_of(*names: str, asked: str | None) -> tuple[bytes, dict[str, Any]]:
    play = Player(*(endpoint(name, streams("hi")) for name in names))
    explanation = explain(play.table.routes["chat"], "first_token", 10.0, 0.0, MAX_CANDIDATES)
    line = bytes(header(explanation, asked, affinity=False))
    return line, json.loads(line)


def test_the_fields_are_these_and_in_this_order() -> None:
    _, fields = header_of("a", "b", asked="a")
    assert list(fields) == [
        "asked", "why", "size", "hedge_after", "hedge_target", "price", "budgets", "candidates", "omitted",
    ]  # fmt: skip
    assert list(fields["candidates"][0])[:7] == [
        "endpoint", "tier", "cost", "expected", "evidence", "in_flight", "waiting",
    ]  # fmt: skip


def test_a_call_without_an_attempt_has_no_endpoint() -> None:
    _, fields = header_of("a", asked=None)
    assert (fields["asked"], fields["hedge_after"], fields["hedge_target"]) == (None, None, None)
    assert fields["why"]


@pytest.mark.parametrize(
    ("count", "length", "fits"), [(1, 1, True), (24, 1, True), (24, 50, False), (60, 8, False), (60, 60, False)]
)
def test_candidates_are_omitted_and_counted_where_they_do_not_fit(count: int, length: int, fits: bool) -> None:
    line, fields = header_of(*(f"e{'x' * length}{i}" for i in range(count)), asked=None)
    assert len(line) <= MAX_BYTES
    assert line.isascii()
    assert len(fields["candidates"]) + fields["omitted"] == count
    assert (fields["omitted"] == 0) == fits
