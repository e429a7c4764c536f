"""How connections retire, and what a restarted server teaches: real sockets, and a clock that is moved by hand."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trustme

from router.upstream.http1 import MAX_SERVED
from router.upstream.page import Page
from router.upstream.pool import JITTER, Address, Pool
from router.upstream.resolver import Found, Resolver
from tests.upstream.servers import (
    ASKED,
    JSON,
    LAST,
    ROLE,
    SERVED,
    SSE,
    STREAM,
    Call,
    Clock,
    Peer,
    Server,
    chunk,
    listening,
    on_each_loop,
    on_uvloop,
    pooling,
    serving,
    settled,
    token,
    until,
    whole,
)

MAX_AGE = 600.0
YOUNG, OLD = MAX_AGE * (1 - JITTER) - 1.0, MAX_AGE * (1 + JITTER) + 1.0
LONG: dict[str, Any] = {"idle_limit": 1e6, "max_age": MAX_AGE}  # no connection expires for being unused


async def served(pool: Pool, call: Call | None = None) -> Call:
    """One call at a server that answers by itself."""
    call = await (call or Call.to(pool)).ended()
    assert call.outcome == SERVED
    return call


@asynccontextmanager
async def answering(body: bytes = JSON) -> AsyncIterator[Server]:
    async with serving() as server:
        server.always = whole(body)
        yield server


# By age.


@on_each_loop
async def test_a_connection_in_use_retires_between_two_exchanges() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, **LONG) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await call.first_token()
        clock.forward(OLD)
        await settled(lambda: pool.busy)
        assert (call.outcome, pool.busy, server.accepted) == (("running", ""), 1, 1)
        peer.send(chunk(STREAM[len(ROLE + token("Hello")) :]), LAST)
        await served(pool, call)
        assert await peer.left() == b""
        await until(lambda: (pool.idle, pool.busy) == (0, 0))
        assert pool.retired == {"age": 1, "answers": 0, "idle": 0}


@on_each_loop
async def test_an_unused_connection_is_replaced_by_one_that_was_opened_before() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, min_idle=2, **LONG) as pool:
        pool.start()
        await until(lambda: pool.idle == 2)
        first = tuple(server.peers)
        clock.forward(YOUNG)
        await settled(lambda: pool.opened)
        assert pool.opened == 2
        fewest = 2
        clock.forward(OLD - YOUNG)
        while pool.opened < 4 or pool.idle > 2:
            fewest = min(fewest, pool.idle)
            await until(lambda: True)
            await settled(lambda: pool.opened)
        assert fewest == 2
        for peer in first:
            assert await peer.left() == b""
        assert (pool.idle, pool.opened) == (2, 4)
        assert pool.retired == {"age": 2, "answers": 0, "idle": 0}


@on_each_loop
async def test_an_unused_connection_stays_while_its_successor_cannot_be_opened() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, min_idle=1, **LONG) as pool:
        pool.start()
        await until(lambda: pool.idle == 1)
        there, pool.address = pool.address, Address("127.0.0.1", 9, False, "")
        clock.forward(OLD)
        await until(lambda: pool.opening == 0)
        assert pool.idle == 1
        call = Call.to(pool)
        pool.address = there
        await (await server.accept()).answer(whole())
        await served(pool, call)


@on_uvloop
async def test_where_no_connection_is_kept_ahead_an_old_one_is_closed() -> None:
    clock = Clock()
    async with answering() as server, pooling(server, clock, **LONG) as pool:
        await served(pool)
        clock.forward(OLD)
        await until(lambda: pool.idle == 0)
        await settled(lambda: pool.opened)
        assert pool.opened == 1


@on_uvloop
async def test_at_the_limit_an_old_connection_makes_room_for_its_successor() -> None:
    clock = Clock()
    async with answering() as server, pooling(server, clock, min_idle=1, limit=1, **LONG) as pool:
        pool.start()
        await until(lambda: pool.idle == 1)
        clock.forward(OLD)
        await until(lambda: (pool.idle, pool.opened) == (1, 2))
        await served(pool)


@on_uvloop
async def test_ages_differ_so_that_connections_do_not_retire_together() -> None:
    async with serving() as server, pooling(server, min_idle=20, rng=Random(7), **LONG) as pool:
        pool.start()
        await until(lambda: (pool.idle, server.accepted) == (20, 20))
        ages = {connection.retire_at - 1000.0 for connection in pool._all}
        assert len(ages) == 20
        assert MAX_AGE * (1 - JITTER) <= min(ages) < max(ages) <= MAX_AGE * (1 + JITTER)


# By number of answers.


@on_uvloop
async def test_a_connection_retires_after_a_number_of_answers() -> None:
    async with answering() as server, pooling(server, **LONG) as pool:
        for _ in range(round(MAX_SERVED * (1 + JITTER)) + 1):
            await served(pool)
        assert pool.opened == 2
        await until(lambda: pool.idle == 1)
        assert pool.retired == {"age": 0, "answers": 1, "idle": 0}


# Behind a name.


@on_uvloop
async def test_a_new_instance_behind_a_name_gets_traffic_and_a_removed_one_loses_it() -> None:
    clock, addresses = Clock(), ["127.0.0.1"]

    async def look_up(host: str) -> Found:
        return Found(tuple(addresses), 30.0)

    async with answering() as first:
        second = Server()
        second.always = whole()
        async with listening(second, "127.0.0.2", port=first.port):
            address = Address("there.test", first.port, False, "")
            async with pooling(address, clock, min_idle=2, resolver=Resolver(look_up, clock.now), **LONG) as pool:

                async def round_() -> tuple[int, int]:
                    """Seven minutes of eight clients without a pause; the connections of each instance then."""
                    for _ in range(7):
                        for call in [Call.to(pool) for _ in range(8)]:
                            await served(pool, call)
                        clock.forward(60.0)
                    await settled(lambda: (pool.opened, pool.idle))
                    hosts = [each.transport.get_extra_info("peername")[0] for each in pool._all]
                    return hosts.count("127.0.0.1"), hosts.count("127.0.0.2")

                assert (await round_())[1] == 0
                addresses.append("127.0.0.2")
                await round_()
                both = await round_()
                assert min(both) >= 2
                addresses.remove("127.0.0.1")
                await round_()
                assert (await round_())[0] == 0


@on_each_loop
async def test_tls_is_spoken_with_the_second_address_too() -> None:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("there.test").configure_cert(context)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(trusting)

    async def look_up(host: str) -> Found:
        return Found(("127.0.0.2", "127.0.0.1"), 30.0)

    async with serving(tls=context) as server:
        server.always = whole()
        address, resolver = Address("there.test", server.port, True, ""), Resolver(look_up, Clock().now)
        async with pooling(address, resolver=resolver, tls=trusting) as pool:
            await served(pool)
            await served(pool)
            assert (pool.opened, pool.reused) == (1, 1)


# A server that reads one connection at a time.


@on_each_loop
async def test_the_second_connection_is_opened_once_the_first_has_carried_an_answer() -> None:
    async with serving() as server, pooling(server, min_idle=2, first_alone=True) as pool:
        pool.start()
        await until(lambda: pool.idle == 1)
        await settled(lambda: pool.opened)
        assert pool.opened == 1
        call = Call.to(pool)
        peer = await server.accept()
        await settled(lambda: pool.opened)
        assert pool.opened == 1
        await peer.answer(whole())
        await served(pool, call)
        await until(lambda: pool.idle == 2)
        for _ in range(3):
            call = Call.to(pool)
            await peer.answer(whole())  # the others are not read
            await served(pool, call)


@on_uvloop
async def test_after_a_refusal_the_first_connection_is_alone_again() -> None:
    clock = Clock()
    async with answering() as server, pooling(server, clock, min_idle=3, first_alone=True) as pool:
        await served(pool)
        await until(lambda: pool.idle == 3)
        there, pool.address = pool.address, Address("127.0.0.1", 9, False, "")
        for peer in tuple(server.peers):
            peer.finish()
        await until(lambda: (pool.idle, pool.opening) == (0, 0))
        pool.address = there
        clock.forward(60.0)
        await until(lambda: pool.idle == 1)
        await settled(lambda: pool.opened)
        assert pool.idle == 1


@on_uvloop
async def test_a_server_with_one_synchronous_worker_is_served() -> None:
    """The worker reads a connection to its end before it accepts the next; the kernel accepts for it."""
    async with serving() as server:

        async def serve(peer: Peer) -> None:
            await peer.answer(whole())

        async with pooling(server, min_idle=2, first_alone=True) as pool:
            pool.start()
            page = _page()
            pool.begin_beside(ASKED, page)  # a probe
            first = await server.accept()
            await serve(first)
            await until(lambda: page.outcome is not None)
            for _ in range(3):
                call = Call.to(pool)
                await serve(first)
                await served(pool, call)


# The router's own requests.


def _page() -> Page:
    class Deaf:
        def news(self, exchange: object) -> None: ...

    return Page(Deaf(), 1 << 20)


@on_uvloop
async def test_a_request_of_the_routers_own_goes_beyond_the_limit_and_before_waiting_calls() -> None:
    async with serving() as server, pooling(server, limit=1) as pool:
        first, second = Call.to(pool), Call.to(pool)
        busy = await server.accept()
        await busy.request()
        page = _page()
        pool.begin_beside(ASKED, page)
        beyond = await server.accept()
        await beyond.answer(whole(b"page"))
        await until(lambda: page.outcome is not None)
        assert (page.status, page.body, pool.reused) == (200, b"page", 0)
        assert await beyond.left() == b""  # one call at a time, as configured
        assert second.outcome == ("running", "")
        busy.send(whole())
        await served(pool, first)
        await busy.answer(whole())
        await served(pool, second)


# A server that is killed.


@on_uvloop
@pytest.mark.parametrize("regular", [True, False], ids=["every 20 s", "at odd times"])
async def test_after_eight_kills_hardly_any_connections_are_opened(regular: bool) -> None:
    clock, rng = Clock(), Random(3)
    async with answering() as server, pooling(server, clock, min_idle=2, rng=rng) as pool:
        there = pool.address
        pool.start()
        await until(lambda: pool.idle == 2)
        for _ in range(8):
            for _ in range(4):
                await served(pool)
                clock.forward(5.0 if regular else rng.uniform(0.5, 9.0))
                await until(lambda: pool.opening == 0)
            pool.address = Address("127.0.0.1", 9, False, "")  # the port is closed while it restarts
            for peer in tuple(server.peers):
                peer.finish()
            await until(lambda: (pool.idle, pool.opening) == (0, 0))
            clock.forward(2.0)
            await until(lambda: pool.opening == 0)
            pool.address = there
            clock.forward(30.0)
            await until(lambda: pool.idle == 2)
        assert pool.idle_limit == 90.0
        before = pool.opened
        for _ in range(600):
            clock.forward(1.0)
            await until(lambda: pool.opening == 0)
        assert (pool.opened - before) / 600 < 0.1
