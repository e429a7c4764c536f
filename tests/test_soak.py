"""10,000 calls on real sockets, of which half are cancelled at a random moment: afterwards nothing is left of them.

The router, two endpoints and the clients share one event loop, so that every leaked socket, task and object is
counted. Calls are cancelled before the headers, before the first token, in the middle of a stream, during a race, and
during a rescue; the test checks that each of these has happened.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import pytest
import uvloop

from router.core.choice.budget import RESERVE
from router.core.choice.race import Race
from router.core.endpoint.endpoint import Attempt
from router.core.record import CallRecord
from router.core.stream.splice import Replay
from router.core.stream.transcript import Transcript
from router.proxy.answer import FirstAnswer
from router.proxy.dispatch import Dispatch
from router.proxy.open_call import OpenCall
from router.proxy.relay import Relay
from router.proxy.rescue import Rescue
from router.upstream.exchange import Exchange
from tests.proxy.running import Running, post, running
from tests.upstream.servers import DONE, FINISH, JSON, LAST, ROLE, SSE, chunk, token, whole

CALLS, AT_ONCE, WARM_UP = 10_000, 200, 400
WORDS = [f"{number} " for number in range(8)]
TEXT = "".join(WORDS)
OF_A_CALL = (OpenCall, FirstAnswer, Dispatch, Relay, Rescue, Race, Exchange, Attempt, CallRecord, Transcript, Replay)
MODELS = ("quick", "late", "mute", "cut", "stalls", "down", "resets", "answer")


class Endpoint:
    """A server for all models. `a`, asked first, misbehaves, but not so often that its breakers stay open."""

    def __init__(self, name: str, rng: Random) -> None:
        self.name, self._rng = name, rng
        self.live = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
                model = json.loads(await reader.readexactly(length))["model"]
                self.live += 1
                left = asyncio.ensure_future(reader.read(1))  # clients do not pipeline: only the end can come
                answering = asyncio.ensure_future(self._answer(model, writer))
                try:
                    await asyncio.wait((left, answering), return_when=asyncio.FIRST_COMPLETED)
                    if not answering.done() or not answering.result() or writer.is_closing():
                        break
                finally:
                    self.live -= 1
                    for task in (left, answering):
                        task.cancel()
                    await asyncio.wait((left, answering))
                    for task in (left, answering):
                        task.cancelled() or task.exception()
        writer.close()

    async def _answer(self, model: str, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; true if the connection stays open."""
        bad, some = self.name == "a" and self._rng.random() < 0.4, self._rng.uniform(0.5, 1.5)
        if model == "down" and bad:
            send(writer, whole(b'{"error":{"message":"down"}}', 503))
            return True
        if model == "resets" and bad:
            reset(writer)
            return False
        if model == "answer":
            await asyncio.sleep(0.05 * some)
            send(writer, whole(JSON))
            return True
        if model == "late" and bad:
            await asyncio.sleep(0.2 * some)
        send(writer, SSE + chunk(ROLE))
        if model == "mute" and bad:
            await asyncio.sleep(0.2 * some)
        return await self._tokens(model if bad else "", writer)

    async def _tokens(self, model: str, writer: asyncio.StreamWriter) -> bool:
        for index, word in enumerate(WORDS):
            await asyncio.sleep(0.005)
            if index == 4 and model == "stalls":
                await asyncio.sleep(3600)
            if index == 4 and model == "cut":
                reset(writer) if self._rng.random() < 0.5 else writer.close()
                return False
            send(writer, chunk(token(word)))
        send(writer, chunk(FINISH + DONE) + LAST)
        return True


def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        raise ConnectionResetError
    writer.write(data)


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def serving(endpoint: Endpoint) -> AsyncIterator[int]:
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def table(*ports: int) -> str:
    """A configuration with short times and large budgets, so that every kind of end happens often."""
    entries = [
        {
            "name": name,
            "base_url": f"http://127.0.0.1:{port}/v1",
            "models": list(MODELS),
            "tier": tier,
            "probe": {"kind": "off"},
            "pool": {"min_idle": 2, "idle": "300ms"},
        }
        for name, port, tier in zip("ab", ports, (1, 2), strict=True)
    ]
    policy = {"hedge": "30ms", "hedge_budget": 10, "retry_budget": 10, "stall": "100ms", "resume": "replay"}
    return json.dumps({"defaults": policy, "endpoints": entries})


