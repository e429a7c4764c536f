"""Calls that come back to a router: refused at once, by any number of routers in between, and named in the log."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from router.errors import LoopDetected
from router.proxy.loop_guard import MAX_ROUTERS, LoopGuard, new_id
from tests.fake_endpoint import TEXT
from tests.processes import HI, Fake, Json, entry, free_port, router
from tests.proxy.running import CHAT, at, post, running
from tests.upstream.servers import JSON, on_each_loop, on_uvloop, serving, whole

OTHER = b"0123456789abcdef"


def mark(instance: bytes) -> bytes:
    return b"firsttoken;id=" + instance


# The header.


def test_requests_to_endpoints_name_the_process() -> None:
    assert LoopGuard(OTHER).line == b"cdn-loop: firsttoken;id=0123456789abcdef\r\n"
    assert len({new_id() for _ in range(100)}) == 100
    assert all(re.fullmatch(rb"[0-9a-f]{16}", new_id()) for _ in range(100))


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        (b"", b""),
        (b"cloudflare; loops=1", b""),
        (b"firsttoken", b""),
        (b"firsttoken;id=short", b""),
        (b"firsttoken;id=0123456789abcdef0", b""),
        (mark(OTHER), b"cdn-loop: firsttoken;id=0123456789abcdef\r\n"),
        (b"cloudflare,firsttoken ; id=0123456789abcdef, Fastly", b"cdn-loop: firsttoken;id=0123456789abcdef\r\n"),
        (b",".join([mark(OTHER)] * 2), b"cdn-loop: firsttoken;id=0123456789abcdef\r\n" * 2),
    ],
)
def test_only_the_marks_of_routers_are_passed_on(value: bytes, passed: bytes) -> None:
    assert LoopGuard().passed_on(value) == passed


def test_a_request_with_the_routers_own_mark_is_refused() -> None:
    guard = LoopGuard(OTHER)
    for value in (mark(OTHER), b"cloudflare, " + mark(OTHER), mark(new_id()) + b"," + mark(OTHER)):
        with pytest.raises(LoopDetected, match="come through this router before"):
            guard.passed_on(value)


def test_a_chain_of_routers_may_have_a_length_but_not_more() -> None:
    chain = [mark(new_id()) for _ in range(MAX_ROUTERS)]
    assert LoopGuard().passed_on(b",".join(chain[1:])).count(b"\r\n") == MAX_ROUTERS - 1
    with pytest.raises(LoopDetected, match="at most 4 are allowed"):
        LoopGuard().passed_on(b",".join(chain))


# A router.


@on_each_loop
async def test_a_call_that_comes_back_is_refused_and_its_endpoint_asked_nothing() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(CHAT))
        peer = await server.accept()
        request = await peer.answer(whole(JSON))
        assert (await client.answer()).status == 200
        returned = b"cdn-loop: cloudflare;loops=1, " + request.headers[b"cdn-loop"]
        refused = await client.ask(post(CHAT, returned))
        assert (refused.status, refused.error["code"]) == (508, "loop_detected")
        assert refused.headers["x-should-retry"] == "false"
        assert refused.headers["x-router-attempts"] == "0"
        assert server.accepted == 1
        assert router.counted("calls_total", status="508", error="loop_detected") == 1


@on_uvloop
async def test_the_routers_that_a_call_came_through_are_named_to_the_endpoint() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(CHAT, b"CDN-Loop: cloudflare", b"CDN-Loop: " + mark(OTHER)))
        peer = await server.accept()
        head = await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(whole(JSON))
        assert (await client.answer()).status == 200
        values = [line for line in head.splitlines() if line.startswith(b"cdn-loop: ")]
        assert len(values) == 2
        assert b"cdn-loop: " + mark(OTHER) in values
        assert not any(b"cloudflare" in value for value in values)


# Processes.


def looped(to: int, *more: Json) -> Json:
    leads_back = {"name": "leads-back", "base_url": f"http://127.0.0.1:{to}/v1", "models": ["chat"]}
    return {"endpoints": [leads_back, *more]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("routers", [1, 2, 3])
def test_a_circle_of_routers_is_walked_once_for_each_attempt(tmp_path: Path, routers: int, stream: bool) -> None:
    ports = [free_port() for _ in range(routers)]
    with ExitStack() as stack:
        circle = []
        for number, port in enumerate(ports):
            folder = tmp_path / str(number)
            folder.mkdir()
            config = looped(ports[(number + 1) % routers])
            circle.append(stack.enter_context(router(folder, config, "--port", str(port))))
        body = {"model": "chat", "messages": HI, "stream": stream}
        answer = circle[0].control.post("/v1/chat/completions", json=body)
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert "leads-back: " in error["message"]
        calls = [sum(each.metric("firsttoken_calls_total").values()) for each in circle]
        # Each router tries its endpoint up to twice; the first one has the client's call, and those that came back.
        assert all(count <= 2**number for number, count in enumerate(calls) if number)
        assert calls[0] <= 1 + 2**routers
        last = circle[-1].metric("firsttoken_causes_total")
        assert sum(count for labels, count in last.items() if 'cause="misconfigured"' in labels) == calls[0] - 1
        if routers == 1:
            assert "come through this router before" in error["message"]


def test_a_chain_of_three_routers_serves(alpha: Fake, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    with (
        router(tmp_path / "c", {"endpoints": [entry(alpha, {"chat": "quick"})]}) as last,
        router(tmp_path / "b", looped(last.address[1])) as middle,
        router(tmp_path / "a", looped(middle.address[1])) as first,
    ):
        answer = first.control.post("/v1/chat/completions", json={"model": "chat", "messages": HI})
        assert answer.json()["choices"][0]["message"]["content"] == TEXT
        assert "cdn-loop" in alpha.stats()["last"]["headers"]


def test_another_endpoint_answers_what_came_back_and_the_log_names_the_wrong_one(alpha: Fake, tmp_path: Path) -> None:
    port = free_port()
    config = looped(port, entry(alpha, {"chat": "quick"}, tier=2))
    with router(tmp_path, config, "--port", str(port)) as running:
        for _ in range(4):
            answer = running.control.post("/v1/chat/completions", json={"model": "chat", "messages": HI})
            assert answer.json()["choices"][0]["message"]["content"] == TEXT
        assert re.search(r"CRITICAL.*leads-back.*come through this router before", running.output)
