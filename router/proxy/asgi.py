"""The other `Client`: the same calls under any ASGI server, in one coroutine for each call.

It is slower than `front.py`, and replaces it should uvicorn's internals change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from router.errors import RouterError
from router.proxy.client import Owner, Request
from router.proxy.handler import Handler
from router.proxy.headers import pairs
from router.proxy.intake import body_too_large
from router.scheduler import Scheduler

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HIGH_WATER = 64 << 10  # bytes that may wait for a slow client, as in a transport


class AsgiCalls:
    """An ASGI application for the paths of the handler's operations."""

    def __init__(self, handler: Handler, scheduler: Scheduler, max_body: int) -> None:
        self._handler, self._scheduler, self._max_body = handler, scheduler, max_body

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        arrived = self._scheduler.now()
        client = AsgiClient()
        path = scope["path"].encode()
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        try:
            self._handler.authorize(headers)
            body = await self._read(receive)
        except RouterError as error:
            self._handler.refuse(client, self._handler.record(path, arrived), error)
        else:
            if body is None:
                self._handler.left(self._handler.record(path, arrived))
                return
            self._handler.handle(Request(path, headers, body, arrived), client)
        await client.run(receive, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Read the body; None if the client left. Raises BodyTooLarge."""
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_body:
                raise body_too_large(self._max_body)
            more = message.get("more_body", False)
        return b"".join(chunks)


class AsgiClient:
    """Keeps what is written until the server takes it. Beyond HIGH_WATER bytes the owner is told to wait."""

    def __init__(self) -> None:
        self.owner: Owner | None = None
        self._messages: list[Message] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._over = False

    # The Client.

    def start(self, status: int, headers: bytes, length: int | None = None) -> None:
        sent = pairs(headers)
        if length is not None:
            sent.append((b"content-length", b"%d" % length))
        self._put({"type": "http.response.start", "status": status, "headers": sent})

    def write(self, data: bytes) -> None:
        if data:
            self._put({"type": "http.response.body", "body": data, "more_body": True})
            self._size += len(data)
            if self._size > HIGH_WATER and self.owner is not None:
                self.owner.full()

    def end(self, data: bytes = b"") -> None:
        self.owner = None
        self._put({"type": "http.response.body", "body": data, "more_body": False})

    def abort(self) -> None:
        self.owner = None
        self._over = True
        self._wake.set()

    # The coroutine that passes the answer to the server.

    async def run(self, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(_disconnect(receive))
        leaving.add_done_callback(lambda _: self._wake.set())
        try:
            while not await self._pass_on(send) and not self._over and not leaving.done():
                await self._wake.wait()
        finally:
            leaving.cancel()
            owner, self.owner = self.owner, None
            if owner is not None:
                owner.gone()

    async def _pass_on(self, send: Send) -> bool:
        """Send all messages that wait; True after the end of the answer."""
        self._wake.clear()
        while self._messages:
            messages, self._messages = self._messages, []
            full, self._size = self._size > HIGH_WATER, 0
            for message in messages:
                await send(message)
                if message["type"] == "http.response.body" and not message["more_body"]:
                    return True
            if full and self.owner is not None:
                self.owner.drained()
        return False

    def _put(self, message: Message) -> None:
        self._messages.append(message)
        self._wake.set()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
