"""uvicorn's server with another way to stop: by `proxy/drain.py`, with the listening socket open until the end."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import uvicorn

from router.proxy.drain import Drain

POLL = 0.05  # seconds between two checks for connections with unsent bytes
FLUSH_TIMEOUT = 2.0  # seconds in which clients can read the last bytes


class Server(uvicorn.Server):
    """A signal begins `drain`; the server ends when the drain is over. To be created inside its event loop.

    `listening` is set once clients can connect.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, listening: asyncio.Event) -> None:
        super().__init__(config)
        self._drain, self._loop, self._listening = drain, asyncio.get_running_loop(), listening
        listening.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. The interpreter may call this at any instruction, so the loop does the work."""
        self._loop.call_soon_threadsafe(self._drain.begin)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._drain.over()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._drain.end()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # closes idle connections; a WebSocket sends its close frame
        await self._flush()
        await super().shutdown(sockets)

    async def _flush(self) -> None:
        """Wait until clients have read the last bytes, at most FLUSH_TIMEOUT; then abort the remaining connections."""
        connections, give_up_at = self.server_state.connections, self._loop.time() + FLUSH_TIMEOUT
        while connections and self._loop.time() < give_up_at:  # noqa: ASYNC110 (a set does not notify when it is empty)
            await asyncio.sleep(POLL)
        for connection in list(connections):
            connection.transport.abort()
