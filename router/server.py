"""uvicorn's server, but for how it stops: as `proxy/drain.py` says, with its listener open and its clock going."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import uvicorn

from router.proxy.drain import Drain

LOOK = 0.05  # seconds between two looks at connections that take their last bytes
LINGER = 2.0  # seconds that they get for it


class Server(uvicorn.Server):
    """To be made inside the loop that it runs in. A signal is for `drain`; when that is over the server ends."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain, self._loop = drain, asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the interpreter in the midst of anything."""
        self._loop.call_soon_threadsafe(self._drain.begin)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._drain.over()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._drain.end()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # what is not answering; a WebSocket says goodbye
        await self._flush()
        await super().shutdown(sockets)

    async def _flush(self) -> None:
        """What was said at the end is to arrive; but a client that reads nothing is not waited for."""
        connections, give_up_at = self.server_state.connections, self._loop.time() + LINGER
        while connections and self._loop.time() < give_up_at:  # noqa: ASYNC110 (a set tells nobody that it is empty)
            await asyncio.sleep(LOOK)
        for connection in list(connections):
            connection.transport.abort()
