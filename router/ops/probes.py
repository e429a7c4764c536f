"""Active health: one loop an endpoint, which asks it now and then what the requests would find out too late.

    health     GET /health beside the API           (vLLM; it does not generate)
    models     GET {base_url}/models                (costs nothing; says that our key is good)
    chat       one token of a chat completion       (the only one that sees a frozen engine; costs a token and a slot)
    connect    a TCP and TLS handshake

A probe is left out where traffic was served meanwhile: evidence from traffic outranks it. An answer below 500 shows a
server that lives, but for 401 and 403, which show that our key does not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import httpx

from router.config import EndpointConfig
from router.core.endpoint import Endpoint
from router.core.sse import EventTooLarge, Scanner
from router.dialects import DIALECTS

JITTER = 0.1  # of the interval, so that the probes of many endpoints do not march in step

log = logging.getLogger(__name__)


class Prober:
    """Probes one endpoint; `run` is its loop."""

    def __init__(
        self, endpoint: Endpoint, told: EndpointConfig, client: httpx.AsyncClient, now: Callable[[], float], rng: Random
    ) -> None:
        self._endpoint, self._told, self._client, self._now, self._rng = endpoint, told, client, now, rng
        kind = told.probe.kind
        self.kind = DIALECTS[told.kind].probe if kind == "auto" else kind

    async def run(self) -> None:
        interval = self._told.probe.interval
        while self.kind != "off":
            if self._now() - self._endpoint.served_at >= interval:
                self._note(await self.probe())
            await asyncio.sleep(interval * (1.0 + JITTER * self._rng.uniform(-1.0, 1.0)))

    async def probe(self) -> str:
        """Why it is down, or nothing."""
        try:
            async with asyncio.timeout(self._told.probe.timeout):
                return await _KINDS[self.kind](self)
        except TimeoutError:
            return f"no answer within {self._told.probe.timeout:g} s"
        except (httpx.HTTPError, EventTooLarge) as error:
            return f"{type(error).__name__}: {error}"
        except OSError as error:
            return error.strerror or type(error).__name__

    def _note(self, down: str) -> None:
        endpoint = self._endpoint
        if endpoint.probed(not down, self._now()):
            if down:
                log.warning("endpoint %s (%s): up -> down: %s", endpoint.name, endpoint.model, down)
            else:
                log.info("endpoint %s (%s): down -> up", endpoint.name, endpoint.model)

    async def _health(self) -> str:
        root = (self._told.base_url or "").removesuffix("/v1")
        return _down(await self._client.get(f"{root}/health", headers=self._headers(), timeout=None))

    async def _models(self) -> str:
        return _down(await self._client.get(f"{self._told.base_url}/models", headers=self._headers(), timeout=None))

    async def _chat(self) -> str:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "stream": True}
        body |= dict(self._told.params.force) | {"model": self._endpoint.model}
        path = DIALECTS[self._told.kind].paths["chat/completions"]
        url = f"{self._told.base_url}{path}"
        request = self._client.stream("POST", url, json=body, headers=self._headers(), timeout=None)
        async with request as response:
            down = _down(response) or (f"status {response.status_code}" if response.status_code >= 400 else "")
            if down:
                return down
            scanner = Scanner()
            async for chunk in response.aiter_bytes():
                scanner.feed(chunk)
                if scanner.first_token or scanner.error is not None:
                    break
            if scanner.error is not None:
                return "an error event"
            return "" if scanner.first_token else "an empty stream"

    async def _connect(self) -> str:
        url = httpx.URL(self._told.base_url or "")
        tls = url.scheme == "https"
        _, writer = await asyncio.open_connection(url.host, url.port or (443 if tls else 80), ssl=tls or None)
        writer.transport.abort()
        return ""

    def _headers(self) -> Mapping[str, str]:
        """As calls send them: an authorization among the headers, whose names are in lower case, wins over the key."""
        key = self._told.api_key
        return {**({"authorization": f"Bearer {key.get_secret_value()}"} if key else {}), **self._told.headers}


_KINDS: Mapping[str, Callable[[Prober], Awaitable[str]]] = {
    "health": Prober._health,
    "models": Prober._models,
    "chat": Prober._chat,
    "connect": Prober._connect,
}


def _down(response: httpx.Response) -> str:
    status = response.status_code
    if status in (401, 403):
        return f"status {status}: the api_key is not accepted"
    return f"status {status}" if status >= 500 else ""
