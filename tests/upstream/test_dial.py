"""From a name to a connection: which address is tried when, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trustme

from router.scheduler import Scheduler
from router.upstream import dial as module
from router.upstream.dial import LAST_FOR, Address, Dialer, NoConnection
from router.upstream.resolver import Found, Resolver, Unresolved
from tests.upstream.servers import Clock, Server, listening, on_each_loop, on_uvloop, unused_port

DEAD, WELL, OTHER = "127.0.0.1", "127.0.0.2", "127.0.0.3"


def dialer(*addresses: str, scheduler: Scheduler | None = None, timeout: float = 5.0) -> Dialer:
    async def look_up(host: str) -> Found:
        if not addresses:
            raise Unresolved("no name server has told the address")
        return Found(addresses, 60.0)

    scheduler = scheduler or Clock()
    return Dialer(Resolver(look_up, scheduler.now), scheduler, timeout, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


class Opened(asyncio.Protocol):
    """A connection that is closed at once; `peer` is the address that it went to."""

    def __init__(self) -> None:
        self.peer, self.closed = "", asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.peer = transport.get_extra_info("peername")[0]
        transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()


async def opened(dialer: Dialer, port: int, *, tls: bool = False) -> str:
    connection = await dialer.open(Address("there.test", port, tls, ""), Opened)
    await connection.closed.wait()
    return connection.peer


@contextmanager
def dead(host: str, port: int = 0) -> Iterator[int]:
    """A listener whose queue is full: it does not answer. Yields its port."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind((host, port))
        full.listen(0)
        for _ in range(3):
            one = stack.enter_context(socket.socket(full.family))
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield full.getsockname()[1]


def at(host: str, port: int) -> Server:
    server = Server()
    server.host, server.port = host, port
    return server


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEXT", 0.02)


@pytest.fixture
def _never(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next address is not tried for being late, so that only a failure can bring its turn."""
    monkeypatch.setattr(module, "NEXT", 1000.0)


@pytest.mark.usefixtures("_soon")
@on_each_loop
async def test_the_next_address_is_tried_while_the_first_does_not_answer() -> None:
    with dead(DEAD) as port:
        async with listening(at(WELL, port), WELL, port=port):
            assert await opened(dialer(DEAD, WELL), port) == WELL


@on_uvloop
async def test_an_address_that_was_late_is_tried_last_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    with dead(DEAD) as port:
        async with listening(at(WELL, port), WELL, port=port) as server:
            dialing = dialer(DEAD, WELL, scheduler=clock)
            monkeypatch.setattr(module, "NEXT", 0.02)
            await opened(dialing, port)
            monkeypatch.setattr(module, "NEXT", 1000.0)
            for _ in range(4):
                assert await opened(dialing, port) == WELL
            clock.forward(LAST_FOR)
            assert set(map(tuple, [dialing._order((DEAD, WELL)), dialing._order((DEAD, WELL))])) == {
                (DEAD, WELL),
                (WELL, DEAD),
            }
            assert server.accepted == 5


@pytest.mark.usefixtures("_never")
@on_each_loop
async def test_the_next_address_is_tried_at_once_when_one_refuses() -> None:
    async with listening(Server(), WELL) as server:
        dialing = dialer(DEAD, WELL)
        for _ in range(3):
            assert await opened(dialing, server.port) == WELL


@pytest.mark.usefixtures("_soon")
@on_uvloop
async def test_a_dead_ipv6_address_does_not_stop_an_ipv4_one() -> None:
    try:
        with dead("::1") as port:
            async with listening(at(DEAD, port), DEAD, port=port):
                dialing = dialer("::1", DEAD)
                assert await opened(dialing, port) == DEAD
                assert dialing._order(("::1", "::2", DEAD)) == [DEAD, "::2", "::1"]
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")


def test_the_families_alternate_and_good_addresses_take_turns() -> None:
    dialing = dialer("unused")
    addresses = ("::1", "::2", "::3", "10.0.0.1", "10.0.0.2")
    assert dialing._order(addresses) == ["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"]
    assert dialing._order(addresses) == ["::2", "10.0.0.2", "::3", "10.0.0.1", "::1"]
    assert dialing._order(("10.0.0.1", "::1")) == ["10.0.0.1", "::1"]
    dialing._family = socket.AF_INET
    assert dialing._order(addresses)[0] == "10.0.0.2"
    dialing._bad = {"10.0.0.1": 9e9, "::1": 9e9}
    assert dialing._order(addresses)[-2:] == ["10.0.0.1", "::1"]


@on_uvloop
async def test_all_instances_behind_a_name_get_connections() -> None:
    async with listening(Server(), DEAD) as first, listening(at(WELL, first.port), WELL, port=first.port) as second:
        dialing = dialer(DEAD, WELL)
        for _ in range(6):
            await opened(dialing, first.port)
        assert (first.accepted, second.accepted) == (3, 3)


@pytest.mark.usefixtures("_soon")
@on_each_loop
async def test_the_timeout_covers_all_addresses_together() -> None:
    late = pytest.raises(NoConnection, match=r"^no connection within 0\.2 s$")
    with dead(DEAD) as port, dead(WELL, port), dead(OTHER, port), late:
        await opened(dialer(DEAD, WELL, OTHER, timeout=0.2), port)


@pytest.mark.usefixtures("_never")
@on_each_loop
async def test_when_all_addresses_refuse_the_reason_is_told() -> None:
    port = unused_port()
    with pytest.raises(NoConnection, match=r"^no connection: Connection refused$"):
        await opened(dialer(DEAD, WELL, "::1"), port)


@on_uvloop
async def test_a_name_without_an_address_tells_why() -> None:
    with pytest.raises(NoConnection, match=r"^no connection: no name server has told the address$"):
        await opened(dialer(), 80)


@on_uvloop
async def test_an_address_whose_tls_fails_is_tried_last() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("there.test").configure_cert(context)
    async with listening(Server(), DEAD, context) as first:
        dialing = dialer(DEAD, WELL)
        with pytest.raises(NoConnection, match=r"the certificate was not accepted|Connection refused"):
            await opened(dialing, first.port, tls=True)
        assert DEAD in dialing._bad
