"""Opens connections to a name's addresses: happy eyeballs (RFC 8305).

The next address is tried as soon as one fails, and after NEXT seconds without an answer; the families alternate. An
address that failed or was late is tried last for a while. Good addresses take turns, so that each instance behind a
name gets connections. The timeout covers the look-up, all addresses, and TLS.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from router.scheduler import Scheduler
from router.upstream.resolver import Resolver, Unresolved
from router.upstream.tls import Trust

NEXT = 0.25  # seconds after which the next address is tried too: RFC 8305 §5
LAST_FOR = 60.0  # seconds for which an address that failed or was late is tried last
# A family that this machine cannot use says less than another address's refusal.
_NO_ROUTE = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EHOSTUNREACH}

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Address(NamedTuple):
    """The address of an endpoint, from its URL."""

    host: str
    port: int
    tls: bool
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The value of the Host header: IPv6 in brackets, without the scheme's default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class NoConnection(Exception):
    """No connection could be opened; the text says why, as clients may read it."""


class Dialer:
    """Opens connections for one endpoint, and remembers which addresses answer."""

    def __init__(self, resolver: Resolver, scheduler: Scheduler, timeout: float, tls: ssl.SSLContext | None) -> None:
        self._resolver, self._scheduler, self._now = resolver, scheduler, scheduler.now
        self._timeout, self._tls = timeout, tls
        self._bad: dict[str, float] = {}  # addresses that failed or were late, and until when they are tried last
        self._family = 0  # of the last address that answered
        self._turn = 0

    async def open(self, address: Address, factory: Callable[[], P]) -> P:
        """Open a connection with TLS where the address says so. Raises `NoConnection`."""
        try:
            async with asyncio.timeout(self._timeout / self._scheduler.speed):
                peers = self._order(await self._resolver.resolve(address.host))
                if len(peers) == 1:
                    return await self._connect(address, factory, peers[0])
                return await self._adopt(address, factory, *await self._race(peers, address.port))
        except TimeoutError:
            raise NoConnection(f"no connection within {self._timeout:g} s") from None
        except (OSError, UnicodeError) as error:
            raise NoConnection(f"no connection: {_reason(error)}") from None

    async def _connect(self, address: Address, factory: Callable[[], P], peer: str) -> P:
        """Connect to a name's only address."""
        tls: dict[str, Any] = {"ssl": self._tls, "server_hostname": address.host} if address.tls else {}
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(factory, peer, address.port, **tls)
        except BaseException:
            self._bad[peer] = self._now() + LAST_FOR
            raise
        return protocol

    async def _adopt(self, address: Address, factory: Callable[[], P], peer: str, winner: _Racer) -> P:
        """Hand the connection that has won a race over to its protocol, after TLS where that is needed.

        A race of plain sockets would be simpler, but uvloop closes the descriptor of a given socket twice if its
        connection is lost at once.
        """
        transport, protocol = winner.transport, factory()
        try:
            if address.tls and self._tls is not None:
                loop = asyncio.get_running_loop()
                upgraded = await loop.start_tls(transport, protocol, self._tls, server_hostname=address.host)
                if upgraded is None:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                transport = upgraded
            else:
                transport.set_protocol(protocol)
            if transport.is_closing():
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        except BaseException:
            self._bad[peer] = self._now() + LAST_FOR
            transport.abort()
            raise
        self._family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        protocol.connection_made(transport)
        return protocol

    def _order(self, addresses: Sequence[str]) -> Sequence[str]:
        """Families alternate, the one that last answered first; within a family by turns; bad addresses last."""
        if self._bad:
            now = self._now()
            self._bad = {peer: until for peer, until in self._bad.items() if until > now and peer in addresses}
        if len(addresses) == 1:
            return addresses
        turn = self._turn
        self._turn += 1
        families = [[peer for peer in addresses if (":" in peer) is six] for six in (True, False)]
        if self._family == socket.AF_INET or (not self._family and ":" not in addresses[0]):
            families.reverse()
        turned = [peers[turn % len(peers) :] + peers[: turn % len(peers)] for peers in families if peers]
        alternating = [peer for peer in chain.from_iterable(zip_longest(*turned)) if peer is not None]
        return sorted(alternating, key=lambda peer: peer in self._bad)

    async def _race(self, peers: Sequence[str], port: int) -> tuple[str, _Racer]:
        """Try each address NEXT seconds after the one before it, or once all before it have failed."""
        loop, waiting = asyncio.get_running_loop(), list(reversed(peers))
        attempts: dict[asyncio.Task[_Racer], str] = {}  # those that run, in the order of their start
        errors: list[OSError] = []
        try:
            while waiting or attempts:
                if waiting:
                    peer = waiting.pop()
                    attempts[loop.create_task(_connected(peer, port))] = peer
                done, _ = await asyncio.wait(
                    attempts, timeout=NEXT if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in [task for task in attempts if task in done]:
                    error = task.exception()
                    if error is None:
                        return self._won(attempts, task), task.result()
                    self._bad[attempts.pop(task)] = self._now() + LAST_FOR
                    if not isinstance(error, OSError):
                        raise error
                    errors.append(error)
            raise next((error for error in reversed(errors) if error.errno not in _NO_ROUTE), errors[-1])
        finally:
            for task in attempts:
                task.cancel()
                task.add_done_callback(_discard)

    def _won(self, attempts: dict[asyncio.Task[_Racer], str], winner: asyncio.Task[_Racer]) -> str:
        """Return the winner's address; attempts that began before it and have not answered are late."""
        for task, peer in attempts.items():
            if task is winner:
                break
            self._bad[peer] = self._now() + LAST_FOR
        peer = attempts.pop(winner)
        self._bad.pop(peer, None)
        return peer


class _Racer(asyncio.Protocol):
    """A connection in a race; a server that speaks first is cut off."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.abort()


async def _connected(peer: str, port: int) -> _Racer:
    return (await asyncio.get_running_loop().create_connection(_Racer, peer, port))[1]


def _discard(task: asyncio.Task[_Racer]) -> None:
    """Close the connection of an attempt that was not needed."""
    if not task.cancelled() and task.exception() is None:
        task.result().transport.abort()


def tls_context() -> ssl.SSLContext:
    """A context with the system's roots (SSL_CERT_FILE names others), read again when they change; HTTP/1.1 only."""
    return Trust()


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "the host name is not valid"
    if isinstance(error, Unresolved):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted ({error.verify_message})"
    if error.errno and not isinstance(error, (ssl.SSLError, socket.gaierror)):
        return os.strerror(error.errno)  # without the address, which asyncio puts into its own message
    return error.strerror or str(error) or type(error).__name__
