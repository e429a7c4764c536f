"""uvicorn's server with another way to stop: by `proxy/drain.py`, with the listening socket open until the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn

from router.proxy.drain import Drain

POLL = 0.05  # seconds between two checks for connections with unsent bytes
FLUSH_TIMEOUT = 2.0  # seconds in which clients can read the last bytes
BACKLOG = 4096  # connections that wait to be accepted


class CannotListenError(Exception):
    """The message names the address, the reason and what to do."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Open the listening sockets of all addresses of a host; port 0 takes a free one. Raises CannotListenError.

    They listen at once: a port that is taken is reported before anything else has begun.
    """
    sockets: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            opened = socket.socket(family, kind, protocol)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = port or (sockets[0].getsockname()[1] if len(sockets) > 1 else 0)
            opened.bind((address[0], chosen, *address[2:]))
            opened.listen(BACKLOG)
            opened.setblocking(False)
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise CannotListenError(_reason(host, port, error)) from None
    return sockets


def _reason(host: str, port: int, error: OSError) -> str:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return f"{where}: the host name is not known ({error.strerror}); choose another one with --host."
    reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
    advice = {
        "address already in use": "another program listens there, perhaps another router. "
        "Stop it, or choose another port with --port (FIRSTTOKEN_PORT).",
        "permission denied": "ports below 1024 are for root; choose another one with --port (FIRSTTOKEN_PORT).",
        "cannot assign requested address": "this machine has no such address; choose another one with --host "
        "(FIRSTTOKEN_HOST).",
    }
    return f"{where}: {reason}: {advice.get(reason, 'choose another address with --host and --port.')}"


class Server(uvicorn.Server):
    """A signal begins `drain`; the server ends when the drain is over. To be created inside its event loop.

    SIGHUP does the same as SIGTERM: a closed terminal sends it, and there is no reload yet. `listening` is set once
    clients can connect.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, listening: asyncio.Event) -> None:
        super().__init__(config)
        self._drain, self._loop, self._listening = drain, asyncio.get_running_loop(), listening
        listening.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()
        if sockets is not None and not self.should_exit:
            self._log_started_message(sockets)  # uvicorn only does so for sockets of its own

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # by nohup
        before = None if ignored else signal.signal(signal.SIGHUP, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            if not ignored:
                signal.signal(signal.SIGHUP, before)

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
