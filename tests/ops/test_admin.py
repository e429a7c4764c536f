"""The routes for operators, on real sockets: liveness, readiness, models, endpoint state, explanations."""

from __future__ import annotations

import json

import pytest

from router import __version__
from router.core.demand import Demand
from router.core.verdict import Cause, Outcome
from tests.proxy.running import CHAT, SIMULATED, STREAMING, at, get, post, running
from tests.upstream.servers import DONE, FINISH, LAST, ROLE, SSE, chunk, on_uvloop, serving, token, whole

KEYS = "keys: [sesame]"
KEY = b"authorization: Bearer sesame"
OPEN = [b"/healthz", b"/readyz"]
CLOSED = [b"/metrics", b"/admin/endpoints", b"/admin/explain?model=chat", b"/v1/models", b"/v1/models/chat"]


@on_uvloop
@pytest.mark.parametrize("path", [*OPEN, *CLOSED])
async def test_all_paths_are_open_without_client_keys(path: bytes) -> None:
    async with running() as router:
        answer = await router.ask(get(path))
        assert answer.status == 200
        assert answer.headers["x-request-id"].startswith("req_")
        assert (answer.headers["x-router-endpoint"], answer.headers["x-router-attempts"]) == ("-", "0")
        assert answer.headers["server-timing"].startswith("total;dur=")


@on_uvloop
@pytest.mark.parametrize("path", OPEN)
async def test_health_checks_need_no_key(path: bytes) -> None:
    async with running(KEYS + SIMULATED) as router:
        assert (await router.ask(get(path))).status == 200


@on_uvloop
@pytest.mark.parametrize("path", CLOSED)
async def test_all_other_paths_need_a_key(path: bytes) -> None:
    async with running(KEYS + SIMULATED) as router:
        for line, code in ((b"x: y", "missing_api_key"), (b"authorization: Bearer no", "invalid_api_key")):
            answer = await router.ask(get(path, line))
            assert (answer.status, answer.error["code"]) == (401, code)
            assert answer.headers["x-request-id"].startswith("req_")
        assert (await router.ask(get(path, KEY))).status == 200


@on_uvloop
async def test_healthz_answers_with_the_version() -> None:
    async with running() as router:
        assert (await router.ask(get(b"/healthz"))).json == {"status": "ok", "version": __version__}


@on_uvloop
async def test_readyz_answers_200_while_each_model_has_an_endpoint_that_is_up() -> None:
    async with serving() as server, running(at(server, server)) as router:
        assert (await router.ask(get(b"/readyz"))).json == {"status": "ready"}
        first, second = router.router.tables.current.table.endpoints
        first.availability.health.up = False
        assert (await router.ask(get(b"/readyz"))).status == 200
        second.availability.health.up = False
        answer = await router.ask(get(b"/readyz"))
        assert (answer.status, answer.json) == (503, {"status": "down", "models": ["chat"]})
        assert (await router.ask(get(b"/healthz"))).status == 200


TWO = """
endpoints:
  - {name: a, kind: simulated, models: {chat: m}}
  - {name: b, kind: simulated, models: {embed: n}}
"""


@on_uvloop
async def test_one_model_without_an_endpoint_does_not_make_the_router_unready() -> None:
    async with running(TWO) as router:
        first, second = router.router.tables.current.table.endpoints
        second.availability.health.up = False
        answer = await router.ask(get(b"/readyz"))
        assert (answer.status, answer.json) == (200, {"status": "ready", "models_down": ["embed"]})
        for model, status in ((b"chat", 200), (b"embed", 503), (b"none", 404)):
            assert (await router.ask(get(b"/readyz?model=" + model))).status == status
        assert router.counted("model_served", model="chat") == 1
        assert router.counted("model_served", model="embed") == 0
        first.availability.health.up = False
        answer = await router.ask(get(b"/readyz"))
        assert (answer.status, answer.json) == (503, {"status": "down", "models": ["chat", "embed"]})


@on_uvloop
@pytest.mark.parametrize(
    ("status", "ready"), [(b"401 Unauthorized", False), (b"404 Not Found", False), (b"429 Too Many Requests", True)]
)
async def test_a_model_whose_only_endpoint_refuses_our_key_or_path_is_not_served(status: bytes, ready: bool) -> None:
    async with serving() as server, running(at(server)) as router:
        (endpoint,) = router.router.tables.current.table.endpoints
        cause = {b"401": Cause.DENIED, b"404": Cause.MISCONFIGURED, b"429": Cause.THROTTLED}[status[:3]]
        for body in (b"one", b"another"):
            now = router.router.scheduler.now()
            demand = Demand("first_token", body=body)
            endpoint.begin(now, demand).end(Outcome(cause.verdict, cause=cause), now)
        answer = await router.ask(get(b"/readyz"))
        assert answer.status == (200 if ready else 503)
        assert router.counted("model_served", model="chat") == ready


