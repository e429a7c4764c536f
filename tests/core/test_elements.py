"""The number of an array's elements, however its bytes are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.body import Body
from router.core.call import parse
from router.core.elements import Elements
from tests.core.helpers import properties

values = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(['"', "\\", '\\"', "],[", "[,]{,}"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def counted(array: bytes, size: int) -> int:
    elements = Elements()
    for at in range(1, len(array), size):
        elements.feed(array[at : at + size])
    return elements.count


@properties
@given(array=st.lists(values, max_size=6), size=st.integers(1, 40), spaced=st.booleans())
def test_the_elements_of_any_array_are_counted(array: list[object], size: int, spaced: bool) -> None:
    data = json.dumps(array, indent=1 if spaced else None, ensure_ascii=False).encode()
    assert counted(data, size) == len(array)


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [
        (["a", "b"], 6),
        ([[1, 2], [3], [4, 5, 6]], 9),
        ([1, 2, 3], 3),
        ("a", 3),
        ([], 3),
        (["a,b]", '"', "\\"], 9),
        (["x" * 300_000, "y"], 6),
        ([[1] * 100_000] * 3, 9),
        (["", ""] * 100_000, 600_000),
    ],
)
def test_a_list_of_prompts_counts_its_length_times_n(prompt: object, choices: int) -> None:
    data = json.dumps({"model": "m", "prompt": prompt, "n": 3}).encode()
    body = Body()
    for at in range(0, len(data), 8192):
        body.feed(data[at : at + 8192])
    assert parse("completions", body).choices == choices
    if len(data) < 1 << 20:
        assert parse("completions", data).choices == choices


def test_the_last_of_two_lists_of_prompts_counts() -> None:
    for last, choices in ((b'["a"]', 1), (b'"a"', 1), (b"[1,2]", 1), (b'["a","b"]', 2)):
        body = Body()
        body.feed(b'{"model":"m","prompt":["a","b","c"],"prompt":%b}' % last)
        assert parse("completions", body).choices == choices
