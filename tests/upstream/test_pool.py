"""The pool, on real sockets and a manual clock: which connections are open, for how long, and which call gets one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from router.scheduler import LoopScheduler
from router.upstream.http1 import CLOSED_WHILE_UNUSED, Connection
from router.upstream.pool import FIRST_PAUSE, MAX_PAUSE, MAX_WAIT, MIN_IDLE_LIMIT, Address, Pool, tls_context
from tests.upstream.servers import (
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
    head,
    on_each_loop,
    pooling,
    serving,
    settled,
    token,
    until,
    unused_port,
    whole,
)

WHOLE = whole()


async def served(
    pool: Pool, server: Server, peer: Peer | None = None, answer: bytes = WHOLE, call: Call | None = None
) -> Peer:
    """Serve one call, from its beginning to its end."""
    call = call or Call.to(pool)
    peer = peer or await server.accept()
    await peer.answer(answer)
    assert (await call.ended()).outcome == SERVED
    return peer


def _name(call: Call) -> object:
    """The name of the socket that carries a call."""
    wire = call.exchange.wire
    assert isinstance(wire, Connection)
    return wire.transport.get_extra_info("sockname")


# Addresses.


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("http://there", Address("there", 80, False, ""), "there"),
        ("https://there/v1", Address("there", 443, True, "/v1"), "there"),
        ("https://there:8443/v1/", Address("there", 8443, True, "/v1"), "there:8443"),
        ("http://[::1]:8000/v1", Address("::1", 8000, False, "/v1"), "[::1]:8000"),
        ("https://[::1]", Address("::1", 443, True, ""), "[::1]"),
        ("http://there:443", Address("there", 443, False, ""), "there:443"),
    ],
)
def test_an_address_comes_from_its_url(url: str, address: Address, authority: str) -> None:
    assert Address.of(url) == address
    assert Address.of(url).authority == authority


# Opening ahead of need.


@on_each_loop
async def test_connections_are_opened_before_they_are_needed() -> None:
    async with serving() as server, pooling(server, min_idle=2) as pool:
        pool.start()
        await until(lambda: (pool.idle, server.accepted) == (2, 2))
        call = Call.to(pool)
        assert (pool.idle, pool.busy, pool.reused) == (1, 1, 1)
        await until(lambda: pool.idle == 2)  # the connection in use is replaced
        assert server.accepted == 3
        await server.accept()
        await (await server.accept()).answer(whole())  # the newest connection
        assert (await call.ended()).outcome == SERVED
        assert (pool.idle, pool.opened) == (3, 3)


@on_each_loop
async def test_the_connection_that_was_used_last_is_used_next() -> None:
    async with serving() as server, pooling(server) as pool:
        calls = [Call.to(pool) for _ in range(3)]
        peers = [await server.accept() for _ in calls]
        for peer in peers:
            await peer.answer(whole())
        await until(lambda: pool.idle == 3)
        last = pool._idle[-1]
        again = Call.to(pool)
        assert again.exchange.wire is last
        again.exchange.close()


@on_each_loop
async def test_connections_that_expire_are_opened_again() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, min_idle=2, idle_limit=4.0) as pool:
        pool.start()
        await until(lambda: pool.idle == 2)
        first = [await server.accept(), await server.accept()]
        clock.forward(3.9)
        await settled(lambda: pool.opened)
        assert (pool.idle, pool.opened) == (2, 2)
        clock.forward(0.2)
        for peer in first:
            assert await peer.left() == b""
        await until(lambda: (pool.idle, pool.opened) == (2, 4))
        clock.forward(4.1)
        await until(lambda: (pool.idle, pool.opened) == (2, 6))


@on_each_loop
async def test_surplus_connections_expire() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, idle_limit=10.0) as pool:
        calls = [Call.to(pool) for _ in range(4)]
        for _ in calls:
            await (await server.accept()).answer(whole())
        await until(lambda: pool.idle == 4)
        for _ in range(4):
            clock.forward(3.0)
            call = Call.to(pool)
            used = next(peer for peer in server.peers if peer.writer.get_extra_info("peername") == _name(call))
            await served(pool, server, used, call=call)
        await until(lambda: pool.idle == 1)
        assert server.accepted == 4


@on_each_loop
async def test_an_expired_connection_is_not_used() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, idle_limit=4.0) as pool:
        peer = await served(pool, server)
        clock._now += 4.1  # the alarm has not rung yet
        call = Call.to(pool)
        await peer.left()
        await (await server.accept()).answer(whole())
        assert (await call.ended()).outcome == SERVED
        assert (pool.reused, pool.resent, pool.opened) == (0, 0, 2)


@on_each_loop
async def test_a_pool_without_min_idle_opens_nothing_ahead() -> None:
    async with serving() as server, pooling(server, min_idle=0) as pool:
        pool.start()
        await settled(lambda: server.accepted)
        assert (pool.opened, pool.opening, server.accepted) == (0, 0, 0)


@on_each_loop
async def test_open_connections_never_exceed_the_limit() -> None:
    async with serving() as server, pooling(server, min_idle=5, limit=3) as pool:
        pool.start()
        await until(lambda: pool.idle == 3)
        calls = [Call.to(pool) for _ in range(3)]
        await settled(lambda: server.accepted)
        assert (pool.idle, pool.busy, pool.opening, server.accepted) == (0, 3, 0, 3)
        for call in calls:
            call.exchange.close()


# The server's idle limit.


@on_each_loop
@pytest.mark.parametrize(
    ("line", "limit"),
    [
        (b"keep-alive: timeout=5", 4.0),
        (b"Keep-Alive: max=100, timeout=10", 8.0),
        (b"keep-alive: timeout = 5 , max=1", 4.0),
        (b"keep-alive: timeout=0", MIN_IDLE_LIMIT),
        (b"keep-alive: timeout=3600", 90.0),
        (b"keep-alive: timeout=soon", 90.0),
        (b"keep-alive: 5", 90.0),
    ],
)
async def test_the_idle_limit_is_learned_from_the_keep_alive_header(line: bytes, limit: float) -> None:
    async with serving() as server, pooling(server) as pool:
        await served(pool, server, answer=whole(JSON, 200, line))
        assert pool.idle_limit == limit


@on_each_loop
async def test_a_configured_idle_limit_is_not_overruled_by_the_server() -> None:
    async with serving() as server, pooling(server, idle_limit=60.0, learn=False) as pool:
        await served(pool, server, answer=whole(JSON, 200, b"keep-alive: timeout=5"))
        assert pool.idle_limit == 60.0


@on_each_loop
async def test_a_learned_idle_limit_applies_to_open_connections() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, min_idle=1) as pool:
        pool.start()
        await until(lambda: pool.idle == 1)
        waiting = await server.accept()
        calls = [Call.to(pool), Call.to(pool)]
        peers = [waiting, await server.accept()]
        await peers[0].answer(whole())
        await peers[1].answer(whole(JSON, 200, b"keep-alive: timeout=5"))
        for call in calls:
            await call.ended()
        clock.forward(4.1)
        for peer in peers:
            await peer.left()
        await until(lambda: (pool.idle, pool.opening) == (1, 0))


async def _dies_unused(pool: Pool, server: Server, clock: Clock, age: float) -> None:
    peer = await served(pool, server)
    clock.forward(age)
    peer.finish()
    await until(lambda: pool.idle == 0)


@on_each_loop
async def test_two_closings_at_the_same_age_show_the_idle_limit() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock) as pool:
        await _dies_unused(pool, server, clock, 5.0)
        assert pool.idle_limit == 90.0
        await _dies_unused(pool, server, clock, 5.01)
        assert pool.idle_limit == pytest.approx(4.0)


@on_each_loop
async def test_closings_at_different_ages_show_nothing() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock) as pool:
        for age in (5.0, 20.0, 7.0, 40.0):
            await _dies_unused(pool, server, clock, age)
        assert pool.idle_limit == 90.0


@on_each_loop
async def test_a_configured_idle_limit_is_not_replaced_by_a_learned_one() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, learn=False) as pool:
        for _ in range(3):
            await _dies_unused(pool, server, clock, 5.0)
        assert pool.idle_limit == 90.0


@on_each_loop
async def test_a_restart_that_closes_all_at_once_shows_nothing() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, min_idle=3) as pool:
        pool.start()
        await until(lambda: (pool.idle, server.accepted) == (3, 3))  # all of the same age
        clock.forward(7.0)
        for peer in tuple(server.peers):
            peer.finish()
        await until(lambda: server.accepted == 6)
        await until(lambda: pool.idle == 3)
        assert pool.idle_limit == 90.0


@on_each_loop
async def test_the_idle_limit_is_learned_also_if_all_connections_have_the_same_age() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, min_idle=2) as pool:
        pool.start()
        for round_ in (1, 2):
            count = 2 * round_
            await until(lambda: (pool.idle, server.accepted) == (2, count))  # noqa: B023
            clock.forward(5.0)
            for peer in server.peers[-2:]:
                peer.finish()
        await until(lambda: (pool.idle, server.accepted) == (2, 6))
        assert pool.idle_limit == pytest.approx(4.0)


# Connections that died unused.


@on_each_loop
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_request_whose_idle_connection_had_died_is_sent_again(reset: bool) -> None:
    async with serving() as server, pooling(server) as pool:
        peer = await served(pool, server)
        call = Call.to(pool)
        await peer.request()
        peer.reset() if reset else peer.finish()
        again = await server.accept()
        request = await again.answer(whole())
        assert request.body == b'{"model":"m","messages":[]}'
        assert (await call.ended()).outcome == SERVED
        assert (call.news_count, call.exchange.resent, pool.resent, pool.opened) == (1, True, 1, 2)


@on_each_loop
async def test_a_connection_opened_ahead_may_have_died_unused_too() -> None:
    async with serving() as server, pooling(server, min_idle=1) as pool:
        pool.start()
        await until(lambda: pool.idle == 1)
        call = Call.to(pool)
        (await server.accept()).finish()
        for _ in range(2):  # a new one ahead of need, and one for the request
            peer = await server.accept()
        await until(lambda: pool.resent == 1)
        await until(lambda: pool.busy == 1)
        for peer in server.peers[1:]:
            peer.send(whole())
        assert (await call.ended()).outcome == SERVED


@on_each_loop
async def test_a_request_is_sent_again_only_once() -> None:
    async with serving() as server, pooling(server) as pool:
        peer = await served(pool, server)
        call = Call.to(pool)
        peer.finish()
        again = await server.accept()
        await again.request()
        again.finish()
        assert (await call.ended()).outcome == ("fault", "the connection was closed before the answer began")
        assert (call.news_count, pool.resent, server.accepted) == (1, 1, 2)


@on_each_loop
@pytest.mark.parametrize("begun", [b"H", head(100), b"HTTP/1.1 200 OK\r\n", head(200, b"content-length: 5")])
async def test_a_request_is_not_sent_again_after_a_byte_of_an_answer(begun: bytes) -> None:
    async with serving() as server, pooling(server) as pool:
        peer = await served(pool, server)
        call = Call.to(pool)
        await peer.answer(begun)
        await peer.writer.drain()
        await until(lambda: pool._all and all(connection.request is None for connection in pool._all))
        peer.finish()
        assert (await call.ended()).outcome[0] == "fault"
        assert (pool.resent, server.accepted) == (0, 1)


@on_each_loop
async def test_a_new_connection_that_dies_is_a_failure() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.request()
        peer.finish()
        assert (await call.ended()).outcome == ("fault", "the connection was closed before the answer began")
        assert (pool.resent, server.accepted) == (0, 1)


@on_each_loop
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_request_is_not_sent_again_if_the_endpoint_may_have_read_it(reset: bool) -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock) as pool:
        peer = await served(pool, server)
        call = Call.to(pool)
        await peer.request()
        clock.forward(CLOSED_WHILE_UNUSED + 0.1)
        peer.reset() if reset else peer.finish()
        assert (await call.ended()).outcome == ("fault", "the connection was closed before the answer began")
        assert (call.news_count, pool.resent, server.accepted) == (1, 0, 1)


@on_each_loop
async def test_nothing_is_sent_again_for_a_closed_exchange() -> None:
    async with serving() as server, pooling(server) as pool:
        peer = await served(pool, server)
        call = Call.to(pool)
        peer.finish()
        call.exchange.close()
        await until(lambda: pool.busy == 0)
        await settled(lambda: server.accepted)
        assert (pool.resent, server.accepted, call.news_count) == (0, 1, 0)


@on_each_loop
async def test_requests_on_many_dead_connections_are_each_sent_again_once() -> None:
    async with serving() as server, pooling(server, limit=8) as pool:
        calls = [Call.to(pool) for _ in range(8)]
        for _ in calls:
            await (await server.accept()).answer(whole())
        await until(lambda: pool.idle == 8)
        calls = [Call.to(pool) for _ in range(8)]
        for peer in tuple(server.peers):
            peer.reset()
        for _ in calls:
            await (await server.accept()).answer(whole())
        for call in calls:
            assert (await call.ended()).outcome == SERVED
        assert (pool.resent, pool.opened, server.accepted) == (8, 16, 16)


# No connection.


@on_each_loop
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_port_without_a_listener_is_a_fault_with_its_reason(host: str) -> None:
    async with pooling(Address(host, unused_port(), False, "")) as pool:
        call = await Call.to(pool).ended()
        assert call.outcome == ("fault", "no connection: Connection refused")
        assert (call.news_count, call.exchange.wire, pool.waiting) == (1, None, 0)


@on_each_loop
@pytest.mark.parametrize("host", ["nobody.invalid", "a..b", "x" * 70 + ".invalid"])
async def test_an_unknown_host_name_is_a_fault_with_its_reason(host: str) -> None:
    async with pooling(Address(host, 80, False, "")) as pool:
        verdict, reason = (await Call.to(pool).ended()).outcome
        assert verdict == "fault"
        assert reason.startswith("no connection: ")
        assert "name" in reason.lower()


@on_each_loop
async def test_a_server_that_does_not_accept_in_time_is_a_fault() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(3)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        async with pooling(Address("127.0.0.1", full.getsockname()[1], False, ""), connect_timeout=0.05) as pool:
            assert (await Call.to(pool).ended()).outcome == ("fault", "no connection within 0.05 s")
        for one in crowd:
            one.close()


@on_each_loop
async def test_the_connect_timeout_follows_the_speed_of_the_clock() -> None:
    clock = Clock()
    clock.speed = 100.0
    async with serving() as server:
        address = Address(server.host, server.port, True, "")
        async with pooling(address, clock, connect_timeout=5) as pool:
            assert (await Call.to(pool).ended()).outcome == ("fault", "no connection within 5 s")


@on_each_loop
async def test_a_server_that_does_not_speak_tls_in_time_is_a_fault() -> None:
    async with (
        serving() as server,
        pooling(Address(server.host, server.port, True, ""), connect_timeout=0.05) as pool,
    ):
        assert (await Call.to(pool).ended()).outcome == ("fault", "no connection within 0.05 s")
        assert await (await server.accept()).left() != b""


@on_each_loop
async def test_a_slow_connect_is_a_fault_and_not_a_busy_server() -> None:
    clock = Clock()
    async with (
        serving() as server,
        pooling(Address(server.host, server.port, True, ""), clock, connect_timeout=0.05) as pool,
    ):
        call = Call.to(pool)
        clock.forward(MAX_WAIT + 1.0)  # a configured connect_timeout may be longer than MAX_WAIT
        assert (await call.ended()).outcome == ("fault", "no connection within 0.05 s")


@on_each_loop
async def test_after_a_refusal_calls_try_at_once_and_opening_ahead_backs_off() -> None:
    clock = Clock()
    port = unused_port()
    async with pooling(Address("127.0.0.1", port, False, ""), clock, min_idle=2) as pool:
        pool.start()
        await until(lambda: pool.opening == 0)
        await settled(lambda: pool.opening)
        assert pool._open_from > clock.now()
        call = Call.to(pool)
        assert pool.opening == 1  # for the call, none ahead of need
        assert (await call.ended()).outcome[0] == "fault"
        pauses = []
        for _ in range(12):
            pauses.append(pool._open_from - clock.now())
            clock.forward(pauses[-1])
            assert pool.opening == 2
            await until(lambda: pool.opening == 0)
        assert pauses == sorted(pauses)
        assert pauses[0] >= FIRST_PAUSE
        assert pauses[-1] == MAX_PAUSE


@on_each_loop
async def test_when_the_server_is_back_connections_are_opened_ahead_again() -> None:
    clock = Clock()
    async with serving() as server:
        address = Address(server.host, unused_port(), False, "")
        async with pooling(address, clock, min_idle=2) as pool:
            pool.start()
            await until(lambda: pool.opening == 0)
            pool.address = Address(server.host, server.port, False, "")
            clock.forward(MAX_PAUSE)
            await until(lambda: pool.idle == 2)
            await served(pool, server, server.peers[1])


@on_each_loop
async def test_opening_ahead_backs_off_if_the_server_drops_connections() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, min_idle=2) as pool:
        server.drops = True
        pool.start()
        pauses: list[float] = []
        for _ in range(10):
            await settled(lambda: (server.accepted, pool.idle, pool.opening))
            assert server.accepted == 2 * len(pauses) + 2
            pauses.append(pool._open_from - clock.now())
            clock.forward(pauses[-1])
        assert pauses == sorted(pauses)
        assert pauses[-1] == MAX_PAUSE
        server.drops = False
        clock.forward(MAX_PAUSE)
        await until(lambda: pool.idle == 2)


@on_each_loop
async def test_all_calls_waiting_for_a_refused_connection_fail() -> None:
    async with pooling(Address("127.0.0.1", unused_port(), False, ""), limit=50) as pool:
        calls = [Call.to(pool) for _ in range(20)]
        for call in calls:
            assert (await call.ended()).outcome == ("fault", "no connection: Connection refused")
        assert pool.waiting == 0


# TLS.


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """An authority that this process trusts, by OpenSSL's variable."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "roots.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    return ca


