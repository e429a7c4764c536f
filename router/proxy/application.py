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
from router.proxy.unknown import is_operation_of_google, nothing_at

Lifespan = Callable[[object], AbstractAsyncContextManager[None]]


class Application:
    """Serves the handler's operations by `calls`, and all other paths by `routes`."""

    def __init__(
        self, calls: AsgiCalls, routes: Iterable[Route], handler: Handler, now: Callable[[], float], lifespan: Lifespan
    ) -> None:
        self._handler, self._now, self._cors = handler, now, handler.cors
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
        cors = self._cors.lines(scope["headers"])

        async def stamp(message: Message) -> None:
            if message["type"] == "http.response.start":
                if cors:
                    message["headers"] = [*message["headers"], *pairs(cors)]
                if not _stamped(message):
                    facts = call_facts(self._handler.record(b"", arrived), "", self._now())
                    message["headers"] = [*message["headers"], *pairs(facts)]
                    if may_be_sniffed(dict(message["headers"]).get(b"content-type", b"")):
                        message["headers"].append(NOSNIFF)
                if self._handler.stopping:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        if scope["method"] == "OPTIONS":
            await self._options(scope, receive, stamp)
        else:
            await self._starlette(scope, receive, stamp)

    async def _options(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a browser's preflight, on any path: a page must be able to read a 404 too."""
        try:
            allowed = self._cors.preflight(scope["method"], scope["headers"])
        except RouterError as error:
            await (await self._refuse(Request(scope), error))(scope, receive, send)
            return
        if allowed is None:
            await self._starlette(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 204, "headers": pairs(allowed)})
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RouterError)
        client, scope = AsgiClient(), request.scope
        self._handler.refuse(client, self._handler.record(scope["path"].encode(), scope["arrived"]), error)

        async def answer(_: Message, receive: Receive, send: Send) -> None:
            await client.run(receive, send)

        return cast(Response, answer)  # Starlette only calls it, as it does any ASGI application

    async def _refuse_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        if error.status_code == 405 and not is_operation_of_google(path):
            allow = (error.headers or {}).get("Allow", "")
            message = f"{request.method} is not allowed on this path; use {allow}."
            return await self._refuse(request, MethodNotAllowed(message, allow))
        return await self._refuse(request, NotFound(nothing_at(path)))


def _stamped(message: Message) -> bool:
    return any(name == b"x-request-id" for name, _ in message["headers"])
