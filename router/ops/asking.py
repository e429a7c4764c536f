"""The router's own requests to servers, on the connections that calls use; for probes and signals.

A connection of their own would take the place of a call's at a server that reads one connection at a time, and needs
another TLS handshake every few seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from router import __version__
from router.config import EndpointConfig
from router.core.verdict import Verdict
from router.upstream.exchange import Exchange, Request
from router.upstream.page import Page
from router.upstream.pool import Address, Pool


class Unanswered(Exception):
    """A server has not answered; the text says why."""


def beside(config: EndpointConfig, path: str) -> str:
    """The URL of a path outside the server's API: beside `/v1`, not below it."""
    return f"{(config.base_url or '').removesuffix('/v1')}{path}"


def headers(config: EndpointConfig) -> Mapping[str, str]:
    """The headers that calls send too. A configured `authorization` (names are in lower case) replaces the key."""
    key = config.api_key
    ours = {"user-agent": f"firsttoken/{__version__}", "accept": "*/*", "accept-encoding": "identity"}
    ours |= {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    return ours | dict(config.headers)


async def get(pool: Pool, url: str, config: EndpointConfig, max_bytes: int) -> Page:
    """Send a GET request and return the answer; reading stops at the first piece beyond `max_bytes`.

    Raises `Unanswered`. The caller sets the timeout.
    """
    return await _ask(pool, _request("GET", url, config), max_bytes)


async def post(
    pool: Pool, url: str, config: EndpointConfig, body: bytes, max_bytes: int, enough: Callable[[bytes], bool]
) -> Page:
    """Send JSON, and read the answer until `enough` of it has come. Raises `Unanswered`, as `get` does."""
    return await _ask(pool, _request("POST", url, config, body), max_bytes, enough)


def _request(method: str, url: str, config: EndpointConfig, body: bytes = b"") -> Request:
    parts = urlsplit(url)
    sent = {"host": Address.of(url).authority} | dict(headers(config))
    if body:
        sent |= {"content-type": "application/json", "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return Request(f"{method} {parts.path or '/'} HTTP/1.1\r\n{lines}\r\n".encode(), body)


async def _ask(pool: Pool, request: Request, max_bytes: int, enough: Callable[[bytes], bool] | None = None) -> Page:
    end = _End()
    page = Page(end, max_bytes, enough)
    pool.begin_beside(request, page)
    try:
        await end.future
    finally:
        page.close()
    outcome = page.outcome
    if outcome is not None and outcome.verdict is not Verdict.SERVED:
        raise Unanswered(outcome.reason)
    return page


class _End:
    """A listener that waits for the end of an answer."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def news(self, exchange: Exchange) -> None:
        if exchange.outcome is not None and not self.future.done():
            self.future.set_result(None)
