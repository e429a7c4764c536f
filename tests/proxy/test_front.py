"""Requests on real sockets: each gets an answer of the right status, is counted, and leaves nothing open."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httptools
import pytest

from router.proxy.front import LINGER, PIPELINED
from router.proxy.intake import State
from tests.proxy.running import CHAT, SIMULATED, STREAMING, Answer, Client, at, get, post, running
from tests.upstream.servers import (
    DONE,
    FINISH,
    JSON,
    LAST,
    ROLE,
    SSE,
    STREAM,
    chunk,
    head,
    on_each_loop,
    on_uvloop,
    serving,
    settled,
    token,
    until,
    whole,
)

KEYS = "keys: [sesame]\n"
LARGE = 64 << 10  # a limit for bodies
READING = (State.HEAD, State.ACCEPTED, State.BODY, State.FORWARDED)
FORM: dict[str, Any] = {"max_body": LARGE, "max_header": 4 << 10}


def is_stamped(answer: Answer) -> bool:
    """True if an answer has the headers that every answer has."""
    return {"x-request-id", "x-router-endpoint", "x-router-attempts", "server-timing", "date"} <= set(answer.headers)


def mentions(message: str, words: str) -> bool:
    return all(word in message for word in words.split())


# Bodies that can't be read or routed.

UNREADABLE: dict[str, tuple[bytes, int, str, str]] = {
    "nothing": (b"", 400, "invalid_json", "not valid JSON"),
    "text": (b"hello", 400, "invalid_json", "not valid JSON"),
    "cut JSON": (CHAT[:-9], 400, "invalid_json", "not valid JSON"),
    "JSON and more": (CHAT + b"}", 400, "invalid_json", "not valid JSON"),
    "a list": (b"[1]", 400, "invalid_json", "JSON object"),
    "null": (b"null", 400, "invalid_json", "JSON object"),
    "no model": (b'{"messages":[]}', 400, "missing_model", "must name a model"),
    "a model that is a number": (b'{"model":7}', 400, "missing_model", "must name a model"),
    "an empty model": (b'{"model":""}', 400, "missing_model", "must name a model"),
    "a very long model": (b'{"model":"%b"}' % (b"x" * 257), 400, "invalid_model", "longer than 256"),
    "half a surrogate pair as model": (b'{"model":"\\ud800"}', 400, "invalid_json", "not valid JSON"),
    "an unknown model": (b'{"model":"chart"}', 404, "model_not_found", "'chart' 'chat'"),
    "stream is a text": (b'{"model":"chat","stream":"yes"}', 400, "invalid_type", "'stream'"),
    "n is a text": (b'{"model":"chat","n":"two"}', 400, "invalid_type", "'n'"),
    "UTF-8 that is broken in the model": (b'{"model":"ch\xfft"}', 400, "invalid_json", "not valid JSON"),
    "UTF-8 that is broken elsewhere": (CHAT.replace(b"Hi", b"\xc3\x28"), 400, "invalid_json", "not valid JSON"),
    "UTF-16": (CHAT.decode().encode("utf-16"), 400, "invalid_json", "not valid JSON"),
    "very deep": (b'{"model":"chat","messages":%b%b}' % (b"[" * 30_000, b"]" * 30_000), 400, "invalid_json", "deep"),
    "very deep and open": (b'{"model":"chat","messages":%b' % (b"[" * 60_000), 400, "invalid_json", ""),
    "very deep model": (b'{"model":%b1%b}' % (b"[" * 30_000, b"]" * 30_000), 400, "invalid_json", "deep"),
}


@on_uvloop
@pytest.mark.parametrize("case", UNREADABLE)
async def test_an_unreadable_body_gets_an_error_body_of_openai(case: str) -> None:
    body, status, code, words = UNREADABLE[case]
    async with running() as router:
        client = await router.client()
        answer = await client.ask(post(body))
        assert (answer.status, answer.error["code"]) == (status, code)
        assert mentions(answer.error["message"], words)
        assert answer.error["type"] == "invalid_request_error"
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-should-retry"] == "false"
        assert is_stamped(answer)
        assert router.counted("calls_total", status=str(status), error=code, operation="chat/completions") == 1
        assert (await client.ask(post(CHAT))).status == 200  # on the same connection


@on_uvloop
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings"])
async def test_each_operation_is_served_and_counted(path: bytes) -> None:
    body = b'{"data":[{"embedding":[0.5]}]}' if path.endswith(b"/embeddings") else JSON
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(b'{"model":"chat","input":"a","prompt":"b"}', path=path + b"?api-version=1"))
        await (await server.accept()).answer(whole(body))
        answer = await client.answer()
        assert answer.status == 200
        assert is_stamped(answer)
        assert answer.headers["x-router-endpoint"] == "there-1"
        assert answer.headers["x-router-attempts"] == "1"
        assert router.counted("calls_total", status="200", operation=path.decode().removeprefix("/v1/")) == 1


@on_uvloop
@pytest.mark.parametrize("asked", [b'"a"', b'["a","b"]', b"[1,2,3]", b"null", b"[]"])
async def test_a_simulated_endpoint_invents_no_embeddings(asked: bytes) -> None:
    async with running() as router:
        answer = await router.ask(post(b'{"model":"chat","input":%b}' % asked, path=b"/v1/embeddings"))
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert mentions(answer.error["message"], "/v1/embeddings simulated")


@on_uvloop
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        (b"GET", b"/v1/chat/completions", "POST"),
        (b"PUT", b"/v1/completions", "POST"),
        (b"DELETE", b"/v1/embeddings", "POST"),
        (b"OPTIONS", b"/v1/chat/completions", "POST"),
        (b"POST", b"/v1/models", "GET, HEAD"),
        (b"POST", b"/healthz", "GET, HEAD"),
        (b"DELETE", b"/metrics", "GET, HEAD"),
        (b"OPTIONS", b"/admin/endpoints", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_refused_with_the_right_one(method: bytes, path: bytes, allow: str) -> None:
    async with running() as router:
        answer = await router.ask(get(path, b"content-length: 0", method=method))
        assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
        assert sorted(answer.headers["allow"].split(", ")) == allow.split(", ")
        assert mentions(answer.error["message"], method.decode())
        assert is_stamped(answer)
        assert router.counted("calls_total", status="405", error="method_not_allowed") == 1


@on_uvloop
@pytest.mark.parametrize(
    ("path", "status"), [(b"/v1/chat/completions", 405), (b"/v1/models", 200), (b"/healthz", 200), (b"/nowhere", 404)]
)
async def test_head_gets_no_body(path: bytes, status: int) -> None:
    async with running() as router:
        client = await router.client()
        client.send(get(path, method=b"HEAD"))
        assert (await client.answer(to_head=True)).status == status
        assert (await client.ask(post(CHAT))).status == 200  # a body before it would be read as its answer


@on_uvloop
@pytest.mark.parametrize(
    "path", [b"/", b"/v1", b"/v1/chat", b"/v1/chat/completionss", b"/V1/model", b"/%ff%00", b"/a//b"]
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_an_unknown_path_gets_404_with_the_prefix_of_the_api(path: bytes, method: bytes) -> None:
    async with running() as router:
        answer = await router.ask(get(path, b"content-length: 0", method=method))
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")
        assert mentions(answer.error["message"], "/v1.")
        assert is_stamped(answer)
        assert router.counted("calls_total", status="404", error="unknown_url") == 1


@on_uvloop
@pytest.mark.parametrize(
    ("path", "meant"),
    [
        (b"/chat/completions", "/v1/chat/completions"),
        (b"/v1/chat/completions/", "/v1/chat/completions"),
        (b"/completions/", "/v1/completions"),
        (b"//v1/embeddings", "/v1/embeddings"),
        (b"/models", "/v1/models"),
        (b"/v1/v1/chat/completions", "/v1/chat/completions"),
        (b"/v1/v1/v1/models", "/v1/models"),
        (b"/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        (b"/v1/completions/completions", "/v1/completions"),
        (b"/v1/embeddings/v1/embeddings", "/v1/embeddings"),
        (b"/V1/Chat/Completions", "/v1/chat/completions"),
        (b"/V1/models", "/v1/models"),
        (b"/api/v1/chat/completions", "/v1/chat/completions"),
    ],
)
async def test_a_path_that_is_almost_right_gets_404_with_the_right_one(path: bytes, meant: str) -> None:
    async with running() as router:
        answer = await router.ask(post(CHAT, path=path))
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")
        assert answer.error["message"].endswith(f"; did you mean {meant}?")


@on_uvloop
@pytest.mark.parametrize(
    ("path", "words"),
    [
        (b"/v1/responses", "Responses chat completions openai.chat( openai-chat: set_default_openai_api"),
        (b"/v1/v1/responses", "Responses"),
        (b"/responses", "Responses"),
        (b"/v1/responses/resp_1/cancel", "Responses"),
        (b"/v1/messages", "Anthropic's"),
        (b"/v1/v1/messages/count_tokens", "Anthropic's"),
        (b"/openai/deployments/chat/chat/completions", "Azure's AzureOpenAI"),
        (b"/api/chat", "Ollama's"),
        (b"/v1beta/models/chat:streamGenerateContent", "Google's"),
        (b"/v1/models/chat:generateContent", "Google's"),
        (b"/v1/models/org/chat:streamGenerateContent", "Google's"),
        (b"/v1/audio/speech", "chat/completions, embeddings models /v1"),
        (b"/v1/rerank", "chat/completions, embeddings models /v1"),
    ],
)
async def test_a_path_of_another_api_gets_404_with_what_to_switch(path: bytes, words: str) -> None:
    async with running() as router:
        answer = await router.ask(post(CHAT, path=path))
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")
        assert mentions(answer.error["message"], words)
        assert "the API is under" not in answer.error["message"]
        assert router.counted("calls_total", status="404", error="unknown_url") == 1


# Invalid HTTP, and requests that are too large.

INVALID_HTTP: dict[str, bytes] = {
    "a TLS hello": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 30,
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no method": b" / HTTP/1.1\r\n\r\n",
    "an unknown method": b"BREW /pot HTTP/1.1\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nhost router\r\n\r\n",
    "a header with a NUL": b"GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n",
    "a space before the colon": post(CHAT, b"x-thing : 1"),
    "both lengths": post(CHAT, b"transfer-encoding: chunked"),
    "two lengths": post(CHAT, b"content-length: 7"),
    "a length that is no number": b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: many\r\n\r\n",
    "a length below nothing": b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
    "an unknown coding": b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
    "a bad chunk size": b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk that is longer than it says": (
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n"
    ),
    "a tunnel": b"CONNECT example.test:443 HTTP/1.1\r\nhost: example.test\r\n\r\n",
    "an address and no path": b"GET http://router HTTP/1.1\r\n\r\n",
    "another protocol's address": b"OPTIONS rtsp://router RTSP/1.0\r\n\r\n",
    "no path": b"GET http:// HTTP/1.1\r\n\r\n",
    "a port that is no number": b"GET http://a:b:c/ HTTP/1.1\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "no version, one of ours": b"POST /v1/chat/completions\r\ncontent-length: %d\r\n\r\n%b" % (len(CHAT), CHAT),
    "an old version": get(b"/v1/models", version=b"0.9"),
    "a new version": post(CHAT, version=b"2.0"),
    "an unknown version": get(b"/v1/models", version=b"1.7"),
    "an unknown protocol": b"GET /v1/models SPDY/1.1\r\n\r\n",
}


@on_uvloop
@pytest.mark.parametrize("case", INVALID_HTTP)
async def test_invalid_http_gets_400_and_the_connection_is_closed(case: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as router:
        client = await router.client()
        answer = await client.ask(INVALID_HTTP[case])
        assert (answer.status, answer.error["code"]) == (400, "invalid_http")
        assert answer.headers["connection"] == "close"
        assert is_stamped(answer)
        assert await client.left() == b""
        assert router.counted("calls_total", status="400", error="invalid_http") == 1
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@on_uvloop
async def test_the_target_of_options_for_the_whole_server_is_refused() -> None:
    async with running() as router:
        answer = await router.ask(b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert answer.status in (400, 404)
        assert answer.error


@on_uvloop
async def test_an_absolute_target_is_understood() -> None:
    async with running() as router:
        assert (await router.ask(get(b"http://router/v1/models"))).status == 200
        assert (await router.ask(post(CHAT, path=b"http://router/v1/chat/completions"))).status == 200


@on_uvloop
@pytest.mark.parametrize("dribbled", [False, True], ids=["at once", "dribbled"])
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/models"])
@pytest.mark.parametrize("where", ["one header", "many headers", "the path", "no end"])
async def test_a_header_that_is_too_long_is_refused(dribbled: bool, path: bytes, where: str) -> None:
    size = FORM["max_header"]
    lines = {
        "one header": [b"x-long: " + b"x" * size],
        "many headers": [b"x-%d: %b" % (i, b"x" * 50) for i in range(size // 50)],
        "the path": [],
        "no end": [b"x-long: " + b"x" * size],
    }[where]
    request = get(path + (b"?" + b"x" * size if where == "the path" else b""), *lines, method=b"POST")
    if where == "no end":
        request = request[:-4]
    async with running(**FORM) as router:
        client = await router.client()
        if dribbled:
            for start in range(0, len(request), 512):
                client.send(request[start : start + 512])
                await client.writer.drain()
                await settled(lambda: None) if start % 2048 == 0 else None
        else:
            client.send(request)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (431, "header_too_large")
        assert mentions(answer.error["message"], "4096 bytes")
        assert answer.headers["connection"] == "close"
        assert is_stamped(answer)
        assert await client.left() == b""
        assert router.counted("calls_total", status="431", error="header_too_large") == 1


@on_uvloop
async def test_a_header_up_to_the_limit_is_served_with_a_body_that_is_longer() -> None:
    async with running(**FORM) as router:
        body = CHAT[:-1] + b',"user":"%b"}' % (b"x" * 60_000)
        answer = await router.ask(post(body, b"x-long: " + b"x" * 3800))
        assert answer.status == 200


@on_each_loop
async def test_a_body_announced_as_too_large_is_refused_before_it_is_sent() -> None:
    async with running(**FORM) as router:
        client = await router.client()
        answer = await client.ask(b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (LARGE + 1))
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert mentions(answer.error["message"], "65536 bytes")
        assert await client.left() == b""
        assert router.counted("calls_total", status="413", operation="embeddings") == 1


@on_each_loop
async def test_a_body_that_grows_too_large_is_refused_while_it_is_sent() -> None:
    async with running(**FORM) as router:
        client = await router.client()
        client.send(b"POST /v1/embeddings HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        client.send(*[chunk(b"x" * 1000) for _ in range(LARGE // 1000 + 1)])
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert router.counted("calls_total", status="413", operation="embeddings") == 1


@on_each_loop
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_refusal_arrives_while_the_client_keeps_sending(chunked: bool) -> None:
    total = 32 << 20
    async with running(**FORM) as router:
        client = await router.client()
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % total
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\n%b\r\n\r\n" % framing)
        piece = b"x" * 65_536
        for _ in range(total // len(piece)):  # this client reads nothing before it has sent all
            client.send(chunk(piece) if chunked else piece)
            await client.writer.drain()
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert await client.left() == b""


@on_each_loop
async def test_a_refused_client_that_never_stops_sending_is_cut_off() -> None:
    async with running(**FORM) as router:
        client = await router.client()
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n")
        assert (await client.answer()).status == 413
        router.expire(LINGER - 0.1)
        await settled(lambda: len(router.connections))
        assert len(router.connections) == 1
        router.expire(LINGER + 0.1)
        await until(lambda: not router.connections)


@on_each_loop
async def test_a_client_is_refused_once_however_long_it_stays() -> None:
    async with running(**FORM, request_timeout=1) as router:
        client = await router.client()
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n")
        assert (await client.answer()).status == 413
        router.expire(LINGER - 0.1)
        assert await client.left() == b""
        assert router.counted("calls_total") == 1


@on_uvloop
async def test_a_body_up_to_the_limit_is_served() -> None:
    body = CHAT[:-1] + b',"user":"%b"}' % (b"x" * (LARGE - len(CHAT) - 10))
    assert len(body) == LARGE
    async with running(**FORM) as router:
        assert (await router.ask(post(body))).status == 200
        request = b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(body) + LAST
        assert (await router.ask(request)).status == 200


# Bytes after the head that are not body: trailers, and extensions of chunks.

CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
IN_PIECES = pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "in pieces"])


@on_uvloop
@IN_PIECES
async def test_a_trailer_is_not_taken_for_a_header(in_pieces: bool) -> None:
    pieces = [CHUNKED, b"x-title: yes\r\n\r\n", chunk(CHAT), b"0\r\n", b"X-Title: no\r\nUser-Agent: late\r\n", b"\r\n"]
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        await dribble(client, pieces if in_pieces else [b"".join(pieces)])
        received = await (await server.accept()).answer(whole())
        assert (await client.answer()).status == 200
        assert received.headers[b"x-title"] == b"yes"
        assert b"user-agent" not in received.headers
        await dribble(client, pieces if in_pieces else [b"".join(pieces)])  # on the same connection
        await server.peers[0].answer(whole())
        assert (await client.answer()).status == 200


@on_uvloop
@IN_PIECES
async def test_a_client_key_in_a_trailer_is_ignored(in_pieces: bool) -> None:
    pieces = [CHUNKED + b"\r\n", chunk(CHAT), b"0\r\n", b"Authorization: Bearer sesame\r\n\r\n"]
    async with serving() as server, running(at(server, top=KEYS)) as router:
        client = await router.client()
        await dribble(client, pieces if in_pieces else [b"".join(pieces)])
        assert (await client.answer()).status == 401
        assert server.accepted == 0


LONG_TAILS = {
    "one trailer": [b"0\r\nx-long: " + b"x" * 10_000 + b"\r\n\r\n"],
    "a trailer without end": [b"0\r\nx-long: " + b"x" * 10_000, b"x" * 10_000],
    "many trailers": [b"0\r\n", *[b"x-%d: %b\r\n" % (i, b"x" * 50) for i in range(100)], b"\r\n"],
    "a chunk's extension": [b"5;x=" + b"x" * 10_000, b"x" * 10_000],
}


@on_uvloop
@IN_PIECES
@pytest.mark.parametrize("tail", LONG_TAILS)
async def test_trailers_and_chunk_extensions_have_the_bound_of_a_header(tail: str, in_pieces: bool) -> None:
    if tail in ("a trailer without end", "a chunk's extension"):
        in_pieces = True  # a single read of them is within the bound of a read
    async with running(**FORM) as router:
        client = await router.client()
        pieces = [CHUNKED + b"\r\n", chunk(CHAT), *LONG_TAILS[tail]]
        await dribble(client, pieces if in_pieces else [b"".join(pieces)])
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (431, "header_too_large")
        assert answer.headers["connection"] == "close"
        assert await client.left() == b""
        assert router.counted("calls_total", status="431", error="header_too_large") == 1


@on_uvloop
@pytest.mark.parametrize("tail", LONG_TAILS)
async def test_trailers_to_the_application_have_the_same_bound(tail: str) -> None:
    async with running(**FORM) as router:
        client = await router.client()
        elsewhere = CHUNKED.replace(b"/v1/chat/completions", b"/v1/models") + b"\r\n"
        await dribble(client, [elsewhere, chunk(CHAT), *LONG_TAILS[tail]])
        await client.left()  # the application answered as soon as the head was there


@on_uvloop
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_the_framing_of_small_chunks_does_not_count_as_a_header(size: int) -> None:
    body = CHAT[:-1] + b',"user":"%b"}' % (b"x" * 20_000)
    async with running(**FORM) as router:
        client = await router.client()
        chunks = [chunk(body[i : i + size]) for i in range(0, len(body), size)]
        reads = [b"".join(chunks[i : i + 50]) for i in range(0, len(chunks), 50)]
        await dribble(client, [CHUNKED + b"\r\n", *reads, LAST])
        assert (await client.answer()).status == 200


async def dribble(client: Client, pieces: list[bytes]) -> None:
    """Send each piece after the one before it was probably read."""
    for piece in pieces:
        if not client.writer.is_closing():
            client.send(piece)
        for _ in range(10):
            await asyncio.sleep(0)


# Expect: 100-continue.


@on_each_loop
async def test_a_client_that_expects_100_gets_it() -> None:
    async with running() as router:
        client = await router.client()
        request = post(CHAT, b"Expect: 100-Continue")
        client.send(request[: -len(CHAT)])
        assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(CHAT)).status == 200


@on_each_loop
async def test_a_client_that_expects_100_for_too_large_a_body_gets_413() -> None:
    async with running(**FORM) as router:
        client = await router.client()
        answer = await client.ask(
            b"POST /v1/chat/completions HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n\r\n"
        )
        assert answer.status == 413


@on_each_loop
async def test_a_second_request_that_expects_100_gets_it_once() -> None:
    """The head comes in two reads, and 100 is sent after the second only."""
    async with running() as router:
        client = await router.client()
        assert (await client.ask(post(CHAT))).status == 200
        head = post(CHAT, b"expect: 100-continue", b"x-later: yes")[: -len(CHAT)]
        await dribble(client, [head[:-8], head[-8:]])
        assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(CHAT)).status == 200


@on_uvloop
async def test_the_length_of_the_applications_bodies_is_not_checked_while_their_head_is_read() -> None:
    head = [b"DELETE /v1/models HTTP/1.1\r\ncontent-length: 99999999\r\nhost: localhost\r\nx: ", b"y\r\n\r\n"]
    async with running(**FORM) as router:
        client = await router.client()
        assert (await client.ask(post(CHAT))).status == 200
        await dribble(client, head)
        assert (await client.answer()).status == 405


# Slow clients, and clients that leave.


@on_each_loop
@pytest.mark.parametrize(
    "part",
    [b"P", b"POST /v1/chat/completions HTTP/1.1\r\nhost:", post(CHAT)[:-5], get(b"/v1/models")[:-2]],
    ids=["a byte", "half its header", "half its body", "half a GET"],
)
async def test_a_request_that_is_not_complete_in_time_gets_408(part: bytes) -> None:
    async with running(request_timeout=10) as router:
        client = await router.client()
        client.send(part)
        front = await router.connection(client)
        await until(lambda: front.intake.state in READING)
        router.expire(9.0)
        await settled(lambda: front.intake.state)
        assert front.intake.state in READING
        router.expire(11.0)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert mentions(answer.error["message"], "10 s")
        assert await client.left() == b""
        assert router.counted("calls_total", status="408", error="request_timeout") == 1


@on_uvloop
async def test_a_byte_now_and_then_does_not_extend_the_time_of_a_request() -> None:
    async with running(request_timeout=10) as router:
        client = await router.client()
        client.send(post(CHAT)[:-5])
        front = await router.connection(client)
        await until(lambda: front.intake.body_size == len(CHAT) - 5)
        client.send(post(CHAT)[-5:-4])
        await until(lambda: front.intake.body_size == len(CHAT) - 4)
        router.expire(11.0)
        assert (await client.answer()).status == 408


@on_uvloop
async def test_a_body_to_the_application_that_never_comes_ends_its_connection() -> None:
    async with running(request_timeout=10) as router:
        client = await router.client()
        client.send(get(b"/v1/models") + post(CHAT)[:-5])  # pipelined, so the application serves it
        assert (await client.answer()).status == 200
        router.expire(9.0)
        await settled(lambda: len(router.connections))
        assert len(router.connections) == 1
        router.expire(11.0)
        assert await client.left() == b""


@on_each_loop
@pytest.mark.parametrize("gone", ["close", "reset"])
@pytest.mark.parametrize(
    ("part", "operation"),
    [
        (post(CHAT)[:-5], "chat/completions"),
        (post(CHAT, path=b"/v1/embeddings")[: -len(CHAT)], "embeddings"),
        (post(b"", b"x-half: ")[:-4], "chat/completions"),
        (b"P", ""),
    ],
    ids=["half its body", "no body", "half its header", "a byte"],
)
async def test_a_client_that_leaves_within_its_request_is_counted(part: bytes, operation: str, gone: str) -> None:
    async with running() as router:
        client = await router.client()
        client.send(part)
        front = await router.connection(client)
        await until(lambda: front.intake.state in READING)
        getattr(client, gone)()
        await until(lambda: not router.connections)
        assert router.counted("calls_total") == 1
        assert router.counted("calls_total", status="499", error="client_left", operation=operation) == 1


@on_each_loop
async def test_a_silent_connection_is_closed_and_not_counted() -> None:
    async with running(keep_alive=20) as router:
        client = await router.client()
        await router.connection(client)
        router.expire(19.0)
        await settled(lambda: len(router.connections))
        assert len(router.connections) == 1
        router.expire(21.0)
        assert await client.left() == b""
        assert router.counted("calls_total") == 0


@on_uvloop
@pytest.mark.parametrize(("stream", "error"), [(STREAM, ""), (STREAM.removesuffix(DONE), "client_left")])
async def test_a_client_that_leaves_after_done_was_served(stream: bytes, error: str) -> None:
    """openai-python closes its connection at [DONE], before HTTP's end."""
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(STREAMING))
        peer = await server.accept()
        await peer.answer(SSE, chunk(stream))
        await client.reader.readuntil(stream[-20:])
        client.reset()
        assert await peer.left() == b""
        await until(lambda: router.counted("calls_total"))
        assert router.counted("calls_total", status="200", error=error) == 1