class Shown:
    """A server's certificate, and the server names that clients sent."""

    def __init__(self, ca: trustme.CA, *names: str) -> None:
        self.asked: list[str | None] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.context.sni_callback = self._note
        ca.issue_cert(*names).configure_cert(self.context)

    def _note(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        self.asked.append(name)


@asynccontextmanager
async def serving_tls(shown: Shown, host: str = "localhost") -> AsyncIterator[tuple[Server, Address]]:
    async with serving(tls=shown.context) as server:
        yield server, Address(host, server.port, True, "")


@on_each_loop
async def test_tls_sends_the_server_name_and_serves(authority: trustme.CA) -> None:
    shown = Shown(authority, "localhost")
    async with serving_tls(shown) as (server, address), pooling(address) as pool:
        peer = await served(pool, server)
        await served(pool, server, peer)
        assert shown.asked == ["localhost"]
        tls = peer.writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"
        assert tls.version() == "TLSv1.3"
        assert (pool.opened, pool.reused) == (1, 1)


@on_each_loop
async def test_tls_to_an_address_checks_that_address(authority: trustme.CA) -> None:
    shown = Shown(authority, "127.0.0.1")
    async with serving_tls(shown, "127.0.0.1") as (server, address), pooling(address) as pool:
        await served(pool, server)
        assert shown.asked == [None]


@on_each_loop
async def test_a_stream_over_tls_can_be_paused_closed_and_cut(authority: trustme.CA) -> None:
    shown = Shown(authority, "localhost")
    async with serving_tls(shown) as (server, address), pooling(address) as pool:
        paused = Call.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await paused.first_token()
        paused.exchange.pause()
        paused.exchange.close()
        assert await peer.left() == b""
        cut = Call.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await cut.first_token()
        peer.writer.transport.abort()
        assert (await cut.ended()).outcome == ("fault", "the connection was closed before the answer was complete")


@on_each_loop
async def test_a_certificate_of_an_unknown_authority_is_a_fault() -> None:
    shown = Shown(trustme.CA(), "localhost")
    async with serving_tls(shown) as (_, address), pooling(address) as pool:
        verdict, reason = (await Call.to(pool).ended()).outcome
        assert verdict == "fault"
        assert reason.startswith("no connection: the certificate was not accepted (")
        assert "unable to get local issuer certificate" in reason or "self" in reason


@on_each_loop
async def test_a_certificate_for_another_name_is_a_fault(authority: trustme.CA) -> None:
    shown = Shown(authority, "elsewhere.test")
    async with serving_tls(shown) as (_, address), pooling(address) as pool:
        verdict, reason = (await Call.to(pool).ended()).outcome
        assert verdict == "fault"
        assert "the certificate was not accepted (Hostname mismatch" in reason


@on_each_loop
async def test_a_server_without_tls_is_a_fault() -> None:
    async with serving() as server, pooling(Address(server.host, server.port, True, "")) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.reader.read(1)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        verdict, reason = (await call.ended()).outcome
        assert verdict == "fault"
        assert "wrong version number" in reason.lower().replace("_", " ")


@on_each_loop
async def test_a_server_that_resets_the_handshake_is_a_fault() -> None:
    async with serving() as server, pooling(Address(server.host, server.port, True, "")) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.reader.read(1)
        peer.reset()
        verdict, reason = (await call.ended()).outcome
        assert verdict == "fault"
        assert "Connection reset" in reason


# IPv6.


def _ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _ipv6(), reason="this machine has no IPv6 loopback address")
@on_each_loop
async def test_an_ipv6_address_is_served() -> None:
    async with serving("::1") as server, pooling(Address.of(f"http://[::1]:{server.port}/v1")) as pool:
        await served(pool, server)


