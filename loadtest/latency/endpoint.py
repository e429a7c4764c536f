"""The fake endpoints of a scenario over real sockets: one process that drives their pure servers in time.

`python -m loadtest.latency.endpoint` reads a `Stand` as JSON from standard input, and serves each endpoint on a port of
its own. On one more port the run tells and asks:

    POST /start {"epoch": E}    scenario time begins at E of time.monotonic(), and everything anew
    GET /log                    every attempt, as its endpoint saw it

Before the start every question is answered at once. What an endpoint does, and when, its `Server` says, in scenario
time; here it is divided by the speed and put on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Any

import httptools

from loadtest.latency import punctual
from loadtest.latency.answering import HEAD, Voice, as_json, parts_of, refused
from loadtest.latency.arrivals import Call
from loadtest.latency.endpoints import Endpoint
from loadtest.latency.servers import Server, Ticket
from loadtest.latency.stand import Stand

Json = dict[str, Any]

NUMBER = re.compile(rb"\bcall (\d+) ")
SHORT = 4  # tokens of an answer to a question that is none of the run's calls
BYTES = 4  # of a prompt for each token
BACKLOG = 1024
AFTERWARDS = 600.0  # scenario seconds after the last call in which endpoints still come and go


@dataclass(slots=True)
class Log:
    """One attempt; seconds of the scenario. `first_token` is counted from `at`."""

    k: int | None  # None: none of the run's calls
    endpoint: str
    at: float
    first_token: float | None = None
    became: str = "waiting"


class Fakes:
    """All endpoints of a stand, and the time that they share."""

    def __init__(self, stand: Stand) -> None:
        self.stand, self.speed = stand, stand.speed
        self.loop = asyncio.get_running_loop()
        self.calls = {call.k: call for call in stand.calls}
        self.epoch: float | None = None
        self.end = max(self.calls[k].at for k in self.calls) + AFTERWARDS if self.calls else AFTERWARDS
        self.fakes = [Fake(self, endpoint, stand.ports[endpoint.name]) for endpoint in stand.endpoints]

    def now(self) -> float:
        return 0.0 if self.epoch is None else max(0.0, (self.loop.time() - self.epoch) * self.speed)

    def when(self, at: float) -> float:
        """A scenario time on the loop's clock."""
        assert self.epoch is not None
        return self.epoch + at / self.speed

    def start(self, epoch: float) -> None:
        self.epoch = epoch
        for fake in self.fakes:
            fake.start()

    def log(self) -> list[Json]:
        return [asdict(entry) for fake in self.fakes for entry in fake.log]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Fakes]:
        control = await self.loop.create_server(lambda: Control(self), "127.0.0.1", self.stand.control)
        for fake in self.fakes:
            await fake.listen()
        try:
            yield self
        finally:
            control.close()
            for fake in self.fakes:
                fake.close()


