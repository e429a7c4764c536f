"""The worker of `bench --in-process`: drives one checkout's router between transports that do nothing.

    drive.py rounds MODE ENDPOINTS         reads a number of calls from each line of stdin, makes them, and prints the
                                           seconds of thread time that they took
    drive.py count MODES ENDPOINTS CALLS   for callgrind: prints the pids of two processes for each mode, of which the
                                           second makes twice as many calls as the first

The checkout that is measured comes first in PYTHONPATH. The worker leans only on what stays the same from one version
of the router to another: the configuration, `Settings`, `Router` with `asgi` and `protocol`, uvicorn's interfaces, the
event loop's `create_connection`, and for decisions the checkout's own benchmark: `Decision(endpoints).call`.

Every run does the same: random numbers are seeded, and the clock of the router is the driver's, which moves it on
before each read. So what takes longer under callgrind is not late.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from itertools import cycle
from math import exp
from operator import getitem
from typing import Any, cast

MODES = ("plain", "stream", "decision")
FLIGHT = {"plain": 32, "stream": 64}  # calls in flight
WARM_UP = 500  # calls
PLANNED = 2.2  # seconds in which the router plans its hedges at least once: it does so every second
PATIENCE = 1_000  # turns of the loop that a call may take to reach an endpoint, or an answer to reach its client
STEP = 0.001  # seconds of the router's clock between two reads, about
TEXT = b"xxxxxxxxxxxx"  # of each event
EVENTS, READS = 20, 12

CONFIG = """
keys: [sk-test]
endpoints:
"""
ENDPOINT = """
  - name: e{number}
    kind: openai
    base_url: http://127.0.0.1:{port}/v1
    api_key: sk-endpoint
    models: {{m: m, only{number}: m}}
    probe: {{kind: "off"}}
    pool: {{idle: 10h}}