# The limit of connections.


@on_each_loop
async def test_at_the_limit_calls_wait_their_turn() -> None:
    async with serving() as server, pooling(server, limit=1) as pool:
        calls = [Call.to(pool) for _ in range(3)]
        peer = await server.accept()
        await until(lambda: pool.busy == 1)
        for index, call in enumerate(calls):
            assert (pool.busy, pool.waiting) == (1, 2 - index)
            await peer.answer(whole(b'{"n":%d,"choices":[{"text":"x"}]}' % index))
            assert (await call.ended()).outcome == SERVED
            assert call.body == b'{"n":%d,"choices":[{"text":"x"}]}' % index
        assert (server.accepted, pool.opened) == (1, 1)


@on_each_loop
async def test_at_the_limit_a_closed_connection_makes_room_for_the_next() -> None:
    async with serving() as server, pooling(server, limit=1) as pool:
        calls = [Call.to(pool) for _ in range(3)]
        for call in calls:
            await (await server.accept()).answer(whole(JSON, 200, b"connection: close"))
            assert (await call.ended()).outcome == SERVED
        assert server.accepted == 3


@on_each_loop
async def test_at_the_limit_a_call_waits_for_a_bounded_time() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, limit=1) as pool:
        first = Call.to(pool)
        peer = await server.accept()
        await peer.request()
        second = Call.to(pool)
        clock.forward(1.0)
        third = Call.to(pool)
        clock.forward(MAX_WAIT - 1.1)
        assert (pool.waiting, second.outcome, third.outcome) == (2, ("running", ""), ("running", ""))
        clock.forward(0.2)
        assert second.outcome == ("busy", "no free connection within 5 s")
        assert (pool.waiting, second.news_count, third.news_count) == (1, 1, 0)
        clock.forward(1.0)
        assert third.outcome[0] == "busy"
        assert pool.waiting == 0
        peer.send(whole())
        assert (await first.ended()).outcome == SERVED
        assert pool.idle == 1


