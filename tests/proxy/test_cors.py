"""CORS: the answer to preflights, and which answers a web page may read, by both ways to serve."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proxy.running import CHAT, SIMULATED, STREAMING, Answer, Running, at, get, post, running
from tests.upstream.servers import FINISH, ROLE, SSE, chunk, on_uvloop, serving, token

LOCAL = b"origin: http://localhost:3000"
APP = b"origin: https://app.test"
KEY = b"authorization: Bearer sesame"
ASKS = b"access-control-request-method: POST"
NAMES = b"access-control-request-headers: authorization,content-type,x-stainless-os"
KEYED = "keys: [sesame]\n"
NAMED = KEYED + "cors: [https://app.test, 'http://b.test:8080']\n"
ALL = KEYED + "cors: '*'\n"
ALLOW = "access-control-allow-origin"

# `front.py` takes calls before ASGI; under uvicorn's other protocol the ASGI application serves them.
WAYS = pytest.mark.parametrize("http", [None, "h11"], ids=["front", "asgi"])


def preflight(path: bytes = b"/v1/chat/completions", *lines: bytes) -> bytes:
    return get(path, *lines, method=b"OPTIONS")


async def head(router: Running, request: bytes) -> Answer:
    """Send a request whose answer has no body, and after it another one on the same connection."""
    client = await router.client()
    client.send(request)
    answer = await client.head()
    assert (await client.ask(get(b"/healthz"))).status == 200
    client.close()
    return answer


@on_uvloop
@WAYS
@pytest.mark.parametrize(
    "path", [b"/v1/chat/completions", b"/v1/models", b"/v1/models/chat", b"/v1/nowhere", b"/metrics"]
)
@pytest.mark.parametrize(
    ("top", "origin", "allowed"),
    [
        ("", LOCAL, "http://localhost:3000"),
        ("", b"origin: http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("", b"origin: app://localhost", "app://localhost"),
        (NAMED, APP, "https://app.test"),
        (NAMED, b"origin: http://b.test:8080", "http://b.test:8080"),
        (ALL, b"origin: https://any.test", "*"),
        (ALL, b"origin: null", "*"),
    ],
)
async def test_a_preflight_is_answered_without_a_key(
    path: bytes, top: str, origin: bytes, allowed: str, http: Any
) -> None:
    async with running(top + SIMULATED, http=http) as router:
        answer = await head(router, preflight(path, origin, ASKS, NAMES))
        assert answer.status == 204
        assert not {"content-length", "transfer-encoding"} & answer.headers.keys()
        assert answer.headers[ALLOW] == allowed
        assert answer.headers["access-control-allow-methods"] == "GET, POST"
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
        assert int(answer.headers["access-control-max-age"]) > 0
        assert answer.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in answer.headers
        assert "access-control-allow-private-network" not in answer.headers
        assert answer.headers["x-request-id"].startswith("req_")


@on_uvloop
@WAYS
@pytest.mark.parametrize(
    ("top", "origin", "words"),
    [
        ("", b"https://evil.test", "keys"),
        ("", b"http://localhost.evil.test", "keys"),
        ("", b"null", "keys"),
        ("cors: '*'\n", b"https://evil.test", "keys"),
        (KEYED, b"http://localhost:3000", "cors"),
        (NAMED, b"https://evil.test", "cors"),
        (NAMED, b"https://app.test.evil.test", "cors"),
        (NAMED, b"http://app.test", "cors"),
        (NAMED, b"https://app.test:8443", "cors"),
        (NAMED, b"null", "cors"),
    ],
)
async def test_a_preflight_of_another_page_is_refused(top: str, origin: bytes, words: str, http: Any) -> None:
    async with running(top + SIMULATED, http=http) as router:
        answer = await router.ask(preflight(b"/v1/chat/completions", b"origin: " + origin, ASKS))
        assert (answer.status, answer.error["code"]) == (403, "forbidden_origin")
        assert words in answer.error["message"]
        assert ALLOW not in answer.headers


@on_uvloop
async def test_options_that_is_no_preflight_is_refused_as_before() -> None:
    async with running(NAMED + SIMULATED) as router:
        for lines in ((), (APP,), (ASKS,)):
            answer = await router.ask(preflight(b"/v1/chat/completions", *lines))
            assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
            assert (answer.headers.get(ALLOW) == "https://app.test") is (APP in lines)


@on_uvloop
async def test_a_preflight_for_a_private_network_is_allowed() -> None:
    async with running(ALL + SIMULATED) as router:
        answer = await head(
            router, preflight(b"/v1/models", APP, ASKS, b"access-control-request-private-network: true")
        )
        assert answer.headers["access-control-allow-private-network"] == "true"


@on_uvloop
@pytest.mark.parametrize("names", [b"x" * 5000, b"a;b", b"", b"\xff"])
async def test_unusual_header_names_are_not_repeated(names: bytes) -> None:
    async with running(ALL + SIMULATED) as router:
        answer = await head(router, preflight(b"/v1/models", APP, ASKS, b"access-control-request-headers: " + names))
        assert answer.status == 204
        assert answer.headers["access-control-allow-headers"] == "authorization, content-type"


def readable(answer: Answer, origin: str) -> bool:
    """True if a browser shows the answer to a page of this origin."""
    assert "access-control-allow-credentials" not in answer.headers
    if answer.headers.get(ALLOW) not in ("*", origin):
        assert ALLOW not in answer.headers
        return False
    assert (answer.headers["vary"], answer.headers["access-control-expose-headers"]) == ("origin", "*")
    return True


REQUESTS = {
    "answer": (post(CHAT), 200),
    "stream": (post(STREAMING), 200),
    "models": (get(b"/v1/models"), 200),
    "health": (get(b"/healthz"), 200),
    "bad body": (post(b"{"), 400),
    "unknown model": (post(b'{"model":"none"}'), 404),
    "unknown path": (post(CHAT, path=b"/v1/nowhere"), 404),
    "wrong method": (get(b"/v1/chat/completions"), 405),
}


def with_lines(request: bytes, *lines: bytes) -> bytes:
    return request.replace(b"host: localhost\r\n", b"host: localhost\r\n" + b"".join(line + b"\r\n" for line in lines))


@on_uvloop
@WAYS
@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_page_reads_answers_streams_and_errors(kind: str, http: Any) -> None:
    request, status = REQUESTS[kind]
    async with running(SIMULATED, http=http) as router:
        answer = await router.ask(with_lines(request, LOCAL))
        assert (answer.status, readable(answer, "http://localhost:3000")) == (status, True)
    for top, origin in ((NAMED, "https://app.test"), (ALL, "https://any.test")):
        async with running(top + SIMULATED, http=http) as router:
            answer = await router.ask(with_lines(request, b"origin: " + origin.encode(), KEY))
            assert (answer.status, readable(answer, origin)) == (status, True)
            other = await router.ask(with_lines(request, b"origin: https://evil.test", KEY))
            assert (other.status, readable(other, "https://evil.test")) == (status, top == ALL)


@on_uvloop
@WAYS
async def test_a_page_reads_that_its_key_is_wrong(http: Any) -> None:
    async with running(NAMED + SIMULATED, http=http) as router:
        for request in (post(CHAT), get(b"/v1/models")):
            answer = await router.ask(with_lines(request, APP))
            assert (answer.status, readable(answer, "https://app.test")) == (401, True)


@on_uvloop
async def test_a_page_reads_that_its_request_is_too_large() -> None:
    async with running(NAMED + SIMULATED, max_body=100) as router:
        answer = await router.ask(post(b" " * 101, APP, KEY))
        assert (answer.status, readable(answer, "https://app.test")) == (413, True)


@on_uvloop
async def test_the_rule_of_one_request_does_not_stay_for_the_next_on_its_connection() -> None:
    async with running(SIMULATED) as router:
        client = await router.client()
        for lines, expected in (((LOCAL,), True), ((), False), ((LOCAL,), True), ((), False)):
            answer = await client.ask(post(CHAT, *lines))
            assert (ALLOW in answer.headers) is expected


@on_uvloop
async def test_a_page_reads_a_stream_before_it_ends() -> None:
    async with serving() as server, running(at(server, top=NAMED)) as router:
        client = await router.client()
        client.send(post(STREAMING, APP, KEY))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        assert readable(await client.head(), "https://app.test")
        peer.send(chunk(FINISH), b"0\r\n\r\n")
        assert b"".join([piece async for piece in client.chunks()])


@on_uvloop
@pytest.mark.parametrize("top", ["", KEYED, NAMED, ALL])
async def test_a_client_that_is_no_page_gets_no_cors_headers(top: str) -> None:
    async with running(top + SIMULATED) as router:
        for request in (post(CHAT), get(b"/v1/models")):
            answer = await router.ask(with_lines(request, *((KEY,) if top else ())))
            assert answer.status == 200
            assert not any(name.startswith("access-control-") for name in answer.headers)
