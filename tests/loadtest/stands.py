"""Fake endpoints of `loadtest.latency` in this process, for tests: constant laws, so that every time is known."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from loadtest.latency.arrivals import Call
from loadtest.latency.endpoint import Fakes
from loadtest.latency.endpoints import Endpoint
from loadtest.latency.stand import Stand
from loadtest.processes import free_ports

SPEED = 50.0


def run_story(story: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine on a loop that closes all transports before it ends."""

    async def limited() -> None:
        async with asyncio.timeout(10):
            await story()
            for _ in range(3):
                await asyncio.sleep(0)

    asyncio.run(limited())


def endpoint(name: str = "alpha", first_token: float = 0.5, **more: Any) -> Endpoint:
    return Endpoint.model_validate({"name": name, "law": {"kind": "constant", "seconds": first_token}, **more})


def calls(count: int, every: float = 0.1, tokens: int = 40, generated: int = 6) -> list[Call]:
    return [Call(k, k * every, tokens, generated) for k in range(count)]


@contextlib.asynccontextmanager
async def standing(
    *endpoints: Endpoint, begun: float | None = 0.0, asked: Sequence[Call] = (), **more: Any
) -> AsyncIterator[Fakes]:
    """Serve endpoints whose scenario time is `begun`; None: not started yet."""
    control, *ports = free_ports(1 + len(endpoints))
    stand = Stand(
        endpoints=endpoints,
        seed=1,
        calls=tuple(asked or calls(20)),
        ports=dict(zip((each.name for each in endpoints), ports, strict=True)),
        control=control,
        **{"speed": SPEED, **more},
    )
    async with Fakes(stand).serving() as fakes:
        if begun is not None:
            fakes.start(fakes.clock.loop.time() - begun / fakes.clock.speed)
        yield fakes


def url(fakes: Fakes, name: str = "alpha") -> str:
    return f"http://127.0.0.1:{fakes.stand.ports[name]}/v1"