@on_each_loop
async def test_a_waiting_call_that_was_closed_is_skipped() -> None:
    async with serving() as server, pooling(server, limit=1) as pool:
        first, second, third = (Call.to(pool) for _ in range(3))
        peer = await server.accept()
        second.exchange.close()
        assert pool.waiting == (1 if pool.busy else 2)
        await peer.answer(whole())
        await first.ended()
        await peer.answer(whole())
        assert (await third.ended()).outcome == SERVED
        assert (second.news_count, second.outcome) == (0, ("running", ""))
        assert (pool.idle, pool.waiting) == (1, 0)


@on_each_loop
async def test_waiting_calls_that_were_all_closed_leave_nothing() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock, limit=1) as pool:
        calls = [Call.to(pool) for _ in range(20)]
        peer = await server.accept()
        await peer.request()
        for call in calls:
            call.exchange.close()
        await peer.left()
        clock.forward(MAX_WAIT)
        await settled(lambda: (pool.busy, pool.opening))
        assert (pool.waiting, pool.busy, pool.opening, len(pool._waiting)) == (0, 0, 0, 0)
        assert [call.news_count for call in calls] == [0] * 20


@on_each_loop
async def test_a_connection_opened_for_a_closed_call_serves_others() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        call.exchange.close()
        await until(lambda: pool.idle == 1)
        assert call.news_count == 0
        assert (await server.accept()).reader.at_eof() is False
        await served(pool, server, server.peers[0])
        assert server.accepted == 1