@on_uvloop
async def test_the_unreadable_events_of_a_stream_that_they_end_are_counted() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(STREAMING))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello") + b"data: x{\n\n" * 2000))
        assert b"that cannot be read" in (await client.answer()).body
        assert router.counted("malformed_events_total", endpoint="there-1") > 1000


@on_uvloop
@pytest.mark.parametrize("requests", [b"", b"\r\n", post(CHAT), get(b"/v1/models"), get(b"/v1/models") + post(CHAT)])
async def test_a_client_that_leaves_between_requests_is_not_counted(requests: bytes) -> None:
    async with running() as router:
        client = await router.client()
        client.send(requests)
        for _ in range(requests.count(b" HTTP/")):
            await client.answer()
        front = await router.connection(client)
        await settled(lambda: front.intake.state in READING)
        client.reset()
        await until(lambda: not router.connections)
        assert router.counted("calls_total", error="client_left") == 0


@on_each_loop
@pytest.mark.parametrize("gone", ["close", "reset"])
@pytest.mark.parametrize("asked", [CHAT, STREAMING], ids=["plain", "streaming"])
async def test_a_client_that_leaves_before_the_answer_ends_its_attempt(asked: bytes, gone: str) -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(asked))
        peer = await server.accept()
        await peer.request()
        getattr(client, gone)()
        assert await peer.left() == b""
        await router.quiet()
        assert router.counted("calls_total", status="499", error="client_left") == 1
        assert router.counted("attempts_total", verdict="abandoned") == 1


