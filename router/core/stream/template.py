"""The bytes around the one text in which the events of a stream differ: an event that has them need not be parsed.

Most events of a stream differ in one JSON string only. An event with the same bytes before and after that string, and
with a text between them that needs no decoding, says the same as the events from which the template was made.
"""

from __future__ import annotations

import re

from router.core.stream.events import Error, read_later_event
from router.core.stream.lines import is_utf8

MAX_TRIES = 16  # events of a stream from which a template is tried to be made
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+')  # a text of a JSON string without escapes (RFC 8259 §7)
_VALUE = re.compile(rb'":\s*"\Z')  # before a string that is the value of a key


class Template:
    """Made of two events, each with its blank line, in which no choice ends, and which report no usage and no error."""

    __slots__ = ("_after", "_around", "_before", "_start")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before, self._after = before, after
        self._start, self._around = len(before), len(before) + len(after)

    @classmethod
    def of(cls, one: bytes, other: bytes) -> Template | None:
        """The template of two events that differ in one string value at most; None if they differ in more.

        Two equal events tell nothing of where the text is: only a third equal one fits.
        """
        if one == other:
            return cls(one, b"") if _is_usual(one) else None
        size = min(len(one), len(other))
        differing = int.from_bytes(one[:size], "big") ^ int.from_bytes(other[:size], "big")
        alike = size - (differing.bit_length() + 7) // 8  # bytes at the beginning
        start = other.rfind(b'"', 0, alike) + 1
        stop = other.find(b'"', start)
        before, after = other[:start], other[stop:]
        if stop < 0 or b"\\" in before or before.count(b'"') % 2 == 0 or not _VALUE.search(before):
            return None
        made = cls(before, after)
        return made if made.fits(one) and made.fits(other) and _is_usual(one) and _is_usual(other) else None

    def fits(self, event: bytes) -> bool:
        """True if the event differs from those of the template in its text only, and the text is valid JSON."""
        if not event.startswith(self._before) or not event.endswith(self._after):
            return False
        size = len(event) - self._around
        if size <= 0 or not self._after:
            return not size and not self._after
        text = event[self._start : self._start + size]
        return _PLAIN.fullmatch(text) is not None and (text.isascii() or is_utf8(text))


def _is_usual(event: bytes) -> bool:
    """True if the event has choices, none of which ends, and reports neither usage nor an error."""
    try:
        read = read_later_event(event[len(b"data: ") :])
    except Error:
        return False
    if not read.choices or read.usage is not None or read.error is not None:
        return False
    return all(choice.finish_reason is None for choice in read.choices)
