"""A large request body of which some values are changed, in pieces that are not copied."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

SPLICED = 16 << 10  # bytes of a value from which on it is not copied into a changed body


class Spliced:
    """A large body in pieces: to join them would take as long as to read all of them."""

    __slots__ = ("_size", "pieces")

    def __init__(self, fields: Mapping[str, msgspec.Raw]) -> None:
        """The object with these fields."""
        self.pieces: list[bytes | memoryview] = []
        small = b"{"
        for name, value in fields.items():
            small += msgspec.json.encode(name) + b":"
            view = memoryview(value)
            if len(view) > SPLICED:
                self.pieces += (small, view)
                small = b","
            else:
                small += bytes(view) + b","
        self.pieces.append(small[:-1] + b"}" if small != b"," else b"}")
        self._size = sum(map(len, self.pieces))

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)
