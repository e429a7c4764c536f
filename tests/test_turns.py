"""The turns of the loop: shared among connections by time, and measured; both on a clock that is set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from math import ceil
from typing import Any, cast

import pytest

from router.core.verdict import Verdict
from router.proxy.intake import Bounds
from router.turns import (
    FREE,
    IDLE_PERIODS,
    LEAST_SHARE,
    PERIOD,
    RESUMED,
    SHARE,
    SLICE,
    SMALL,
    SMALL_SHARE,
    TURN,
    WINDOW,
    Turns,
    Watch,
    in_turns,
    made_in_turns,
)
from router.upstream.http1 import MAX_OVERHEAD
from tests.fuzz.corpus import CHAT, asked
from tests.fuzz.wires import Answering, pool_without_network, server_side
from tests.upstream.servers import Call, whole


class Loop:
    """The two calls of a loop that are used, and the clocks: `spent` is the thread's processor time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spent = self.time = 1000.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []
        monkeypatch.setattr(time, "thread_time", lambda: self.spent)
        monkeypatch.setattr(time, "perf_counter", lambda: self.spent)
        monkeypatch.setattr("router.turns.time.monotonic", lambda: self.time)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        assert delay == PERIOD
        self.later.append(callback)

    def turn(self) -> None:
        """Begin a turn."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def look(self, spent: float) -> None:
        """Let so much processor time pass, and the watch look."""
        self.spent += spent
        callback = self.later.pop()
        callback()


class Reader:
    """A connection that counts what it reads; each byte takes `cost` seconds."""

    def __init__(self, loop: Loop, shared: Turns, cost: float = 0.0) -> None:
        self._loop, self._turns, self._cost = loop, shared, cost
        self.got = b""
        self.held = False

    def receive(self, data: bytes) -> None:
        """Do what a connection does with a read."""
        self._turns.read += len(data)
        if (self._turns.read <= FREE and len(data) <= SMALL) or not self._turns.defer(self, data):
            self.read(data)

    def read(self, data: bytes) -> None:
        assert len(data) <= SLICE
        self.got += data
        self._loop.spent += len(data) * self._cost

    def hold(self, *, much: bool) -> None:
        self.held = self.held or much

    def go_on(self) -> None:
        self.held = False


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


def shared_by(loop: Loop) -> Turns:
    return Turns(cast(asyncio.AbstractEventLoop, cast(Any, loop)))


def test_small_reads_are_handled_at_once(loop: Loop) -> None:
    shared = shared_by(loop)
    readers = [Reader(loop, shared) for _ in range(5)]
    for reader in readers:
        reader.receive(b"x" * 1000)
    assert [len(reader.got) for reader in readers] == [1000] * 5
    assert loop.soon == []


def test_a_large_read_is_cut_and_continued_in_later_turns(loop: Loop) -> None:
    shared = shared_by(loop)
    data = bytes(range(256)) * 1000
    reader = Reader(loop, shared, cost=SHARE / SLICE * 0.51)
    reader.receive(data)
    assert (reader.got, reader.held) == (data[: 2 * SLICE], True)
    count = 0
    while reader.held:
        before = len(reader.got)
        loop.turn()
        count += 1
        assert len(reader.got) - before <= 2 * SLICE
    assert reader.got == data
    assert count == ceil(len(data) / SLICE / 2) - 1
    loop.turn()
    assert loop.soon == []


def test_many_connections_share_a_turn_and_each_has_its_turn(loop: Loop) -> None:
    shared = shared_by(loop)
    readers = [Reader(loop, shared, cost=SHARE / SLICE * 0.505) for _ in range(10)]
    began = loop.spent
    for reader in readers:
        reader.receive(b"x" * 2 * SLICE)
    assert loop.spent - began <= 1.1 * SHARE
    for _ in range(10):
        began = loop.spent
        loop.turn()
        assert loop.spent - began <= 1.1 * SHARE
    assert [(len(reader.got), reader.held) for reader in readers] == [(2 * SLICE, False)] * 10


def flood(loop: Loop, shared: Turns) -> Reader:
    """A connection of which more is kept than the next turn can handle."""
    reader = Reader(loop, shared, cost=SHARE / SLICE * 1.01)
    reader.receive(b"x" * 40 * SLICE)
    return reader


def test_connections_with_much_to_read_are_not_read_once_the_share_is_used_up(loop: Loop) -> None:
    shared = shared_by(loop)
    new, busy, quiet = (Reader(loop, shared) for _ in range(3))
    shared.opened(new)
    busy.receive(b"x" * (SMALL + 1))
    quiet.receive(b"x" * SMALL)
    flood(loop, shared)
    assert (new.held, busy.held, quiet.held) == (True, True, False)
    loop.turn()
    assert (new.held, busy.held) == (True, True)  # the flood is first
    loop.turn()
    assert (new.held, busy.held) == (False, False)


def test_only_some_connections_are_read_again_in_a_turn(loop: Loop) -> None:
    shared = shared_by(loop)
    many = [Reader(loop, shared) for _ in range(3 * RESUMED)]
    for reader in many:
        shared.opened(reader)
    Reader(loop, shared, cost=SHARE / SLICE).receive(b"x" * (SLICE + 1))
    counts = []
    for _ in range(4):
        loop.turn()
        counts.append(sum(not reader.held for reader in many))
    assert counts[:3] == [RESUMED - 1, 2 * RESUMED - 1, 3 * RESUMED - 1]
    assert counts[3] == len(many)


def test_a_small_read_goes_before_the_floods(loop: Loop) -> None:
    shared = shared_by(loop)
    for _ in range(20):
        flood(loop, shared)
    quick, later = Reader(loop, shared), Reader(loop, shared)
    quick.receive(b"hello")
    assert quick.got == b"hello"
    loop.spent += SMALL_SHARE
    later.receive(b"hello")
    assert later.got == b""
    loop.turn()
    assert later.got == b"hello"


def test_many_small_reads_that_are_kept_are_handled_in_one_turn(loop: Loop) -> None:
    shared = shared_by(loop)
    flood(loop, shared)
    loop.spent += SHARE + SMALL_SHARE
    shared.read = FREE
    readers = [Reader(loop, shared) for _ in range(10 * RESUMED)]
    for reader in readers:
        reader.receive(b"hello")
    assert not any(reader.got for reader in readers)
    loop.turn()
    assert all(reader.got == b"hello" for reader in readers)


def test_other_work_of_a_turn_makes_its_share_smaller(loop: Loop) -> None:
    shared = shared_by(loop)
    reader = Reader(loop, shared, cost=LEAST_SHARE / SLICE / 2)
    reader.receive(b"x" * 100 * SLICE)

    def slices() -> int:
        before = len(reader.got)
        loop.turn()
        return (len(reader.got) - before) // SLICE

    most, least = round(SHARE / LEAST_SHARE * 2), 2
    first, second = slices(), slices()
    loop.spent += TURN  # timers, say
    assert (first, second, slices()) == (most, most, least)
    assert slices() == most


def test_what_is_read_after_the_last_of_what_was_kept_gets_little_of_the_same_turn(loop: Loop) -> None:
    shared = shared_by(loop)
    slices = round(SHARE / LEAST_SHARE * 4)
    first, second = (Reader(loop, shared, cost=LEAST_SHARE / SLICE / 4) for _ in range(2))
    first.receive(b"x" * 2 * slices * SLICE)
    loop.turn()
    assert not first.held  # the turn has read it whole, and goes on with the sockets
    second.receive(b"x" * slices * SLICE)
    assert len(second.got) == 4 * SLICE
    loop.turn()
    loop.spent += 2 * TURN
    first.receive(b"x" * 2 * slices * SLICE)
    assert len(first.got) == 3 * slices * SLICE


def test_a_thousand_connections_that_end_at_once_end_in_several_turns(loop: Loop) -> None:
    shared, ended = shared_by(loop), []

    def end() -> None:
        loop.spent += SHARE / 10
        ended.append(loop.spent)

    for _ in range(1000):
        shared.at_end(end)
    counts = [len(ended)]
    while len(ended) < 1000:
        loop.turn()
        counts.append(len(ended))
    assert counts[0] <= 11
    assert max(after - before for before, after in pairwise(counts)) <= 11
    loop.turn()
    shared.at_end(end)
    assert len(ended) == 1001


def test_without_a_loop_a_connection_ends_at_once(loop: Loop) -> None:
    ended: list[int] = []
    Turns().at_end(lambda: ended.append(1))
    assert ended == [1]


def test_what_comes_in_spite_of_a_pause_stays_in_order(loop: Loop) -> None:
    shared = shared_by(loop)
    reader = Reader(loop, shared, cost=SHARE / SLICE * 1.01)
    reader.receive(b"a" * 3 * SLICE)
    reader.receive(b"b")
    while reader.held:
        loop.turn()
    assert reader.got == b"a" * 3 * SLICE + b"b"


def test_nothing_is_handed_to_a_connection_that_was_dropped(loop: Loop) -> None:
    shared = shared_by(loop)
    reader = Reader(loop, shared, cost=SHARE / SLICE * 1.01)
    reader.receive(b"a" * 3 * SLICE)
    assert shared.drop(reader) == b"a" * 2 * SLICE
    assert not shared.drop(reader)
    loop.turn()
    assert reader.got == b"a" * SLICE


@pytest.mark.parametrize("answered_before", [0, 2])
def test_a_request_whose_client_leaves_before_it_is_read_is_counted(loop: Loop, answered_before: int) -> None:
    shared, handler = shared_by(loop), Answering(later=False)
    front, _, _ = server_side(handler, Bounds(), shared)
    shared.watch.asleep = False
    shared.read = 0
    for _ in range(answered_before):
        front.data_received(asked(CHAT))
    Reader(loop, shared, cost=(SHARE + SMALL_SHARE) / SLICE).receive(b"a" * 3 * SLICE)  # uses up the turn's share
    shared.read = FREE
    front.data_received(asked(CHAT))
    assert len(handler.asked) == answered_before
    front.connection_lost(None)
    for _ in range(5):
        loop.turn()
    assert (len(handler.asked), handler.left_half_way) == (answered_before, 1)


@pytest.mark.parametrize(("missing", "verdict"), [(0, Verdict.SERVED), (1, Verdict.FAULT)])
def test_an_answer_that_is_kept_when_its_server_closes_is_read_first(
    loop: Loop, missing: int, verdict: Verdict
) -> None:
    shared = shared_by(loop)
    pool, connection, _ = pool_without_network(MAX_OVERHEAD, shared)
    call = Call.to(pool)
    shared.watch.asleep = False
    Reader(loop, shared, cost=(SHARE + SMALL_SHARE) / SLICE).receive(b"a" * 3 * SLICE)  # uses up the turn's share
    shared.read = FREE
    connection.data_received(whole()[: len(whole()) - missing])
    assert call.exchange.status == 0
    connection.connection_lost(None)
    assert (call.exchange.status, call.exchange.verdict) == (200, verdict)


def test_without_a_loop_all_is_handled_at_once(loop: Loop) -> None:
    shared = Turns()
    assert not shared.defer(Reader(loop, shared), b"x" * 10 * SLICE)


# The longest turn.


def test_a_read_wakes_the_watch_and_a_rest_lets_it_sleep(loop: Loop) -> None:
    shared = shared_by(loop)
    reader = Reader(loop, shared)
    states = [shared.watch.asleep]
    reader.receive(b"x")
    states.append(shared.watch.asleep)
    for _ in range(IDLE_PERIODS):
        loop.look(0.0)
    states.append(shared.watch.asleep)
    assert loop.later == []
    reader.receive(b"x")
    assert [*states, shared.watch.asleep] == [True, False, True, False]


def watched(loop: Loop) -> Watch:
    watch = Watch(cast(asyncio.AbstractEventLoop, cast(Any, loop)))
    watch.wake()
    return watch


def test_the_longest_turn_is_reported_once_and_then_for_a_minute(loop: Loop) -> None:
    watch = watched(loop)
    for spent in (0.001, 0.05, 0.002):
        loop.look(spent)
    assert watch.longest() == pytest.approx(0.05)
    assert watch.longest() == pytest.approx(0.05)
    loop.time += WINDOW + 1
    assert watch.longest() == pytest.approx(0.05)  # of the window before
    loop.time += WINDOW + 1
    assert watch.longest() == 0.0


def test_the_longest_turn_is_kept_until_it_is_reported(loop: Loop) -> None:
    watch = watched(loop)
    loop.look(0.05)
    loop.time += 10 * WINDOW
    loop.look(0.001)
    assert watch.longest() == pytest.approx(0.05)
    assert watch.longest() == pytest.approx(0.001)


def test_a_page_is_made_in_as_many_turns_as_it_takes(loop: Loop) -> None:
    turned = 0

    async def others() -> None:
        nonlocal turned
        while True:
            turned += 1
            await asyncio.sleep(0)

    async def run() -> bytes:
        def parts() -> Any:
            for number in range(10):
                loop.spent += SHARE * 0.51
                yield b"%d" % number

        beside = asyncio.ensure_future(others())
        page = await in_turns(parts())
        beside.cancel()
        return page

    assert asyncio.run(run()) == b"0123456789"
    assert turned > 3


def test_what_a_generator_returns_is_made_in_as_many_turns_as_it_takes(loop: Loop) -> None:
    turned: list[int] = []

    def steps() -> Any:
        for number in range(4):
            loop.spent += SHARE * 0.51
            yield
            turned.append(number)
        return "made"

    async def run() -> str:
        beside = asyncio.get_running_loop()
        beside.call_soon(lambda: turned.append(-1))
        made: str = await made_in_turns(steps())
        return made

    assert asyncio.run(run()) == "made"
    assert turned == [0, -1, 1, 2, 3]
