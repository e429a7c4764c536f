"""The composition root: builds the rooms, hands each its parts, and starts and stops what runs beside requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

from router.config import Config, EndpointConfig
from router.core.choice.table import Table, rebuild
from router.dialects import DIALECTS
from router.dialects.base import HOSTED_IDLE
from router.ops import probes, signals
from router.ops.admin import Admin
from router.ops.changes import Changes
from router.ops.gate import Gate
from router.ops.keep import keep
from router.ops.logs import AccessLog
from router.ops.memory import trimmer
from router.ops.metrics import Metrics
from router.ops.planner import Planner
from router.ops.telemetry import Telemetry
from router.proxy.admission import Admission
from router.proxy.application import Application
from router.proxy.asgi import AsgiCalls
from router.proxy.body_budget import BodyBudget
from router.proxy.context import Context
from router.proxy.drain import Drain
from router.proxy.front import Front, expire
from router.proxy.handler import Handler
from router.proxy.intake import Bounds
from router.proxy.loop_guard import LoopGuard
from router.proxy.models import Models
from router.proxy.serving import Serving, Tables
from router.scheduler import LoopScheduler
from router.settings import Settings
from router.turns import Turns, made_in_turns
from router.upstream.exchange import Limits
from router.upstream.pool import Address, Pool, tls_context
from router.upstream.resolver import Dns, Resolver, System
from router.upstream.simulated import Simulated

SWEEP = 1.0  # seconds between two looks at the client connections
WATCHED = 60.0  # seconds: who asks /readyz more seldom does not depend on it


class Router:
    """All objects of one process, built inside a running loop. `protocol` is for uvicorn's `http`, `asgi` its app."""

    def __init__(self, config: Config, settings: Settings) -> None:
        self.config, self.settings = config, settings
        self.scheduler = LoopScheduler(asyncio.get_running_loop(), settings.speed)
        self.rng, self.tls = Random(), tls_context()
        self.resolver = Resolver(
            System() if settings.resolver == "system" else Dns(*settings.nameservers), self.scheduler.now
        )
        self.listening = asyncio.Event()  # the server clears it until clients can connect; then pools are warmed up
        self.listening.set()
        loop = asyncio.get_running_loop()
        self.turns, self.bodies = Turns(loop), BodyBudget(settings.bodies, loop.call_soon)
        self.pools: dict[str, Pool | Simulated] = {
            configured.name: self._pool(configured) for configured in config.enabled
        }
        keys = (key.get_secret_value() for key in config.keys)
        self.admission = Admission(keys, settings.calls, any_host=settings.allow_open, origins=config.cors)
        limits = Limits(settings.max_event, settings.max_answer, self.bodies)
        table, loop_guard = rebuild(config, utilization=self.admission.utilization), LoopGuard()
        self.tables = Tables(Serving.of(table, self.pools, limits, loop_guard.line))
        self.metrics = Metrics(
            self._table,
            lambda: self.pools,
            lambda: self.admission.calls,
            self.scheduler.now,
            longest_turn=self.turns.watch.longest,
            body_bytes=lambda: (self.bodies.held, self.bodies.limit),
            lookups=lambda: self.resolver.lookups,
        )
        sinks = [self.metrics.ended, Changes(self.scheduler.now).ended]
        self.access_log = AccessLog() if settings.access_log else None
        if self.access_log is not None:
            sinks.append(self.access_log.ended)
        context = Context(
            self.scheduler,
            self.rng,
            Telemetry(sinks).ended,
            ping_after=settings.ping_after,
            ping_every=settings.ping_every,
        )
        self.handler = Handler(self.tables, self.admission, context, settings.max_body, loop_guard)
        bounds = Bounds(settings.max_body, settings.max_header, settings.request_timeout, settings.keep_alive)
        self.protocol = partial(Front, self.handler, bounds, self.scheduler.now, turns=self.turns, bodies=self.bodies)
        self.connections: set[Any] = set()  # uvicorn's, once it runs
        self.admin = self._admin()
        self.asgi = self._application()
        self.drain = Drain(
            self.handler,
            self.scheduler.now,
            limit=settings.drain,
            notice=settings.notice,
            watched=lambda: self.scheduler.now() < self.admin.ready_asked + WATCHED,
        )

    def _table(self) -> Table:
        return self.tables.current.table

    # Building.

    def _pool(self, configured: EndpointConfig) -> Pool | Simulated:
        if configured.kind == "simulated":
            simulate = configured.simulate
            return Simulated(
                configured.name, self.scheduler, self.rng, first_token=simulate.first_token, rate=simulate.rate
            )
        idle = configured.pool.idle
        return Pool(
            configured.name,
            Address.of(configured.base_url or ""),
            self.scheduler,
            min_idle=configured.pool.min_idle,
            limit=configured.pool.max,
            idle_limit=DIALECTS[configured.kind].idle if idle == "auto" else idle,
            learn=idle == "auto",
            known=DIALECTS[configured.kind].idle != HOSTED_IDLE,
            max_age=configured.pool.max_age,
            first_alone=True,
            keepalive=configured.pool.keepalive,
            connect_timeout=self.settings.connect_timeout,
            max_overhead=self.settings.max_header,
            tls=self.tls,
            resolver=self.resolver,
            rng=self.rng,
            turns=self.turns,
        )

    def _admin(self) -> Admin:
        authorize = self.admission.authorize_reading
        return Admin(
            self._table,
            lambda: self.pools,
            self.metrics,
            self.scheduler.now,
            lambda request: authorize(request.headers.raw),
            lambda: self.handler.stopping,
            lambda request: self.admission.trusts(request.headers.raw, request.client.host if request.client else ""),
        )

    def _application(self) -> Application:
        calls = AsgiCalls(self.handler, self.scheduler, self.settings.max_body, self.bodies)
        models = Models(self.tables, self.admission, int(time.time()))
        routes = [*models.routes, *self.admin.routes]
        return Application(calls, routes, self.handler, self.scheduler.now, self._lifespan)

    # Running.

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._beside(name, loop)) for name, loop in self._loops()]
            yield
            for task in beside:
                task.cancel()
        for pool in self.pools.values():
            pool.close()
        self.resolver.close()
        if self.access_log is not None:
            self.access_log.close()

    async def _beside(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a background loop from when clients can connect."""
        await self.listening.wait()
        await keep(name, loop)

    def _loops(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        pools = {name: pool for name, pool in self.pools.items() if isinstance(pool, Pool)}
        scrapers = list(signals.scrapers(self._table(), pools, self.scheduler, self.rng))
        wake = {scraper.name: scraper.wake for scraper in scrapers}
        gate = Gate(self.turns.watch, self.scheduler.speed)
        probers = list(probes.probers(self._table(), pools, self.scheduler, self.rng, wake, gate))
        by_name = {prober.name: prober for prober in probers}
        for scraper in scrapers:
            if scraper.name in by_name:
                scraper.unanswered = by_name[scraper.name].wake
        return [
            ("warm-up", self._warm_up),
            ("sweep", self._sweep),
            *([("trimmer", trim.run)] if (trim := trimmer()) else []),
            ("planner", Planner(self._table, self.scheduler, self.turns.watch.wake).run),
            *((repr(prober), prober.run) for prober in probers),
            *((repr(scraper), scraper.run) for scraper in scrapers),
        ]

    async def _warm_up(self) -> None:
        for pool in self.pools.values():
            pool.start()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP / self.scheduler.speed)
            self.turns.watch.wake()
            await made_in_turns(expire(self.connections, self.scheduler.now()))