@on_each_loop
@pytest.mark.parametrize("gone", ["close", "reset"])
async def test_a_client_that_leaves_within_its_stream_ends_its_attempt(gone: str) -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(STREAMING))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        assert (await client.head()).status == 200
        getattr(client, gone)()
        assert await peer.left() == b""
        await router.quiet()
        assert router.counted("calls_total", status="200", error="client_left") == 1
        assert router.counted("attempts_total", verdict="abandoned") == 1


# Several requests on one connection.


@on_each_loop
async def test_a_connection_carries_our_calls_and_the_applications_in_any_order() -> None:
    async with running() as router:
        client = await router.client()
        for request in (
            post(CHAT),
            get(b"/v1/models"),
            post(STREAMING),
            post(CHAT),
            get(b"/healthz"),
            get(b"/nowhere"),
        ):
            answer = await client.ask(request)
            assert answer.status == (404 if b"nowhere" in request else 200)
            assert is_stamped(answer)
        assert len(router.connections) == 1
        assert router.counted("calls_total", status="200") == 3


@on_uvloop
async def test_the_idle_timer_of_uvicorn_does_not_cut_a_call() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        assert (await client.ask(get(b"/v1/models"))).status == 200
        front = await router.connection(client)
        client.send(post(STREAMING))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await client.head()
        if front.timeout_keep_alive_task is not None and not front.timeout_keep_alive_task.cancelled():
            front.timeout_keep_alive_handler()  # as the timer does after so many seconds
        router.expire(3600.0)
        peer.send(chunk(FINISH + DONE), LAST)
        body = b"".join([piece async for piece in client.chunks()])
        assert body == ROLE + token("Hello") + FINISH + DONE