"""


def request(stream: bool, model: str) -> bytes:
    body = (
        b'{"model":"%b","stream":%b,"messages":[{"role":"system","content":"You are a helpful assistant."},'
        b'{"role":"user","content":"Tell me a short story about a router that never made anyone wait."}],'
        b'"max_tokens":64}'
    ) % (model.encode(), b"true" if stream else b"false")
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\ncontent-type: application/json\r\n"
        b"accept: */*\r\nauthorization: Bearer sk-test\r\ncontent-length: %d\r\n\r\n"
    ) % len(body)
    return head + body


def plain_answer() -> Sequence[bytes]:
    body = (
        b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}'
    ) % TEXT
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return [head + body]


def streamed_answer() -> Sequence[bytes]:
    """The reads of a stream: the head with the first event, ten with the others, and the end."""

    def chunk(choice: bytes, after: bytes = b"") -> bytes:
        event = (
            b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",'
            b'"choices":[{"index":0,%b}]}\n\n%b'
        ) % (choice, after)
        return b"%x\r\n%b\r\n" % (len(event), event)

    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    first = chunk(b'"delta":{"role":"assistant","content":"%b"},"finish_reason":null' % TEXT)
    other = chunk(b'"delta":{"content":"%b"},"finish_reason":null' % TEXT)
    last = chunk(b'"delta":{},"finish_reason":"stop"', b"data: [DONE]\n\n")
    between = READS - 2
    others = [(EVENTS - 1 + read) // between * other for read in range(between)]
    return [head + first, *others, last + b"0\r\n\r\n"]


class Transport(asyncio.Transport):
    """One end of a connection without a socket. What is written arrives at once."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.protocol: Any = None
        self.closing = False

    def join(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close


class Client(Transport):
    """A client's end: keeps what it reads, and joins `ready` when the answer is whole."""

    def __init__(self, end: bytes, ready: deque[Client]) -> None:
        super().__init__()
        self.end, self.ready = end, ready
        self.read: list[bytes] = []

    def write(self, data: Any) -> None:
        self.read.append(data)
        if data.endswith(self.end):
            self.ready.append(self)


class Upstream(Transport):
    """An endpoint's end: joins `asked` with each request."""

    def __init__(self, asked: deque[Upstream]) -> None:
        super().__init__()
        self.asked, self.waiting = asked, False

    def write(self, data: Any) -> None:
        if not self.waiting:
            self.waiting = True
            self.asked.append(self)


def loop_with(asked: deque[Upstream]) -> Callable[[], asyncio.AbstractEventLoop]:
    """Loops whose connections lead nowhere but to `asked`."""
    import uvloop

    class Loop(uvloop.Loop):
        async def create_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
            upstream = Upstream(asked)
            upstream.join(protocol_factory())
            return upstream, upstream.protocol

    return Loop


class Clock:
    """The router's `time.monotonic`. Reading it costs no more than reading the real one."""

    def __init__(self) -> None:
        rng = random.Random(1)
        self._now = [1000.0]
        self._steps = cycle([STEP * exp(rng.gauss(0.0, 0.5)) for _ in range(997)])
        self.read = cast(Callable[[], float], partial(getitem, self._now, 0))

    def step(self) -> None:
        self._now[0] += next(self._steps)


class Calls:
    """Calls of one kind through one router, so many in flight; `asked` and `ready` are in the order of the calls."""

    def __init__(self, stream: bool, clock: Clock, asked: deque[Upstream]) -> None:
        self.stream, self.clock, self.asked = stream, clock, asked
        self.request = request(stream, "m")
        self.answer = streamed_answer() if stream else plain_answer()
        self.flight = FLIGHT["stream" if stream else "plain"]
        self.ready: deque[Client] = deque()
        self.clients: list[Client] = []
        self._lifespan: Any = None
        self._turns: Any = None

    async def start(self, endpoints: int) -> None:
        import uvicorn
        from uvicorn.server import ServerState

        from router.app import Router
        from router.config import parse
        from router.settings import Settings

        text = CONFIG + "".join(ENDPOINT.format(number=i, port=20_000 + i) for i in range(endpoints))
        router = Router(parse(text), Settings())
        self._turns = getattr(router, "turns", None)  # older checkouts have none
        config = uvicorn.Config(
            router.asgi, http=cast(Any, router.protocol), ws="none", lifespan="on", access_log=False, log_config=None,
            server_header=False,
        )  # fmt: skip
        config.load()
        self._lifespan = config.lifespan_class(config)
        await self._lifespan.startup()
        assert not self._lifespan.should_exit, "the router did not start"
        state = ServerState()
        state.default_headers = [(b"date", b"Fri, 27 Nov 2026 18:50:07 GMT")]
        make = cast(Callable[..., asyncio.Protocol], config.http_protocol_class)
        end = b"0\r\n\r\n" if self.stream else self.answer[0][-20:]
        for _ in range(self.flight):
            client = Client(end, self.ready)
            client.join(make(config=config, server_state=state, app_state={}))
            self.clients.append(client)
        self.ready.extend(self.clients)

    async def stop(self) -> None:
        await self._lifespan.shutdown()

    async def warm_up(self, endpoints: int, calls: int = WARM_UP, pause: float = PLANNED) -> None:
        """At first all calls go to one endpoint, for each, so that no connection is missing later, wherever they go."""
        for number in range(endpoints):
            self.request = request(self.stream, f"only{number}")
            await self.checked(2 * self.flight)
        self.request = request(self.stream, "m")
        await self.checked(calls)
        await asyncio.sleep(pause)
        await self.checked(calls)

    async def checked(self, calls: int) -> float:
        """Make so many calls, look at all that the clients got, and give the seconds of thread time of the calls."""
        for client in self.clients:
            client.read.clear()
        await turns(3)  # for what is due beside the calls
        began = time.thread_time_ns()
        await self.make(calls)
        seconds = 1e-9 * (time.thread_time_ns() - began)
        whole = 0
        for client in self.clients:
            read = b"".join(client.read)
            answers = read.count(b"HTTP/1.1 200 OK\r\n")
            texts, ends = read.count(b'"content":"%b"' % TEXT), read.count(b"data: [DONE]\n\n")
            if texts != answers * (EVENTS if self.stream else 1) or ends != answers * self.stream:
                raise RuntimeError(f"an answer is not whole: {read[:4000]!r}")
            whole += answers
        if whole != calls or self.asked or any(client.closing for client in self.clients):
            raise RuntimeError(f"{whole} of {calls} answers are whole, {len(self.asked)} endpoints were asked besides")
        return seconds

    async def make(self, calls: int) -> None:
        """Play a number of calls; none is in flight before or after."""
        if self._turns is not None:
            self._turns.read = -(1 << 29)  # all calls of a round are driven in one turn, which is not to be shared
        await (self._streams(calls) if self.stream else self._plain(calls))

    async def _plain(self, calls: int) -> None:
        """The call that has waited for longest is answered, and its client asks again."""
        first = min(self.flight, calls)
        for _ in range(first):
            await self._ask()
        for _ in range(calls - first):
            await self._answer()
            await self._ask()
        for _ in range(first):
            await self._answer()
        await self._arrived()

    async def _streams(self, calls: int) -> None:
        """All that run get a read each in turn."""
        left = calls
        while left:
            wave = min(self.flight, left)
            left -= wave
            for _ in range(wave):
                await self._ask()
            running = [await self._next() for _ in range(wave)]
            for piece in self.answer:
                for upstream in running:
                    self.clock.step()
                    upstream.protocol.data_received(piece)
            await self._arrived()

    async def _ask(self) -> None:
        if not self.ready:
            await until(self.ready.__len__)
        self.ready.popleft().protocol.data_received(self.request)

    async def _next(self) -> Upstream:
        if not self.asked:
            await until(self.asked.__len__)
        upstream = self.asked.popleft()
        upstream.waiting = False
        return upstream

    async def _answer(self) -> None:
        upstream = await self._next()
        self.clock.step()
        for piece in self.answer:
            upstream.protocol.data_received(piece)

    async def _arrived(self) -> None:
        """All clients have their answers. As a rule they have them at once."""
        if len(self.ready) < len(self.clients):
            await until(lambda: len(self.ready) == len(self.clients))


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def until(true: Callable[[], object]) -> None:
    """Let the loop run: a connection is opened, or something was put off."""
    for _ in range(PATIENCE):
        if true():
            return
        await asyncio.sleep(0)
    raise RuntimeError("a call did not reach its endpoint, or an answer did not reach its client")


class Decisions:
    """The checkout's own benchmark of a decision."""

    def __init__(self, endpoints: int) -> None:
        self._call = self._benchmark().Decision(endpoints).call

    @staticmethod
    def _benchmark() -> Any:
        try:
            return importlib.import_module("tests.bench.decision")
        except ModuleNotFoundError:
            return importlib.import_module("tests.decision")

    async def warm_up(self, endpoints: int) -> None:
        await self.make(WARM_UP)

    async def checked(self, calls: int) -> float:
        began = time.thread_time_ns()
        await self.make(calls)
        return 1e-9 * (time.thread_time_ns() - began)

    async def make(self, calls: int) -> None:
        for _ in range(calls):
            self._call()

    async def stop(self) -> None: ...


async def ready_to_measure(mode: str, endpoints: int, clock: Clock, asked: deque[Upstream]) -> Calls | Decisions:
    if mode == "decision":
        work: Calls | Decisions = Decisions(endpoints)
    else:
        work = Calls(mode == "stream", clock, asked)
        await work.start(endpoints)
    await work.warm_up(endpoints)
    gc.collect()
    gc.freeze()  # as the router's command does
    gc.set_threshold(20_000, 20, 20)
    return work


async def rounds(mode: str, endpoints: int, clock: Clock, asked: deque[Upstream]) -> None:
    import router

    work = await ready_to_measure(mode, endpoints, clock, asked)
    say({"router": router.__file__})
    for line in sys.stdin:
        say({"seconds": await work.checked(int(line))})
    await work.stop()


async def count(mode: str, endpoints: int, calls: int, clock: Clock, asked: deque[Upstream]) -> None:
    work = await ready_to_measure(mode, endpoints, clock, asked)
    await turns(3)
    loop, pids = asyncio.get_running_loop(), []
    for times in (1, 2):
        pid = os.fork()
        if not pid:
            asyncio._set_running_loop(loop)  # which it is in its parent only
            await work.make(times * calls)
            os._exit(0)
        succeeded(pid)
        pids.append(pid)
    say({"mode": mode, "pids": pids})
    await work.stop()


def succeeded(pid: int) -> None:
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit(1)


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


class Seeded(random.Random):
    """The same random numbers in each run, also where the router does not seed."""

    def __init__(self, seed: Any = 1) -> None:
        super().__init__(seed)


def main(arguments: Sequence[str]) -> None:
    clock, asked = Clock(), deque[Upstream]()
    # Before the router is imported, which may keep these under names of its own.
    time.monotonic = clock.read
    random.Random = Seeded  # type: ignore[misc, assignment]
    import router.app  # noqa: F401  (once for all modes)

    def run(what: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=loop_with(asked)) as runner:
            runner.run(what)

    what, modes, endpoints, *calls = arguments
    if what == "rounds":
        run(rounds(modes, int(endpoints), clock, asked))
        return
    for mode in modes.split(","):
        pid = os.fork()
        if not pid:
            run(count(mode, int(endpoints), int(calls[0]), clock, asked))
            os._exit(0)
        succeeded(pid)


if __name__ == "__main__":
    main(sys.argv[1:])
