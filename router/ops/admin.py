"""The routes for operators and their tools: liveness, readiness, metrics, endpoint state and explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router import __version__
from router.core.choice.table import Table
from router.core.demand import FIRST_TOKEN
from router.core.endpoint.endpoint import Endpoint
from router.core.explain.explanation import in_steps
from router.errors import BadRequest, not_served
from router.ops.metrics import POOL_COUNTERS, POOL_GAUGES, Metrics, PoolState
from router.ops.readiness import served
from router.turns import in_turns, made_in_turns

MAX_SIZE_DIGITS = 9  # of a prompt's size in tokens

Authorize = Callable[[Request], None]


class Admin:
    """`authorize` raises if client keys are configured and the request has none of them.

    /healthz and /readyz need no key. `trusts` is True for readers who may see the names of models there.
    """

    def __init__(
        self,
        table: Callable[[], Table],
        pools: Callable[[], Mapping[str, PoolState]],
        metrics: Metrics,
        now: Callable[[], float],
        authorize: Authorize,
        stopping: Callable[[], bool] = lambda: False,
        trusts: Callable[[Request], bool] = lambda _: True,
    ) -> None:
        self._table, self._pools, self._metrics, self._now, self._authorize = table, pools, metrics, now, authorize
        self._stopping, self._trusts = stopping, trusts
        self.ready_asked = -inf  # time of the last request for /readyz

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            Route("/admin/endpoints", self.endpoints),
            Route("/admin/explain", self.explain),
        ]

    async def healthz(self, _: Request) -> Response:
        """Answer 200 while the process runs."""
        return JSONResponse({"status": "ok", "version": __version__})

    async def readyz(self, request: Request) -> Response:
        """Answer 200 while any model is served and the router is not stopping; else 503.

        One model without an endpoint must not take all replicas out of a load balancer. `?model=` asks for one. Names
        of models are for readers with a key, and for this machine.
        """
        self.ready_asked = now = self._now()
        if self._stopping():
            return JSONResponse({"status": "stopping"}, status_code=503)
        table, model, trusted = self._table(), request.query_params.get("model"), self._trusts(request)
        if model is not None:
            if trusted and model not in table.routes:
                raise not_served(model, table.routes, table.disabled(model))
            up = model in table.routes and served(table.routes[model], now)
            return JSONResponse({"status": "ready" if up else "down"}, status_code=200 if up else 503)
        down = [route.model for route in table.routes.values() if not served(route, now)]
        ready = len(down) < len(table.routes)
        answer: dict[str, Any] = {"status": "ready" if ready else "down"}
        if trusted and (down or not ready):
            answer["models_down" if ready else "models"] = down
        return JSONResponse(answer, status_code=200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        self._authorize(request)
        page = await in_turns(self._metrics.parts())
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def endpoints(self, request: Request) -> Response:
        """The live state of every endpoint; disabled endpoints with the reason; the models and the budgets."""
        self._authorize(request)
        table, now = self._table(), self._now()
        live = await in_turns(b"," + msgspec.json.encode(self._state(each, now)) for each in table.endpoints)
        disabled = [
            {"name": config.name, "kind": config.kind, "disabled": config.disabled}
            for config in table.config.endpoints
            if config.disabled
        ]
        budgets = {"hedge": round(table.hedges.level(now), 2), "retry": round(table.retries.level(now), 2)}
        models = await in_turns(b"," + msgspec.json.encode(model) for model in self._models())
        page = b'{"endpoints":[%b],"disabled":%b,"models":[%b],"budgets":%b}' % (
            live[1:],
            msgspec.json.encode(disabled),
            models[1:],
            msgspec.json.encode(budgets),
        )
        return Response(page, media_type="application/json")

    async def explain(self, request: Request) -> Response:
        """Explain where a streaming call for a model would go now, and why."""
        self._authorize(request)
        table, model = self._table(), request.query_params.get("model", "")
        if not model:
            raise BadRequest(
                f"The parameter 'model' is missing: /admin/explain?model=NAME. "
                f"Served: {', '.join(table.routes) or 'none'}.",
                code="missing_model",
                param="model",
            )
        if model not in table.routes:
            raise not_served(model, table.routes, table.disabled(model))
        size = _size(request.query_params.get("size"))
        explanation = await made_in_turns(in_steps(table.routes[model], "first_token", size, self._now))
        return Response(msgspec.json.encode(explanation), media_type="application/json")

    def _state(self, endpoint: Endpoint, now: float) -> dict[str, Any]:
        config = self._table().endpoints[endpoint]
        load = endpoint.forecast.server_load(now)
        breaker, latency, pool = (
            endpoint.availability.breaker,
            endpoint.forecast.latency("first_token"),
            self._pools()[config.name],
        )
        operation, cooldown = endpoint.availability.longest_cooldown or (None, None)
        cooling = cooldown is not None and cooldown.until > now
        return {
            "name": endpoint.name,
            "kind": config.kind,
            "base_url": config.base_url,
            "model": endpoint.model,
            "serves": [name for name, upstream in config.models.items() if upstream == endpoint.model],
            "tier": config.tier,
            "weight": endpoint.weight,
            "available": endpoint.availability.allows(now),
            "up": endpoint.availability.health.up,
            "breaker": breaker.state(now).value,
            "breaker_retry_in": _left(breaker.retry_at, now),
            "cooldown": (_left(cooldown.until, now) or 0) if cooldown else 0,
            "cooldown_cause": cooldown.cause.value if cooldown and cooldown.cause and cooling else None,
            "cooldown_operation": operation if cooling else None,
            "in_flight": endpoint.availability.in_flight,
            "waiting": len(endpoint.forecast.pending),
            "concurrency": None
            if endpoint.availability.max_attempts == inf
            else int(endpoint.availability.max_attempts),
            "first_token": {
                "expected": round(latency.mean(now), 4),
                "p50": latency.quantile(0.5),
                "p90": latency.quantile(0.9),
                "known": not latency.unknown,
            },
            "server": None if load is None else {**load._asdict(), "hot": load.hot},
            "cost": round(endpoint.forecast.cost(FIRST_TOKEN, now), 4),
            "pool": {state: getattr(pool, state) for state in (*POOL_GAUGES, *POOL_COUNTERS)},
        }

    def _models(self) -> Iterator[dict[str, Any]]:
        for route in self._table().routes.values():
            yield {
                "model": route.model,
                "tiers": [[endpoint.name for endpoint in tier.endpoints] for tier in route.tiers],
                "queued": route.queue.waiting,
            }


def _size(value: str | None) -> float | None:
    """The prompt's size in tokens; None if the query has none."""
    if not value:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= MAX_SIZE_DIGITS):
        raise BadRequest(
            f"'size' must be a whole number of tokens of at most {MAX_SIZE_DIGITS} digits.",
            code="invalid_type",
            param="size",
        )
    return float(value)


def _left(until: float | None, now: float) -> float | None:
    """Seconds until a time, 0 if it has passed; None if it is not set or has no end."""
    return None if until is None or until == inf else round(max(0.0, until - now), 3)
