"""The gate of probes: how many are at work at once, and which timeouts say nothing about a server."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

import router.ops.gate as gates
from router.core.endpoint.endpoint import Endpoint
from router.ops.gate import MAX_LATENESS, PLACES, Gate, Place
from router.ops.probes import Prober
from router.turns import Watch
from router.upstream.pool import Address, Pool
from tests.ops.test_probes import There, there, with_probe
from tests.upstream.servers import Clock, listening, on_uvloop, until


@on_uvloop
async def test_no_more_probes_than_places_are_at_work_and_the_next_one_gets_a_place_that_is_left() -> None:
    gate = Gate()
    gate._hold = 1e6
    entered: list[Place] = []

    async def enter() -> None:
        entered.append(await gate.enter())

    tasks = [asyncio.ensure_future(enter()) for _ in range(2 * PLACES)]
    await until(lambda: len(entered) == PLACES)
    entered[0].leave()
    entered[0].leave()
    await until(lambda: len(entered) == PLACES + 1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(entered) == PLACES + 1
    for place in entered:
        place.leave()
    await asyncio.gather(*tasks)


@on_uvloop
async def test_a_probe_that_waits_for_its_server_gives_its_place_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "HOLD", 0.001)
    gate = Gate()
    await asyncio.gather(*(gate.enter() for _ in range(3 * PLACES)))


class Silent(There):
    """A server that answers the first requests too late."""

    def __init__(self, answers_from: int) -> None:
        super().__init__()
        self._from = answers_from

    async def _answer(self, peer: object) -> None:
        self._from -= 1
        if self._from < 0:
            await super()._answer(peer)  # type: ignore[arg-type]


class Late:
    """A watch that finds the loop late by these seconds at each look."""

    def __init__(self, *behind: float) -> None:
        self.behind = 0.0
        self._steps = list(behind)

    def wake(self) -> None:
        self.behind += self._steps.pop(0) if self._steps else 0.0


@on_uvloop
@pytest.mark.parametrize("late", [True, False])
async def test_a_timeout_is_repeated_and_not_counted_if_the_loop_was_late(late: bool) -> None:
    clock, endpoint = Clock(), Endpoint("there", "m")
    async with listening(Silent(answers_from=1)) as server:
        pool = Pool("there", Address.of(server.url), clock, min_idle=0)
        prober = Prober([endpoint], with_probe("models", server.url, timeout="20ms"), pool, clock, Random(7))
        prober._gate = gate = Gate()
        probed = prober.probe

        async def probe() -> str:
            """Probe while the loop is late, the first time."""
            answer = await probed()
            if prober._timed_out and late:
                gate._watch.behind += 10.0
            elif prober._timed_out:
                gate.excuses = lambda behind, took, timeout: False  # type: ignore[method-assign]
            return answer

        prober.probe = probe  # type: ignore[method-assign]
        answer = await prober._probe_in_time()
        assert (answer == "") is late
        pool.close()


def test_a_timeout_is_excused_by_a_loop_that_was_late_for_much_of_the_time_or_at_its_end() -> None:
    gate, timeout = Gate(watch := Late(1.0)), 5.0
    assert not gate.excuses(gate.behind, timeout, timeout)
    assert not gate.excuses(gate.behind, timeout * (1.0 + 0.9 * MAX_LATENESS), timeout)
    assert gate.excuses(gate.behind, timeout * (1.0 + 1.1 * MAX_LATENESS), timeout)
    behind = gate.behind
    watch.behind += timeout * 1.1 * MAX_LATENESS
    assert gate.excuses(behind, timeout, timeout)


@on_uvloop
async def test_the_watch_counts_by_how_much_the_loop_was_late() -> None:
    watch = Watch(asyncio.get_running_loop())
    watch.wake()
    time.sleep(0.05)  # noqa: ASYNC251 (the loop is to be late)
    await until(lambda: watch.behind > 0.04)


@on_uvloop
async def test_a_hundred_first_probes_find_all_servers_up() -> None:
    clock, endpoints = Clock(), [Endpoint(f"e{number}", "m") for number in range(100)]
    gate = Gate()
    async with there() as server:
        pools = [Pool(each.name, Address.of(server.url), clock, min_idle=0) for each in endpoints]
        probers = [
            Prober([each], with_probe("models", server.url), pool, clock, Random(7), gate=gate)
            for each, pool in zip(endpoints, pools, strict=True)
        ]
        loops = [asyncio.ensure_future(prober.run()) for prober in probers]
        await until(lambda: len(server.requests) == len(endpoints))
        await until(lambda: all(each.availability.health._known for each in endpoints))
        assert all(each.availability.health.up for each in endpoints)
        for loop in loops:
            loop.cancel()
        for pool in pools:
            pool.close()
