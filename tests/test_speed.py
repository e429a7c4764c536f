"""A router whose clock runs faster than the machine's: all waits are shorter, and times are reported in its seconds."""

from __future__ import annotations

import asyncio
import json
import time

from router.scheduler import LoopScheduler
from tests.proxy.running import CHAT, STREAMING, at, post, running
from tests.upstream.servers import on_each_loop, on_uvloop, serving, until, unused_port

FAST = 100.0
SECONDS = 5.0  # limit of a test in seconds of the machine; the router waits for a hundredth of it


@on_each_loop
async def test_the_clock_runs_at_its_speed() -> None:
    scheduler = LoopScheduler(asyncio.get_running_loop(), FAST)
    before, now, after = time.monotonic(), scheduler.now(), time.monotonic()
    assert FAST * before <= now <= FAST * after
    assert LoopScheduler(asyncio.get_running_loop()).now is time.monotonic


@on_each_loop
async def test_an_alarm_never_rings_before_its_time_at_any_speed() -> None:
    for speed in (0.5, 1.0, FAST):
        scheduler, rung = LoopScheduler(asyncio.get_running_loop(), speed), list[float]()
        began, when = time.monotonic(), scheduler.now() + 0.02 * speed
        scheduler.call_at(when, lambda rung=rung, now=scheduler.now: rung.append(now()))  # type: ignore[misc]
        await until(lambda rung=rung: rung)  # type: ignore[misc]
        assert rung[0] >= when
        assert time.monotonic() - began < SECONDS


@on_uvloop
async def test_a_call_is_timed_in_the_routers_seconds() -> None:
    slow = "endpoints: [{name: slow, kind: simulated, models: [chat], simulate: {first_token: 20s, rate: 100000}}]"
    async with running(slow, speed=FAST) as router:
        began = time.monotonic()
        answer = await router.ask(post(STREAMING))
        assert answer.status == 200
        assert time.monotonic() - began < SECONDS
        assert router.counted("first_token_seconds_sum") > SECONDS


@on_uvloop
async def test_a_request_that_does_not_arrive_is_given_up_in_the_routers_seconds() -> None:
    async with running(request_timeout=60, speed=FAST) as router:
        client = await router.client()
        client.send(post(CHAT)[:-5])
        answer = await client.answer()
        assert answer.status == 408
        assert "60 s" in json.dumps(answer.error)


@on_uvloop
async def test_servers_are_probed_in_the_routers_seconds() -> None:
    async with serving() as server:
        text = at(server).replace("probe: {kind: off}", "probe: {kind: connect, interval: 50s}")
        async with running(text, speed=FAST) as router:
            await until(lambda: server.accepted >= 3)
            (endpoint,) = router.router.tables.current.table.endpoints
            assert endpoint.availability.health.up


@on_uvloop
async def test_a_dead_server_is_found_in_the_routers_seconds() -> None:
    url = f"http://127.0.0.1:{unused_port()}/v1"
    probe = "{kind: connect, interval: 50s}"
    text = f"endpoints: [{{name: gone, base_url: '{url}', models: [chat], probe: {probe}}}]"
    async with running(text, speed=FAST) as router:
        (endpoint,) = router.router.tables.current.table.endpoints
        await until(lambda: not endpoint.availability.health.up)
