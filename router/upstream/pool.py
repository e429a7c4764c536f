"""The connection pool of one endpoint: connections are opened ahead of need, and closed before the server closes them.

The connection that was used last is taken first, so that surplus connections expire. How long a server keeps an unused
connection is learned from its Keep-Alive header, and from two unused connections that it closed at the same age (two
closed at the same moment only show a restart). If all are in use and no more may be opened, a request waits, for at
most MAX_WAIT.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from router.core.verdict import Verdict
from router.scheduler import Scheduler, Timer
from router.upstream.exchange import Exchange, Headers, Request
from router.upstream.http1 import MAX_OVERHEAD, Connection

MARGIN = 0.8  # the share of a server's idle limit that is used: 4 s of uvicorn's 5
MIN_IDLE_LIMIT = 0.5  # seconds
SAME_AGE = 0.1  # two ages that differ by a smaller share show a server's idle limit
SAME_MOMENT = 0.1  # seconds; connections closed within them were closed together
MAX_WAIT = 5.0  # seconds that a request waits for a connection if `limit` are in use
REMOVED = "the endpoint was removed"
# Seconds between tries to open a connection ahead of need after a failure; each is twice the last.
FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0


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


class _Waiter(NamedTuple):
    """A request without a connection yet, and the wire of its exchange until then."""

    request: Request
    exchange: Exchange
    until: float

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        """The exchange was given up; the pool finds it without a listener and skips it."""


class Pool:
    """The connections of one endpoint.

    For /metrics: `idle`, `busy`, `opening`, `waiting` are current, `opened`, `reused`, `resent` count since the start.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        scheduler: Scheduler,
        *,
        min_idle: int = 2,
        limit: int = 200,
        idle_limit: float = 90.0,
        learn: bool = True,
        keepalive: float = 60.0,
        connect_timeout: float = 5.0,
        max_overhead: int = MAX_OVERHEAD,
        tls: ssl.SSLContext | None = None,  # shared by all pools: reading the system's roots takes 45 ms
    ) -> None:
        self.name, self.address, self.keepalive, self.max_overhead = name, address, keepalive, max_overhead
        self.now, self._scheduler, self._min_idle, self._limit = scheduler.now, scheduler, min_idle, limit
        self.idle_limit, self._learn, self._connect_timeout = idle_limit, learn, connect_timeout
        self._tls = (tls or tls_context()) if address.tls else None
        self._all: set[Connection] = set()
        self._idle: deque[Connection] = deque()  # the longest unused one first
        self._waiting: deque[_Waiter] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False
        self._last_closing: tuple[float, float] | None = None  # by the server: the age, and when
        self._pause, self._open_from = 0.0, 0.0
        self._timer = Timer(scheduler, self._tick)
        self.opened = self.reused = self.resent = 0

    def __repr__(self) -> str:
        return f"<Pool {self.name} {self.idle} idle, {self.busy} busy, {self.opening} opening, {self.waiting} waiting>"

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        return len(self._all) - len(self._idle)

    @property
    def opening(self) -> int:
        return len(self._opening)

    @property
    def waiting(self) -> int:
        return sum(waiter.exchange.listener is not None for waiter in self._waiting)

    # For attempts.

    def begin(self, request: Request, exchange: Exchange) -> None:
        """Send at once if a connection is idle, else as soon as there is one. Never calls back before it returns."""
        now = self.now()
        connection = self._warm(now)
        if connection is not None:
            self.reused += 1
            connection.send(request, exchange, now)
        else:
            self._wait(request, exchange)
        if len(self._idle) < self._min_idle:
            self._top_up()

    def resend(self, request: Request, exchange: Exchange) -> None:
        """Send a request again, on a new connection: the reused one had died before a byte of the answer came."""
        if exchange.listener is None:
            return
        self.resent += 1
        exchange.resent = True
        self._wait(request, exchange, first=True)
        self._top_up()

    # For connections (an Owner).

    def released(self, connection: Connection) -> None:
        now = self.now()
        connection.idle_since = now
        if self._closed:
            connection.close()
            return
        if connection.served:
            self._pause = self._open_from = 0.0
        if self._waiting and (waiter := self._next_waiter()) is not None:
            connection.send(waiter.request, waiter.exchange, now)
            return
        connection.rested = True
        self._idle.append(connection)
        if len(self._idle) == 1:
            self._timer.at(now + self.idle_limit)

    def lost(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
            self._closed_unused(connection, self.now() - connection.idle_since)
        if not self._closed:
            self._top_up()

    def heed(self, headers: Headers) -> None:
        """Adopt the idle limit from a Keep-Alive header."""
        for name, value in headers:
            if name == b"keep-alive" and self._learn:
                for part in value.split(b","):
                    key, _, seconds = part.strip().partition(b"=")
                    if key.strip().lower() == b"timeout" and seconds.strip().isdigit():
                        self._limit_idle(float(seconds) * MARGIN)

    # Start and end.

    def start(self) -> None:
        """Open the first connections."""
        self._top_up()

    def close(self) -> None:
        """Open no more connections; those in use close with their exchanges."""
        self._closed = True
        self._timer.close()
        for task in tuple(self._opening):
            task.cancel()
        for connection in tuple(self._idle):
            connection.close()
        self._idle.clear()
        while (waiter := self._next_waiter()) is not None:
            _turn_away(waiter, REMOVED)

    # Inside.

    def _warm(self, now: float) -> Connection | None:
        """The connection that was used last, if it is younger than the idle limit and still open."""
        oldest = now - self.idle_limit
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    def _wait(self, request: Request, exchange: Exchange, *, first: bool = False) -> None:
        """Let a request wait for a connection, `first` before all others, and open one for it if allowed."""
        now = self.now()
        waiter = _Waiter(request, exchange, now + MAX_WAIT)
        exchange.wire = waiter
        if self._closed:
            self._scheduler.call_at(now, partial(_turn_away, waiter, REMOVED))
            return
        if first:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        if len(self._opening) < len(self._waiting):
            self._open()
        self._timer.at(now + MAX_WAIT)

    def _next_waiter(self) -> _Waiter | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if waiter.exchange.listener is not None:
                return waiter
        return None

    def _top_up(self) -> None:
        """Keep `min_idle` connections beside those for waiting requests; wait after a failure."""
        if self._closed or self.now() < self._open_from:
            return
        while len(self._idle) + len(self._opening) < self._min_idle + len(self._waiting):
            if not self._open():
                return

    def _open(self) -> bool:
        if self._closed or len(self._all) + len(self._opening) >= self._limit:
            return False
        task = asyncio.get_running_loop().create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _connect(self) -> None:
        reason = ""
        try:
            async with asyncio.timeout(self._connect_timeout / self._scheduler.speed):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self),
                    self.address.host,
                    self.address.port,
                    ssl=self._tls,
                    server_hostname=self.address.host if self._tls else None,
                )
        except TimeoutError:
            reason = f"no connection within {self._connect_timeout:g} s"
        except (OSError, UnicodeError) as error:
            reason = f"no connection: {_reason(error)}"
        task = asyncio.current_task()
        if task is not None:
            self._opening.discard(task)
        if reason:
            self._refused(reason)
        else:
            self._opened(connection)

    def _opened(self, connection: Connection) -> None:
        self.opened += 1
        self._all.add(connection)
        self.released(connection)

    def _refused(self, reason: str) -> None:
        """Fail one waiting request, if there is one, and pause opening ahead of need."""
        waiter = self._next_waiter()
        self._back_off()
        if waiter is not None:
            _turn_away(waiter, reason)

    def _back_off(self) -> None:
        self._pause = min(MAX_PAUSE, self._pause * 2 or FIRST_PAUSE)
        self._open_from = self.now() + self._pause
        self._timer.at(self._open_from)

    def _tick(self) -> None:
        """The timer rang: a wait is over, a connection too old, or a pause over."""
        if self._closed:
            return
        now = self.now()
        while self._waiting and self._expired(self._waiting[0], now):
            _turn_away(self._waiting.popleft(), f"no free connection within {MAX_WAIT:g} s", Verdict.BUSY)
        while self._idle and self._idle[0].idle_since + self.idle_limit <= now:
            self._idle.popleft().close()
        self._top_up()
        if len(self._waiting) > len(self._opening):
            self._timer.at(self._waiting[0].until)
        if self._idle:
            self._timer.at(self._idle[0].idle_since + self.idle_limit)
        if now < self._open_from:
            self._timer.at(self._open_from)

    def _expired(self, waiter: _Waiter, now: float) -> bool:
        """True if a request was given up, or has waited too long. While a connection is being opened for each waiting
        request, none expires: the opening has a timeout of its own.
        """
        if waiter.exchange.listener is None:
            return True
        return waiter.until <= now and len(self._waiting) > len(self._opening)

    def _closed_unused(self, connection: Connection, age: float) -> None:
        """The server closed a connection that was unused for `age` seconds."""
        if connection.served or age >= FIRST_PAUSE:
            self._pause = 0.0
            self._learn_from(age)
        else:
            self._back_off()  # the server accepts connections and drops them

    def _learn_from(self, age: float) -> None:
        """Adopt an idle limit if the server closed the last two unused connections at about the same age."""
        now = self.now()
        last, self._last_closing = self._last_closing, (age, now)
        if not self._learn or last is None or now - last[1] < SAME_MOMENT:
            return
        if abs(age - last[0]) <= SAME_AGE * max(age, last[0]):
            self._limit_idle(min(age, last[0]) * MARGIN)

    def _limit_idle(self, seconds: float) -> None:
        self.idle_limit = min(self.idle_limit, max(MIN_IDLE_LIMIT, seconds))
        if self._idle:
            self._timer.at(self._idle[0].idle_since + self.idle_limit)


def tls_context() -> ssl.SSLContext:
    """A context with the system's roots (or those in SSL_CERT_FILE), for HTTP/1.1 only."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _turn_away(waiter: _Waiter, reason: str, verdict: Verdict = Verdict.FAULT) -> None:
    waiter.exchange.wire = None
    waiter.exchange.fail(reason, verdict)
    waiter.exchange.flush()


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "the host name is not valid"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted ({error.verify_message})"
    if error.errno and not isinstance(error, (ssl.SSLError, socket.gaierror)):
        return os.strerror(error.errno)  # without the address, which asyncio puts into its own message
    return error.strerror or str(error) or type(error).__name__
