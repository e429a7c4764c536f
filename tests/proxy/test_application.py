"""The ASGI application: what it adds to every answer, and how it refuses; without any server."""

from __future__ import annotations

from typing import Any

import pytest

from router.app import Router
from tests.proxy.test_asgi import building
from tests.upstream.servers import on_uvloop


async def answer(router: Router, path: str, method: str = "GET") -> dict[bytes, bytes]:
    """The headers of an answer, and its status and body by those names."""
    found: dict[bytes, bytes] = {b"body": b""}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            names = [name for name, _ in message["headers"]]
            assert len(set(names)) == len(names), f"a header twice: {names}"
            found.update(message["headers"])
            found[b"status"] = b"%d" % message["status"]
        else:
            found[b"body"] += message["body"]

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "http_version": "1.1", "scheme": "http", "headers": [(b"host", b"localhost")], "server": None, "client": None,
    }  # fmt: skip
    await router.asgi(scope, receive, send)
    return found


@on_uvloop
@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/nowhere"])
async def test_every_answer_carries_what_describes_its_call(path: str) -> None:
    async with building() as router:
        found = await answer(router, path)
        assert {b"x-request-id", b"x-router-endpoint", b"x-router-attempts", b"server-timing"} <= found.keys()


@on_uvloop
async def test_no_browser_guesses_at_what_is_not_json() -> None:
    async with building() as router:
        assert (await answer(router, "/metrics"))[b"x-content-type-options"] == b"nosniff"
        for path in ("/healthz", "/v1/models", "/nowhere", "/admin/endpoints"):
            assert b"x-content-type-options" not in await answer(router, path)


@on_uvloop
async def test_a_wrong_method_is_refused_with_the_right_one() -> None:
    async with building() as router:
        found = await answer(router, "/v1/chat/completions")
        assert (found[b"status"], found[b"allow"]) == (b"405", b"POST")
        assert b"GET is not allowed on this path; use POST." in found[b"body"]


@on_uvloop
@pytest.mark.parametrize("path", ["/models/", "/v1/models/x/"])
async def test_no_path_is_redirected(path: str) -> None:
    async with building() as router:
        assert (await answer(router, path))[b"status"] == b"404"


@on_uvloop
async def test_while_the_router_stops_each_answer_closes_its_connection() -> None:
    async with building() as router:
        assert b"connection" not in await answer(router, "/healthz")
        router.drain.begin()
        assert (await answer(router, "/healthz"))[b"connection"] == b"close"
