"""The router's own GET requests to servers, with the endpoint's key and headers; used by probes and signals."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from router.config import EndpointConfig


def beside(config: EndpointConfig, path: str) -> str:
    """The URL of a path outside the server's API: beside `/v1`, not below it."""
    return f"{(config.base_url or '').removesuffix('/v1')}{path}"


def headers(config: EndpointConfig) -> Mapping[str, str]:
    """The headers that calls send too. A configured `authorization` (names are in lower case) replaces the key."""
    key = config.api_key
    ours = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key.get_secret_value()}"} if key else {})
    return ours | dict(config.headers)


async def get(
    client: httpx.AsyncClient, url: str, config: EndpointConfig, max_bytes: int
) -> tuple[httpx.Response, bytes]:
    """Send a GET request and return the response and its body; reading stops at the first chunk beyond `max_bytes`.

    A shorter body is read to its end, so that the connection can be reused. Raises httpx.HTTPError. The caller sets the
    timeout.
    """
    async with client.stream("GET", url, headers=headers(config), timeout=None) as response:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > max_bytes:
                break
        return response, bytes(body)
