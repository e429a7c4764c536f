"""Active health checks: one loop per server, so that an outage is found before calls run into it.

    health     GET /health beside the API           (vLLM; generates nothing)
    models     GET {base_url}/models                (costs nothing)
    chat       one token of a chat completion       (detects even a frozen engine; costs a token and a slot)
    connect    a TCP and TLS handshake

Probes use the pool of the server's calls, except `connect`, which opens a connection of its own and closes it. A
server's recovery, by a probe or by traffic, wakes the loop that reads its load (`recovered`).

The first probes begin at once, at most 32 at a time (`gate`). A probe that timed out while the router's own loop
was late is repeated, and not counted.

A probe's result counts for all models of the server that are served here; a chat is sent for each model. A model that
has served traffic since the last probe is skipped: evidence from traffic outranks a probe. A status below 500 means up,
and so does 501: a key may be allowed to chat and not to list models, and some servers have no such list. Only calls,
and probes by chat, decide about keys.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Any, cast

import msgspec

from router.config import EndpointConfig
from router.core.choice.table import Table
from router.core.endpoint.breaker import State
from router.core.endpoint.endpoint import Endpoint
from router.core.stream.scanner import Scanner
from router.dialects import DIALECTS
from router.ops.asking import Unanswered, ask, beside, prepared
from router.ops.gate import Gate
from router.ops.pause import Pause
from router.scheduler import Scheduler
from router.upstream.dial import NoConnection
from router.upstream.exchange import Request
from router.upstream.page import Page
from router.upstream.pool import Pool

MAX_ANSWER_BYTES = 1 << 20  # some lists of models are half as long
RECHECK = 2.0  # seconds between two probes of a server in trouble; not for chats, which cost it a slot
JITTER = 0.1  # share of the interval, so that the probes of many endpoints do not coincide

log = logging.getLogger(__name__)


class Prober:
    """Probes one server on behalf of some of its endpoints; `run` is the loop."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        config: EndpointConfig,
        pool: Pool,
        scheduler: Scheduler,
        rng: Random,
        recovered: Callable[[], None] = lambda: None,
        gate: Gate | None = None,
    ) -> None:
        """`gate` is shared by all probers of a process."""
        self._endpoints, self._config, self._pool = endpoints, config, pool
        self._now, self._speed, self._rng = scheduler.now, scheduler.speed, rng
        self._recovered, self._pause, self._gate = recovered, Pause(), gate or Gate(speed=scheduler.speed)
        self._timeout = config.probe.timeout / scheduler.speed  # seconds of the machine's time
        self._up = True  # all endpoints were up after the last turn
        self.kind = _kind(config)
        self._request = self._prepared()
        self._down: set[Endpoint] = set()  # logged as down

    def __repr__(self) -> str:
        return f"<Prober {self._config.name}: {self.kind} for {', '.join(e.model for e in self._endpoints)}>"

    @property
    def name(self) -> str:
        return self._config.name

    async def run(self) -> None:
        interval = self._config.probe.interval
        while self.kind != "off":
            self._look_for_recoveries()
            idle = [e for e in self._endpoints if self._now() - e.availability.served_at >= interval]
            if idle:
                self._note(idle, await self._probe_in_time())
            was, self._up = self._up, all(e.availability.health.up for e in self._endpoints)
            if self._up and not was:
                self._recovered()
            pause = self.pause * (1.0 + JITTER * self._rng.uniform(-1.0, 1.0))
            await self._pause.wait(pause / self._speed)

    def wake(self) -> None:
        """Probe now: a request of another loop has found no server."""
        if self.kind != "chat":
            self._pause.wake()

    @property
    def pause(self) -> float:
        """Seconds until the next probe; fewer for a server that missed a probe or has an open breaker, so that its
        recovery is noticed soon.
        """
        interval, now = self._config.probe.interval, self._now()
        trouble = any(
            e.availability.health.misses or e.availability.breaker.state(now) is not State.CLOSED
            for e in self._endpoints
        )
        return min(RECHECK, interval) if trouble and self.kind != "chat" else interval

    async def _probe_in_time(self) -> str:
        """Probe, again if the loop was late: a timeout is then the router's own, and says nothing about the server."""
        gate, timeout = self._gate, self._timeout
        while True:
            place = await gate.enter()
            behind, began = gate.behind, time.monotonic()
            try:
                down = await self.probe()
            finally:
                place.leave()
            if not down or not self._timed_out or not gate.excuses(behind, time.monotonic() - began, timeout):
                return down

    async def probe(self) -> str:
        """Probe once. Returns why the server is down, or an empty string if it is up."""
        self._timed_out = False
        try:
            return await _KINDS[self.kind](self)
        except TimeoutError:
            self._timed_out = True
            return f"no answer within {self._config.probe.timeout:g} s"
        except (Unanswered, NoConnection) as error:
            return str(error)

    def _note(self, endpoints: Sequence[Endpoint], down: str) -> None:
        for endpoint in endpoints:
            if endpoint.availability.probed(not down, self._now()):
                if down:
                    self._down.add(endpoint)
                    log.warning("endpoint %s (%s): up -> down: %s", endpoint.name, endpoint.model, down)
                else:
                    self._down.discard(endpoint)
                    log.info("endpoint %s (%s): down -> up", endpoint.name, endpoint.model)

    def _look_for_recoveries(self) -> None:
        """Log the endpoints that are up again because they have served a call since."""
        for endpoint in [endpoint for endpoint in self._down if endpoint.availability.health.up]:
            self._down.discard(endpoint)
            log.info("endpoint %s (%s): down -> up: it has served a call", endpoint.name, endpoint.model)

    def _prepared(self) -> Request:
        """The request of a probe; `connect` sends none."""
        config = self._config
        if self.kind != "chat":
            url = beside(config, "/health") if self.kind == "health" else f"{config.base_url}/models"
            return prepared("GET", url, config)
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "stream": True}
        body |= dict(config.params.force) | {"model": self._endpoints[0].model}
        url = f"{config.base_url}{DIALECTS[config.kind].paths['chat/completions']}"
        return prepared("POST", url, config, msgspec.json.encode(body))

    async def _get(self) -> str:
        return _down(await ask(self._pool, self._request, MAX_ANSWER_BYTES, self._timeout))

    async def _chat(self) -> str:
        scanner = Scanner()

        def enough(data: bytes) -> bool:
            scanner.feed(data)
            return scanner.first_token or scanner.error is not None

        page = await ask(self._pool, self._request, MAX_ANSWER_BYTES, self._timeout, enough)
        if page.status >= 400:
            return f"status {page.status}"
        if scanner.error is not None:
            return "an error event"
        if scanner.first_token:
            return ""
        return f"no token within {MAX_ANSWER_BYTES} bytes" if len(page.body) > MAX_ANSWER_BYTES else "an empty stream"

    async def _connect(self) -> str:
        async with asyncio.timeout(self._timeout):
            await self._pool.dialer.open(self._pool.address, _Handshake)
        return ""