@on_each_loop
@pytest.mark.parametrize("first", [CHAT, STREAMING], ids=["plain", "streaming"])
async def test_the_first_of_pipelined_calls_is_answered_and_the_connection_closed(first: bytes) -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(first) + post(CHAT) + get(b"/v1/models"))
        peer = await server.accept()
        await peer.answer(*([SSE, chunk(ROLE + token("a") + FINISH + DONE), LAST] if b"stream" in first else [whole()]))
        assert (await client.answer()).status == 200
        assert await client.left() == b""
        assert (server.accepted, router.counted("calls_total")) == (1, 1)


@on_each_loop
async def test_a_request_during_an_answer_closes_the_connection_after_it() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(CHAT))
        peer = await server.accept()
        await peer.request()
        front = await router.connection(client)
        client.send(post(CHAT))
        await until(lambda: not front.reply.keep)
        peer.send(whole())
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (200, JSON, "close")
        assert await client.left() == b""
        assert router.counted("calls_total") == 1


@on_uvloop
async def test_pipelined_calls_that_are_refused_at_once_are_each_refused() -> None:
    async with running() as router:
        client = await router.client()
        client.send(post(b"{}") * 3)
        for _ in range(3):
            assert (await client.answer()).status == 400
        assert (await client.ask(post(CHAT))).status == 200


