"""The ASGI application: all paths, so that any ASGI server can serve it; `front.py` takes the handler's before it.

Starlette finds the path. Each answer gets the headers that every answer carries. The handler renders and counts each
refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from router.errors import MethodNotAllowed, NotFound, RouterError
from router.proxy.asgi import AsgiCalls, AsgiClient, Message, Receive, Send
from router.proxy.handler import OPERATIONS, Handler
from router.proxy.headers import NOSNIFF, call_facts, may_be_sniffed, pairs

Lifespan = Callable[[object], AbstractAsyncContextManager[None]]


class Application:
    """Serves the handler's operations by `calls`, and all other paths by `routes`."""

    def __init__(
        self, calls: AsgiCalls, routes: Iterable[Route], handler: Handler, now: Callable[[], float], lifespan: Lifespan
    ) -> None:
        self._handler, self._now = handler, now
        self._starlette = Starlette(
            routes=[*(Route(path.decode(), calls, methods=["POST"]) for path in OPERATIONS), *routes],
            lifespan=lifespan,
            exception_handlers={RouterError: self._refuse, HTTPException: self._refuse_http},
        )
        self._starlette.router.redirect_slashes = False  # a redirect would lead to http://, also behind TLS

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._starlette(scope, receive, send)
            return
        arrived = scope["arrived"] = self._now()

        async def stamp(message: Message) -> None:
            if message["type"] == "http.response.start":
                if not _stamped(message):
                    facts = call_facts(self._handler.record(b"", arrived), "", self._now())
                    message["headers"] = [*message["headers"], *pairs(facts)]
                    if may_be_sniffed(dict(message["headers"]).get(b"content-type", b"")):
                        message["headers"].append(NOSNIFF)
                if self._handler.stopping:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._starlette(scope, receive, stamp)

    async def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RouterError)
        client, scope = AsgiClient(), request.scope
        self._handler.refuse(client, self._handler.record(scope["path"].encode(), scope["arrived"]), error)

        async def answer(_: Message, receive: Receive, send: Send) -> None:
            await client.run(receive, send)

        return cast(Response, answer)  # Starlette only calls it, as it does any ASGI application

    async def _refuse_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allow = (error.headers or {}).get("Allow", "")
            message = f"{request.method} is not allowed on this path; use {allow}."
            return await self._refuse(request, MethodNotAllowed(message, allow))
        path = request.scope["path"]
        return await self._refuse(request, NotFound(f"There is nothing at {path}; {_guess(path)}"))


def _stamped(message: Message) -> bool:
    return any(name == b"x-request-id" for name, _ in message["headers"])


def _guess(path: str) -> str:
    """Guess the path that was meant: most wrong paths lack the /v1 of a base URL, or have a slash too many."""
    meant = f"/v1/{path.strip('/').removeprefix('v1/')}"
    if meant.encode() in OPERATIONS or meant == "/v1/models":
        return f"did you mean {meant}?"
    return "the API is under /v1."
