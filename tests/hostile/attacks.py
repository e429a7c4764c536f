"""The attacks: each is a coroutine that opens its connections, sends, and has left when it returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Event, Thread
from typing import NamedTuple

MIB = 1 << 20
HOLD = 2.0  # seconds for which an attack stays when it has sent all
CHAT = b'{"model":"%b","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"token "}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


# The endpoint: its model says how it answers.


class Answer(NamedTuple):
    """A beginning, a block that is repeated until so many bytes are sent, and an end."""

    begin: bytes
    block: bytes
    size: int
    end: bytes = b""


def answers(scale: float) -> Mapping[str, Answer]:
    first, size = SSE + TOKEN, round(64 * MIB * scale)
    answer = round(20 * MIB * scale)
    text = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"'
    end = b'"}}]}'
    return {
        "garbage": Answer(first, b"data: {x\n\n" * 6000, size),
        "garbage-first": Answer(SSE, b"data: {x\n\n" * 6000, size),
        "line-ends": Answer(first, b"\n" * 60_000, size),
        "comments": Answer(first, b":\n\n" * 20_000, size),
        "ids": Answer(first, b"id: 1\n\n" * 8000, size),
        "one-event": Answer(first + b'data: {"x":"', b"x" * 60_000, size),
        "quick": Answer(first, TOKEN * 1000, round(4 * MIB * scale), LAST),
        "answer": Answer(JSON % (len(text) + answer + len(end)) + text, b"x" * answer, answer, end),
    }


class Endpoint:
    """A server in a thread and a loop of its own."""

    def __init__(self, scale: float) -> None:
        self._answers = answers(scale)
        self.port = 0
        self._ready = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=500)
        self.port = server.sockets[0].getsockname()[1]
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._stopped.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
            body = await reader.readexactly(length)
            name = body.split(b'"model":"', 1)[1].split(b'"', 1)[0].decode()
            answer = self._answers[name]
            writer.write(answer.begin)
            for _ in range(-(-answer.size // len(answer.block))):
                writer.write(answer.block)
                await writer.drain()
            writer.write(answer.end)
            await writer.drain()
        writer.close()

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()


@contextmanager
def endpoint(scale: float) -> Iterator[Endpoint]:
    made = Endpoint(scale)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def table(port: int, models: int = 0) -> dict[str, object]:
    """A configuration with that endpoint, and so many models more, each with an endpoint of its own. All of these
    serve the model `many` too. None is reached.
    """
    entries: list[dict[str, object]] = [
        {
            "name": "there",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "models": list(answers(1.0)),
            "probe": {"kind": "off"},
            "pool": {"min_idle": 0},
            "signals": "off",
        }
    ]
    entries += [
        {"name": f"e{number}", "kind": "simulated", "models": {f"some-long-name-of-a-model-{number}": "m", "many": "m"}}
        for number in range(models)
    ]
    policy = {"hedge": "off", "retry_budget": 0}
    return {"defaults": policy, "endpoints": entries}


# The clients.


class Target(NamedTuple):
    port: int
    scale: float

    def some(self, count: int) -> int:
        return max(1, round(count * self.scale))


@asynccontextmanager
async def connection(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _send(target: Target, *pieces: bytes, hold: float = HOLD, read: bool = True) -> None:
    """Send what is accepted, and leave after the answer, or after `hold` seconds."""
    async with connection(target) as (reader, writer):
        with suppress(ConnectionError, TimeoutError):
            for piece in pieces:
                writer.write(piece)
                async with asyncio.timeout(30.0):
                    await writer.drain()
            async with asyncio.timeout(hold):
                while read and await reader.read(MIB):
                    pass
                if not read:
                    await asyncio.sleep(hold)


async def _many(count: int, attack: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*(attack() for _ in range(count)))


def _sized(body: bytes, more: int = 0) -> bytes:
    return HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % (len(body) + more) + body


def _chunks(body: bytes, size: int) -> bytes:
    return b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size]) for at in range(0, len(body), size)
    )


async def held_bodies(target: Target) -> None:
    """Bodies of 29 MiB that do not end."""
    body = b'{"model":"nobody","messages":["' + b"x" * round(29 * MIB * min(1.0, 4 * target.scale))
    await _many(target.some(30), lambda: _send(target, _sized(body, more=100)))


async def small_chunks(target: Target) -> None:
    """A body in chunks of two bytes, 14 MiB on the wire."""
    body = _chunks(b'{"model":"nobody","x":"' + b"y" * round(4 * MIB * target.scale), 2)
    await _many(2, lambda: _send(target, HEAD + b"transfer-encoding: chunked\r\n\r\n", body))


async def many_keys(target: Target) -> None:
    """A million keys, and a million values."""
    count = target.some(1_000_000)
    keys = b"{" + b",".join(b'"k%d":0' % number for number in range(count)) + b"}"
    values = b'{"model":"nobody","x":[' + b'[],"",' * count + b"0]}"
    for body in (keys, values, b'{"model":"nobody","x":' + b"[" * 8 * count):
        await _send(target, _sized(body), hold=60.0)


async def whole_bodies(target: Target) -> None:
    """Large bodies that are routed: each is parsed, changed and sent on."""
    body = CHAT[:-1] % b"quick" + b',"x":"%b"}' % (b"y" * round(16 * MIB * target.scale))
    await _many(4, lambda: _send(target, _sized(body), hold=20.0))


async def header_floods(target: Target) -> None:
    """Heads of 9,000 small headers without an end."""
    flood = HEAD + b"a:b\r\n" * 9000
    await _many(target.some(1000), lambda: _send(target, flood))


async def fast_streams(target: Target) -> None:
    """150 streams at once, as fast as they come."""
    await _many(150, lambda: _ask(target, b"quick"))


async def unread_answers(target: Target) -> None:
    """Answers of 20 MiB that nobody reads."""
    await _many(20, lambda: _send(target, _sized(CHAT.replace(b"true", b"false") % b"answer"), read=False))


async def wrong_models(target: Target) -> None:
    for number in range(target.some(200)):
        await _ask(target, b"some-long-nam-of-a-modl-%d" % number)


async def pages(target: Target) -> None:
    explained = b"/admin/explain?model=many"
    for path in (b"/metrics", b"/admin/endpoints", b"/v1/models", b"/readyz", explained) * target.some(5):
        await _send(target, b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % path, hold=20.0)


async def _ask(target: Target, model: bytes) -> None:
    await _send(target, _sized(CHAT % model), hold=60.0)


def _of_endpoint(model: str) -> Callable[[Target], Awaitable[None]]:
    async def attack(target: Target) -> None:
        await _many(4, lambda: _ask(target, model.encode()))

    return attack


ATTACKS: Mapping[str, Callable[[Target], Awaitable[None]]] = {
    "held bodies": held_bodies,
    "chunks of two bytes": small_chunks,
    "a million keys and values": many_keys,
    "large bodies": whole_bodies,
    "header floods": header_floods,
    "150 fast streams": fast_streams,
    "answers that nobody reads": unread_answers,
    "wrong model names": wrong_models,
    "pages": pages,
    **{
        f"endpoint: {model}": _of_endpoint(model)
        for model in ("garbage", "garbage-first", "line-ends", "comments", "ids", "one-event")
    },
}
