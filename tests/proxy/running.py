"""A whole router in the test's own loop, as `firsttoken serve` builds it, without signals; and a raw client."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from router.app import Router
from router.config import parse
from router.proxy.front import Front, expire
from router.settings import Settings
from tests.upstream.servers import Server, until

SIMULATED = """
endpoints:
  - {name: made-up, kind: simulated, models: {chat: m}, simulate: {first_token: 0s, rate: 100000}}
"""


def endpoint(server: Server, name: str = "there", more: str = "") -> str:
    """The entry of an endpoint at one of the test's servers, without probes and without warm connections."""
    return f"""
  - name: {name}
    base_url: http://{server.host}:{server.port}/v1
    models: {{chat: m}}
    probe: {{kind: off}}
    pool: {{min_idle: 0}}
    {more}
"""


def at(*servers: Server, more: str = "", top: str = "") -> str:
    named = "".join(endpoint(server, f"there-{index}", more) for index, server in enumerate(servers, 1))
    return f"{top}\nendpoints:{named}"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error body, which must have the form of OpenAI's."""
        (key, error) = next(iter(self.json.items()))
        assert key == "error"
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].endswith((".", "?", ")"))
        return cast(dict[str, Any], error)


class Client:
    """One client connection that may send any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.name = writer.get_extra_info("sockname")

    def send(self, *data: bytes) -> None:
        for piece in data:
            self.writer.write(piece)

    async def head(self) -> Answer:
        """Read status and headers of the next answer."""
        top = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = top[:-4].decode("latin-1").split("\r\n")
        version, status, *_ = line.split(" ")
        assert version == "HTTP/1.1"
        pairs = [(name.lower(), value) for name, value in (line.split(": ", 1) for line in lines)]
        assert len({name for name, _ in pairs}) == len(pairs), f"a header twice: {pairs}"
        return Answer(int(status), dict(pairs), b"")

    async def answer(self, *, to_head: bool = False) -> Answer:
        """Read the whole next answer."""
        answer = await self.head()
        if "content-length" in answer.headers:
            assert "transfer-encoding" not in answer.headers
            body = await self.reader.readexactly(0 if to_head else int(answer.headers["content-length"]))
        elif answer.headers.get("transfer-encoding") == "chunked":
            body = b"".join([chunk async for chunk in self.chunks()])
        else:
            body = await self.reader.read()
        return answer._replace(body=body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Read the pieces of a chunked body to its end."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        assert await self.reader.readexactly(2) == b"\r\n"

    async def ask(self, *data: bytes) -> Answer:
        self.send(*data)
        return await self.answer()

    async def left(self) -> bytes:
        """Wait until the router closes the connection, and return the last bytes."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.writer.transport.abort()


class Running:
    """A router that serves, and what a test reads of it."""

    def __init__(self, router: Router, server: uvicorn.Server) -> None:
        self.router, self.server = router, server
        self.port: int = server.servers[0].sockets[0].getsockname()[1]
        self.clients: list[Client] = []

    async def client(self, **options: Any) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, **options))
        self.clients.append(client)
        return client

    async def ask(self, *data: bytes) -> Answer:
        """Send one request on a connection of its own."""
        client = await self.client()
        answer = await client.ask(*data)
        client.close()
        return answer

    @property
    def connections(self) -> set[Any]:
        return self.server.server_state.connections

    async def connection(self, client: Client) -> Front:
        """The router's side of a client's connection."""
        await until(lambda: any(front.client == client.name[:2] for front in self.connections))
        fronts: list[Front] = [front for front in self.connections if front.client == client.name[:2]]
        return fronts[0]

    def expire(self, after: float) -> None:
        """Sweep the connections as if so many seconds had passed."""
        deque(expire(self.connections, self.router.scheduler.now() + after), maxlen=0)

    def counted(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels, as a scraper reads them."""
        total: float = sum(sample.value for sample in self.samples(name) if labels.items() <= sample.labels.items())
        return total

    def samples(self, name: str) -> Iterator[Any]:
        for family in text_string_to_metric_families(self.router.metrics.render().decode()):
            yield from (sample for sample in family.samples if sample.name == f"firsttoken_{name}")

    async def quiet(self) -> None:
        """Wait until nothing is left of any call: no counter, no connection in use, no waiter."""
        router = self.router
        endpoints, pools = router.tables.current.table.endpoints, router.pools.values()
        await until(lambda: router.handler.calls == 0)
        await until(
            lambda: (
                not any(e.availability.in_flight or e.forecast.pending or e.availability.slots.used for e in endpoints)
            )
        )
        await until(lambda: not any(pool.busy or pool.waiting for pool in pools))
        await until(lambda: not self.server.server_state.tasks)


@asynccontextmanager
async def running(text: str = SIMULATED, *, http: Any = None, **settings: Any) -> AsyncIterator[Running]:
    """Run a router with an endpoints.yaml and some settings; at the end its clients are closed, and nothing is left."""
    router = Router(parse(text, "endpoints.yaml", {}), Settings(**settings))
    config = uvicorn.Config(
        router.asgi,
        port=0,
        http=http or cast(Any, router.protocol),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=round(router.settings.keep_alive),
        timeout_graceful_shutdown=5,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    await server.on_tick(0)
    router.connections = server.server_state.connections
    running = Running(router, server)
    try:
        yield running
        await running.quiet()
    finally:
        for client in running.clients:
            client.writer.transport.abort()
        await until(lambda: not running.connections)
        for listening in server.servers:
            listening.close()
            await listening.wait_closed()
        await server.lifespan.shutdown()  # uvicorn's own shutdown also sleeps


def post(body: bytes, *lines: bytes, path: bytes = b"/v1/chat/completions", version: bytes = b"1.1") -> bytes:
    """Render a POST with its Content-Length."""
    head = [b"POST %b HTTP/%b" % (path, version), b"host: localhost", b"content-length: %d" % len(body), *lines]
    return b"\r\n".join([*head, b"", body])


def get(path: bytes, *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"%b %b HTTP/%b" % (method, path, version), b"host: localhost", *lines, b"", b""])


CHAT = b'{"model":"chat","messages":[{"role":"user","content":"Hi"}]}'
STREAMING = CHAT[:-1] + b',"stream":true}'
