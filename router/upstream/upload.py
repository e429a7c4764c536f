"""A large request, sent in pieces: the transport hands the kernel all that the socket takes at once, several MiB of
which hold up all other connections for milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

# Bytes that are written in one turn of the event loop: 0.1 ms of copying and of the loopback's work.
PIECE = 256 << 10


class Upload:
    """One request on its way: a piece per turn, and none while the transport holds unsent bytes.

    The bytes are not copied. `sent` is True once the transport has all of them; `stop` drops the rest.
    """

    __slots__ = ("_loop", "_parts", "_paused", "_transport")

    def __init__(self, transport: asyncio.Transport, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._parts = [memoryview(part) for part in reversed(parts)]  # the next one is the last
        self._paused = False

    @property
    def sent(self) -> bool:
        return not self._parts

    def advance(self) -> None:
        """Write the next piece. The one after it follows in the next turn, or once the transport has room."""
        if self._paused or not self._parts or self._transport.is_closing():
            return
        piece, room = [], PIECE
        while self._parts and room:
            part = self._parts.pop()
            piece.append(part[:room])
            if len(part) > room:
                self._parts.append(part[room:])
            room -= len(piece[-1])
        self._transport.writelines(piece)  # may call `pause`
        if self._parts and not self._paused:
            self._loop.call_soon(self.advance)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self.advance)

    def stop(self) -> None:
        self._parts.clear()
