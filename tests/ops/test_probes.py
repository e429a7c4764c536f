"""Active health checks: the request of each kind of probe, and the meaning of every answer or of none."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random

import pytest
import trustme

from router.config import EndpointConfig, parse
from router.core.choice.table import rebuild
from router.core.endpoint.endpoint import Endpoint
from router.core.verdict import Outcome, Verdict
from router.ops.keep import keep
from router.ops.probes import MAX_ANSWER_BYTES, RECHECK, Prober, probers
from router.upstream.pool import Address, Pool
from tests.core.helpers import trip
from tests.upstream.servers import (
    DONE,
    FINISH,
    ROLE,
    Clock,
    Peer,
    Received,
    Server,
    head,
    listening,
    on_uvloop,
    serving,
    token,
    until,
    unused_port,
    whole,
)

URL = "http://127.0.0.1:9/v1"
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts no certificate


def config(url: str = URL, kind: str = "openai", more: str = "", **probe: object) -> EndpointConfig:
    lines = ", ".join(f"{name}: {value}" for name, value in probe.items())
    text = f"""
endpoints:
  - name: there
    kind: {kind}
    base_url: {url}
    models: {{chat: m}}
    probe: {{{lines}}}
    {more}
"""
    return parse(text, "endpoints.yaml", {}).endpoints[0]


@asynccontextmanager
async def probing(
    config: EndpointConfig, *endpoints: Endpoint, tls: ssl.SSLContext = TLS, clock: Clock | None = None
) -> AsyncIterator[Prober]:
    clock = clock or Clock()
    pool = Pool("there", Address.of(config.base_url or ""), clock, min_idle=0, tls=tls)
    try:
        yield Prober(endpoints or [Endpoint("there", "m")], config, pool, clock, Random(7))
    finally:
        pool.close()


class There(Server):
    """A server that answers every request, and keeps the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.answer, self.requests = whole(b"{}"), list[Received]()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    def respond(self, status: int, body: bytes = b"{}") -> None:
        self.answer = whole(body, status)

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().take(reader, writer)
        self._tasks.append(asyncio.ensure_future(self._answer(self.peers[-1])))

    async def _answer(self, peer: Peer) -> None:
        try:
            while True:
                self.requests.append(await peer.request())
                peer.send(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass


def there() -> AbstractAsyncContextManager[There]:
    return listening(There())


# Requests.


def with_probe(kind: str, url: str = URL, more: str = "", timeout: str = "5s") -> EndpointConfig:
    plain = config(url, more=more, timeout=timeout)
    return plain.model_copy(update={"probe": plain.probe.model_copy(update={"kind": kind})})


@on_uvloop
@pytest.mark.parametrize(("kind", "probe"), [("openai", "models"), ("vllm", "health"), ("zhipu", "connect")])
async def test_each_kind_of_server_has_its_kind_of_probe(kind: str, probe: str) -> None:
    async with probing(config(kind=kind)) as prober:
        assert prober.kind == probe
    async with probing(with_probe("chat")) as prober:
        assert prober.kind == "chat"


@on_uvloop
async def test_a_server_in_trouble_is_probed_more_often_but_not_by_chats() -> None:
    missed, broken, well = (Endpoint(name, "m") for name in ("missed", "broken", "well"))
    well.availability.probed(True, 999.0)
    for _ in range(2):
        missed.availability.probed(True, 999.0)
    missed.availability.probed(False, 999.0)
    trip(broken, 999.0)
    for endpoint, kind, pause in (
        (well, "models", 10.0),
        (missed, "models", RECHECK),
        (broken, "models", RECHECK),
        (broken, "chat", 10.0),
    ):
        async with probing(with_probe(kind), endpoint) as prober:
            assert prober.pause == pause
    async with probing(config(interval="1s"), broken) as prober:
        assert prober.pause == 1.0


@on_uvloop
async def test_the_request_for_models_carries_the_key_and_headers() -> None:
    async with there() as server:
        asked = with_probe("models", server.url, more="api_key: sk-1\n    headers: {x-tenant: us}")
        async with probing(asked) as prober:
            assert await prober.probe() == ""
    (request,) = server.requests
    assert request.line == b"GET /v1/models HTTP/1.1"
    assert request.headers[b"host"] == f"{server.host}:{server.port}".encode()
    assert request.headers[b"authorization"] == b"Bearer sk-1"
    assert request.headers[b"x-tenant"] == b"us"
    assert request.headers[b"user-agent"].startswith(b"firsttoken/")


@on_uvloop
async def test_health_is_requested_beside_the_api() -> None:
    async with there() as server, probing(with_probe("health", server.url)) as prober:
        assert await prober.probe() == ""
    assert [request.line for request in server.requests] == [b"GET /health HTTP/1.1"]


@on_uvloop
async def test_a_chat_is_minimal_and_carries_forced_parameters() -> None:
    more = "params: {force: {max_tokens: 7, thinking: {type: disabled}}}"
    async with there() as server:
        server.respond(200, ROLE + token("a") + FINISH + DONE)
        async with probing(with_probe("chat", server.url, more)) as prober:
            assert await prober.probe() == ""
    (request,) = server.requests
    assert request.line == b"POST /v1/chat/completions HTTP/1.1"
    assert request.headers[b"content-type"] == b"application/json"
    assert json.loads(request.body) == {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 7,
        "stream": True,
        "thinking": {"type": "disabled"},
        "model": "m",
    }


# Answers.


@on_uvloop
@pytest.mark.parametrize("kind", ["models", "health"])
@pytest.mark.parametrize(
    ("status", "down"),
    [
        (200, ""),
        (404, ""),
        (405, ""),
        (429, ""),
        (401, ""),  # a key may be allowed to chat and not to list models: only a call decides
        (403, ""),
        (501, ""),
        (500, "status 500"),
        (503, "status 503"),
    ],
)
async def test_a_server_that_answers_is_up_unless_it_fails(kind: str, status: int, down: str) -> None:
    async with there() as server:
        server.respond(status)
        async with probing(with_probe(kind, server.url)) as prober:
            assert await prober.probe() == down


@on_uvloop
@pytest.mark.parametrize(
    ("status", "body", "down"),
    [
        (200, ROLE + token("a") + FINISH + DONE, ""),
        (200, ROLE + FINISH + DONE, ""),
        (200, b": ping\n\n" * 9 + token("a"), ""),
        (200, b"", "an empty stream"),
        (200, b": ping\n\n", "an empty stream"),
        (200, ROLE, "an empty stream"),
        (200, b": ping\n\n" * (MAX_ANSWER_BYTES // 8 + 1), f"no token within {MAX_ANSWER_BYTES} bytes"),
        (200, DONE, "an empty stream"),
        (200, b'data: {"error":{"message":"engine dead","code":"boom"}}\n\n', "an error event"),
        (200, ROLE + b'data: {"error":"engine dead"}\n\n', "an error event"),
        (400, b"no", "status 400"),
        (404, b"no", "status 404"),
        (401, b"no", "status 401"),
        (500, b"no", "status 500"),
    ],
    ids=range(14),
)
async def test_a_chat_must_return_a_token(status: int, body: bytes, down: str) -> None:
    async with there() as server:
        server.respond(status, body)
        async with probing(with_probe("chat", server.url)) as prober:
            assert await prober.probe() == down


@on_uvloop
@pytest.mark.parametrize("kind", ["models", "health", "chat", "connect"])
async def test_a_port_without_a_listener_is_down(kind: str) -> None:
    async with probing(with_probe(kind, f"http://127.0.0.1:{unused_port()}/v1")) as prober:
        down = await prober.probe()
        assert "connect" in down.lower()


@on_uvloop
@pytest.mark.parametrize("kind", ["models", "health", "chat"])
async def test_a_server_that_does_not_answer_is_down_after_the_timeout(kind: str) -> None:
    async with serving() as server:
        slow = with_probe(kind, f"http://{server.host}:{server.port}/v1", timeout="50ms")
        async with probing(slow) as prober:
            assert await prober.probe() == "no answer within 0.05 s"
        await (await server.accept()).left()  # and its connection is closed


@on_uvloop
async def test_a_connect_probe_needs_no_answer() -> None:
    async with serving() as server, probing(with_probe("connect", f"http://{server.host}:{server.port}/v1")) as prober:
        assert await prober.probe() == ""
        assert await (await server.accept()).left() == b""


@on_uvloop
async def test_a_connect_probe_includes_tls_for_https() -> None:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(trusting)
    async with serving(tls=context) as server:
        there = with_probe("connect", f"https://localhost:{server.port}")
        async with probing(there) as prober:
            assert "certificate" in (await prober.probe()).lower()
        async with probing(there, tls=trusting) as prober:
            assert await prober.probe() == ""


@on_uvloop
@pytest.mark.parametrize("kind", ["models", "health"])
async def test_an_endless_answer_is_read_only_up_to_the_limit(kind: str) -> None:
    async with serving() as server, probing(with_probe(kind, f"http://{server.host}:{server.port}/v1")) as prober:
        probe = asyncio.ensure_future(prober.probe())
        peer = await server.accept()
        await peer.request()
        peer.send(head(200, b"content-length: %d" % (1 << 40)))
        assert await peer.flood(b"x" * 65536) > MAX_ANSWER_BYTES
        assert await probe == ""


@on_uvloop
@pytest.mark.parametrize("kind", ["models", "health", "chat"])
async def test_a_probe_asks_for_an_uncompressed_answer(kind: str) -> None:
    async with there() as server:
        server.respond(200, token("a"))
        async with probing(with_probe(kind, server.url, "headers: {x-tenant: us}")) as prober:
            assert await prober.probe() == ""
    assert server.requests[0].headers[b"accept-encoding"] == b"identity"


# Servers and their models.


def named(kind: str) -> list[str]:
    text = f"""
endpoints:
  - {{name: a, base_url: "http://a/v1", models: {{chat: m, same: m, large: n}}, probe: {{kind: {kind}}}}}
  - {{name: b, kind: vllm, base_url: "http://b/v1", models: {{chat: m}}}}
  - {{name: c, base_url: "http://c/v1", models: {{chat: m}}, api_key: "${{NOT_SET}}"}}
"""
    table = rebuild(parse(text, "endpoints.yaml", {}))
    pools = {name: Pool(name, Address(name, 80, False, ""), Clock()) for name in "ab"}
    return [repr(prober) for prober in probers(table, pools, Clock(), Random(7))]


def test_a_server_has_one_prober_for_all_models_or_one_per_model_for_chats() -> None:
    assert named("auto") == ["<Prober a: models for m, n>", "<Prober b: health for m>"]
    assert named("chat") == ["<Prober a: chat for m>", "<Prober a: chat for n>", "<Prober b: health for m>"]


@on_uvloop
async def test_a_result_counts_for_all_models_but_those_that_served_traffic() -> None:
    first, second, serves = (Endpoint("there", model) for model in "mno")
    serves.availability.served_at = 1000.0
    async with there() as server, probing(config(server.url, interval="2ms"), first, second, serves) as prober:
        server.respond(500)
        loop = asyncio.ensure_future(prober.run())
        await until(lambda: server.requests)
        await until(lambda: not first.availability.health.up)
        assert (second.availability.health.up, serves.availability.health.up) == (False, True)
        loop.cancel()


# The loop.


@on_uvloop
async def test_the_loop_marks_an_endpoint_down_and_up_and_logs_each_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.probes")
    endpoint = Endpoint("there", "m")
    async with there() as server, probing(config(server.url, interval="2ms"), endpoint) as prober:
        server.respond(500)
        loop = asyncio.ensure_future(prober.run())
        await until(lambda: not endpoint.availability.health.up)
        before = len(server.requests)
        await until(lambda: len(server.requests) > before + 3)
        server.respond(200)
        await until(lambda: endpoint.availability.health.up)
        before = len(server.requests)
        await until(lambda: len(server.requests) > before + 3)
        loop.cancel()
    assert [record.message for record in caplog.records if record.name == "router.ops.probes"] == [
        "endpoint there (m): up -> down: status 500",
        "endpoint there (m): down -> up",
    ]


@on_uvloop
async def test_the_loop_logs_an_endpoint_that_is_up_again_because_it_served_a_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.probes")
    endpoint = Endpoint("there", "m")
    async with there() as server, probing(config(server.url, interval="2ms"), endpoint) as prober:
        server.respond(500)
        loop = asyncio.ensure_future(prober.run())
        await until(lambda: not endpoint.availability.health.up)
        server.respond(200)  # so that no later probe takes it down again
        endpoint.begin(0.0).end(Outcome(Verdict.SERVED), 0.0)
        before = len(server.requests)
        await until(lambda: len(server.requests) > before + 3)
        loop.cancel()
    assert [record.message for record in caplog.records if record.name == "router.ops.probes"][:2] == [
        "endpoint there (m): up -> down: status 500",
        "endpoint there (m): down -> up: it has served a call",
    ]


@on_uvloop
async def test_one_missed_probe_of_an_endpoint_that_was_up_changes_nothing() -> None:
    endpoint = Endpoint("there", "m")
    async with there() as server, probing(config(server.url, interval="2ms"), endpoint) as prober:
        loop = asyncio.ensure_future(prober.run())
        await until(lambda: endpoint.availability.health._known)
        server.respond(500)
        await until(lambda: endpoint.availability.health.misses)
        server.respond(200)
        before = len(server.requests)
        await until(lambda: len(server.requests) > before + 3)
        assert endpoint.availability.health.up
        loop.cancel()


@on_uvloop
async def test_an_endpoint_that_serves_traffic_is_not_probed() -> None:
    endpoint, looks = Endpoint("there", "m"), 0
    endpoint.availability.served_at = 1000.0

    class Looked(Clock):
        def now(self) -> float:
            nonlocal looks
            looks += 1
            return 1000.0

    async with there() as server, probing(config(server.url, interval="2ms"), endpoint, clock=Looked()) as prober:
        loop = asyncio.ensure_future(prober.run())
        await until(lambda: looks > 3)
        assert server.requests == []
        loop.cancel()


@on_uvloop
async def test_a_prober_that_is_off_ends_at_once() -> None:
    auto = config()
    off = auto.model_copy(update={"probe": auto.probe.model_copy(update={"kind": "off"})})
    async with probing(off) as prober:
        await prober.run()


@on_uvloop
async def test_a_loop_that_fails_is_logged_and_restarted(caplog: pytest.LogCaptureFixture) -> None:
    tried = 0

    async def fails() -> None:
        nonlocal tried
        tried += 1
        raise ValueError("a mistake of ours")

    loop = asyncio.ensure_future(keep("probe of there", fails))
    await until(lambda: caplog.records)
    assert tried == 1
    assert "probe of there failed and will be restarted: ValueError('a mistake of ours')" in caplog.text
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