@on_uvloop
async def test_pipelined_requests_to_the_application_and_to_us_are_answered_in_turn() -> None:
    async with running() as router:
        client = await router.client()
        client.send(get(b"/v1/models") + post(CHAT) + get(b"/healthz"))
        models, chat, health = [await client.answer() for _ in range(3)]
        assert models.json["object"] == "list"
        assert chat.json["choices"]
        assert health.json["status"] == "ok"


@on_uvloop
async def test_an_answer_to_connection_close_closes_the_connection() -> None:
    async with running() as router:
        client = await router.client()
        answer = await client.ask(post(CHAT, b"Connection: close"))
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.left() == b""


@on_uvloop
async def test_a_blank_line_before_a_request_is_ignored() -> None:
    async with running() as router:
        client = await router.client()
        assert (await client.ask(b"\r\n" + post(CHAT))).status == 200
        assert (await client.ask(b"\r\n" + post(CHAT))).status == 200


# HTTP/1.0, and offers to change the protocol.


@on_each_loop
@pytest.mark.parametrize("asked", [CHAT, STREAMING], ids=["plain", "streaming"])
async def test_an_http_1_0_client_gets_its_answer_and_the_connection_is_closed(asked: bytes) -> None:
    async with running() as router:
        client = await router.client()
        answer = await client.ask(post(asked, version=b"1.0"))
        assert answer.status == 200
        assert "transfer-encoding" not in answer.headers
        assert answer.headers["connection"] == "close"
        assert answer.body.endswith(DONE) if asked is STREAMING else answer.json["choices"]
        assert await client.left() == b""