class Fake:
    """One endpoint: its server, its listener, and the attempts that are open."""

    def __init__(self, fakes: Fakes, endpoint: Endpoint, port: int) -> None:
        self.fakes, self.endpoint, self.name, self.port = fakes, endpoint, endpoint.name, port
        self.loop = fakes.loop
        self.connections: set[Connection] = set()
        self.answering: dict[Ticket, Answering] = {}
        self.log: list[Log] = []
        self.server: Server | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.listener: asyncio.Server | None = None
        self.coming: list[asyncio.TimerHandle] = []  # of absences

    def start(self) -> None:
        self.forget()
        self.server = Server(self.endpoint, self.fakes.stand.seed, self.fakes.stand.data)
        self.log.clear()
        self.follow_absences()

    def forget(self) -> None:
        for connection in list(self.connections):
            connection.reset()
        for timer in self.coming:
            timer.cancel()
        self.coming.clear()

    def close(self) -> None:
        self.forget()
        if self.listener is not None:
            self.listener.close()

    # Whether it listens.

    @property
    def listens(self) -> bool:
        return self.listener is not None and self.listener.is_serving()

    async def listen(self) -> None:
        self.listener = await self.loop.create_server(
            lambda: Connection(self), "127.0.0.1", self.port, backlog=BACKLOG, reuse_address=True
        )

    def follow_absences(self) -> None:
        for window in self.endpoint.absent:
            for start, until in window.spans(self.fakes.end):
                self.coming.append(self.loop.call_at(self.fakes.when(start), self.leave))
                if until < self.fakes.end:
                    self.coming.append(self.loop.call_at(self.fakes.when(until), self.come_back))

    def leave(self) -> None:
        """Nobody listens, and no connection waits for another question; what is being answered is."""
        assert self.listener is not None
        self.listener.close()
        for connection in list(self.connections):
            if connection.answering is None:
                connection.reset()

    def come_back(self) -> None:
        task = self.loop.create_task(self.listen())
        task.add_done_callback(lambda done: done.result())

    # What its server decides.

    def ask(self, connection: Connection, body: bytes) -> None:
        asked = json.loads(body)
        stream = bool(asked.get("stream"))
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        call = self.call_of(body)
        tokens, generated = (call.tokens, call.generated) if call else (max(1, len(body) // BYTES), SHORT)
        voice = Voice(self.name, str(asked.get("model")), tokens, generated, usage)
        if self.server is None:
            connection.write(voice.stream() if stream else voice.whole())
            return
        now = self.fakes.now()
        k, at = (call.k, call.at) if call else (None, now)
        ticket = self.server.ask(k, at, tokens, generated, now)
        entry = Log(k, self.name, now)
        self.log.append(entry)
        answering = Answering(connection, ticket, voice, stream, entry)
        connection.answering = self.answering[ticket] = answering
        answering.begin()
        self.arm()

    def call_of(self, body: bytes) -> Call | None:
        found = NUMBER.search(body)
        return self.fakes.calls.get(int(found[1])) if found else None

    def ended(self, ticket: Ticket) -> None:
        if self.answering.pop(ticket, None) is not None and self.server is not None:
            self.server.end(ticket, self.fakes.now())
            self.turn()

    def turn(self) -> None:
        """Who got a slot out of the line can be told when its first token is due."""
        assert self.server is not None
        for ticket in self.server.tick(self.fakes.now()):
            self.answering[ticket].begin()
        self.arm()

    def arm(self) -> None:
        """One timer, for the next slot that becomes free by itself."""
        assert self.server is not None
        if self.timer is not None:
            self.timer.cancel()
        at = self.server.next_at
        self.timer = None if math.isinf(at) else self.loop.call_at(self.fakes.when(at), self.turn)


class Answering:
    """One attempt on its way to its end, which `finish` is, once: a timer for the next thing that is written."""

    def __init__(self, connection: Connection, ticket: Ticket, voice: Voice, stream: bool, entry: Log) -> None:
        self.connection, self.ticket, self.voice, self.stream, self.entry = connection, ticket, voice, stream, entry
        self.fakes = connection.fake.fakes
        self.timer: asyncio.TimerHandle | None = None
        self.written = 0  # tokens

    def at(self, when: float, do: Callable[[], None]) -> None:
        self.timer = self.fakes.loop.call_at(self.fakes.when(when), do)

    def begin(self) -> None:
        """As far as it is decided: refused, due, or neither, because it is in line or is never answered."""
        ticket = self.ticket
        if ticket.refusal is not None:
            self.at(ticket.asked + ticket.refusal.delay, self.refuse)
        elif ticket.due is not None and not math.isinf(ticket.due):
            self.entry.first_token = ticket.due - ticket.asked
            self.parts = list(enumerate(parts_of(ticket.generated)))
            self.at(ticket.due if self.stream else ticket.ends, self.first if self.stream else self.whole)

    def refuse(self) -> None:
        refusal = self.ticket.refusal
        assert refusal is not None
        self.finish(f"{refusal.status} {refusal.code or ''}".strip() if refusal.status else "no connection")
        if not refusal.status:
            self.connection.reset()
            return
        later = refusal.retry_after and refusal.retry_after / self.fakes.stand.told_faster
        self.connection.write(refused(refusal.status, refusal.code, later))

    def whole(self) -> None:
        self.finish("served")
        self.connection.write(self.voice.whole())

    def first(self) -> None:
        self.connection.write(HEAD)
        self.next()

    def next(self) -> None:
        """The next few tokens, and a timer for those after them; with the last ones goes the end."""
        number, tokens = self.parts.pop(0)
        ticket = self.ticket
        if ticket.cut is not None and self.written + tokens > ticket.cut:
            self.finish("cut")
            self.connection.reset()
            return
        self.written += tokens
        event = self.voice.event(number, tokens)
        if self.parts:
            assert ticket.due is not None
            self.connection.write(event)
            coming = self.written + self.parts[0][1]
            self.at(ticket.due + (ticket.ends - ticket.due) * coming / ticket.generated, self.next)
        else:
            self.finish("served")
            self.connection.write(event + self.voice.end())

    def finish(self, became: str) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.entry.became = became
        self.connection.answering = None
        self.connection.fake.ended(self.ticket)


class Http(asyncio.Protocol):
    """Requests of one connection, one after another."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.parser = httptools.HttpRequestParser(self)
        self.path, self.body = b"", b""

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def reset(self) -> None:
        """The other side reads an error, where a close would be an end."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def on_message_begin(self) -> None:
        self.path, self.body = b"", b""

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.asked(self.path.partition(b"?")[0].decode(), self.body)

    def asked(self, path: str, body: bytes) -> None:
        raise NotImplementedError


class Connection(Http):
    """A router's connection to one endpoint."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.answering: Answering | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.fake.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fake.connections.discard(self)
        if self.answering is not None:
            self.answering.finish("cancelled")

    def asked(self, path: str, body: bytes) -> None:
        if path.endswith("/chat/completions"):
            self.fake.ask(self, body)
        elif path.endswith("/models"):
            models = [{"id": self.fake.fakes.stand.model, "object": "model", "created": 0, "owned_by": "loadtest"}]
            self.write(as_json(200, {"object": "list", "data": models}))
        elif path == "/health":
            self.write(as_json(200, {"status": "ok"}))
        else:
            self.write(as_json(404, {"error": {"message": f"there is no {path} here", "code": "unknown_url"}}))


class Control(Http):
    """What the run tells and asks."""

    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    def asked(self, path: str, body: bytes) -> None:
        if path == "/start":
            self.fakes.start(json.loads(body)["epoch"])
            self.write(as_json(200, {}))
        elif path == "/log":
            self.write(as_json(200, self.fakes.log()))
        else:
            self.write(as_json(404, {"error": f"there is no {path} here"}))


def main() -> None:
    stand = Stand.from_json(sys.stdin.read())

    async def serve() -> None:
        async with Fakes(stand).serving():
            await asyncio.Event().wait()

    punctual.run(serve())


if __name__ == "__main__":
    main()
