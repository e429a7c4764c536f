"""Throughput and latency of any OpenAI-compatible URL, at a concurrency or at a rate.

With a rate, arrivals are Poisson and each call is measured from its scheduled time, independent of earlier answers.
Without one, each of `concurrency` clients sends its next call as soon as its last answer is whole.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtest.latency.client import Answer, Client, Target
from loadtest.latency.driver import prompt
from loadtest.processes import BenchError

QUANTILES = (50, 90, 95, 99)
MAX_ERRORS_SHOWN = 3  # different errors shown, the most frequent first


@dataclass(frozen=True)
class Load:
    """The calls to send and their limits; the first limit reached stops new calls."""

    target: Target
    model: str
    stream: bool = True
    tokens: int = 16  # tokens of the prompt
    max_tokens: int | None = None
    concurrency: int = 32
    rate: float | None = None  # calls per second
    calls: int | None = None
    seconds: float | None = 10.0
    limit: float = 60.0  # seconds for one answer
    seed: int = 1

    def request(self, k: int) -> bytes:
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": prompt(k, self.tokens)}]}
        body |= {"stream": True} if self.stream else {}
        return self.target.request(body if self.max_tokens is None else {**body, "max_tokens": self.max_tokens})


@dataclass
class Results:
    """The results of a load; times in seconds."""

    load: Load
    took: float = 0.0
    connections: int = 0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        return len(self.whole) + self.errors.total()

    def add(self, scheduled: float, answer: Answer) -> None:
        self.late.append(answer.sent - scheduled)
        if not answer.ok or answer.ended is None:
            self.errors[answer.error or "no answer"] += 1
            return
        self.tokens += answer.tokens
        self.whole.append(answer.ended - scheduled)
        if answer.first is not None:
            self.first.append(answer.first - scheduled)


class Hammer:
    """Sends calls up to the load's limit; the two subclasses decide when the next call is sent."""

    def __init__(self, load: Load, on_progress: Callable[[int], None]) -> None:
        self.load, self.on_progress = load, on_progress
        self.loop = asyncio.get_running_loop()
        self.client = Client(load.target)
        self.results = Results(load)
        self.asked = self.open = 0
        self.finished: asyncio.Future[None] = self.loop.create_future()

    async def run(self) -> Results:
        self.began = time.monotonic()
        self.begin()
        await self.finished
        self.results.took = time.monotonic() - self.began
        self.results.connections = self.client.opened
        self.client.close()
        return self.results

    def begin(self) -> None:
        raise NotImplementedError

    def freed(self) -> None:
        raise NotImplementedError

    def more(self, at: float) -> bool:
        """True if a call at this time is still within the limits."""
        calls, seconds = self.load.calls, self.load.seconds
        return (calls is None or self.asked < calls) and (seconds is None or at - self.began < seconds)

    def ask(self, scheduled: float) -> None:
        self.open += 1
        request = self.load.request(self.asked)
        self.asked += 1
        self.client.ask(request, self.load.limit, lambda answer: self.over(scheduled, answer))

    def over(self, scheduled: float, answer: Answer) -> None:
        self.open -= 1
        self.results.add(scheduled, answer)
        self.on_progress(self.results.calls)
        self.freed()

    def finish(self) -> None:
        if not self.open and not self.finished.done():
            self.finished.set_result(None)


class ClosedLoop(Hammer):
    """A closed loop of `concurrency` clients: each sends its next call when its answer is over."""

    def begin(self) -> None:
        for _ in range(self.load.concurrency):
            self.again()

    def freed(self) -> None:
        # Not called directly: the parser that called back must return before its connection is free.
        self.loop.call_soon(self.again)

    def again(self) -> None:
        now = time.monotonic()
        if self.more(now):
            self.ask(now)
        else:
            self.finish()


class OpenLoop(Hammer):
    """An open loop: Poisson arrivals at `rate` per second, independent of earlier answers."""

    def begin(self) -> None:
        self.rng, self.at, self.last = Random(self.load.seed), self.began, False
        self.follow()

    def follow(self) -> None:
        assert self.load.rate is not None
        self.at += self.rng.expovariate(self.load.rate)
        self.loop.call_at(self.at, self.arrive, self.at)

    def arrive(self, scheduled: float) -> None:
        if self.more(scheduled):
            self.ask(scheduled)
            self.follow()
        else:
            self.last = True
            self.finish()

    def freed(self) -> None:
        if self.last:
            self.finish()


async def hammer(load: Load, on_progress: Callable[[int], None] = lambda _: None) -> Results:
    return await (ClosedLoop if load.rate is None else OpenLoop)(load, on_progress).run()


# ---- The report


def first_model(url: str, key: str) -> str:
    """The first model that a server lists; raises a BenchError if it lists none."""
    try:
        answer = httpx.get(f"{url}/models", headers={"authorization": f"Bearer {key}"}, timeout=10, trust_env=False)
        models = answer.raise_for_status().json()["data"]
        return str(models[0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise BenchError(f"{url}/models lists no model ({error}): name one with --model") from None


def report(results: Results) -> RenderableType:
    """The report: the load, a table of the whole answers, and a summary of all calls."""
    load = results.load
    how = f"{load.rate:g} per second" if load.rate else f"{load.concurrency} at once"
    asked = f"{load.target.url}, {load.model}: {'streams' if load.stream else 'plain answers'}, {how}"
    return Group(Text(asked), *([table(results)] if results.whole else []), Text("\n".join(summary(results))))


def table(results: Results) -> Table:
    """A table of the whole answers, in milliseconds."""
    load, shown = results.load, Table()
    for heading in ("ms", *(f"p{q}" for q in QUANTILES), "mean", "max"):
        shown.add_column(heading, justify="left" if heading == "ms" else "right")
    for name, times in (("first token", results.first), ("whole answer", results.whole)):
        if times and (load.stream or times is results.whole):
            shown.add_row(name, *(f"{1000 * value:,.1f}" for value in figures(times)))
    if load.rate:
        shown.add_row("sent late by", *(f"{1000 * value:,.1f}" for value in figures(results.late)))
    return shown


def figures(times: list[float]) -> list[float]:
    return [*np.percentile(times, QUANTILES), float(np.mean(times)), max(times)] if times else []


def summary(results: Results) -> Iterator[str]:
    took = max(results.took, 1e-9)
    whole = len(results.whole) / took
    tokens = f", {results.tokens / took:,.0f} events with content per second" if results.load.stream else ""
    yield (
        f"{results.calls:,} calls in {results.took:.1f} s: {whole:,.1f} whole answers per second{tokens}; "
        f"{results.connections} connections, {results.errors.total()} errors"
    )
    for error, times in results.errors.most_common(MAX_ERRORS_SHOWN):
        yield f"{times} times: {error}"