@on_uvloop
async def test_an_http_1_0_client_may_keep_its_connection() -> None:
    async with running() as router:
        client = await router.client()
        for _ in range(2):
            answer = await client.ask(post(CHAT, b"connection: keep-alive", version=b"1.0"))
            assert "content-length" in answer.headers


@on_uvloop
@pytest.mark.parametrize("to", [b"h2c", b"websocket", b"TLS/1.2"])
async def test_an_offer_to_change_the_protocol_is_declined_and_the_request_served(to: bytes) -> None:
    upgrade = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: " + to, b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA")
    async with running() as router:
        answer = await router.ask(get(b"/v1/models", *upgrade))
        assert answer.status == 200
        assert is_stamped(answer)
        for asked in (CHAT, STREAMING):
            answer = await router.ask(post(asked, *upgrade))
            assert (answer.status, answer.headers["x-router-endpoint"]) == (200, "made-up")
        answer = await router.ask(get(b"/v1/chat/completions", *upgrade))
        assert answer.status == 405


@on_uvloop
async def test_a_thousand_offers_to_change_the_protocol_in_one_read_do_no_harm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    offer = (b"connection: upgrade", b"upgrade: h2c")
    async with running() as router:
        for request in (post(b"[]", *offer), get(b"/healthz", *offer)):
            client = await router.client()
            client.send(request * 1000 + get(b"/healthz", b"connection: close"))
            assert (await client.left()).startswith(b"HTTP/1.1 ")
        assert (await router.ask(post(CHAT, *offer))).status == 200
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@on_uvloop
async def test_an_http_1_0_client_that_offers_another_protocol_gets_no_chunks() -> None:
    async with running() as router:
        answer = await router.ask(post(STREAMING, b"connection: upgrade", b"upgrade: h2c", version=b"1.0"))
        assert (answer.status, "transfer-encoding" in answer.headers) == (200, False)


# Clients that read slowly.


@on_each_loop
async def test_a_slow_reader_pauses_its_endpoint_and_gets_the_whole_answer() -> None:
    count, event = 400, token("x" * 65_000)
    async with serving() as server, running(at(server)) as router:
        client = await router.client(limit=1024)  # its reader takes 2 KiB and then pauses
        client.send(post(STREAMING))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + event), chunk(event) * (count - 1))
        waiting = peer.writer.transport.get_write_buffer_size
        await settled(waiting)
        assert waiting() > count * len(event) // 2  # the endpoint holds the rest
        front = await router.connection(client)
        assert front.transport.get_write_buffer_size() < 1 << 20  # the router holds little
        peer.send(chunk(FINISH + DONE), LAST)
        await client.head()
        got = sum([len(piece) async for piece in client.chunks()])
        assert got == len(ROLE + event * count + FINISH + DONE)
        assert router.counted("attempts_total", verdict="served") == 1


@on_each_loop
async def test_a_slow_reader_does_not_delay_another_client() -> None:
    event = token("x" * 65_000)
    async with serving() as server, running(at(server)) as router:
        slow = await router.client(limit=1024)
        slow.send(post(STREAMING))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + event) * 200)
        await settled(peer.writer.transport.get_write_buffer_size)
        fast = await router.client()
        fast.send(post(STREAMING))
        other = await server.accept()
        await other.answer(SSE, chunk(ROLE + token("Hello") + FINISH + DONE), LAST)
        assert (await fast.answer()).body.endswith(DONE)
        slow.reset()
        await peer.left()


@on_each_loop
async def test_no_request_is_read_before_the_client_has_read_its_last_answer() -> None:
    body = b'{"choices":[{"message":{"content":"%b"}}]}' % (b"x" * 1_000_000)  # short enough to be written at once
    async with serving() as server, running(at(server)) as router:
        client = await router.client(limit=1024)  # its reader takes 2 KiB and then pauses
        front = await router.connection(client)
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        front.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.send(post(CHAT))
        peer = await server.accept()
        await peer.answer(whole(body))
        unread = front.transport.get_write_buffer_size
        await until(lambda: router.counted("calls_total") == 1)
        await settled(unread)
        assert unread() > 1 << 19
        client.send(post(STREAMING))
        await settled(unread)
        assert router.router.handler.calls == 0
        assert (await client.answer()).body == body
        await peer.answer(SSE, chunk(STREAM), LAST)
        assert (await client.answer()).body == STREAM


