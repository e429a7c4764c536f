"""Shared by the tests with real sockets: both event loops, scripted servers, a manual clock, and calls that record all
they receive.

Nothing here sleeps. A test waits for an expected state with `until`, which runs the loop; `on_each_loop` ends a test
whose state never comes, and fails one that leaves a task or an unhandled exception behind.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import pytest
import uvloop

from router.core.call import Operation
from router.dialects import DIALECTS
from router.dialects.base import Dialect
from router.scheduler import Scheduler
from router.upstream.exchange import LIMITS, Exchange, Limits, Request
from router.upstream.pool import Address, Pool

LIMIT = 20.0  # seconds for one test; nearly all take a few hundredths
QUIET_TURNS = 200  # turns of the loop without a change after which no change is expected

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]
Test = Callable[..., Coroutine[Any, Any, None]]

BODY = b'{"model":"m","messages":[]}'
ASKED = Request(
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: there\r\ncontent-length: %d\r\n\r\n" % len(BODY),
    BODY,
)
JSON = b'{"choices":[{"message":{"content":"Hello"}}]}'
DONE = b"data: [DONE]\n\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'


def token(text: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode()


STREAM = ROLE + token("Hello") + token(" there") + FINISH + DONE


def head(status: int = 200, *lines: bytes) -> bytes:
    """The head of an answer."""
    return b"".join(line + b"\r\n" for line in (b"HTTP/1.1 %d Whatever" % status, *lines, b""))


def whole(body: bytes = JSON, status: int = 200, *lines: bytes) -> bytes:
    """An answer with its length."""
    return head(status, b"content-type: application/json", b"content-length: %d" % len(body), *lines) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


SSE = head(200, b"content-type: text/event-stream", b"transfer-encoding: chunked")
LAST = b"0\r\n\r\n"


# Running a test.


def on_each_loop(test: Test) -> Callable[..., None]:
    """Run a test once on asyncio's loop and once on uvloop's, which is used in production."""
    return _with_loop(test, LOOPS)


def on_uvloop(test: Test) -> Callable[..., None]:
    """Run a test only on uvloop's loop, which is used in production."""
    return _with_loop(test, LOOPS[1:])


def _with_loop(test: Test, loops: list[Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_cleanly(test(*args, **fixtures)))

    parameters = [*inspect.signature(test).parameters.values()]
    loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*parameters, loop])  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("new_loop", loops)(run)
    return marked


async def _cleanly(test: Coroutine[Any, Any, None]) -> None:
    loop, unseen = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    async with asyncio.timeout(LIMIT):
        await test
        await until(lambda: len(asyncio.all_tasks()) == 1)
    assert unseen == []


async def until(condition: Callable[[], object]) -> None:
    """Run the loop until the condition holds."""
    while not condition():  # noqa: ASYNC110 - the state belongs to an object that has no event for it
        await asyncio.sleep(0)


async def settled(measure: Callable[[], object]) -> None:
    """Run the loop until the value has not changed for QUIET_TURNS turns."""
    last, turns = measure(), 0
    while turns < QUIET_TURNS:
        await asyncio.sleep(0)
        now = measure()
        turns, last = (turns + 1, last) if now == last else (0, now)


