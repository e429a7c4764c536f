"""Plain throughput and latency of any OpenAI-compatible URL: so many at once, or so many a second.

With a rate the arrivals are Poisson's and each call is measured from its scheduled time, whatever became of those
before it; without one, each of `concurrency` asks again as soon as its last answer is whole.
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
MOST_ERRORS = 3  # kinds that are shown


@dataclass(frozen=True)
class Load:
    """What to ask for, and how hard; the first limit reached ends it, `seconds` by asking no more."""

    target: Target
    model: str
    stream: bool = True
    tokens: int = 16  # of the prompt
    max_tokens: int | None = None
    concurrency: int = 32
    rate: float | None = None  # calls a second
    calls: int | None = None
    seconds: float | None = 10.0
    limit: float = 60.0  # seconds for one answer
    seed: int = 1

    def request(self, k: int) -> bytes:
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": prompt(k, self.tokens)}]}
        body |= {"stream": True} if self.stream else {}
        return self.target.request(body if self.max_tokens is None else {**body, "max_tokens": self.max_tokens})


@dataclass
class Blows:
    """What a hammering came to; seconds."""

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
    """Asks until the load's limit; how one call follows another, the two below say."""

    def __init__(self, load: Load, tell: Callable[[int], None]) -> None:
        self.load, self.tell = load, tell
        self.loop = asyncio.get_running_loop()
        self.client = Client(load.target)
        self.blows = Blows(load)
        self.asked = self.open = 0
        self.finished: asyncio.Future[None] = self.loop.create_future()

    async def run(self) -> Blows:
        self.began = time.monotonic()
        self.begin()
        await self.finished
        self.blows.took = time.monotonic() - self.began
        self.blows.connections = self.client.opened
        self.client.close()
        return self.blows

    def begin(self) -> None:
        raise NotImplementedError

    def freed(self) -> None:
        raise NotImplementedError

    def more(self, at: float) -> bool:
        """Whether a call at this time would still be within the limit."""
        calls, seconds = self.load.calls, self.load.seconds
        return (calls is None or self.asked < calls) and (seconds is None or at - self.began < seconds)

    def ask(self, scheduled: float) -> None:
        self.open += 1
        request = self.load.request(self.asked)
        self.asked += 1
        self.client.ask(request, self.load.limit, lambda answer: self.over(scheduled, answer))

    def over(self, scheduled: float, answer: Answer) -> None:
        self.open -= 1
        self.blows.add(scheduled, answer)
        self.tell(self.blows.calls)
        self.freed()

    def finish(self) -> None:
        if not self.open and not self.finished.done():
            self.finished.set_result(None)


class ClosedLoop(Hammer):
    """As many at once as the load's concurrency: each asks again when its answer is over."""

    def begin(self) -> None:
        for _ in range(self.load.concurrency):
            self.again()

    def freed(self) -> None:
        # Not from within the parser that told us: its connection is free when it returns.
        self.loop.call_soon(self.again)

    def again(self) -> None:
        now = time.monotonic()
        if self.more(now):
            self.ask(now)
        else:
            self.finish()


class OpenLoop(Hammer):
    """So many a second, at random: Poisson's arrivals, whatever became of those before."""

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


async def hammer(load: Load, tell: Callable[[int], None] = lambda _: None) -> Blows:
    return await (ClosedLoop if load.rate is None else OpenLoop)(load, tell).run()


# ---- What is told of it


def first_model(url: str, key: str) -> str:
    """The first model that a server lists; who serves none says so."""
    try:
        answer = httpx.get(f"{url}/models", headers={"authorization": f"Bearer {key}"}, timeout=10, trust_env=False)
        models = answer.raise_for_status().json()["data"]
        return str(models[0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise BenchError(f"{url}/models lists no model ({error}): name one with --model") from None


def report(blows: Blows) -> RenderableType:
    """What was asked for, a table of the answers that were whole, and what became of all."""
    load = blows.load
    how = f"{load.rate:g} a second" if load.rate else f"{load.concurrency} at once"
    asked = f"{load.target.url}, {load.model}: {'streams' if load.stream else 'plain answers'}, {how}"
    return Group(Text(asked), *([table(blows)] if blows.whole else []), Text("\n".join(said_of(blows))))


def table(blows: Blows) -> Table:
    """Milliseconds of the answers that were whole."""
    load, shown = blows.load, Table()
    for heading in ("ms", *(f"p{q}" for q in QUANTILES), "mean", "most"):
        shown.add_column(heading, justify="left" if heading == "ms" else "right")
    for name, times in (("first token", blows.first), ("whole answer", blows.whole)):
        if times and (load.stream or times is blows.whole):
            shown.add_row(name, *(f"{1000 * value:,.1f}" for value in figures(times)))
    if load.rate:
        shown.add_row("sent late by", *(f"{1000 * value:,.1f}" for value in figures(blows.late)))
    return shown


def figures(times: list[float]) -> list[float]:
    return [*np.percentile(times, QUANTILES), float(np.mean(times)), max(times)] if times else []


def said_of(blows: Blows) -> Iterator[str]:
    took = max(blows.took, 1e-9)
    tokens = f", {blows.tokens / took:,.0f} events with content a second" if blows.load.stream else ""
    yield (
        f"{blows.calls:,} calls in {blows.took:.1f} s: {len(blows.whole) / took:,.1f} whole answers a second{tokens}; "
        f"{blows.connections} connections, {blows.errors.total()} errors"
    )
    for error, times in blows.errors.most_common(MOST_ERRORS):
        yield f"{times} times: {error}"
