"""A router in virtual time between transports without sockets: both HTTP parsers, the pools and the replies are real.

Clients send the bytes of requests, and endpoints the bytes of answers, each cut in pieces with times of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from router.config import EndpointConfig
from router.core.record import CallRecord
from router.proxy.body_budget import BodyBudget
from router.proxy.front import Front
from router.proxy.intake import Bounds
from router.scheduler import SLACK, Handle, Scheduler
from router.upstream.dial import Address, NoConnection
from router.upstream.pool import Pool
from router.upstream.simulated import Simulated
from tests.replay.lines import Body, Json, of_record
from tests.support import EndpointSpec, Player, ScriptedPool
from tests.support.client import HIGH_WATER
from tests.support.endpoints import Plays

# What one side sends: bytes, or the end of its connection, each at seconds after the one before.
END, RESET = "end", "reset"
Sends = Sequence[tuple[float, bytes | str]]
EXPIRES = (0.5, 10.0, 65.0, 80.0)  # seconds after the last bytes at which a client's connection is looked at
LATEST = 600.0  # seconds in which all calls must end; then the router's pools are closed


class Task:
    """A coroutine that runs without waiting, at one time of the virtual clock."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], scheduler: Scheduler, delay: float) -> None:
        self._coroutine, self._done = coroutine, list[Callable[[Any], None]]()
        self._alarm = scheduler.call_at(scheduler.now() + delay, self._run)

    def add_done_callback(self, done: Callable[[Any], None]) -> None:
        self._done.append(done)

    def cancel(self) -> None:
        self._alarm.cancel()
        self._coroutine.close()
        self._end()

    def _run(self) -> None:
        try:
            self._coroutine.send(None)
        except StopIteration:
            self._end()
            return
        raise AssertionError("the coroutine waited")

    def _end(self) -> None:
        for done in self._done:
            done(self)


class Late:
    """A scheduler whose alarms ring a moment late, as those of a loop do: `a + b - b` may be less than `a`."""

    speed = 1.0

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self.now = scheduler, scheduler.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        return self._scheduler.call_at(when + SLACK if when > self.now() else when, callback)


class Loop:
    """The part of an event loop that pools and uvicorn use. A task begins `delay` seconds after it was created."""

    def __init__(self, scheduler: Scheduler, delay: float = 0.0) -> None:
        self._scheduler, self._delay = scheduler, delay

    def create_task(self, coroutine: Coroutine[Any, Any, Any], **_: Any) -> Task:
        return Task(coroutine, self._scheduler, self._delay)

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> Handle:
        return self.call_later(0.0, callback, *arguments)

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> Handle:
        return self._scheduler.call_at(self._scheduler.now() + delay, lambda: callback(*arguments))


class Transport(asyncio.Transport):
    """One side's end of a connection: what it sends waits while the router does not read."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        self.protocol: Any = None
        self.closing, self.paused = "", False
        self._kept: list[bytes | str] = []
        self._alarms: list[Handle] = []

    def sends(self, what: Sends) -> None:
        at = self._scheduler.now()
        for after, piece in what:
            at += after
            self._alarms.append(self._scheduler.call_at(at, lambda piece=piece: self._arrives(piece)))  # type: ignore[misc]

    def _arrives(self, piece: bytes | str) -> None:
        if self.closing:
            return
        if self.paused:
            self._kept.append(piece)
        elif isinstance(piece, bytes):
            self.before_read()
            self.protocol.data_received(piece)
        else:
            if piece == END:
                self.protocol.eof_received()
            self._close(piece, ConnectionResetError() if piece == RESET else None)

    def before_read(self) -> None:
        """Prepare for bytes that the router reads now."""

    def lose(self) -> None:
        """The other side has gone."""
        if not self.closing:
            self._close(END, None)

    def _close(self, how: str, error: Exception | None = None) -> None:
        """Close, and tell the protocol a moment later, as a loop does."""
        if self.closing:
            return
        self.closing = how
        for alarm in self._alarms:
            alarm.cancel()
        self._scheduler.call_at(self._scheduler.now(), lambda: self._lost(error))

    def _lost(self, error: Exception | None) -> None:
        self.before_read()
        self.protocol.connection_lost(error)

    # Called by the router.

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(bytes(piece) for piece in list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def is_closing(self) -> bool:
        return bool(self.closing)

    def close(self) -> None:
        self._close("closed")

    def abort(self) -> None:
        self._close("aborted")

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        kept, self._kept = self._kept, []
        self.sends([(0.0, piece) for piece in kept])

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0


class Upstream(Transport):
    """An endpoint's end: answers each whole request with what `answer` gives."""

    def __init__(self, scheduler: Scheduler, server: Server) -> None:
        super().__init__(scheduler)
        self._server, self._request = server, bytearray()

    def write(self, data: Any) -> None:
        assert not self.closing, "written after it was closed"
        self._request += data
        head, found, body = bytes(self._request).partition(b"\r\n\r\n")
        length = int(head.rpartition(b"content-length: ")[2].partition(b"\r\n")[0]) if found else 0
        if found and len(body) >= length:
            self._request.clear()
            self._server.requests.append((self._scheduler.now(), head + found, body))
            self.sends(self._server.answer())