class Clock:
    """A scheduler whose time passes only by `forward`."""

    speed = 1.0

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[_Alarm] = []

    def now(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> _Alarm:
        alarm = _Alarm(when, callback, self._timers)
        self._timers.append(alarm)
        return alarm

    @property
    def set(self) -> int:
        """The number of alarms set."""
        return len(self._timers)

    def forward(self, seconds: float) -> None:
        """Let time pass, and ring each alarm that becomes due at its time."""
        end = self._now + seconds
        while self._timers and (alarm := min(self._timers, key=lambda alarm: alarm.when)).when <= end:
            self._timers.remove(alarm)
            self._now = max(self._now, alarm.when)
            alarm.callback()
        self._now = end


class _Alarm(NamedTuple):
    when: float
    callback: Callable[[], None]
    among: list[Any]

    def cancel(self) -> None:
        self.among[:] = [alarm for alarm in self.among if alarm is not self]


# The side of the server.


class Received(NamedTuple):
    line: bytes
    headers: dict[bytes, bytes]
    body: bytes


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> Received:
        """The next complete request."""
        top = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = top[:-4].split(b"\r\n")
        headers = dict(_header(line) for line in lines)
        return Received(line, headers, await self.reader.readexactly(int(headers.get(b"content-length", b"0"))))

    def send(self, *data: bytes) -> None:
        for piece in data:
            self.writer.write(piece)

    async def answer(self, *data: bytes) -> Received:
        """Read a request and answer it."""
        request = await self.request()
        self.send(*data)
        return request

    async def flood(self, piece: bytes, at_most: int = 64 << 20) -> int:
        """Send a piece again and again until the other side closes; return the bytes sent."""
        sent = 0
        try:
            while sent < at_most:
                self.writer.write(piece)
                sent += len(piece)
                await self.writer.drain()
        except ConnectionError:
            return sent
        raise AssertionError(f"the connection is still open after {at_most} bytes")

    async def left(self) -> bytes:
        """Wait for the other side to close in any way; return what it sent before."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def finish(self) -> None:
        """Close the connection in good order."""
        self.writer.close()

    def reset(self) -> None:
        """Reset the connection."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None and not self.writer.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # on, 0 seconds
        self.writer.transport.abort()


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()


class Server:
    """A listening server that hands each connection to the test, and sends nothing by itself."""

    def __init__(self) -> None:
        self.port = 0
        self.host = ""
        self.always = b""  # the answer to every request, if the test does not answer itself
        self.drops = False  # reset each connection as soon as it is accepted
        self.peers: list[Peer] = []
        self._new: asyncio.Queue[Peer] = asyncio.Queue()
        self._tasks: list[asyncio.Future[None]] = []

    async def accept(self) -> Peer:
        """The next connection."""
        return await self._new.get()

    @property
    def accepted(self) -> int:
        return len(self.peers)

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self._new.put_nowait(peer)
        if self.always:
            self._tasks.append(asyncio.ensure_future(self._serve(peer)))
        if self.drops:
            peer.reset()

    async def _serve(self, peer: Peer) -> None:
        try:
            while True:
                await peer.answer(self.always)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass


S = TypeVar("S", bound=Server)


def serving(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AbstractAsyncContextManager[Server]:
    return listening(Server(), host, tls)


@asynccontextmanager
async def listening(
    server: S, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, *, port: int = 0
) -> AsyncIterator[S]:
    """Let a server listen, on a free port unless one is given."""
    listener = await asyncio.start_server(server.take, host, port, ssl=tls)
    server.host, server.port = listener.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        listener.close()
        for peer in server.peers:
            peer.writer.transport.abort()
        for peer in server.peers:
            await _closed(peer.writer.wait_closed())
        await listener.wait_closed()


async def _closed(waiting: Awaitable[None]) -> None:
    try:
        await waiting
    except OSError:
        pass


def unused_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
        return port


# The side of the router.


@asynccontextmanager
async def pooling(server: Server | Address, scheduler: Scheduler | None = None, **options: Any) -> AsyncIterator[Pool]:
    """A pool that opens no connections ahead unless configured; at the end none may be in use."""
    address = server if isinstance(server, Address) else Address(server.host, server.port, False, "")
    pool = Pool("there", address, scheduler or Clock(), **({"min_idle": 0} | options))
    try:
        yield pool
        await until(lambda: pool.busy == 0)
    finally:
        pool.close()
    await until(lambda: (pool.busy, pool.idle, pool.opening) == (0, 0, 0))


class Sender(Protocol):
    """A pool, or a simulated endpoint: takes requests and answers them through their exchanges."""

    def begin(self, request: Request, exchange: Exchange) -> None: ...


class Call:
    """One exchange, its listener, and all that was received. `news_count` counts the news."""

    def __init__(
        self,
        dialect: Dialect = DIALECTS["openai"],
        choices: int = 1,
        limits: Limits = LIMITS,
        operation: Operation = "chat/completions",
    ) -> None:
        self.exchange = Exchange(self, dialect, choices, limits, operation=operation)
        self.body = b""
        self.news_count = 0

    @classmethod
    def to(cls, sender: Sender, asked: Request = ASKED, **options: Any) -> Call:
        if asked.head.split(b" ", 2)[1].endswith(b"/embeddings"):
            options = {"operation": "embeddings"} | options
        call = cls(**options)
        sender.begin(asked, call.exchange)
        return call

    def news(self, exchange: Exchange) -> None:
        assert exchange is self.exchange
        self.news_count += 1
        self.body += exchange.take()

    async def ended(self) -> Call:
        await until(lambda: self.exchange.verdict is not None)
        return self

    async def first_token(self) -> Call:
        await until(lambda: self.exchange.first_token)
        return self

    @property
    def outcome(self) -> tuple[str, str]:
        """The verdict and its reason, as a test compares them."""
        outcome = self.exchange.outcome
        return ("running", "") if outcome is None else (outcome.verdict.value, outcome.reason)


SERVED = ("served", "")