@on_each_loop
async def test_a_waiting_call_gets_the_first_free_connection() -> None:
    async with serving() as server, pooling(server, limit=2) as pool:
        first, second, third = (Call.to(pool) for _ in range(3))
        peers = [await server.accept(), await server.accept()]
        await peers[1].answer(whole(b'"second"'))
        await second.ended()
        await peers[1].answer(whole(b'"third"'))
        await third.ended()
        await peers[0].answer(whole(b'"first"'))
        await first.ended()
        assert [call.body for call in (first, second, third)] == [b'"first"', b'"second"', b'"third"']


# The end of a pool.


@on_each_loop
async def test_a_closed_pool_closes_idle_connections_and_lets_busy_ones_end() -> None:
    async with serving() as server:
        clock = Clock()
        pool = Pool("there", Address(server.host, server.port, False, ""), clock, min_idle=2)
        pool.start()
        await until(lambda: pool.idle == 2)
        call = Call.to(pool)
        await until(lambda: pool.idle == 2)
        pool.close()
        used = next(peer for peer in server.peers if peer.reader._buffer)  # type: ignore[attr-defined]
        for peer in server.peers:
            if peer is not used:
                await peer.left()
        assert pool.busy == 1
        await used.answer(SSE, chunk(STREAM), LAST)
        assert (await call.ended()).outcome == SERVED
        await used.left()
        await until(lambda: pool.busy == 0)
        assert (pool.idle, pool.opening, server.accepted, clock.set) == (0, 0, 3, 0)


