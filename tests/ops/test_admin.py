"""What operators ask, on real sockets: is it alive, is it ready, which models, what does it know."""

from __future__ import annotations

import json

import pytest

from router import __version__
from tests.proxy.running import CHAT, SIMULATED, STREAMING, at, get, post, running
from tests.upstream.servers import DONE, FINISH, LAST, ROLE, SSE, chunk, on_uvloop, serving, token, whole

KEYS = "keys: [sesame]"
KEY = b"authorization: Bearer sesame"
OPEN = [b"/healthz", b"/readyz"]
CLOSED = [b"/metrics", b"/admin/endpoints", b"/admin/explain?model=chat", b"/v1/models", b"/v1/models/chat"]


@on_uvloop
@pytest.mark.parametrize("path", [*OPEN, *CLOSED])
async def test_without_keys_all_is_open(path: bytes) -> None:
    async with running() as router:
        answer = await router.ask(get(path))
        assert answer.status == 200
        assert answer.headers["x-request-id"].startswith("req_")
        assert (answer.headers["x-router-endpoint"], answer.headers["x-router-attempts"]) == ("-", "0")
        assert answer.headers["server-timing"].startswith("total;dur=")


@on_uvloop
@pytest.mark.parametrize("path", OPEN)
async def test_machines_need_no_key(path: bytes) -> None:
    async with running(KEYS + SIMULATED) as router:
        assert (await router.ask(get(path))).status == 200


@on_uvloop
@pytest.mark.parametrize("path", CLOSED)
async def test_all_else_does(path: bytes) -> None:
    async with running(KEYS + SIMULATED) as router:
        for line, code in ((b"x: y", "missing_api_key"), (b"authorization: Bearer no", "invalid_api_key")):
            answer = await router.ask(get(path, line))
            assert (answer.status, answer.error["code"]) == (401, code)
            assert answer.headers["x-request-id"].startswith("req_")
        assert (await router.ask(get(path, KEY))).status == 200


@on_uvloop
async def test_it_is_alive_and_says_which_it_is() -> None:
    async with running() as router:
        assert (await router.ask(get(b"/healthz"))).json == {"status": "ok", "version": __version__}


@on_uvloop
async def test_it_is_ready_while_each_model_has_an_endpoint_that_is_up() -> None:
    async with serving() as server, running(at(server, server)) as router:
        assert (await router.ask(get(b"/readyz"))).json == {"status": "ready"}
        first, second = router.router.tables.current.table.endpoints
        first.availability.health.up = False
        assert (await router.ask(get(b"/readyz"))).status == 200
        second.availability.health.up = False
        answer = await router.ask(get(b"/readyz"))
        assert (answer.status, answer.json) == (503, {"status": "down", "models": ["chat"]})
        assert (await router.ask(get(b"/healthz"))).status == 200


# Models.


@on_uvloop
async def test_models_are_the_names_that_clients_may_ask_for() -> None:
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
async def test_the_live_state_of_endpoints_is_told_without_any_secret() -> None:
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
        client.send(post(CHAT))
        await peer.answer(whole(b"wait", 429, b"retry-after: 30"))
        assert (await client.answer()).status == 429
        now = await state()
        assert now["available"] is False
        assert isinstance(now["busy_for"], float)
        assert 20 < now["busy_for"] <= 30
        assert now["busy_because"] == "throttled"


# Why it would go there.


@on_uvloop
async def test_it_is_explained_where_a_call_would_go_and_nothing_is_begun() -> None:
    text = """
endpoints:
  - {name: a, kind: simulated, models: {chat: m}, simulate: {first_token: 0s, rate: 100000}}
  - {name: b, base_url: "http://127.0.0.1:9/v1", api_key: sk-ours, models: {chat: m}, tier: 2, probe: {kind: off}}
"""
    async with running(text) as router:
        assert (await router.ask(post(CHAT))).status == 200
        answer = await router.ask(get(b"/admin/explain?model=chat&size=2000"))
        told = answer.json
        assert answer.headers["content-type"] == "application/json"
        assert (told["model"], told["wait"], told["size"], told["picked"]) == ("chat", "first_token", 2000.0, "a")
        assert [(each["endpoint"], each["tier"], each["out"]) for each in told["candidates"]] == [
            ("a", 1, None),
            ("b", 2, None),
        ]
        assert told["why"].startswith("a is not measured yet: it gets one call at once; b (tier 2) costs 1.0 s; ")
        assert b"sk-ours" not in answer.body
        assert router.counted("attempts_total") == 1
        assert (await router.ask(get(b"/admin/explain?model=chat"))).json["size"] == 0.0


@on_uvloop
@pytest.mark.parametrize(
    ("query", "status", "code", "says"),
    [
        (b"", 400, "missing_model", "Name a model: /admin/explain?model=NAME. Served: chat."),
        (b"?model=", 400, "missing_model", "Served: chat."),
        (b"?model=chta", 404, "model_not_found", "Did you mean 'chat'? Served: chat."),
        (b"?model=dear", 503, "model_disabled", "(c: NOT_SET is not set)"),
        (b"?model=chat&size=-1", 400, "invalid_type", "'size' must be a whole number"),
        (b"?model=chat&size=1e3", 400, "invalid_type", "'size' must be a whole number"),
        (b"?model=chat&size=%D9%A1", 400, "invalid_type", "'size' must be a whole number"),
        (b"?model=chat&size=1000000000", 400, "invalid_type", "of at most 9 digits"),
    ],
)
async def test_what_can_not_be_explained_is_refused(query: bytes, status: int, code: str, says: str) -> None:
    text = SIMULATED + '  - {name: c, base_url: "http://c", api_key: "${NOT_SET}", models: {dear: o}}'
    async with running(text) as router:
        answer = await router.ask(get(b"/admin/explain" + query))
        assert (answer.status, answer.error["code"]) == (status, code)
        assert says in answer.error["message"]


@on_uvloop
async def test_a_call_that_asks_why_is_told_on_the_wire() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(CHAT, b"X-Router-Debug: 1"))
        peer = await server.accept()
        assert b"x-router-debug" not in (await peer.request()).headers
        peer.send(whole())
        told = json.loads((await client.answer()).headers["x-router-debug"])
        assert told["asked"] == "there-1"
