"""The bytes that request bodies may take together: who waits, who goes on, and what is given back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from router.memory import memory_limit
from router.proxy.body_budget import MAX_WAIT, BodyBudget
from router.proxy.intake import LARGE
from tests.proxy.running import CHAT, SIMULATED, Client, Running, get, post, running
from tests.upstream.servers import on_each_loop, on_uvloop, until

CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


def test_those_who_wait_go_on_once_there_is_room() -> None:
    budget, went_on = BodyBudget(100), []
    budget.held = 150
    for number in range(3):
        budget.wait(lambda number=number: went_on.append(number))  # type: ignore[misc]
    budget.release(50)
    assert (budget.used_up, went_on, budget.waiting) == (True, [], 3)
    budget.release(1)
    assert (budget.used_up, went_on, budget.waiting) == (False, [0, 1, 2], 0)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"sys/fs/cgroup/memory.max": "1000000\n"}, 1_000_000),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n"}, 2_000_000),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        (
            {
                "proc/self/cgroup": "0::/system/router\n",
                "sys/fs/cgroup/system/router/memory.max": "max\n",
                "sys/fs/cgroup/system/memory.max": "3000000\n",
            },
            3_000_000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/a/b\n",
                "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "4000000\n",
            },
            4_000_000,
        ),
        ({}, None),
    ],
)
def test_the_memory_limit_is_the_smallest_of_the_control_groups(
    files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = memory_limit(tmp_path)
    assert found == limit if limit is not None else found > 64 << 20


async def holding(router: Running, size: int) -> Client:
    """A client that has sent so many bytes of a body, and does not send the rest."""
    client = await router.client()
    client.send(post(b"x" * (2 * size))[:-size])
    await until(lambda: router.router.bodies.held >= size)
    return client


@on_uvloop
@pytest.mark.parametrize("framing", [post(CHAT), CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)])
async def test_a_new_body_waits_until_another_is_gone(framing: bytes) -> None:
    async with running(body_budget=1000) as router:
        first = await holding(router, 1000)
        second = await router.client()
        second.send(framing)
        await until(lambda: router.router.bodies.waiting == 1)
        assert (await router.ask(get(b"/healthz"))).status == 200
        first.close()
        assert (await second.answer()).status == 200
        assert (await second.ask(post(CHAT))).status == 200
        await until(lambda: router.router.bodies.held == 0)


@on_uvloop
async def test_a_body_that_waits_for_too_long_is_refused_and_one_that_has_begun_goes_on() -> None:
    async with running(body_budget=1000) as router:
        body = CHAT[:-1] + b',"x":"%b"}' % (b"y" * 2000)
        first = await router.client()
        first.send(post(body)[:-500])
        await until(lambda: router.router.bodies.used_up)
        second = await router.client()
        second.send(post(CHAT)[:-5])
        await until(lambda: router.router.bodies.waiting == 1)
        router.expire(MAX_WAIT - 1.0)
        assert router.router.bodies.waiting == 1
        router.expire(MAX_WAIT + 0.1)
        answer = await second.answer()
        assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (503, "overloaded", "true")
        assert "1000 bytes" in answer.error["message"]
        assert router.router.bodies.waiting == 0
        assert (await first.ask(body[-500:])).status == 200
        assert router.router.bodies.held == 0


@on_uvloop
async def test_a_client_that_asks_first_is_invited_once_there_is_room() -> None:
    async with running(body_budget=1000) as router:
        first = await holding(router, 1000)
        second = await router.client()
        second.send(post(CHAT, b"expect: 100-continue")[: -len(CHAT)])
        await until(lambda: router.router.bodies.waiting == 1)
        first.close()
        assert await second.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await second.ask(CHAT)).status == 200


@on_uvloop
async def test_a_client_that_leaves_waits_no_longer() -> None:
    async with running(body_budget=1000) as router:
        await holding(router, 1000)
        second = await router.client()
        second.send(post(CHAT)[:-5])
        await until(lambda: router.router.bodies.waiting == 1)
        second.close()
        router.expire(MAX_WAIT + 0.1)  # that it has left is only seen when it is read again
        assert router.router.bodies.waiting == 0


@on_each_loop
async def test_a_large_body_is_read_while_it_arrives_and_passed_on_unchanged() -> None:
    large = CHAT[:-1] + b',"metadata":{"a":["%b"]},"model":"nobody","mod\\u0065l":"chat"}' % (b"x" * 3 * LARGE)
    async with running(SIMULATED) as router:
        assert (await router.ask(post(large))).status == 200
        chunks = b"".join(b"2\r\n%b\r\n" % large[at : at + 2] for at in range(0, LARGE + 2000, 2))
        rest = large[LARGE + 2000 :]
        answer = await router.ask(CHUNKED, chunks, b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))
        assert answer.status == 200
        assert router.router.bodies.held == 0


@on_each_loop
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{" + b",".join(b'"k%d":0' % number for number in range(50_000)) + b"}", "too_many_keys"),
        (b"{" + b",".join(b'"k%d":0' % number for number in range(1001)) + b"}", "too_many_keys"),
        (b'{"model":"chat","x":' + b"[" * 500_000, "invalid_json"),
        (b'{"model":"chat","x":"' + b"y" * 500_000 + b"\xff" + b'"}', "invalid_json"),
        (b'{"model":"chat","x":"' + b"y" * 500_000 + b'"}}', "invalid_json"),
        (b'{"x":"' + b"y" * 500_000 + b'"}', "missing_model"),
        (b'{"model":"' + b"y" * 500_000 + b'"}', "missing_model"),
        (b'{"model":"chat","x":"' + b"y" * 500_000 + b'","model":"nobody"}', "model_not_found"),
    ],
)
async def test_a_large_body_that_cannot_be_routed_is_refused_and_the_connection_goes_on(body: bytes, code: str) -> None:
    async with running(SIMULATED) as router:
        client = await router.client()
        answer = await client.ask(post(body))
        assert answer.error["code"] == code
        assert (await client.ask(post(CHAT))).status == 200


@on_uvloop
async def test_more_than_a_hundred_headers_are_refused_at_once() -> None:
    async with running() as router:
        names = [b"x-%d: y" % number for number in range(98)]
        assert (await router.ask(post(CHAT, *names))).status == 200
        client = await router.client()
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + b"x: y\r\n" * 102)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (431, "header_too_large")
        assert "more than 100 headers" in answer.error["message"]


def test_in_a_loop_one_goes_on_in_each_turn() -> None:
    turns: list[Callable[[], None]] = []
    budget, went_on = BodyBudget(100, turns.append), []
    budget.held = 150

    def go_on(number: int) -> None:
        went_on.append(number)
        budget.held += 30

    for number in range(4):
        budget.wait(partial(go_on, number))
    budget.release(100)
    budget.release(0)
    counts = []
    while turns:
        turns.pop()()
        counts.append(len(went_on))
    assert (went_on, budget.waiting) == ([0, 1], 2)
    assert counts == [1, 2]
    budget.release(budget.held)
    while turns:
        turns.pop()()
    assert went_on == [0, 1, 2, 3]