@on_uvloop
async def test_unread_answers_do_not_accumulate() -> None:
    async with running() as router:
        client = await router.client(limit=1024)
        front = await router.connection(client)
        asked = b'{"model":"%b"}' % (b"x" * 250)  # the refusal quotes this name
        while not front.flow.write_paused:
            client.send(post(asked) * 20)
            await asyncio.sleep(0)
        assert front.transport.get_write_buffer_size() < 256 << 10
        await settled(lambda: router.counted("calls_total"))
        answered = router.counted("calls_total")
        client.send(post(asked))
        await settled(lambda: router.counted("calls_total"))
        assert router.counted("calls_total") == answered
        router.expire(after=80)  # notes how many bytes are unread; the next sweep finds as many
        router.expire(after=160)
        await until(lambda: not router.connections)


@on_each_loop
async def test_the_first_of_very_many_pipelined_requests_are_answered() -> None:
    async with running() as router:
        client = await router.client()
        client.send(get(b"/healthz") * 2000)
        front = await router.connection(client)
        await until(lambda: front.cycle is not None)
        assert len(front.pipeline) <= PIPELINED
        assert (await client.left()).count(b"HTTP/1.1 200 OK") == PIPELINED + 1


@on_uvloop
async def test_after_a_request_with_connection_close_no_more_is_read() -> None:
    """Requests in the same read are dropped too: an endpoint could be asked, and the answer never sent."""
    async with running() as router:
        client = await router.client()
        client.send(post(b"[]", b"connection: close") + post(CHAT) + b"no HTTP")
        assert (await client.left()).count(b"HTTP/1.1") == 1
        assert router.counted("calls_total") == 1


@on_uvloop
async def test_invalid_bytes_after_a_request_do_not_prevent_its_answer() -> None:
    async with running() as router:
        client = await router.client()
        client.send(post(CHAT) + b"no HTTP\r\n\r\n")
        answers = await client.left()
        assert answers.startswith(b"HTTP/1.1 200 OK")
        assert answers.count(b"HTTP/1.1") == 1


@on_each_loop
async def test_a_slow_client_that_leaves_ends_its_attempt() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client(limit=1024)
        client.send(post(STREAMING))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("x" * 65_000)) * 400)
        await settled(peer.writer.transport.get_write_buffer_size)
        client.reset()
        await peer.left()
        await router.quiet()
        assert router.counted("calls_total", error="client_left") == 1


# Endpoints that fail, as the client sees it.


@on_uvloop
@pytest.mark.parametrize(
    ("response", "status", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n", 502, "not valid HTTP"),
        (whole(b"", 302, b"location: http://elsewhere.test/"), 502, "redirect"),
        (whole(b"hello"), 502, "not valid JSON"),
        (head(200, b"content-length: 9") + JSON, 502, "not valid JSON"),
        (whole(b'{"error":{"message":"no","code":"boom"}}', 500), 502, "status 500 (boom)"),
        (whole(b'{"error":{"message":"your key sk-123 is wrong"}}', 401), 502, "status 401"),
        (whole(b"slow down", 429, b"retry-after: 7"), 429, "busy"),
        (whole(b'{"error":{"message":"too long","code":"context_length_exceeded"}}', 400), 400, "too long"),
    ],
    ids=["garbage", "redirect", "text", "length", "error", "key", "busy", "refusal"],
)
async def test_a_failed_endpoint_gives_an_error_body_of_openai(response: bytes, status: int, words: str) -> None:
    async with serving() as server, running(at(server)) as router:
        server.always = response
        answer = await router.ask(post(STREAMING))
        assert answer.status == status
        assert words in answer.json["error"]["message"]
        assert "sk-123" not in answer.body.decode()
        assert is_stamped(answer)
        if status == 429:
            assert float(answer.headers["retry-after-ms"]) == 7000
        assert router.counted("calls_total", status=str(status)) == 1


@on_each_loop
async def test_a_stream_that_breaks_ends_with_an_error_and_no_done() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(STREAMING))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await client.head()
        peer.reset()
        body = b"".join([piece async for piece in client.chunks()])
        *events, last, end = body.split(b"\n\n")
        assert b"\n\n".join([*events, b""]) == ROLE + token("Hello")
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stream_broken"
        assert (end, b"[DONE]" in body) == (b"", False)
        assert router.counted("calls_total", status="200", error="stream_broken") == 1
        assert router.counted("attempts_total", verdict="fault") == 1


@on_uvloop
async def test_an_endpoint_gets_its_configured_headers_and_not_the_clients_credentials() -> None:
    configured = "api_key: ours-123\n    headers: {x-tenant: us}"
    async with serving() as server, running(at(server, more=configured, top=KEYS)) as router:
        client = await router.client()
        theirs = [b"Authorization: Bearer sesame", b"Cookie: a=b", b"Connection: x-hop", b"X-Hop: 1", b"X-Tenant: them"]
        client.send(post(CHAT, *theirs, b"Accept-Encoding: gzip", b"X-Stainless-Lang: python", b"X-Title: yes"))
        peer = await server.accept()
        request = await peer.answer(whole(JSON, 200, b"set-cookie: c=d", b"x-request-id: theirs", b"server: vLLM"))
        answer = await client.answer()
        assert request.line == b"POST /v1/chat/completions HTTP/1.1"
        assert request.headers == {
            b"host": b"127.0.0.1:%d" % server.port,
            b"content-type": b"application/json",
            b"accept-encoding": b"identity",
            b"x-tenant": b"us",
            b"authorization": b"Bearer ours-123",
            b"x-title": b"yes",
            b"cdn-loop": request.headers[b"cdn-loop"],
            b"content-length": b"%d" % len(request.body),
        }
        assert json.loads(request.body) == {**json.loads(CHAT), "model": "m"}
        assert answer.body == JSON
        assert answer.headers["x-upstream-request-id"] == "theirs"
        assert not {"set-cookie", "server"} & set(answer.headers)
        assert answer.headers["x-request-id"].startswith("req_")


