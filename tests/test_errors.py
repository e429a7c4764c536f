"""The suggestion for a wrong model name: the same for a few names, and cheap for thousands."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pytest

from router.errors import MAX_COMPARED, not_served


@pytest.mark.parametrize("count", [5, 5000])
@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("llama-3.3-70b", "llama-3.3-70b-instruct"),
        ("lama-3.3-70b-instruct", "llama-3.3-70b-instruct"),
        ("meta/llama-3.3-70b-instruct", "llama-3.3-70b-instruct"),
        ("llama-3.3-70b-instruc", "llama-3.3-70b-instruct"),
    ],
)
def test_the_most_similar_name_is_suggested(count: int, wrong: str, meant: str) -> None:
    names = [meant, *(f"model-{number:05}" for number in range(count))]
    assert f"Did you mean '{meant}'?" in not_served(wrong, names, {}).message


def test_of_many_names_only_a_few_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(word: str, names: Sequence[str], n: int) -> list[str]:
        compared.append(len(names))
        return []

    monkeypatch.setattr(difflib, "get_close_matches", compare)
    not_served("x", [f"m{number}" for number in range(10_000)], {})
    assert compared[0] <= MAX_COMPARED
