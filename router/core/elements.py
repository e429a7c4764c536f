"""Counts the elements of a JSON array while its bytes arrive. The array itself is checked elsewhere."""

from __future__ import annotations

import re
from itertools import accumulate

_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)  # the content of a string, or as much as has come
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_FLAT = re.compile(rb"\[,*+\]|\{,*+\}")  # a container without others inside
_OTHERS = bytes(set(range(256)) - set(b"[]{},"))
_STEP = [1 if byte in b"[{" else -1 if byte in b"]}" else 0 for byte in range(256)]
PASSES = 3  # times that containers are removed before the rest is counted one by one


class Elements:
    """The number of an array's elements so far, and the first byte of its first one.

    Input: the bytes from after the opening bracket to the closing one.
    """

    __slots__ = ("_commas", "_depth", "_in_string", "_rest", "first")

    def __init__(self) -> None:
        self._commas, self._depth = 0, 1
        self._in_string = False
        self._rest = b""  # half an escape
        self.first = b""

    @property
    def count(self) -> int:
        return self._commas + 1 if self.first not in (b"", b"]") else 0

    def feed(self, data: bytes) -> None:
        data, self._rest = self._rest + data, b""
        if not self.first:
            self.first = data.lstrip(b" \t\r\n")[:1]
        if self._in_string:
            data = self._after_string(data)
        data = _STRINGS.sub(b"", data)
        cut = data.find(b'"')
        if cut >= 0:
            self._in_string = True
            self._after_string(data[cut + 1 :])
            data = data[:cut]
        self._count(data.translate(None, _OTHERS))

    def _after_string(self, data: bytes) -> bytes:
        """Return the rest after the string that the data begins in; nothing if the string goes on."""
        match = _INSIDE.match(data)
        end = match.end() if match else 0
        if data[end : end + 1] == b'"':
            self._in_string = False
            return data[end + 1 :]
        self._rest = data[end:]
        return b""

    def _count(self, marks: bytes) -> None:
        """Count brackets and commas."""
        for _ in range(PASSES):
            marks, before = _FLAT.sub(b"", marks), marks
            if marks == before:
                break
        if not marks.strip(b","):
            self._commas += len(marks) if self._depth == 1 else 0
            return
        depths = list(accumulate(map(_STEP.__getitem__, marks), initial=self._depth))
        self._commas += sum(mark == 0x2C and depth == 1 for mark, depth in zip(marks, depths, strict=False))
        self._depth = depths[-1]
