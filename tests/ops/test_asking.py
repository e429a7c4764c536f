"""The router's own requests: the connections that they use, and what their answers may be."""

from __future__ import annotations

import asyncio
import gzip
from random import Random

import pytest

from router.core.endpoint.endpoint import Endpoint
from router.core.verdict import SERVED
from router.ops.asking import Unanswered, ask, prepared
from router.ops.pause import Pause
from router.ops.probes import Prober
from router.ops.signals import MAX_PAGE_BYTES, MAX_PAUSE
from router.upstream.exchange import Request
from router.upstream.pool import Address
from tests.ops.test_probes import config, with_probe
from tests.ops.test_signals import config as reporting
from tests.ops.test_signals import scraper
from tests.upstream.servers import Call, Clock, on_uvloop, pooling, serving, until, unused_port, whole


def models_of(host: str, port: int) -> Request:
    return prepared("GET", f"http://{host}:{port}/v1/models", config())


@on_uvloop
async def test_a_probe_uses_a_connection_of_calls_and_is_not_counted_as_one() -> None:
    async with serving() as server, pooling(server) as pool:
        server.always = whole()
        url = f"http://{server.host}:{server.port}/v1"
        prober = Prober([Endpoint("there", "m")], with_probe("models", url), pool, Clock(), Random(7))
        for _ in range(3):
            assert await prober.probe() == ""
            await Call.to(pool).ended()
        assert (server.accepted, pool.opened, pool.reused) == (1, 1, 3)


@on_uvloop
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "the connection was closed before the answer began"),
        (whole()[:-3], "the connection was closed before the answer was complete"),
        (b"HTTP/1.1 nonsense\r\n\r\n", "the answer is not valid HTTP"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "the server switched protocols",
        ),
    ],
)
async def test_a_request_without_a_whole_answer_says_why(answer: bytes, reason: str) -> None:
    async with serving() as server, pooling(server) as pool:
        asked = asyncio.ensure_future(ask(pool, models_of(server.host, server.port), 1000, 5.0))
        peer = await server.accept()
        await peer.answer(answer)
        peer.finish()
        with pytest.raises(Unanswered, match=reason):
            await asked


@on_uvloop
async def test_a_compressed_page_is_never_unpacked() -> None:
    """A page that would fill the memory is a small page that reports nothing."""
    page = gzip.compress(b"#" * (64 << 20))
    assert len(page) < MAX_PAGE_BYTES
    async with serving() as server, pooling(server) as pool:
        server.always = whole(page, 200, b"content-encoding: gzip")
        reading = scraper(
            reporting(f"http://{server.host}:{server.port}/v1"), Endpoint("there", "org/m"), pool, Clock()
        )
        reading.note(await reading.page())
        assert reading.unknown == "the page has none of its gauges"


@on_uvloop
async def test_a_request_that_is_given_up_closes_its_connection() -> None:
    async with serving() as server, pooling(server) as pool:
        asked = asyncio.ensure_future(ask(pool, models_of(server.host, server.port), 1000, 5.0))
        peer = await server.accept()
        await peer.request()
        asked.cancel()
        assert await peer.left() == b""
        await until(lambda: pool.busy == 0)


# News for the loops.


@on_uvloop
async def test_a_pause_ends_early_when_it_is_woken() -> None:
    pause = Pause()
    sleeping = asyncio.ensure_future(pause.wait(1000.0))
    await asyncio.sleep(0)
    pause.wake()
    await sleeping
    pause.wake()
    await pause.wait(1000.0)  # woken before
    await pause.wait(0.001)


@on_uvloop
@pytest.mark.parametrize("by", ["probe", "traffic"])
async def test_a_recovery_wakes_the_reading_of_the_load(by: str) -> None:
    """By default a server without a page is asked once a minute; the one here is asked at once when it is up again."""
    clock, endpoint = Clock(), Endpoint("there", "org/m")
    async with serving() as server:
        there = Address(server.host, server.port, False, "")
        async with pooling(Address(server.host, unused_port(), False, ""), clock) as pool:
            reading = scraper(reporting(), endpoint, pool, clock)
            prober = Prober([endpoint], config(interval="2ms"), pool, clock, Random(7), reading.wake)
            for _ in range(9):
                reading.note("status 503")
            assert reading.pause == MAX_PAUSE
            loops = [asyncio.ensure_future(reading.run())]
            await until(lambda: reading.unknown.startswith("no connection"))
            loops.append(asyncio.ensure_future(prober.run()))
            await until(lambda: not endpoint.availability.health.up)
            if by == "traffic":
                endpoint.begin(clock.now()).end(SERVED, clock.now())
            pool.address = there
            server.always = whole(b'vllm:num_requests_running{model_name="org/m"} 3\n')
            await until(lambda: endpoint.forecast.server_load(clock.now()) is not None)
            for loop in loops:
                loop.cancel()


@on_uvloop
async def test_a_page_that_finds_no_server_wakes_its_probe() -> None:
    clock, endpoint, down = Clock(), Endpoint("there", "org/m"), Address("127.0.0.1", unused_port(), False, "")
    async with serving() as server, pooling(server, clock) as pool:
        server.always = whole()
        url = f"http://{server.host}:{server.port}/v1"
        prober = Prober([endpoint], with_probe("models", url), pool, clock, Random(7))
        reading = scraper(reporting(url), endpoint, pool, clock)
        reading.unanswered = prober.wake
        loop = asyncio.ensure_future(prober.run())
        await until(lambda: endpoint.availability.health._known)
        for connection in tuple(pool._idle):
            connection.close()
        await until(lambda: pool.idle == 0)
        pool.address = down
        assert (await reading.page()) == "no connection: Connection refused"
        await until(lambda: endpoint.availability.health.misses)
        loop.cancel()
