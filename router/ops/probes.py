"""Active health: one loop a server, which asks it now and then what the requests would find out too late.

    health     GET /health beside the API           (vLLM; it does not generate)
    models     GET {base_url}/models                (costs nothing; says that our key is good)
    chat       one token of a chat completion       (the only one that sees a frozen engine; costs a token and a slot)
    connect    a TCP and TLS handshake

What a server says holds for all of its models that are served here; only a chat is asked of each. A model that served
traffic meanwhile is not asked for, nor told: evidence from traffic outranks a probe. An answer below 500 shows a server
that lives, but for 401 and 403, which show that our key does not.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import httpx

from router.config import EndpointConfig
from router.core.choice.table import Table
from router.core.endpoint.breaker import State
from router.core.endpoint.endpoint import Endpoint
from router.core.stream.scanner import Scanner
from router.dialects import DIALECTS
from router.ops.asking import beside, get, headers
from router.scheduler import Scheduler
from router.upstream.pool import Address

MAX_READ = 1 << 20  # bytes of an answer; some lists of models have half of that
AGAIN = 2.0  # seconds until a server that is in trouble is probed again; not by a chat, which costs it a slot
JITTER = 0.1  # of the interval, so that the probes of many endpoints do not march in step

log = logging.getLogger(__name__)


class Prober:
    """Probes one server for some endpoints of it; `run` is its loop."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        told: EndpointConfig,
        client: httpx.AsyncClient,
        tls: ssl.SSLContext,
        scheduler: Scheduler,
        rng: Random,
    ) -> None:
        self._endpoints, self._told, self._client, self._tls = endpoints, told, client, tls
        self._now, self._speed, self._rng = scheduler.now, scheduler.speed, rng
        self.kind = _kind(told)

    def __repr__(self) -> str:
        return f"<Prober {self._told.name}: {self.kind} for {', '.join(e.model for e in self._endpoints)}>"

    async def run(self) -> None:
        interval = self._told.probe.interval
        while self.kind != "off":
            unheard = [e for e in self._endpoints if self._now() - e.availability.cooldown.served_at >= interval]
            if unheard:
                self._note(unheard, await self.probe())
            pause = self.pause * (1.0 + JITTER * self._rng.uniform(-1.0, 1.0))
            await asyncio.sleep(pause / self._speed)

    @property
    def pause(self) -> float:
        """Seconds until the next probe: the recovery of a server that probes or traffic saw in trouble is to be noticed
        soon.
        """
        interval, now = self._told.probe.interval, self._now()
        trouble = any(
            e.availability.health.misses or e.availability.breaker.state(now) is not State.CLOSED
            for e in self._endpoints
        )
        return min(AGAIN, interval) if trouble and self.kind != "chat" else interval

    async def probe(self) -> str:
        """Why it is down, or nothing."""
        try:
            async with asyncio.timeout(self._told.probe.timeout / self._speed):
                return await _KINDS[self.kind](self)
        except TimeoutError:
            return f"no answer within {self._told.probe.timeout:g} s"
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        except OSError as error:
            return error.strerror or type(error).__name__

    def _note(self, endpoints: Sequence[Endpoint], down: str) -> None:
        for endpoint in endpoints:
            if endpoint.availability.probed(not down, self._now()):
                if down:
                    log.warning("endpoint %s (%s): up -> down: %s", endpoint.name, endpoint.model, down)
                else:
                    log.info("endpoint %s (%s): down -> up", endpoint.name, endpoint.model)

    async def _health(self) -> str:
        return await self._get(beside(self._told, "/health"))

    async def _models(self) -> str:
        return await self._get(f"{self._told.base_url}/models")

    async def _get(self, url: str) -> str:
        response, _ = await get(self._client, url, self._told, MAX_READ)
        return _down(response)

    async def _chat(self) -> str:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "stream": True}
        body |= dict(self._told.params.force) | {"model": self._endpoints[0].model}
        path = DIALECTS[self._told.kind].paths["chat/completions"]
        url = f"{self._told.base_url}{path}"
        request = self._client.stream("POST", url, json=body, headers=headers(self._told), timeout=None)
        async with request as response:
            down = _down(response) or (f"status {response.status_code}" if response.status_code >= 400 else "")
            if down:
                return down
            scanner, read = Scanner(), 0
            async for chunk in response.aiter_raw():
                read += len(chunk)
                if read > MAX_READ:
                    return f"no token within {MAX_READ} bytes"
                scanner.feed(chunk)
                if scanner.first_token or scanner.error is not None:
                    break
            if scanner.error is not None:
                return "an error event"
            return "" if scanner.first_token else "an empty stream"

    async def _connect(self) -> str:
        address = Address.of(self._told.base_url or "")
        _, writer = await asyncio.open_connection(address.host, address.port, ssl=self._tls if address.tls else None)
        writer.transport.abort()
        return ""


_KINDS: Mapping[str, Callable[[Prober], Awaitable[str]]] = {
    "health": Prober._health,
    "models": Prober._models,
    "chat": Prober._chat,
    "connect": Prober._connect,
}


def probers(
    table: Table, client: httpx.AsyncClient, tls: ssl.SSLContext, scheduler: Scheduler, rng: Random
) -> Iterator[Prober]:
    """One for each server that the file names; where chats are asked, one for each of its models."""
    for told in table.config.enabled:
        endpoints = [endpoint for endpoint, its in table.endpoints.items() if its is told]
        for together in [[e] for e in endpoints] if _kind(told) == "chat" else [endpoints]:
            yield Prober(together, told, client, tls, scheduler, rng)


def _kind(told: EndpointConfig) -> str:
    return DIALECTS[told.kind].probe if told.probe.kind == "auto" else told.probe.kind


def _down(response: httpx.Response) -> str:
    status = response.status_code
    if status in (401, 403):
        return f"status {status}: the api_key is not accepted"
    return f"status {status}" if status >= 500 else ""