@on_uvloop
async def test_strangers_learn_no_names_of_models() -> None:
    async with running(KEYS + TWO) as router:
        first, second = router.router.tables.current.table.endpoints
        second.availability.health.up = False
        # Behind a proxy on this machine that adds the client's address; uvicorn believes it.
        stranger, evil = b"x-forwarded-for: 203.0.113.9", b"host: evil.test"
        asked = {lines: await router.ask(readyz(*lines)) for lines in ((stranger,), (stranger, KEY), (evil,), ())}
        assert [answer.status for answer in asked.values()] == [200] * 4
        assert ["embed" in answer.body.decode() for answer in asked.values()] == [False, True, False, True]
        for model, status in ((b"chat", 200), (b"embed", 503), (b"none", 503)):
            answer = await router.ask(readyz(stranger, path=b"/readyz?model=" + model))
            assert (answer.status, b"chat" in answer.body) == (status, False)
        first.availability.health.up = False
        assert (await router.ask(readyz(stranger))).json == {"status": "down"}


def readyz(*lines: bytes, path: bytes = b"/readyz") -> bytes:
    """Render a request for /readyz; a line may replace the Host."""
    host = [] if any(line.startswith(b"host:") for line in lines) else [b"host: localhost"]
    return b"\r\n".join([b"GET %b HTTP/1.1" % path, *host, *lines, b"", b""])


# Models.


@on_uvloop
async def test_models_are_listed_by_the_names_that_clients_use() -> None:
    text = """
endpoints:
  - {name: a, kind: simulated, models: {chat: m, org/large: n}}
  - {name: b, kind: simulated, models: {chat: m}}
  - {name: c, kind: openai, base_url: "http://c", api_key: "${NOT_SET}", models: {dear: o}}
"""
    async with running(text) as router:
        listed = (await router.ask(get(b"/v1/models"))).json
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == ["chat", "org/large"]
        one = listed["data"][0]
        assert (one["object"], one["owned_by"]) == ("model", "firsttoken")
        assert one["created"] > 1_700_000_000
        for name, model in zip((b"chat", b"org/large", b"org%2Flarge"), (0, 1, 1), strict=True):
            assert (await router.ask(get(b"/v1/models/" + name))).json == listed["data"][model]


@on_uvloop
@pytest.mark.parametrize("name", [b"none", b"dear", b"chat/", b"%00", b"%ff"])
async def test_a_model_that_is_not_served_is_not_found(name: bytes) -> None:
    async with running() as router:
        answer = await router.ask(get(b"/v1/models/" + name))
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert answer.error["param"] == "model"


# State.


@on_uvloop
async def test_the_state_of_endpoints_contains_no_secret() -> None:
    text = """
endpoints:
  - name: a
    base_url: http://127.0.0.1:9/v1
    api_key: sk-ours-123
    headers: {x-secret: s3cr3t}
    models: {chat: m, talk: m, large: n}
    tier: 2
    weight: 3
    concurrency: 5
    probe: {kind: off}
    pool: {min_idle: 0}
  - {name: b, kind: simulated, models: {chat: m}}
  - {name: c, base_url: "http://c", api_key: "${NOT_SET}", models: {chat: m}}
"""
    async with running(text) as router:
        answer = await router.ask(get(b"/admin/endpoints"))
        state = answer.json
        assert "sk-ours" not in answer.body.decode()
        assert "s3cr3t" not in answer.body.decode()
        assert [(e["name"], e["model"], e["serves"]) for e in state["endpoints"]] == [
            ("a", "m", ["chat", "talk"]),
            ("a", "n", ["large"]),
            ("b", "m", ["chat"]),
        ]
        first = state["endpoints"][0]
        assert {key: first[key] for key in ("kind", "tier", "weight", "concurrency", "base_url")} == {
            "kind": "openai",
            "tier": 2,
            "weight": 3.0,
            "concurrency": 5,
            "base_url": "http://127.0.0.1:9/v1",
        }
        assert (first["available"], first["up"], first["breaker"], first["in_flight"]) == (True, True, "closed", 0)
        assert first["first_token"] == {"expected": 1.0, "p50": None, "p90": None, "known": False}
        assert set(first["pool"]) == {"idle", "busy", "opening", "waiting", "opened", "reused", "resent"}
        (disabled,) = state["disabled"]
        assert disabled["name"] == "c"
        assert "NOT_SET" in disabled["disabled"]
        assert {model["model"]: model["tiers"] for model in state["models"]} == {
            "chat": [["b"], ["a"]],
            "talk": [["a"]],
            "large": [["a"]],
        }
        assert state["budgets"]["hedge"] > 0


