"""The calls under any ASGI server: without a server, and under uvicorn's own two protocols."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from router.app import Router
from router.config import parse
from router.proxy.asgi import HIGH_WATER
from router.settings import Settings
from tests.proxy.running import CHAT, SIMULATED, STREAMING, at, get, post, running
from tests.upstream.servers import (
    DONE,
    FINISH,
    JSON,
    LAST,
    ROLE,
    SSE,
    chunk,
    on_each_loop,
    on_uvloop,
    serving,
    settled,
    token,
    until,
    whole,
)


class Asgi:
    """One request to the application, as a server makes it."""

    def __init__(
        self, router: Router, path: str, pieces: Sequence[bytes], *, send: Any = None, headers: Any = ()
    ) -> None:
        self.sent: list[Any] = []
        self.left = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self._coming = [
            {"type": "http.request", "body": piece, "more_body": index < len(pieces) - 1}
            for index, piece in enumerate(pieces)
        ]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"Host", b"localhost"), (b"X-Title", b"yes"), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self.task = asyncio.ensure_future(router.asgi(scope, self._receive, send or self._send))

    async def _receive(self) -> Any:
        if self._coming:
            return self._coming.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.room.wait()
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    async def ended(self) -> Asgi:
        await self.task
        assert [message["type"] for message in self.sent[:2]] == ["http.response.start", "http.response.body"]
        assert self.sent[-1]["more_body"] is False
        return self


@asynccontextmanager
async def building(text: str = SIMULATED, **settings: Any) -> AsyncIterator[Router]:
    """A router without a server; at the end no call, connection or waiter is left."""
    router = Router(parse(text, "endpoints.yaml", {}), Settings(**settings))
    yield router
    endpoints = router.tables.current.table.endpoints
    await until(lambda: router.handler.calls == 0)
    assert not any(endpoint.availability.in_flight or endpoint.forecast.pending for endpoint in endpoints)
    await until(lambda: not any(pool.busy or pool.waiting for pool in router.pools.values()))
    for pool in router.pools.values():
        pool.close()
    await until(lambda: not any(pool.idle or pool.opening for pool in router.pools.values()))


@on_uvloop
@pytest.mark.parametrize("pieces", [[CHAT], [CHAT[:9], CHAT[9:]], [b"", CHAT, b""]], ids=["one", "two", "with nothing"])
async def test_a_plain_answer_has_a_content_length(pieces: list[bytes]) -> None:
    async with building() as router:
        call = await Asgi(router, "/v1/chat/completions", pieces).ended()
        assert (call.status, len(call.sent)) == (200, 2)
        assert call.headers["content-length"] == str(len(call.body))
        assert call.headers["x-router-endpoint"] == "made-up"
        assert call.headers["x-request-id"].startswith("req_")
        assert json.loads(call.body)["choices"]


@on_each_loop
async def test_a_stream_is_sent_as_it_is_written() -> None:
    async with serving() as server, building(at(server)) as router:
        call = Asgi(router, "/v1/chat/completions", [STREAMING])
        peer = await server.accept()
        request = await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await until(lambda: call.body)
        assert request.headers[b"x-title"] == b"yes"
        assert (call.status, call.body) == (200, ROLE + token("Hello"))
        assert "content-length" not in call.headers
        peer.send(chunk(FINISH + DONE), LAST)
        await call.ended()
        assert call.body == ROLE + token("Hello") + FINISH + DONE


@on_uvloop
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"hello", 400, "invalid_json"),
        (b'{"model":"none"}', 404, "model_not_found"),
        (b"x" * 2000, 413, "body_too_large"),
    ],
)
async def test_an_invalid_request_gets_an_error_body_of_openai(body: bytes, status: int, code: str) -> None:
    async with building(max_body=1000) as router:
        call = await Asgi(router, "/v1/chat/completions", [body[:900], body[900:]]).ended()
        assert (call.status, json.loads(call.body)["error"]["code"]) == (status, code)
        assert router.metrics._calls["", "chat/completions", status, code] == 1


@on_uvloop
async def test_the_rest_of_a_body_that_is_too_large_is_not_read() -> None:
    async with building(max_body=1000) as router:
        call = Asgi(router, "/v1/chat/completions", [b"x" * 600] * 10)
        await call.ended()
        assert call.status == 413
        assert len(call._coming) > 5


@on_uvloop
@pytest.mark.parametrize(("text", "status"), [("keys: [sesame]", 401), ("", 403)])
async def test_the_body_of_an_unauthorized_call_is_not_read(text: str, status: int) -> None:
    async with building(text + SIMULATED) as router:
        call = Asgi(router, "/v1/chat/completions", [b"x" * 600] * 10, headers=[(b"Origin", b"http://evil.test")])
        await call.ended()
        assert call.status == status
        assert len(call._coming) == 10
        assert router.metrics._calls["", "chat/completions", status, json.loads(call.body)["error"]["code"]] == 1


@on_each_loop
async def test_a_client_that_leaves_within_its_request_is_counted_and_gets_nothing() -> None:
    async with building() as router:
        call = Asgi(router, "/v1/embeddings", [CHAT, b""])
        call._coming.pop()
        call.left.set()
        await call.task
        assert call.sent == []
        assert dict(router.metrics._calls) == {("", "embeddings", 499, "client_left"): 1}


@on_each_loop
@pytest.mark.parametrize("asked", [CHAT, STREAMING], ids=["plain", "streaming"])
async def test_a_client_that_leaves_before_the_answer_ends_its_attempt(asked: bytes) -> None:
    async with serving() as server, building(at(server)) as router:
        call = Asgi(router, "/v1/chat/completions", [asked])
        peer = await server.accept()
        await peer.request()
        call.left.set()
        assert await peer.left() == b""
        await call.task
        assert call.sent == []


@on_each_loop
async def test_a_client_that_leaves_within_its_stream_ends_its_attempt() -> None:
    async with serving() as server, building(at(server)) as router:
        call = Asgi(router, "/v1/chat/completions", [STREAMING])
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await until(lambda: call.body)
        call.left.set()
        assert await peer.left() == b""
        await call.task


@on_each_loop
async def test_a_server_that_cancels_ends_the_attempt() -> None:
    async with serving() as server, building(at(server)) as router:
        call = Asgi(router, "/v1/chat/completions", [STREAMING])
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await until(lambda: call.body)
        call.task.cancel()
        assert await peer.left() == b""
        with pytest.raises(asyncio.CancelledError):
            await call.task


@on_each_loop
async def test_a_server_that_fails_to_send_ends_the_attempt() -> None:
    async with serving() as server, building(at(server)) as router:

        async def broken(_: Any) -> None:
            raise BrokenPipeError

        call = Asgi(router, "/v1/chat/completions", [STREAMING], send=broken)
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        assert await peer.left() == b""
        with pytest.raises(BrokenPipeError):
            await call.task


@on_each_loop
async def test_a_slow_reader_pauses_its_endpoint_and_gets_the_whole_answer() -> None:
    count, event = 400, token("x" * 65_000)
    async with serving() as server, building(at(server)) as router:
        call = Asgi(router, "/v1/chat/completions", [STREAMING])
        call.room.clear()
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + event), chunk(event) * (count - 1))
        waiting = peer.writer.transport.get_write_buffer_size
        await settled(waiting)
        assert waiting() > count * len(event) // 2
        peer.send(chunk(FINISH + DONE), LAST)
        call.room.set()
        await call.ended()
        assert len(call.body) == len(ROLE + event * count + FINISH + DONE)
        assert len(event) > HIGH_WATER - 1000  # so that one event nearly fills the buffer


@on_uvloop
async def test_a_stream_that_breaks_ends_with_an_error_and_no_done() -> None:
    async with serving() as server, building(at(server)) as router:
        call = Asgi(router, "/v1/chat/completions", [STREAMING])
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await until(lambda: call.body)
        peer.reset()
        await call.ended()
        assert call.body.startswith(ROLE + token("Hello") + b'data: {"error":')
        assert b"[DONE]" not in call.body


@pytest.mark.parametrize("http", ["httptools", "h11"])
@on_uvloop
async def test_all_paths_are_served_under_another_protocol_of_uvicorn(http: str) -> None:
    if http == "h11":
        pytest.importorskip("h11")
    async with serving() as server, running(at(server), http=http, max_body=1000) as router:
        client = await router.client()
        client.send(post(CHAT))
        await (await server.accept()).answer(whole())
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, JSON)
        client.send(post(STREAMING))
        await server.peers[0].answer(SSE, chunk(ROLE + token("a")), chunk(FINISH + DONE), LAST)
        assert (await client.answer()).body == ROLE + token("a") + FINISH + DONE
        assert (await client.ask(get(b"/v1/models"))).status == 200
        answer = await client.ask(post(b"{}"))
        assert (answer.status, answer.error["code"]) == (400, "missing_model")
        client.send(post(STREAMING))
        await server.peers[0].answer(SSE, chunk(ROLE + token("a")))
        await client.head()
        client.reset()
        await server.peers[0].left()
        answer = await router.ask(post(b"x" * 1001))
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