class Soak:
    """The clients, and how their calls ended."""

    def __init__(self, port: int, rng: Random) -> None:
        self._port, self._rng = port, rng
        self.ends: Counter[tuple[str, str]] = Counter()  # by model and end

    async def run(self, calls: int) -> None:
        left = iter(range(calls))
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._client(left))

    async def _client(self, left: Any) -> None:
        """Make one call after the other, on one connection while it lasts."""
        connection = None
        for number in left:
            model = self._rng.choice(MODELS)
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = connection
            fields = {"model": model, "stream": model != "answer", "messages": [{"role": "user", "content": "Hi"}]}
            writer.write(post(json.dumps(fields).encode()))
            if number % 2:
                await self._cancelled(model, reader, writer)
                connection = None
            else:
                await self._whole(model, reader)
        if connection is not None:
            connection[1].close()

    async def _cancelled(self, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leave at a random moment, by closing or resetting the connection."""
        data = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._rng.choice((0.0, 0.03, 0.1, 0.3)) * self._rng.random()):
                while (piece := await reader.read(65536)) and b"[DONE]" not in data:
                    data += piece
        self.ends[model, "in the middle" if b"data:" in data else "after comments" if data else "before"] += 1
        reset(writer) if self._rng.random() < 0.5 else writer.close()

    async def _whole(self, model: str, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"content-length" in head.lower():
            length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
            body = await reader.readexactly(length)
        else:
            body = await reader.readuntil(b"\r\n0\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            end = "an error"
        elif model == "answer":
            end = "whole" if b"Hello" in body else "SHORT"
        else:
            events = b"".join(line[6:] for line in body.split(b"\n") if line[:6] == b"data: ")
            words = [part.split(b'"')[0].decode() for part in events.split(b'"content":"')[1:]]
            done = b"[DONE]" in body
            end = "whole" if done and "".join(words) == TEXT else "an error" if b'"error"' in body else "SHORT"
        self.ends[model, end] += 1


def open_sockets() -> int:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(link.startswith("socket:") for link in links)


def left_of_calls() -> Counter[str]:
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, OF_A_CALL))


async def until(condition: Callable[[], object], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - state without an event to wait for
            await asyncio.sleep(0.02)


async def at_rest(router: Running) -> None:
    """Wait until there is no call, no client, and each pool has only its spare connections."""
    await router.quiet()
    await until(lambda: not router.connections)
    await until(lambda: all((p.idle, p.opening, p.busy) == (2, 0, 0) for p in router.router.pools.values()))


def state(router: Running) -> dict[str, Any]:
    endpoints = router.router.tables.current.table.endpoints
    return {
        "sockets": open_sockets(),
        "tasks": len(asyncio.all_tasks()),
        "calls": router.router.handler.calls,
        "attempts": [
            (e.name, e.model, e.availability.in_flight, len(e.forecast.pending), e.availability.slots.used)
            for e in endpoints
        ],
        "trials": [e.availability.breaker.allows(float("inf")) for e in endpoints],
        "objects": left_of_calls(),
    }


async def soak() -> None:
    rng = Random(7)
    a, b = Endpoint("a", rng), Endpoint("b", rng)
    async with serving(a) as first, serving(b) as second, running(table(first, second)) as router:
        clients = Soak(router.port, rng)
        await clients.run(WARM_UP)  # a pool opens its second connection after the first answer
        await at_rest(router)
        before = state(router)
        await clients.run(CALLS)
        await at_rest(router)
        await until(lambda: a.live == b.live == 0)
        await until(lambda: open_sockets() == before["sockets"])
        await until(lambda: len(asyncio.all_tasks()) == before["tasks"])
        assert state(router) == before
        made = router.router.tables.current.table
        assert made.hedges.level(1e9) == made.retries.level(1e9) == RESERVE
        assert {route.window.pending for route in made.routes.values()} == {0}
        assert sum(clients.ends.values()) == WARM_UP + CALLS == router.counted("calls_total")
        assert_all_kinds_happened(clients.ends, router)


def assert_all_kinds_happened(ends: Counter[tuple[str, str]], router: Running) -> None:
    """Assert that every kind of end occurred; otherwise the test proves nothing."""
    assert not [end for end in ends if end[1] == "SHORT"], ends
    errors = sum(count for (_, end), count in ends.items() if end == "an error")
    assert errors < CALLS / 100, ends
    for model in MODELS:
        assert ends[model, "before"] > 20
    for model in ("quick", "cut", "stalls", "late"):
        assert ends[model, "in the middle"] > 20
    for role, verdict in (
        ("first", "abandoned"),
        ("hedge", "abandoned"),
        ("retry", "abandoned"),
        ("rescue", "abandoned"),
    ):
        assert router.counted("attempts_total", role=role, verdict=verdict) >= 1, (role, verdict)
    for role in ("hedge", "retry", "rescue"):
        assert router.counted("attempts_total", role=role, verdict="served") > 5, role


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open sockets are counted in /proc")
def test_ten_thousand_calls_half_of_them_cancelled_leave_nothing_behind() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(soak())
