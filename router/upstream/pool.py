"""The connection pool of one endpoint: connections are opened ahead of need, and closed before the server closes them.

The connection that was used last is taken first, so that surplus connections expire (`idle_limit.py`). A connection
retires by age and by number of answers, never within an exchange, and its successor is opened before where the pool is
kept warm: so the name is resolved again, and a new instance behind it gets traffic. If all are in use and no more may
be opened, a request waits, for at most MAX_WAIT.

`first_alone` is for servers that read only the first connection that they get, such as one with a single synchronous
worker: a second one is opened ahead only once the first has carried an answer, and those that have are taken first.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from functools import partial
from math import inf
from random import Random
from typing import NamedTuple

from router.core.verdict import Verdict
from router.scheduler import Scheduler, Timer
from router.turns import Turns
from router.upstream.dial import Address as Address
from router.upstream.dial import Dialer, NoConnection
from router.upstream.dial import tls_context as tls_context
from router.upstream.exchange import Exchange, Request
from router.upstream.http1 import MAX_OVERHEAD, MAX_SERVED, Connection
from router.upstream.idle_limit import MIN_TOLD, IdleLimit
from router.upstream.labels import Headers
from router.upstream.resolver import Resolver, System

MIN_IDLE_LIMIT = MIN_TOLD  # seconds
JITTER = 0.1  # share of a connection's age and number of answers, so that a pool's connections do not retire together
MAX_WAIT = 5.0  # seconds that a request waits for a connection if `limit` are in use
REMOVED = "the endpoint was removed"
# Seconds between tries to open a connection ahead of need after a failure; each is twice the last.
FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0


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

    For /metrics: `idle`, `busy`, `opening`, `waiting` are current, `opened`, `reused`, `resent` count since the start,
    `retired` counts by the reason for which the pool has closed connections.
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
        known: bool = False,
        max_age: float = 600.0,
        first_alone: bool = False,
        keepalive: float = 60.0,
        connect_timeout: float = 5.0,
        max_overhead: int = MAX_OVERHEAD,
        tls: ssl.SSLContext | None = None,  # shared by all pools: reading the system's roots takes 45 ms
        resolver: Resolver | None = None,  # shared by all pools
        rng: Random | None = None,
        turns: Turns | None = None,
    ) -> None:
        """`learn`: no idle limit is configured. `known`: this kind of server has one, so closings teach nothing."""
        self.turns = turns or Turns()
        self.name, self.address, self.keepalive, self.max_overhead = name, address, keepalive, max_overhead
        self.now, self._scheduler, self._min_idle, self._limit = scheduler.now, scheduler, min_idle, limit
        self._limits = IdleLimit(idle_limit, heed=learn, learn=learn and not known)
        self._max_age, self._rng = max_age, rng or Random()
        tls = (tls or tls_context()) if address.tls else None
        resolver = resolver or Resolver(System(), scheduler.now)
        self.dialer = Dialer(resolver, scheduler, connect_timeout, tls)
        self._all: set[Connection] = set()
        self._idle: deque[Connection] = deque()  # the longest unused one first; `first_alone`: before them the new ones
        self._waiting: deque[_Waiter] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False
        self._first_alone, self._proven = first_alone, not first_alone  # proven: a connection has carried an answer
        self._pause, self._open_from = 0.0, 0.0
        self._timer = Timer(scheduler, self._tick)
        self.opened = self.reused = self.resent = 0
        self.retired = {"age": 0, "answers": 0, "idle": 0}

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

    @property
    def idle_limit(self) -> float:
        """Seconds for which a connection may stay unused."""
        return self._limits.seconds

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

    def begin_beside(self, request: Request, exchange: Exchange) -> None:
        """Send a request of the router's own: as `begin`, but before waiting calls, beyond `limit`, and not counted."""
        now = self.now()
        connection = self._warm(now)
        if connection is not None:
            connection.send(request, exchange, now)
        else:
            self._wait(request, exchange, first=True, beyond=True)

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
        wanting = False  # another connection may have to be opened
        if connection.served:
            self._pause = self._open_from = 0.0
            if not self._proven:
                self._proven = wanting = True
            if now >= connection.retire_at or connection.served >= connection.max_served:
                connection.retire_at, wanting = now, True
                if self._idle or not self._min_idle:  # else once its successor is there
                    self._retire(connection)
                    return
        elif not self._proven or now >= connection.retire_at:
            wanting = True
        if self._waiting and (waiter := self._next_waiter()) is not None:
            connection.send(waiter.request, waiter.exchange, now)
            return
        connection.rested = True
        if self._first_alone and not connection.served:
            self._idle.appendleft(connection)
        else:
            self._idle.append(connection)
        if len(self._idle) == 1:
            self._timer.at(now + self._limits.seconds)
        if wanting:
            self._top_up()

    def lost(self, connection: Connection, *, crashed: bool = False) -> None:
        self._all.discard(connection)
        if crashed:
            self._limits.crashed(self.now())
        if connection in self._idle:
            self._idle.remove(connection)
            self._closed_unused(connection, self.now() - connection.idle_since)
        if not self._closed:
            self._top_up()

    def heed(self, headers: Headers) -> None:
        """Adopt the idle limit from a Keep-Alive header."""
        for name, value in headers:
            if name == b"keep-alive":
                for part in value.split(b","):
                    key, _, seconds = part.strip().partition(b"=")
                    if key.strip().lower() == b"timeout" and seconds.strip().isdigit():
                        self._limits.told(float(seconds))
                        self._watch_idle()

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
        oldest = now - self._limits.seconds
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.idle_since > oldest:
                return connection
            self.retired["idle"] += connection.open
            connection.close()
        return None

    def _wait(self, request: Request, exchange: Exchange, *, first: bool = False, beyond: bool = False) -> None:
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
            self._open(beyond=beyond)
        self._timer.at(now + MAX_WAIT)

    def _next_waiter(self) -> _Waiter | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if waiter.exchange.listener is not None:
                return waiter
        return None

    def _top_up(self) -> None:
        """Keep `min_idle` connections beside those for waiting requests; wait after a failure."""
        now = self.now()
        if self._closed or now < self._open_from:
            return
        want = self._min_idle if self._proven else min(self._min_idle, not self._all)
        retiring = sum(now >= connection.retire_at for connection in self._idle)
        while len(self._idle) - retiring + len(self._opening) < want + len(self._waiting):
            if not self._open():
                return

    def _open(self, *, beyond: bool = False) -> bool:
        if self._closed or (len(self._all) + len(self._opening) >= self._limit and not beyond):
            return False
        task = asyncio.get_running_loop().create_task(self._connect(beyond))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _connect(self, beyond: bool) -> None:
        connection, reason = None, ""
        try:
            connection = await self.dialer.open(self.address, lambda: Connection(self))
        except NoConnection as error:
            reason = str(error)
        task = asyncio.current_task()
        if task is not None:
            self._opening.discard(task)
        if connection is None:
            self._refused(reason)
        else:
            self._opened(connection, beyond=beyond)

    def _opened(self, connection: Connection, *, beyond: bool = False) -> None:
        now, uniform = self.now(), self._rng.uniform
        self.opened += 1
        self._all.add(connection)
        # One beyond the limit, for a request of the router's own, retires with its first answer.
        retires = beyond and len(self._all) > self._limit
        connection.max_served = 1 if retires else round(MAX_SERVED * uniform(1 - JITTER, 1 + JITTER))
        connection.retire_at = now if retires else now + self._max_age * uniform(1 - JITTER, 1 + JITTER)
        self._timer.at(connection.retire_at)
        self.released(connection)
        self._shed(now)

    def _refused(self, reason: str) -> None:
        """Fail one waiting request, if there is one, and pause opening ahead of need."""
        waiter = self._next_waiter()
        self._limits.crashed(self.now())
        self._proven = not self._first_alone  # the server may be another one when it is back
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
        self._expire(now)
        self._shed(now)
        self._top_up()
        if len(self._waiting) > len(self._opening):
            self._timer.at(self._waiting[0].until)
        self._watch_idle()
        retire_at = min((each.retire_at for each in self._all if each.retire_at > now), default=inf)
        if retire_at < inf:
            self._timer.at(retire_at)
        if now < self._open_from:
            self._timer.at(self._open_from)

    def _expire(self, now: float) -> None:
        """Close what was unused for as long as it may be."""
        oldest = now - self._limits.seconds
        for connection in [each for each in self._idle if each.idle_since <= oldest]:
            self._limits.outlived(now)
            self._idle.remove(connection)
            self.retired["idle"] += 1
            connection.close()

    def _shed(self, now: float) -> None:
        """Close idle connections that should retire, once there are others, or if there may be no others before."""
        full = len(self._all) + len(self._opening) >= self._limit
        for connection in [each for each in self._idle if each.retire_at <= now]:
            if len(self._idle) > self._min_idle or full:
                self._idle.remove(connection)
                self._retire(connection)

    def _retire(self, connection: Connection) -> None:
        """Close a connection that has carried enough answers, or is too old."""
        self.retired["answers" if connection.served >= connection.max_served else "age"] += 1
        connection.close()

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
            self._limits.closed(age, self.now())
            self._watch_idle()
        else:
            self._back_off()  # the server accepts connections and drops them

    def _watch_idle(self) -> None:
        """Set the timer for the connection that is unused for the longest."""
        if self._idle:
            self._timer.at(min(each.idle_since for each in self._idle) + self._limits.seconds)


def _turn_away(waiter: _Waiter, reason: str, verdict: Verdict = Verdict.FAULT) -> None:
    waiter.exchange.wire = None
    waiter.exchange.fail(reason, verdict)
    waiter.exchange.flush()
