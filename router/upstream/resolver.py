"""Addresses of names, for pools, probes and signals together: at most one look-up per name at a time.

    FRESH ──its TTL is over──► STALE: looked up again; if that is late or fails, the last good addresses are used
      ▲                          │
      └────────an answer─────────┘       "there is no such name" is an answer too: it removes the addresses

`Dns` asks the name servers by itself, without a thread, and learns TTLs. `System` asks getaddrinfo, in a thread per
name: the event loop's own threads are few, and two names without an answer would stop all look-ups.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import dns.asyncresolver
import dns.exception
import dns.resolver

TIMEOUT = 4.5  # seconds for a look-up, all name servers together: less than a connection may take, to tell the reason
# Seconds without an answer after which the next name server is asked too, and again after twice as many: a datagram may
# be lost. A question costs 2 ms of processor time.
ASK_AGAIN = 1.0
LATE = 0.3  # seconds to wait for a new answer where an older one is known
OTHER_FAMILY = 0.05  # seconds to wait for the other family's addresses: RFC 8305 §3
MIN_TTL, MAX_TTL = 1.0, 60.0  # seconds; the longest bounds how late a new instance is found where the TTL is a day
FILE_TTL = 5.0  # seconds, for names in /etc/hosts
SYSTEM_TTL = 30.0  # seconds: getaddrinfo tells none
PARTIAL_TTL = 5.0  # seconds, where one family's answer was late
FAILED_TTL = 1.0  # seconds until a name that could not be looked up is looked up again

log = logging.getLogger(__name__)


class Unresolved(OSError):
    """A name has no known address; the text says why, without the name: clients may read it."""


class NoSuchName(Unresolved):
    """DNS has answered that the name does not exist, or has no address."""


class Found(NamedTuple):
    """The addresses of a name, and the seconds for which they are valid."""

    addresses: tuple[str, ...]
    ttl: float


LookUp = Callable[[str], Awaitable[Found]]


@dataclass
class _Name:
    addresses: tuple[str, ...] = ()
    until: float = 0.0  # from when the name is looked up again
    error: str = ""  # why the last look-up failed; empty if it did not
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Resolver:
    """Remembers addresses for their TTL. `look_up` finds those of one name or raises `Unresolved`.

    For /metrics: `lookups` counts the look-ups by their result.
    """

    def __init__(self, look_up: LookUp, now: Callable[[], float]) -> None:
        self._look_up, self._now = look_up, now
        self.lookups = {"found": 0, "not_found": 0, "failed": 0}
        self._names: dict[str, _Name] = {}

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a name, at least one; an address is its own. Raises `Unresolved`."""
        literal = _literal(host)
        if literal:
            return (literal,)
        name = self._names.setdefault(host.lower(), _Name())
        if self._now() >= name.until:
            failed = bool(name.error)
            if name.task is None:
                name.task = asyncio.get_running_loop().create_task(self._refresh(host, name))
            if not (name.addresses and failed):  # after a failure, the last addresses serve while it is tried again
                await asyncio.wait((name.task,), timeout=LATE if name.addresses else None)
        if not name.addresses:
            raise Unresolved(name.error)
        return name.addresses

    def close(self) -> None:
        """End all look-ups."""
        for name in self._names.values():
            if name.task is not None:
                name.task.cancel()

    async def _refresh(self, host: str, name: _Name) -> None:
        """Look a name up. Never raises: a look-up may have no waiting caller."""
        was, failed, result = name.error, "the look-up was ended", "failed"
        try:
            found = await self._look_up(host)
            failed, result = "", "found"
            name.addresses = found.addresses
            name.until = self._now() + min(max(found.ttl, MIN_TTL), MAX_TTL)
        except Unresolved as error:
            failed = str(error)
            name.until = self._now() + FAILED_TTL
            if isinstance(error, NoSuchName):
                name.addresses, result = (), "not_found"
        except Exception as error:
            log.exception("the look-up of %s failed", host)
            failed = f"the look-up of the host name failed ({type(error).__name__})"
            name.until = self._now() + FAILED_TTL
        finally:
            name.error, name.task = failed, None
            self.lookups[result] += 1
        if failed and not was:
            log.warning(
                "host name %s: %s%s", host, failed, "; its last known addresses are used" if name.addresses else ""
            )
        elif was and not failed:
            log.info("host name %s: resolved again", host)


