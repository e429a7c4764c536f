"""The first difference between two replays: which call, which field, and both values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from tests.replay.lines import Json

SHOWN = 60  # characters of a long text that are shown before and behind the first difference


def first_difference(one: Iterable[str], other: Iterable[str]) -> str:
    """Describe the first difference between two replays; an empty text if there is none."""
    for mine, theirs in zip_longest(one, other):
        if mine is None or theirs is None:
            longer = json.loads(mine or theirs)
            return f"only the {'first' if theirs is None else 'second'} replay has {_name(longer)}"
        if mine != theirs:
            left, right = json.loads(mine), json.loads(theirs)
            field, values = next(_differing(left, right, ""), ("", (mine, theirs)))
            return f"{_name(left)}: {field or 'the text of the line'} differs\n" + "\n".join(_shown(*values))
    return ""


def _name(facts: Json) -> str:
    return str(facts.get("call") or facts.get("timeline"))


def _differing(one: Any, other: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The fields that differ, in order. Values that are equal but of other types differ: 0 and 0.0, 1 and True."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from _differing(one.get(key, _ABSENT), other.get(key, _ABSENT), f"{path}.{key}" if path else key)
    elif isinstance(one, list) and isinstance(other, list):
        for index, (mine, theirs) in enumerate(zip_longest(one, other, fillvalue=_ABSENT)):
            yield from _differing(mine, theirs, f"{path}[{index}]")
    elif repr(one) != repr(other):
        yield path, (one, other)


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()


def _shown(one: Any, other: Any) -> tuple[str, str]:
    """Both values; of long texts, the part around the first difference."""
    if not isinstance(one, str) or not isinstance(other, str) or max(len(one), len(other)) <= 2 * SHOWN:
        return f"  first:  {one!r}", f"  second: {other!r}"
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    begin, end = max(0, at - SHOWN), at + SHOWN
    return (
        f"  first:  … {one[begin:end]!r} … (from character {begin} of {len(one)})",
        f"  second: … {other[begin:end]!r} … (from character {begin} of {len(other)})",
    )
