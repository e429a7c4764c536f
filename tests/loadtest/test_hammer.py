"""hammer sends the configured load, counts whole answers, and reports the other ones."""

from __future__ import annotations

from rich.console import Console

from loadtest.latency.client import Target
from loadtest.latency.endpoint import Fakes
from loadtest.latency.hammer import Load, Results, hammer, report
from tests.loadtest.stands import endpoint, run_story, standing, url


def load(fakes: Fakes, calls: int | None, concurrency: int = 4, rate: float | None = None, stream: bool = True) -> Load:
    return Load(Target.of(url(fakes)), "m", stream, concurrency=concurrency, rate=rate, calls=calls, seconds=None)


def shown(results: Results) -> str:
    console = Console(width=150)
    with console.capture() as captured:
        console.print(report(results))
    return captured.get()


def test_a_closed_loop_keeps_its_concurrency() -> None:
    async def story() -> None:
        async with standing(endpoint(first_token=1)) as fakes:
            results = await hammer(load(fakes, calls=20))
            assert (results.calls, results.errors.total(), results.connections) == (20, 0, 4)
            assert len(results.first) == len(results.whole) == 20
            assert min(results.first) >= 1 / fakes.clock.speed
            assert "20 calls" in shown(results)

    run_story(story)


def test_an_open_loop_sends_calls_independent_of_answers() -> None:
    async def story() -> None:
        async with standing(endpoint(first_token=50)) as fakes:
            results = await hammer(load(fakes, calls=10, rate=1000))
            assert (results.calls, results.connections) == (10, 10)
            assert "sent late by" in shown(results)

    run_story(story)


def test_plain_answers_have_no_first_token_row() -> None:
    async def story() -> None:
        async with standing(endpoint()) as fakes:
            results = await hammer(load(fakes, calls=5, stream=False))
            assert len(results.whole) == 5
            assert "first token" not in shown(results)

    run_story(story)


def test_refused_calls_are_not_answers_and_are_reported() -> None:
    async def story() -> None:
        async with standing(endpoint(errors=[{"status": 503}])) as fakes:
            results = await hammer(load(fakes, calls=3))
            assert (len(results.whole), results.errors.total()) == (0, 3)
            assert "3 times: 503" in shown(results)

    run_story(story)


def test_a_duration_ends_the_load() -> None:
    async def story() -> None:
        async with standing(endpoint()) as fakes:
            progress: list[int] = []
            results = await hammer(Load(Target.of(url(fakes)), "m", seconds=0.1), progress.append)
            assert results.calls == len(progress) > 0

    run_story(story)