@on_uvloop
async def test_the_state_follows_what_happens() -> None:
    async with serving() as server, running(at(server)) as router:

        async def state() -> dict[str, object]:
            endpoint: dict[str, object] = (await router.ask(get(b"/admin/endpoints"))).json["endpoints"][0]
            return endpoint

        client = await router.client()
        client.send(post(STREAMING))
        peer = await server.accept()
        await peer.request()
        now = await state()
        assert (now["in_flight"], now["waiting"]) == (1, 1)
        peer.send(SSE, chunk(ROLE + token("a")))
        await client.head()
        now = await state()
        assert (now["in_flight"], now["waiting"]) == (1, 0)
        peer.send(chunk(FINISH + DONE), LAST)
        assert b"".join([piece async for piece in client.chunks()]).endswith(DONE)
        now = await state()
        assert now["in_flight"] == 0
        assert isinstance(now["first_token"], dict)
        assert now["first_token"]["known"] is True
        for _ in range(2):
            assert (now["available"], now["cooldown"], now["cooldown_operation"]) == (True, 0, None)
            client.send(post(CHAT))
            await peer.answer(whole(b"wait", 429, b"retry-after: 30"))
            assert (await client.answer()).status == 429
            now = await state()
        assert now["available"] is False
        assert isinstance(now["cooldown"], float)
        assert 0 < now["cooldown"] <= 1
        assert (now["cooldown_cause"], now["cooldown_operation"]) == ("throttled", "chat/completions")


# Explanations.


@on_uvloop
async def test_explain_names_the_endpoint_of_a_call_and_starts_none() -> None:
    text = """
endpoints:
  - {name: a, kind: simulated, models: {chat: m}, simulate: {first_token: 0s, rate: 100000}}
  - {name: b, base_url: "http://127.0.0.1:9/v1", api_key: sk-ours, models: {chat: m}, tier: 2, probe: {kind: off}}
"""
    async with running(text) as router:
        assert (await router.ask(post(CHAT))).status == 200
        answer = await router.ask(get(b"/admin/explain?model=chat&size=2000"))
        explanation = answer.json
        assert answer.headers["content-type"] == "application/json"
        assert [explanation[key] for key in ("model", "wait", "size", "picked")] == ["chat", "first_token", 2000.0, "a"]
        assert [(each["endpoint"], each["tier"], each["out"]) for each in explanation["candidates"]] == [
            ("a", 1, None),
            ("b", 2, None),
        ]
        assert explanation["why"].startswith(
            "a is not measured yet: it gets one call at once; b (tier 2) costs 1.0 s; "
        )
        assert b"sk-ours" not in answer.body
        assert router.counted("attempts_total") == 1
        assert (await router.ask(get(b"/admin/explain?model=chat"))).json["size"] == 0.0


@on_uvloop
@pytest.mark.parametrize(
    ("query", "status", "code", "message"),
    [
        (b"", 400, "missing_model", "The parameter 'model' is missing: /admin/explain?model=NAME. Served: chat."),
        (b"?model=", 400, "missing_model", "Served: chat."),
        (b"?model=chta", 404, "model_not_found", "Did you mean 'chat'? Served: chat."),
        (b"?model=dear", 503, "model_disabled", "(c: NOT_SET is not set)"),
        (b"?model=chat&size=-1", 400, "invalid_type", "'size' must be a whole number"),
        (b"?model=chat&size=1e3", 400, "invalid_type", "'size' must be a whole number"),
        (b"?model=chat&size=%D9%A1", 400, "invalid_type", "'size' must be a whole number"),
        (b"?model=chat&size=1000000000", 400, "invalid_type", "of at most 9 digits"),
    ],
)
async def test_explain_refuses_bad_queries(query: bytes, status: int, code: str, message: str) -> None:
    text = SIMULATED + '  - {name: c, base_url: "http://c", api_key: "${NOT_SET}", models: {dear: o}}'
    async with running(text) as router:
        answer = await router.ask(get(b"/admin/explain" + query))
        assert (answer.status, answer.error["code"]) == (status, code)
        assert message in answer.error["message"]


@on_uvloop
async def test_a_call_with_the_debug_header_gets_its_explanation() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(CHAT, b"X-Router-Debug: 1"))
        peer = await server.accept()
        assert b"x-router-debug" not in (await peer.request()).headers
        peer.send(whole())
        debug = json.loads((await client.answer()).headers["x-router-debug"])
        assert debug["asked"] == "there-1"