class Server:
    """An endpoint on the wire, in place of a dialer: accepts or refuses connections, and keeps the requests it got."""

    def __init__(self, scheduler: Scheduler, plays: Callable[[], Sends], accepts: Callable[[], bool]) -> None:
        self._scheduler, self.answer, self._accepts = scheduler, plays, accepts
        self.requests: list[tuple[float, bytes, bytes]] = []

    async def open(self, address: Address, factory: Callable[[], Any]) -> Any:
        if not self._accepts():
            raise NoConnection("no connection: Connection refused")
        transport = Upstream(self._scheduler, self)
        transport.protocol = factory()
        transport.protocol.connection_made(transport)
        return transport.protocol


class Client(Transport):
    """A client's end: keeps all that it is sent, with the times."""

    def __init__(self, player: WiredPlayer) -> None:
        super().__init__(player.scheduler)
        self._player = player
        self.writes: list[tuple[float, bytes]] = []
        self.records: list[CallRecord] = []
        self._reads, self._unread = True, 0

    def write(self, data: Any) -> None:
        if self.closing:
            return
        self.writes.append((self._scheduler.now(), bytes(data)))
        self._unread += 0 if self._reads else len(data)
        if self._unread > HIGH_WATER >= self._unread - len(data):
            self.protocol.pause_writing()

    def before_read(self) -> None:
        self._player.reading = self

    def stops_reading(self) -> None:
        self._reads = False

    def reads_again(self) -> None:
        was, self._reads, self._unread = self._unread, True, 0
        if was > HIGH_WATER and not self.closing:
            self.protocol.resume_writing()

    def expires(self) -> None:
        if not self.closing:
            self.before_read()
            self.protocol.expire(self._scheduler.now())

    def facts(self, body: Body) -> Json:
        """All that the client got, and when; and its records."""
        head, _, rest = b"".join(data for _, data in self.writes).partition(b"\r\n\r\n")
        status, *headers = head.decode("latin-1").split("\r\n")
        return {
            "status": status,
            "headers": headers,
            "writes": [(at, len(data)) for at, data in self.writes],
            "body": body(rest),
            "closing": self.closing,
            "records": [of_record(record) for record in self.records],
        }


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


_CONFIG = uvicorn.Config(_application, lifespan="off", ws="none", log_config=None, access_log=False)
_CONFIG.load()


class WiredPlayer(Player):
    """A player whose endpoints are servers on wires: `servers` has one for each name, `clients` the connections.

    `plays` has for each endpoint what it answers and whether it accepts; `bodies` are the bytes that all bodies may
    take.
    """

    def __init__(
        self, servers: dict[str, EndpointSpec], plays: dict[str, Any], seed: int, *, bodies: int, **options: Any
    ) -> None:
        self._plays_of, self._random = plays, Random(seed)
        self.servers: dict[str, Server] = {}
        self.clients: list[Client] = []
        self.reading: Client
        super().__init__(*servers.values(), seed=seed, **options)
        self._owners: dict[str, Client] = {}
        self._bodies = BodyBudget(bodies, Loop(self.scheduler).call_soon)
        self._state = ServerState()
        self._state.default_headers = [(b"date", b"Sun, 22 Nov 2026 09:00:00 GMT")]

    def _pool(self, config: EndpointConfig, plays: tuple[Plays, ...], rng: Random) -> ScriptedPool | Simulated:
        if config.kind == "simulated":
            return super()._pool(config, plays, rng)
        pool = Pool(config.name, Address.of(config.base_url or ""), Late(self.scheduler), first_alone=True, rng=rng)
        self.servers[config.name] = server = Server(self.scheduler, *self._plays_of[config.name])
        pool.dialer = server  # type: ignore[assignment]
        return pool  # type: ignore[return-value]

    def _new_id(self) -> str:
        request_id = f"req-{next(self._numbers)}"
        self._owners[request_id] = self.reading
        return request_id

    def _note(self, record: CallRecord) -> None:
        self._owners[record.request_id].records.append(record)

    def connects(self, at: float, sends: Sends, bounds: Bounds) -> Client:
        """Schedule a client that connects at `at` and sends these bytes."""
        client = Client(self)
        self.clients.append(client)

        def connect() -> None:
            self._plan()
            loop = Loop(self.scheduler)
            client.protocol = Front(
                self.handler, bounds, self.scheduler.now, _CONFIG, self._state, {}, loop, bodies=self._bodies
            )
            client.protocol.connection_made(client)
            client.sends(sends)

        self.at(at, connect)
        last = at + sum(after for after, _ in sends)
        for after in EXPIRES:
            self.at(last + after, client.expires)
        return client

    def play(self) -> None:
        """Play to the end: the calls end, the clients leave, and the pools are closed."""
        with _running(Loop(self.scheduler, delay=0.02)):
            self.scheduler.run_until(LATEST)
            assert self.handler.calls == 0
            for client in self.clients:
                client.lose()
            for pool in self.pools.values():
                pool.close()  # type: ignore[union-attr]
            self.scheduler.run()


@contextmanager
def _running(loop: Any) -> Iterator[None]:
    """Make this the running loop."""
    before = asyncio._get_running_loop()
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(before)
