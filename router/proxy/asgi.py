"""The other `Client`: the same calls under any ASGI server, in one coroutine for each call.

It is slower than `front.py`, and replaces it should uvicorn's internals change.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from router.errors import RouterError
from router.proxy.body_budget import MAX_WAIT, BodyBudget, no_memory
from router.proxy.client import Owner
from router.proxy.handler import Handler
from router.proxy.headers import pairs
from router.proxy.intake import Bounds, Intake
from router.scheduler import Scheduler

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HIGH_WATER = 64 << 10  # bytes that may wait for a slow client, as in a transport


class AsgiCalls:
    """An ASGI application for the paths of the handler's operations."""

    def __init__(self, handler: Handler, scheduler: Scheduler, max_body: int, bodies: BodyBudget | None = None) -> None:
        self._handler, self._scheduler, self._max_body = handler, scheduler, max_body
        self._bodies = bodies or BodyBudget(sys.maxsize)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        arrived = self._scheduler.now()
        client = AsgiClient()
        path = scope["path"].encode()
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        intake = Intake(Bounds(body=self._max_body), arrived, self._bodies)
        intake.url, intake.headers = path, headers
        try:
            try:
                self._handler.authorize(headers)
                await self._wait_for_memory()
                if not await self._read(receive, intake):
                    self._handler.left(self._handler.record(path, arrived))
                    return
                self._handler.handle(intake.take(), client)
            except RouterError as error:
                self._handler.refuse(client, self._handler.record(path, arrived), error)
            await client.run(receive, send)
        finally:
            intake.release()

    async def _wait_for_memory(self) -> None:
        """Raises NoMemory if other bodies are held for too long."""
        if not self._bodies.used_up:
            return
        free = asyncio.Event()
        self._bodies.wait(free.set)
        try:
            async with asyncio.timeout(MAX_WAIT):
                await free.wait()
        except TimeoutError:
            raise no_memory(self._bodies.limit) from None
        finally:
            self._bodies.give_up(free.set)

    async def _read(self, receive: Receive, intake: Intake) -> bool:
        """Read the body; False if the client left. Raises BodyTooLarge."""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            intake.add_body(message.get("body", b""))
            more = message.get("more_body", False)
        return True


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
