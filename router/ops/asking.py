"""What we ask servers by ourselves, beside the calls: with the endpoint's key and headers, to the answer's end."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from router.config import EndpointConfig


def beside(told: EndpointConfig, path: str) -> str:
    """The URL of what a server has beside its API and not in it."""
    return f"{(told.base_url or '').removesuffix('/v1')}{path}"


def headers(told: EndpointConfig) -> Mapping[str, str]:
    """As calls send them: an authorization among the headers, whose names are in lower case, wins over the key."""
    key = told.api_key
    ours = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key.get_secret_value()}"} if key else {})
    return ours | dict(told.headers)


async def get(client: httpx.AsyncClient, url: str, told: EndpointConfig, most: int) -> tuple[httpx.Response, bytes]:
    """An answer and its body, of which no more is read than a bit over `most` bytes.

    It is read to its end, so that the connection is good for the next one. Raises httpx.HTTPError; how long it may take
    is its caller's to say.
    """
    async with client.stream("GET", url, headers=headers(told), timeout=None) as response:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > most:
                break
        return response, bytes(body)