class Dns:
    """Look-ups by DNS. /etc/hosts comes first; resolv.conf tells name servers and search domains, and may change.

    `nameservers` and `port` replace those of resolv.conf.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        port: int = 53,
        *,
        hosts: Path = Path("/etc/hosts"),
        resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        self._nameservers, self._port = tuple(nameservers), port
        self._hosts, self._conf = _File(hosts), _File(resolv_conf)
        self._table: dict[str, tuple[str, ...]] = {}
        self._resolver = dns.asyncresolver.Resolver(configure=False)

    async def __call__(self, host: str) -> Found:
        self._read_files()
        name = host.lower().rstrip(".")
        if name in self._table:
            return Found(self._table[name], FILE_TTL)
        top = name.rpartition(".")[2]
        if top == "localhost":  # RFC 6761 §6.3
            return Found(("127.0.0.1", "::1"), FILE_TTL)
        if top == "invalid":  # RFC 6761 §6.4
            raise NoSuchName("the host name does not exist")
        return await self._both(host)

    def _read_files(self) -> None:
        if self._hosts.changed():
            self._table = _hosts(self._hosts.text)
        if self._conf.changed():
            resolver = dns.asyncresolver.Resolver(configure=False)
            if not self._nameservers:
                try:
                    resolver.read_resolv_conf(str(self._conf.path))
                except dns.resolver.NoResolverConfiguration:
                    resolver.nameservers = ["127.0.0.1"]  # resolv.conf(5): the default
            else:
                resolver.nameservers = list(self._nameservers)
            resolver.port = self._port
            resolver.timeout = resolver.lifetime = TIMEOUT  # `_ask` asks the others meanwhile
            self._resolver = resolver

    async def _both(self, host: str) -> Found:
        """Ask for the addresses of both families at once."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._ask(host, kind)) for kind in ("AAAA", "A")]
        try:
            done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if late:
                good = any(isinstance(task.result(), Found) for task in done)
                await asyncio.wait(tasks, timeout=OTHER_FAMILY if good else None)
            results = [task.result() for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
        found = [result for result in results if isinstance(result, Found)]
        if found:
            ttls = [result.ttl for result in found] + [PARTIAL_TTL] * (len(results) < len(tasks))
            return Found(tuple(address for result in found for address in result.addresses), min(ttls))
        errors = [result for result in results if isinstance(result, Unresolved)]
        # A family that DNS has no address of says nothing of the other, whose question may have failed.
        raise next((error for error in errors if not isinstance(error, NoSuchName)), errors[0])

    async def _ask(self, host: str, kind: str) -> Found | Unresolved:
        """Ask for one family. A name server that is silent is asked again, with the next one; the first answer counts.

        The result may be an error: asyncio complains of exceptions that are not looked at.
        """
        loop, started = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        asking: set[asyncio.Task[Found | Unresolved]] = set()
        last: Unresolved | None = None
        try:
            turn, until = 0, started
            while until < started + TIMEOUT:
                asking.add(loop.create_task(self._ask_once(host, kind, turn)))
                turn += 1
                until = started + min(ASK_AGAIN * (2**turn - 1), TIMEOUT)
                while asking and (left := until - loop.time()) > 0.0:
                    done, asking = await asyncio.wait(asking, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        result = task.result()
                        if isinstance(result, (Found, NoSuchName)):
                            return result
                        last = result
                if not asking and last is not None:
                    return last
            return last or Unresolved(f"DNS has not told the address within {TIMEOUT:g} s")
        finally:
            for task in asking:
                task.cancel()

    async def _ask_once(self, host: str, kind: str, turn: int) -> Found | Unresolved:
        resolver = self._resolver
        if turn and len(resolver.nameservers) > 1:
            turned = dns.asyncresolver.Resolver(configure=False)
            turned.domain, turned.search, turned.ndots = resolver.domain, resolver.search, resolver.ndots
            turned.port, turned.timeout, turned.lifetime = resolver.port, resolver.timeout, resolver.lifetime
            first = turn % len(resolver.nameservers)
            turned.nameservers = [*resolver.nameservers[first:], *resolver.nameservers[:first]]
            resolver = turned
        try:
            answer = await resolver.resolve(host, kind, search=True)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer) as error:
            what = "does not exist" if isinstance(error, dns.resolver.NXDOMAIN) else "has no address"
            return NoSuchName(f"the host name {what}")
        except dns.resolver.YXDOMAIN:
            return NoSuchName("the host name is too long")
        except dns.exception.Timeout:
            return Unresolved(f"DNS has not told the address within {TIMEOUT:g} s")
        except dns.resolver.NoNameservers:
            return Unresolved("no name server has told the address")
        except (dns.exception.DNSException, UnicodeError) as error:
            return NoSuchName(f"the host name is not valid ({type(error).__name__})")
        except OSError as error:
            return Unresolved(f"no name server was reached: {error.strerror or error}")
        return Found(tuple(record.address for record in answer), float(answer.chaining_result.minimum_ttl))


class System:
    """Look-ups by getaddrinfo, as the operating system is configured. A thread of its own serves each one."""

    async def __call__(self, host: str) -> Found:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str] | Unresolved] = loop.create_future()

        def settle(result: list[str] | Unresolved) -> None:
            if not future.done():
                future.set_result(result)

        def look_up() -> None:
            result = _getaddrinfo(host)
            try:
                loop.call_soon_threadsafe(settle, result)
            except RuntimeError:
                pass  # the loop has been closed meanwhile

        Thread(target=look_up, name=f"look-up of {host}", daemon=True).start()
        result = await future
        if isinstance(result, Unresolved):
            raise result
        return Found(tuple(result), SYSTEM_TTL)


def _getaddrinfo(host: str) -> list[str] | Unresolved:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        kind = NoSuchName if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else Unresolved
        return kind(f"the host name was not resolved: {error.strerror}")
    except UnicodeError:
        return NoSuchName("the host name is not valid")
    except OSError as error:
        return Unresolved(f"the host name was not resolved: {error.strerror or error}")
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _literal(host: str) -> str:
    """The address that a text is; empty if it is a name. `127.1` is one too, as everywhere in Unix."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if host[:1].isdigit() else ""
    except OSError:
        return ""


class _File:
    """A small file that is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, ""
        self._seen: object = ()

    def changed(self) -> bool:
        """True if the text is not the one of the last time."""
        try:
            stat = os.stat(self.path)
            seen: object = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except OSError:
            seen = None
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            self.text = ""
        return True


def _hosts(text: str) -> dict[str, tuple[str, ...]]:
    """The names in a hosts file, in lower case, with their addresses."""
    table: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        literal = _literal(address) if names else ""
        for name in names if literal else ():
            key = name.lower().rstrip(".")
            if literal not in table.get(key, ()):
                table[key] = (*table.get(key, ()), literal)
    return table