@on_each_loop
async def test_a_pool_closed_while_it_opens_connections_leaves_no_task() -> None:
    async with serving() as server:
        scheduler = LoopScheduler(asyncio.get_running_loop())
        pool = Pool("there", Address(server.host, server.port, False, ""), scheduler, min_idle=5)
        pool.start()
        assert pool.opening == 5
        pool.close()
        await until(lambda: pool.opening == 0)
        assert (pool.idle, pool.busy) == (0, 0)


@on_each_loop
async def test_calls_waiting_when_the_pool_is_closed_fail() -> None:
    async with serving() as server, pooling(server, limit=1) as pool:
        first, second = Call.to(pool), Call.to(pool)
        peer = await server.accept()
        await peer.request()
        pool.close()
        assert second.outcome[0] == "fault"
        assert (second.news_count, pool.waiting) == (1, 0)
        peer.send(whole())
        assert (await first.ended()).outcome == SERVED


@on_each_loop
async def test_a_call_to_a_closed_pool_fails_in_the_next_turn() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock) as pool:
        pool.close()
        call, left = Call.to(pool), Call.to(pool)
        left.exchange.close()
        assert (call.news_count, call.outcome) == (0, ("running", ""))
        clock.forward(0.0)
        assert (call.news_count, call.outcome) == (1, ("fault", "the endpoint was removed"))
        assert (left.news_count, pool.waiting, pool.opening, clock.set) == (0, 0, 0, 0)


@on_each_loop
async def test_a_request_is_not_sent_again_by_a_closed_pool() -> None:
    clock = Clock()
    async with serving() as server, pooling(server, clock) as pool:
        peer = await served(pool, server)
        call = Call.to(pool)
        pool.close()
        peer.finish()
        await until(lambda: clock.set)
        clock.forward(0.0)
        assert (call.news_count, call.outcome) == (1, ("fault", "the endpoint was removed"))
        assert (pool.waiting, pool.opening, server.accepted) == (0, 0, 1)


@on_each_loop
async def test_one_context_serves_all_pools(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = tls_context()
    monkeypatch.delattr("router.upstream.pool.tls_context")
    async with serving_tls(Shown(authority, "localhost")) as (server, address):
        for _ in range(2):
            async with pooling(address, tls=tls) as pool:
                await served(pool, server)
