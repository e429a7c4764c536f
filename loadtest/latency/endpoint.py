"""The fake endpoints of a scenario over real sockets: one process that runs their pure `Server`s in real time.

`python -m loadtest.latency.endpoint` reads a `Stand` as JSON from standard input, and serves each endpoint on a port of
its own. One more port is for control:

    POST /start {"epoch": E}    scenario time begins at E of time.monotonic(), with all state reset
    GET /log                    every attempt, as its endpoint saw it

Before the start every call is answered at once. A `Server` decides the behaviour of its endpoint in scenario time; this
module divides its times by the speed and writes the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from loadtest.latency import punctual
from loadtest.latency.answering import Answering, Entry
from loadtest.latency.arrivals import Call
from loadtest.latency.clock import Clock
from loadtest.latency.endpoints import Endpoint
from loadtest.latency.http import Http
from loadtest.latency.servers import Server, Ticket
from loadtest.latency.stand import Stand
from loadtest.latency.voice import Voice, as_json, gauges, refused

Json = dict[str, Any]

NUMBER = re.compile(rb"\bcall (\d+) ")
SHORT = 4  # tokens of an answer to a request that is not one of the run's calls
BYTES = 4  # bytes of a prompt per token
BACKLOG = 1024
AFTERWARDS = 600.0  # scenario seconds after the last call in which absences still begin and end


class Fakes:
    """All endpoints of a stand, and the clock that they share."""

    def __init__(self, stand: Stand) -> None:
        self.stand, self.clock = stand, Clock(stand.speed)
        self.calls = {call.k: call for call in stand.calls}
        self.end = max(self.calls[k].at for k in self.calls) + AFTERWARDS if self.calls else AFTERWARDS
        self.fakes = [Fake(self, endpoint, stand.ports[endpoint.name]) for endpoint in stand.endpoints]

    def start(self, epoch: float) -> None:
        self.clock.epoch = epoch
        for fake in self.fakes:
            fake.start()

    def log(self) -> list[Json]:
        return [asdict(entry) for fake in self.fakes for entry in fake.log]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Fakes]:
        control = await self.clock.loop.create_server(lambda: Control(self), "127.0.0.1", self.stand.control)
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
        self.stand, self.clock = fakes.stand, fakes.clock
        self.connections: set[Connection] = set()
        self.answering: dict[Ticket, Answering] = {}
        self.log: list[Entry] = []
        self.server: Server | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.listener: asyncio.Server | None = None
        self.coming: list[asyncio.TimerHandle] = []  # begins and ends of absences

    def start(self) -> None:
        self.forget()
        self.server = Server(self.endpoint, self.stand.seed, self.stand.data)
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

    # ---- Listening

    @property
    def listens(self) -> bool:
        return self.listener is not None and self.listener.is_serving()

    async def listen(self) -> None:
        self.listener = await self.clock.loop.create_server(
            lambda: Connection(self), "127.0.0.1", self.port, backlog=BACKLOG, reuse_address=True
        )

    def follow_absences(self) -> None:
        for window in self.endpoint.absent:
            for start, until in window.spans(self.fakes.end):
                self.coming.append(self.clock.call_at(start, self.stop_listening))
                if until < self.fakes.end:
                    self.coming.append(self.clock.call_at(until, self.listen_again))

    def stop_listening(self) -> None:
        """Close the listener and all idle connections; answers in progress continue."""
        assert self.listener is not None
        self.listener.close()
        for connection in list(self.connections):
            if connection.answering is None:
                connection.reset()

    def listen_again(self) -> None:
        task = self.clock.loop.create_task(self.listen())
        task.add_done_callback(lambda done: done.result())

    # ---- Attempts

    def ask(self, connection: Connection, body: bytes) -> None:
        try:
            asked = json.loads(body)
            voice, call = self.voice_for(asked, body)
        except (ValueError, AttributeError) as error:
            connection.write(refused(400, f"not a request: {error}", None))
            return
        stream = bool(asked.get("stream"))
        if self.server is None:
            connection.write(voice.stream() if stream else voice.whole())
            return
        now = self.clock.now()
        k, at = (call.k, call.at) if call else (None, now)
        ticket = self.server.ask(k, at, voice.prompt_tokens, voice.tokens, now)
        entry = Entry(k, self.name, now)
        self.log.append(entry)
        answering = Answering(
            connection, self.clock, ticket, voice, stream, entry, self.stand.retry_after_divisor, connection.over
        )
        connection.answering = self.answering[ticket] = answering
        answering.begin()
        self.arm()

    def voice_for(self, asked: Json, body: bytes) -> tuple[Voice, Call | None]:
        call = self.call_of(body)
        tokens, generated = (call.tokens, call.generated) if call else (max(1, len(body) // BYTES), SHORT)
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        return Voice(self.name, str(asked.get("model")), tokens, generated, usage), call

    def call_of(self, body: bytes) -> Call | None:
        found = NUMBER.search(body)
        return self.fakes.calls.get(int(found[1])) if found else None

    def ended(self, ticket: Ticket) -> None:
        if self.answering.pop(ticket, None) is not None and self.server is not None:
            self.server.end(ticket, self.clock.now())
            self.turn()

    def turn(self) -> None:
        """Begin the answers of attempts that left the waiting queue for a slot."""
        assert self.server is not None
        for ticket in self.server.tick(self.clock.now()):
            self.answering[ticket].begin()
        self.arm()

    def load(self) -> tuple[int, int]:
        """The number of running and of queued attempts."""
        if self.server is None:
            return 0, 0
        self.turn()
        return len(self.server.running), len(self.server.queue)

    def arm(self) -> None:
        """Set the one timer for the next slot that becomes free by itself."""
        assert self.server is not None
        if self.timer is not None:
            self.timer.cancel()
        at = self.server.next_at
        self.timer = None if math.isinf(at) else self.clock.call_at(at, self.turn)


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

    def over(self, answering: Answering) -> None:
        self.answering = None
        self.fake.ended(answering.ticket)

    def asked(self, path: str, body: bytes) -> None:
        if path.endswith("/chat/completions"):
            self.fake.ask(self, body)
        elif path.endswith("/models"):
            models = [{"id": self.fake.stand.model, "object": "model", "created": 0, "owned_by": "loadtest"}]
            self.write(as_json(200, {"object": "list", "data": models}))
        elif path == "/health":
            self.write(as_json(200, {"status": "ok"}))
        elif path == "/metrics" and self.fake.endpoint.kind == "vllm":
            self.write(gauges(self.fake.stand.model, *self.fake.load()))
        else:
            self.write(as_json(404, {"error": {"message": f"The path {path} does not exist.", "code": "unknown_url"}}))


class Control(Http):
    """A connection to the control port."""

    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes

    def asked(self, path: str, body: bytes) -> None:
        if path == "/start":
            self.fakes.start(json.loads(body)["epoch"])
            self.write(as_json(200, {}))
        elif path == "/log":
            self.write(as_json(200, self.fakes.log()))
        else:
            self.write(as_json(404, {"error": f"The path {path} does not exist."}))


def main() -> None:
    stand = Stand.from_json(sys.stdin.read())

    async def serve() -> None:
        async with Fakes(stand).serving():
            await asyncio.Event().wait()

    punctual.run(serve())


if __name__ == "__main__":
    main()
