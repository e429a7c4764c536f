"""Text from outside, as messages and log lines quote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.quote import MAX_QUOTE, escaped, quoted
from tests.core.helpers import properties


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("status 500", "status 500"),
        ("x\n2026-01-01 CRITICAL forged", "x\\n2026-01-01 CRITICAL forged"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
        ("\u2028\u200b\ufeff", "\\u2028\\u200b\\ufeff"),
        ("\ud800", "\\ud800"),
        ("tschüß 你好 🙂", "tschüß 你好 🙂"),
    ],
)
def test_unsafe_characters_are_escaped_and_others_kept(text: str, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: sk-proj-abcdef0123456789.", "Incorrect API key provided: ***."),
        ("your key sk-123 is wrong", "your key *** is wrong"),
        ("Authorization: Bearer abcdef", "Authorization: ***"),
        ("key AIzaSyA1234567890abc expired", "key *** expired"),
        ("a  \n b", "a b"),
        ("model x does not exist", "model x does not exist"),
    ],
)
def test_what_looks_like_a_key_is_masked_and_space_is_joined(text: str, shown: str) -> None:
    assert quoted(text) == shown


@properties
@given(st.text(max_size=3 * MAX_QUOTE))
def test_a_quote_is_bounded_one_line_and_encodable(text: str) -> None:
    shown = quoted(text)
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert len(shown) <= 12 * MAX_QUOTE
    shown.encode()