class _Handshake(asyncio.Protocol):
    """A connection that is closed once it is open."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


_KINDS: Mapping[str, Callable[[Prober], Awaitable[str]]] = {
    "health": Prober._get,
    "models": Prober._get,
    "chat": Prober._chat,
    "connect": Prober._connect,
}


def probers(
    table: Table,
    pools: Mapping[str, Pool],
    scheduler: Scheduler,
    rng: Random,
    recovered: Mapping[str, Callable[[], None]] = MappingProxyType({}),
    gate: Gate | None = None,
) -> Iterator[Prober]:
    """One prober for each enabled server that is probed; for probes by chat, one for each of its models.

    `pools` and `recovered` are keyed by the endpoints' configured names.
    """
    gate = gate or Gate(speed=scheduler.speed)
    for config, endpoints in table.by_config():
        if _kind(config) == "off":
            continue
        for together in [[e] for e in endpoints] if _kind(config) == "chat" else [endpoints]:
            wake = recovered.get(config.name, lambda: None)
            yield Prober(together, config, pools[config.name], scheduler, rng, wake, gate)


def _kind(config: EndpointConfig) -> str:
    return DIALECTS[config.kind].probe if config.probe.kind == "auto" else config.probe.kind


def _down(page: Page) -> str:
    return f"status {page.status}" if page.status >= 500 and page.status != 501 else ""
