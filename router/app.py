"""The composition root: builds the rooms, hands each its parts, and starts and stops what runs beside requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from random import Random
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from router.config import Config, EndpointConfig
from router.core.table import Table, rebuild
from router.dialects import DIALECTS
from router.errors import MethodNotAllowed, NotFound, RouterError
from router.ops import probes
from router.ops.admin import Admin
from router.ops.keep import keep
from router.ops.logs import write_call
from router.ops.metrics import Metrics
from router.ops.telemetry import Telemetry
from router.proxy import front
from router.proxy.admission import Admission
from router.proxy.asgi import AsgiCalls
from router.proxy.handler import OPERATIONS, Handler
from router.proxy.models import Models
from router.proxy.serving import Serving, Tables
from router.proxy.shell import Shell, new_id
from router.scheduler import LoopScheduler
from router.settings import Settings
from router.upstream.exchange import Limits
from router.upstream.pool import Address, Pool, tls_context
from router.upstream.simulated import Simulated

SWEEP = 1.0  # seconds between two looks at the client connections
Message = MutableMapping[str, Any]


class Router:
    """Everything of one process. `protocol` is for uvicorn's `http`, `asgi` its application; to be built inside a
    running loop.
    """

    def __init__(self, config: Config, settings: Settings) -> None:
        self.config, self.settings = config, settings
        self.scheduler = LoopScheduler(asyncio.get_running_loop())
        self.rng, self.tls = Random(), tls_context()
        self.pools: dict[str, Pool | Simulated] = {told.name: self._pool(told) for told in config.enabled}
        limits = Limits(settings.max_event, settings.max_answer)
        self.tables = Tables(Serving.of(rebuild(config), self.pools, limits))
        self.metrics = Metrics(self._table, lambda: self.pools, lambda: self.handler.calls, self.scheduler.now)
        sinks = [self.metrics.ended, *([write_call] if settings.access_log else [])]
        shell = Shell(
            self.scheduler,
            self.rng,
            Telemetry(sinks).ended,
            ping_after=settings.ping_after,
            ping_every=settings.ping_every,
        )
        self.admission = Admission((key.get_secret_value() for key in config.keys), settings.calls)
        self.handler = Handler(self.tables, self.admission, shell)
        bounds = front.Bounds(settings.max_body, settings.max_header, settings.request_timeout, settings.keep_alive)
        self.protocol = front.front(self.handler, bounds)
        self.asgi = Stamped(self._application())
        self.connections: set[Any] = set()  # uvicorn's, once it runs

    def _table(self) -> Table:
        return self.tables.current.table

    # Building.

    def _pool(self, told: EndpointConfig) -> Pool | Simulated:
        if told.kind == "simulated":
            simulate = told.simulate
            return Simulated(told.name, self.scheduler, self.rng, first_token=simulate.first_token, rate=simulate.rate)
        idle = told.pool.idle
        return Pool(
            told.name,
            Address.of(told.base_url or ""),
            self.scheduler,
            min_idle=told.pool.min_idle,
            limit=told.pool.max,
            idle_limit=DIALECTS[told.kind].idle if idle == "auto" else idle,
            learn=idle == "auto",
            keepalive=told.pool.keepalive,
            connect_timeout=self.settings.connect_timeout,
            max_overhead=self.settings.max_header,
            tls=self.tls,
        )

    def _application(self) -> Starlette:
        """All paths, so that it serves by itself under any ASGI server; behind `protocol` our own never come here."""
        calls = AsgiCalls(self.handler, self.scheduler, self.settings.max_body)
        admin = Admin(self._table, lambda: self.pools, self.metrics, self.scheduler.now, self._authorize)
        models = Models(self.tables, self.admission, int(time.time()))
        ours = [Route(path.decode(), calls, methods=["POST"]) for path in OPERATIONS]
        application = Starlette(
            routes=[*ours, *models.routes, *admin.routes],
            lifespan=self._lifespan,
            exception_handlers={RouterError: _render, HTTPException: _render_http},
        )
        application.router.redirect_slashes = False  # to http://, that is, also behind TLS
        return application

    def _authorize(self, request: Request) -> None:
        self.admission.authorize(request.headers.raw)

    # Running.

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(trust_env=False, verify=self.tls) as client:
            for pool in self.pools.values():
                pool.start()
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(keep(name, loop)) for name, loop in self._loops(client)]
                yield
                for task in beside:
                    task.cancel()
            for pool in self.pools.values():
                pool.close()

    def _loops(self, client: httpx.AsyncClient) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        probers = probes.probers(self._table(), client, self.tls, self.scheduler.now, self.rng)
        return [("sweep", self._sweep), *((repr(prober), prober.run) for prober in probers)]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            front.expire(self.connections, self.scheduler.now())


class Stamped:
    """Gives the answers of the application the headers that every answer carries, where they are not there yet."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        async def stamp(message: Message) -> None:
            if message["type"] == "http.response.start" and all(
                name != b"x-request-id" for name, _ in message["headers"]
            ):
                took = b"total;dur=%.1f" % ((time.monotonic() - began) * 1e3)
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", new_id().encode()),
                    (b"x-router-endpoint", b"-"),
                    (b"x-router-attempts", b"0"),
                    (b"server-timing", took),
                ]
            await send(message)

        await self._app(scope, receive, stamp)


async def _render(_: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    response = Response(error.body, error.status)
    response.raw_headers += error.headers
    return response


async def _render_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return await _render(request, MethodNotAllowed(f"{request.method} is not for this path; {allow} is.", allow))
    return await _render(request, NotFound(f"There is nothing at {request.url.path}; the API is under /v1."))
