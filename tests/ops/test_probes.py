"""Active health checks: the request of each kind of probe, and the meaning of every answer or of none."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random

import httpx
import pytest
import respx
import trustme

from router.config import EndpointConfig, parse
from router.core.choice.table import rebuild
from router.core.endpoint.endpoint import Endpoint
from router.ops.keep import keep
from router.ops.probes import MAX_ANSWER_BYTES, RECHECK, Prober, probers
from tests.core.helpers import trip
from tests.upstream.servers import (
    DONE,
    FINISH,
    ROLE,
    Clock,
    head,
    on_uvloop,
    serving,
    token,
    until,
    unused_port,
)

URL = "https://there.test/v1"
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
async def probing(config: EndpointConfig, *endpoints: Endpoint, tls: ssl.SSLContext = TLS) -> AsyncIterator[Prober]:
    async with httpx.AsyncClient(
        trust_env=False, timeout=0.001, verify=TLS
    ) as client:  # the client's own timeout must not apply
        yield Prober(endpoints or [Endpoint("there", "m")], config, client, tls, Clock(), Random(7))


@pytest.fixture
def there() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url="https://there.test") as mock:
        yield mock


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
async def test_the_request_for_models_carries_the_key_and_headers(there: respx.MockRouter) -> None:
    route = there.get("/v1/models").respond(200, json={"data": []})
    async with probing(with_probe("models", more="api_key: sk-1\n    headers: {x-tenant: us}")) as prober:
        assert await prober.probe() == ""
    request = route.calls.last.request
    assert request.headers["authorization"] == "Bearer sk-1"
    assert request.headers["x-tenant"] == "us"


@on_uvloop
async def test_health_is_requested_beside_the_api(there: respx.MockRouter) -> None:
    there.get("/health").respond(200)
    async with probing(with_probe("health")) as prober:
        assert await prober.probe() == ""


@on_uvloop
async def test_a_chat_is_minimal_and_carries_forced_parameters(there: respx.MockRouter) -> None:
    route = there.post("/v1/chat/completions").respond(200, content=ROLE + token("a") + FINISH + DONE)
    async with probing(
        with_probe("chat", more="params: {force: {max_tokens: 7, thinking: {type: disabled}}}")
    ) as prober:
        assert await prober.probe() == ""
    assert json.loads(route.calls.last.request.content) == {
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
        (401, "status 401: the api_key is not accepted"),
        (403, "status 403: the api_key is not accepted"),
        (500, "status 500"),
        (503, "status 503"),
    ],
)
async def test_a_server_that_answers_is_up_unless_it_rejects_the_key(
    there: respx.MockRouter, kind: str, status: int, down: str
) -> None:
    there.get(path__in=["/v1/models", "/health"]).respond(status)
    async with probing(with_probe(kind)) as prober:
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
        (401, b"no", "status 401: the api_key is not accepted"),
        (500, b"no", "status 500"),
    ],
    ids=range(14),
)
async def test_a_chat_must_return_a_token(there: respx.MockRouter, status: int, body: bytes, down: str) -> None:
    there.post("/v1/chat/completions").respond(status, content=body)
    async with probing(with_probe("chat")) as prober:
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
async def test_a_probe_asks_for_an_uncompressed_answer(there: respx.MockRouter, kind: str) -> None:
    route = there.route().respond(200, content=token("a"))
    async with probing(with_probe(kind, more="headers: {x-tenant: us}")) as prober:
        assert await prober.probe() == ""
    assert route.calls.last.request.headers["accept-encoding"] == "identity"


# Servers and their models.


def named(kind: str) -> list[str]:
    text = f"""
endpoints:
  - {{name: a, base_url: "http://a/v1", models: {{chat: m, same: m, large: n}}, probe: {{kind: {kind}}}}}
  - {{name: b, kind: vllm, base_url: "http://b/v1", models: {{chat: m}}}}
  - {{name: c, base_url: "http://c/v1", models: {{chat: m}}, api_key: "${{NOT_SET}}"}}
"""
    table = rebuild(parse(text, "endpoints.yaml", {}))
    return [repr(prober) for prober in probers(table, httpx.AsyncClient(verify=TLS), TLS, Clock(), Random(7))]


def test_a_server_has_one_prober_for_all_models_or_one_per_model_for_chats() -> None:
    assert named("auto") == ["<Prober a: models for m, n>", "<Prober b: health for m>"]
    assert named("chat") == ["<Prober a: chat for m>", "<Prober a: chat for n>", "<Prober b: health for m>"]


@on_uvloop
async def test_a_result_counts_for_all_models_but_those_that_served_traffic(there: respx.MockRouter) -> None:
    first, second, serves = (Endpoint("there", model) for model in "mno")
    serves.availability.cooldown.served_at = 1000.0
    route = there.get("/v1/models").respond(500)
    async with probing(config(interval="2ms"), first, second, serves) as prober:
        loop = asyncio.ensure_future(prober.run())
        await until(lambda: route.call_count)
        await until(lambda: not first.availability.health.up)
        assert (second.availability.health.up, serves.availability.health.up) == (False, True)
        loop.cancel()


# The loop.


@on_uvloop
async def test_the_loop_marks_an_endpoint_down_and_up_and_logs_each_once(
    there: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.probes")
    endpoint = Endpoint("there", "m")
    route = there.get("/v1/models")
    route.respond(500)
    async with probing(config(interval="2ms"), endpoint) as prober:
        loop = asyncio.ensure_future(prober.run())
        await until(lambda: not endpoint.availability.health.up)
        before = route.call_count
        await until(lambda: route.call_count > before + 3)
        route.respond(200)
        await until(lambda: endpoint.availability.health.up)
        before = route.call_count
        await until(lambda: route.call_count > before + 3)
        loop.cancel()
    assert [record.message for record in caplog.records if record.name == "router.ops.probes"] == [
        "endpoint there (m): up -> down: status 500",
        "endpoint there (m): down -> up",
    ]


@on_uvloop
async def test_one_missed_probe_of_an_endpoint_that_was_up_changes_nothing(there: respx.MockRouter) -> None:
    endpoint = Endpoint("there", "m")
    route = there.get("/v1/models")
    route.side_effect = [httpx.Response(200), httpx.ConnectError("lost"), *[httpx.Response(200)] * 1000]
    async with probing(config(interval="2ms"), endpoint) as prober:
        loop = asyncio.ensure_future(prober.run())
        await until(lambda: route.call_count > 3)
        assert endpoint.availability.health.up
        loop.cancel()


@on_uvloop
async def test_an_endpoint_that_serves_traffic_is_not_probed(there: respx.MockRouter) -> None:
    there._assert_all_called = False
    route = there.get("/v1/models").respond(500)
    endpoint, looks = Endpoint("there", "m"), 0
    endpoint.availability.cooldown.served_at = 1000.0

    class Looked(Clock):
        def now(self) -> float:
            nonlocal looks
            looks += 1
            return 1000.0

    async with httpx.AsyncClient(verify=TLS) as client:
        loop = asyncio.ensure_future(Prober([endpoint], config(interval="2ms"), client, TLS, Looked(), Random(7)).run())
        await until(lambda: looks > 3)
        assert route.call_count == 0
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
