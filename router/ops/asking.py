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


def prepared(method: str, url: str, config: EndpointConfig, body: bytes = b"") -> Request:
    """A request that can be sent any number of times; a body is JSON."""
    parts = urlsplit(url)
    sent = {"host": Address.of(url).authority} | dict(headers(config))
    if body:
        sent |= {"content-type": "application/json", "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return Request(f"{method} {parts.path or '/'} HTTP/1.1\r\n{lines}\r\n".encode(), body)


async def ask(
    pool: Pool, request: Request, max_bytes: int, within: float, enough: Callable[[bytes], bool] | None = None
) -> Page:
    """Send a request and return the answer; reading stops at the first piece beyond `max_bytes`, or after `enough`.

    Raises `Unanswered`, and TimeoutError after `within` seconds of the machine's time.
    """
    end = _End()
    page = Page(end, max_bytes, enough)
    pool.begin_beside(request, page)
    # Not asyncio.timeout, which costs more than the rest of a request here.
    timer = end.future.get_loop().call_later(within, end.late)
    try:
        await end.future
    finally:
        timer.cancel()
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

    def late(self) -> None:
        if not self.future.done():
            self.future.set_exception(TimeoutError())
