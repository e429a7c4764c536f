"""Load on real sockets: queued calls, and a dead endpoint with hundreds of calls stuck at it."""

from __future__ import annotations

import asyncio

from tests.proxy.running import CHAT, Client, Running, at, endpoint, post, running
from tests.upstream.servers import JSON, Server, on_each_loop, on_uvloop, serving, until, whole

STUCK, OTHER, BOTH = (CHAT.replace(b'"chat"', model) for model in (b'"stuck"', b'"other"', b'"both"'))


async def queued(router: Running, calls: int) -> None:
    await until(lambda: router.counted("calls_waiting") == calls)


@on_each_loop
async def test_queued_calls_are_served_in_their_order() -> None:
    async with serving() as server, running(at(server, more="concurrency: 1")) as router:
        clients = [await router.client() for _ in range(5)]
        for ahead, client in enumerate(clients):
            client.send(post(CHAT))
            await until(lambda: router.counted("calls_in_flight") > ahead)  # noqa: B023  waited for at once
            await queued(router, ahead)
        peer = await server.accept()
        for client in clients:
            await peer.answer(whole())
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, JSON)
        await queued(router, 0)


@on_uvloop
async def test_a_queued_client_that_leaves_is_passed_over() -> None:
    async with serving() as server, running(at(server, more="concurrency: 1")) as router:
        first, leaves, last = clients = [await router.client() for _ in range(3)]
        for ahead, client in enumerate(clients):
            client.send(post(CHAT))
            await queued(router, ahead)
        leaves.reset()
        await queued(router, 1)
        peer = await server.accept()
        for client in (first, last):
            await peer.answer(whole())
            assert (await client.answer()).status == 200


@on_uvloop
async def test_hundreds_of_calls_stuck_at_a_dead_endpoint_delay_no_others() -> None:
    """Calls for other models, and for other endpoints of the same model, are served meanwhile."""

    def fleet(frozen: Server, well: Server) -> str:
        stuck = endpoint(frozen, "frozen").replace("{chat: m}", "[stuck, both]").replace("0}", "0, max: 1000}")
        return f"""
defaults: {{hedge: 20ms, hedge_budget: 10}}
endpoints:{stuck}{endpoint(well, "well").replace("{chat: m}", "[other, both]")}"""

    async def ask(router: Running, body: bytes) -> bytes:
        return (await router.ask(post(body))).body

    async with serving() as frozen, serving() as well, running(fleet(frozen, well)) as router:
        well.always = whole()
        stuck: list[Client] = []
        for _ in range(200):
            stuck.append(await router.client())
            stuck[-1].send(post(STUCK))
        await until(lambda: frozen.accepted == 200)
        answers = await asyncio.gather(*(ask(router, body) for body in (OTHER, BOTH) for _ in range(10)))
        assert answers == [JSON] * 20
        assert router.counted("calls_in_flight") == 200
        for client in stuck:
            client.reset()
