"""Stand-ins for transports, the scheduler, the server's event loop and the handler: all that the parsers need."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from router.core.record import CallRecord
from router.errors import RouterError
from router.proxy.client import Client, Headers, Request
from router.proxy.cors import Cors
from router.proxy.front import Front
from router.proxy.headers import lines
from router.proxy.intake import Bounds
from router.turns import Turns
from router.upstream.http1 import Connection
from router.upstream.pool import Address, Pool


class Transport(asyncio.Transport):
    """A transport that records what was written, and that it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closing = self.paused = False

    def write(self, data: Any) -> None:
        assert not self.closing or not data, "written after it was closed"
        self.sent += data

    def writelines(self, pieces: Any) -> None:
        for piece in pieces:
            self.write(piece)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0


class StillTime:
    """A `Scheduler` whose clock does not move, so that no callback is ever due."""

    speed = 1.0

    def now(self) -> float:
        return 1000.0

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        return self

    def cancel(self) -> None:
        pass


def pool_without_network(max_overhead: int, turns: Turns | None = None) -> tuple[Pool, Connection, Transport]:
    """A pool that opens no connection, and its only one."""
    address = Address("there", 80, False, "")
    pool = Pool("there", address, StillTime(), min_idle=0, limit=0, max_overhead=max_overhead, turns=turns)
    connection, transport = Connection(pool), Transport()
    connection.connection_made(transport)
    pool._limit = 1  # a connection beyond the limit would retire at once
    pool._opened(connection)
    pool._limit = 0
    return pool, connection, transport


class Loop:
    """The part of an event loop that uvicorn uses. `turn` runs the application's tasks, which must not wait."""

    def __init__(self) -> None:
        self._tasks: list[Coroutine[Any, Any, Any]] = []
        self.ran = 0

    def create_task(self, coroutine: Coroutine[Any, Any, Any], **_: Any) -> Loop:
        self._tasks.append(coroutine)
        return self

    def turn(self) -> None:
        while self._tasks:
            coroutine = self._tasks.pop(0)
            self.ran += 1
            try:
                coroutine.send(None)
            except StopIteration:
                continue
            coroutine.close()
            raise AssertionError("the application waited")

    def call_later(self, *_: Any) -> Loop:
        return self

    def cancel(self) -> None:
        pass

    def add_done_callback(self, done: Callable[[Any], None]) -> None:
        pass


class Answering:
    """A stand-in for `Handler` that answers each request at once, or `later` when `answer` is called."""

    def __init__(self, *, later: bool) -> None:
        self.later = later
        self.with_lengths = False  # every second answer has a length
        self.asked: list[Request] = []
        self.waiting: list[Client] = []
        self.refused: list[RouterError] = []
        self.stopping = self.refusing = False
        self.cors = Cors()
        self.left_half_way = self.others = 0  # `others`: requests for paths of the application

    def authorize(self, headers: Headers) -> bytes:
        return b""

    def handle(self, request: Request, client: Client) -> None:
        self.asked.append(request)
        if self.later:
            self.waiting.append(client)
        else:
            self.answer(client)

    def answer(self, client: Client) -> None:
        if self.with_lengths and len(self.asked) % 2:
            client.start(200, b"content-type: text/plain\r\n", 9)
            client.end(b"something")
            return
        client.start(200, b"content-type: text/plain\r\n")
        client.write(b"some")
        client.end(b"thing")

    def record(self, path: bytes, arrived: float) -> CallRecord:
        return CallRecord("req_0", "", arrived)

    def refuse(self, client: Client, record: CallRecord, error: RouterError) -> None:
        self.refused.append(error)
        client.start(error.status, lines(error.headers), len(error.body))
        client.end(error.body)

    def left(self, record: CallRecord) -> None:
        self.left_half_way += 1


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


_CONFIG = uvicorn.Config(_application, lifespan="off", ws="none", log_config=None, access_log=False)
_CONFIG.load()
for _name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def server_side(handler: Answering, bounds: Bounds, turns: Turns | None = None) -> tuple[Front, Transport, Loop]:
    """The server's side of a client's connection."""
    loop, transport = Loop(), Transport()
    made = Front(handler, bounds, time.monotonic, _CONFIG, ServerState(), {}, loop, turns=turns)
    made.connection_made(transport)
    return made, transport, loop