# Client keys, and the limit of calls.


@on_uvloop
@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"x-nothing: 1", "missing_api_key"),
        (b"authorization: Bearer wrong", "invalid_api_key"),
        (b"authorization: Basic c2VzYW1l", "missing_api_key"),
        (b"authorization: Bearer ", "invalid_api_key"),
        (b"authorization: Bearer sesame\xff", "invalid_api_key"),
    ],
)
async def test_without_a_valid_key_nothing_is_served(line: bytes, code: str) -> None:
    async with serving() as server, running(at(server, top=KEYS)) as router:
        for request in (post(CHAT, line), get(b"/v1/models", line), get(b"/metrics", line)):
            answer = await router.ask(request)
            assert (answer.status, answer.error["code"]) == (401, code)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert is_stamped(answer)
        assert server.accepted == 0
        assert router.counted("calls_total", status="401", error=code) == 3


@on_each_loop
@pytest.mark.parametrize("framing", [b"content-length: 9999", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("line", [b"x-nothing: 1", b"expect: 100-continue"])
async def test_without_a_key_no_body_is_read(framing: bytes, line: bytes) -> None:
    async with running(KEYS + SIMULATED) as router:
        client = await router.client()
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n%b\r\n%b\r\n\r\n" % (framing, line))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        front = await router.connection(client)
        client.send(b"x" * 5000)
        await settled(lambda: front.intake.held)
        assert front.intake.held == front.intake.body_size == 0
        assert await client.left() == b""
        assert router.counted("calls_total", status="401", operation="chat/completions") == 1


CLOSED_TO_PAGES = [post(CHAT), get(b"/v1/models"), get(b"/v1/models/chat"), get(b"/metrics"), get(b"/admin/endpoints")]


@on_uvloop
@pytest.mark.parametrize("line", [b"origin: https://evil.test", b"origin: null", b"host: evil.test:8080"])
async def test_a_router_without_keys_refuses_web_pages(line: bytes) -> None:
    line = line + b"\r\n"
    async with running() as router:
        requests = CLOSED_TO_PAGES[line.startswith(b"host") :]  # a call is judged by its Origin only
        for request in requests:
            answer = await router.ask(_with_line(request, line))
            assert (answer.status, answer.error["code"]) == (403, f"forbidden_{line[:6].decode().strip(': ')}")
            assert mentions(answer.error["message"], "keys")
            assert is_stamped(answer)
        assert router.counted("calls_total", status="403") == len(requests)
        assert (await router.ask(_with_line(get(b"/healthz"), line))).status == 200


@on_uvloop
@pytest.mark.parametrize("line", [b"origin: http://localhost:3000", b"host: [::1]:8080"])
async def test_a_router_without_keys_serves_pages_of_this_machine(line: bytes) -> None:
    async with running() as router:
        for request in CLOSED_TO_PAGES:
            assert (await router.ask(_with_line(request, line + b"\r\n"))).status == 200


@on_uvloop
async def test_allow_open_accepts_any_host_but_no_page() -> None:
    async with running(allow_open=True) as router:
        for request in CLOSED_TO_PAGES:
            assert (await router.ask(_with_line(request, b"host: router.test\r\n"))).status == 200
            assert (await router.ask(_with_line(request, b"origin: https://evil.test\r\n"))).status == 403


def _with_line(request: bytes, line: bytes) -> bytes:
    """Add a header line to a request, or replace its Host."""
    host = b"host: localhost\r\n"
    return request.replace(host, line if line.startswith(b"host") else host + line)


@on_uvloop
@pytest.mark.parametrize("line", [b"Authorization: Bearer sesame", b"authorization: bearer   sesame "])
async def test_with_a_valid_key_a_call_is_served(line: bytes) -> None:
    async with serving() as server, running(at(server, top=KEYS)) as router:
        client = await router.client()
        client.send(post(CHAT, line))
        await (await server.accept()).answer(whole())
        assert (await client.answer()).status == 200


@on_uvloop
async def test_a_call_beyond_the_limit_gets_429_with_the_time_to_retry() -> None:
    async with serving() as server, running(at(server), max_calls=2) as router:
        clients = [await router.client() for _ in range(3)]
        peers = []
        for client in clients[:2]:
            client.send(post(CHAT))
            peers.append(await server.accept())
        answer = await clients[2].ask(post(CHAT))
        assert (answer.status, answer.error["code"], answer.error["type"]) == (429, "overloaded", "rate_limit_error")
        assert (answer.headers["x-should-retry"], int(answer.headers["retry-after-ms"]) > 0) == ("true", True)
        assert router.counted("calls_in_flight") == 2
        for peer, client in zip(peers, clients, strict=False):
            await peer.answer(whole())
            assert (await client.answer()).status == 200
        assert router.counted("calls_in_flight") == 0


# When the server stops.


@on_each_loop
async def test_a_server_that_stops_finishes_its_streams_and_closes_idle_connections() -> None:
    async with serving() as server, running(at(server)) as router:
        idle, busy = await router.client(), await router.client()
        busy.send(post(STREAMING))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await busy.head()
        await router.connection(idle)
        for front in tuple(router.connections):
            front.shutdown()
        assert await idle.left() == b""
        peer.send(chunk(FINISH + DONE), LAST)
        assert b"".join([piece async for piece in busy.chunks()]).endswith(DONE)
        assert await busy.left() == b""


def test_uvicorn_still_has_the_internals_that_front_relies_on() -> None:
    """uvicorn does not promise them: if this fails after an upgrade, read its httptools_impl.py again."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

    callbacks = ["on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body", "on_message_complete"]
    assert all(hasattr(HttpToolsProtocol, name) for name in [*callbacks, "timeout_keep_alive_handler", "shutdown"])
    assert "response_complete" in RequestResponseCycle.__init__.__code__.co_names
    parser: Any = httptools.HttpRequestParser(object())
    assert all(hasattr(parser, name) for name in ("should_upgrade", "should_keep_alive", "get_http_version"))
