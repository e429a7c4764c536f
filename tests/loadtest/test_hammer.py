"""hammer asks as often as it was told, counts what was whole, and says what was not."""

from __future__ import annotations

from rich.console import Console

from loadtest.latency.client import Target
from loadtest.latency.endpoint import Fakes
from loadtest.latency.hammer import Blows, Load, hammer, report
from tests.loadtest.stands import endpoint, standing, told, url


def load(fakes: Fakes, calls: int | None, concurrency: int = 4, rate: float | None = None, stream: bool = True) -> Load:
    return Load(Target.of(url(fakes)), "m", stream, concurrency=concurrency, rate=rate, calls=calls, seconds=None)


def shown(blows: Blows) -> str:
    console = Console(width=150)
    with console.capture() as said:
        console.print(report(blows))
    return said.get()


def test_a_closed_loop_has_so_many_at_once() -> None:
    async def story() -> None:
        async with standing(endpoint(first_token=1)) as fakes:
            blows = await hammer(load(fakes, calls=20))
            assert (blows.calls, blows.errors.total(), blows.connections) == (20, 0, 4)
            assert len(blows.first) == len(blows.whole) == 20
            assert min(blows.first) >= 1 / fakes.clock.speed
            assert "20 calls" in shown(blows)

    told(story)


def test_an_open_loop_asks_whether_or_not_it_was_answered() -> None:
    async def story() -> None:
        async with standing(endpoint(first_token=50)) as fakes:
            blows = await hammer(load(fakes, calls=10, rate=1000))
            assert (blows.calls, blows.connections) == (10, 10)
            assert "sent late by" in shown(blows)

    told(story)


def test_plain_answers_have_no_first_token_of_their_own() -> None:
    async def story() -> None:
        async with standing(endpoint()) as fakes:
            blows = await hammer(load(fakes, calls=5, stream=False))
            assert len(blows.whole) == 5
            assert "first token" not in shown(blows)

    told(story)


def test_what_is_refused_is_no_answer_and_is_told() -> None:
    async def story() -> None:
        async with standing(endpoint(errors=[{"status": 503}])) as fakes:
            blows = await hammer(load(fakes, calls=3))
            assert (len(blows.whole), blows.errors.total()) == (0, 3)
            assert "3 times: 503" in shown(blows)

    told(story)


def test_a_time_ends_it() -> None:
    async def story() -> None:
        async with standing(endpoint()) as fakes:
            told_of: list[int] = []
            blows = await hammer(Load(Target.of(url(fakes)), "m", seconds=0.1), told_of.append)
            assert blows.calls == len(told_of) > 0

    told(story)
