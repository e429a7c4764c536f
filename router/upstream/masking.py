"""Masks an endpoint's credentials in what it sends: some repeat, in an error, the key that they refuse."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"
MIN_SECRET = 6  # characters: a shorter text may be part of ordinary words


class Mask:
    """Replaces secrets in errors, before these reach a client or a log."""

    __slots__ = ("_in_bytes", "_in_text")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one secret may contain another. In JSON a slash may be escaped.
        long = sorted({each for each in secrets if len(each) >= MIN_SECRET}, key=len, reverse=True)
        found = [re.escape(each).replace("/", r"\\?/") for each in long]
        self._in_text = re.compile("|".join(found)) if found else None
        self._in_bytes = re.compile("|".join(found).encode()) if found else None

    def text(self, text: str) -> str:
        return text if self._in_text is None else self._in_text.sub(MASK, text)

    def bytes(self, data: bytes) -> bytes:
        return data if self._in_bytes is None else self._in_bytes.sub(MASK.encode(), data)


NO_MASK = Mask()
