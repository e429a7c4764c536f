"""Open-loop arrivals: the time of each call is decided before the run, and a late answer delays no other call."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadtest.latency.draws import chance

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
Whole = Annotated[int, Field(gt=0)]


class TraceError(ValueError):
    """A trace that cannot be replayed; the text names the file, the line and the expected form."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a run."""

    k: int  # its number
    at: float  # arrival, in seconds of the scenario
    tokens: int  # tokens of the prompt
    generated: int  # tokens of the answer
    plain: bool = False  # it asks for a plain answer instead of a stream


class Sizes(BaseModel):
    """Sizes of calls: prompts are lognormal (sigma 0: all equal), at most `most` tokens; answers are uniform."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: Annotated[float, Field(ge=1)] = 200
    sigma: Annotated[float, Field(ge=0)] = 0.5
    most: Whole = 16_000
    generated: tuple[Whole, Whole] = (3, 8)

    @model_validator(mode="after")
    def in_order(self) -> Sizes:
        if self.generated[0] > self.generated[1]:
            raise ValueError(f"generated is [least, most], not {list(self.generated)}")
        return self

    def draw(self, rng: Random) -> tuple[int, int]:
        tokens = self.prompt * math.exp(self.sigma * NormalDist().inv_cdf(rng.uniform(1e-9, 1 - 1e-9)))
        return min(self.most, max(1, round(tokens))), rng.randint(*self.generated)


class Poisson(BaseModel):
    """Independent arrivals, `rate` per second on average."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["poisson"] = "poisson"
    rate: Annotated[float, Field(gt=0)]

    @property
    def mean_rate(self) -> float:
        return self.rate

    def times(self, rng: Random) -> Iterator[float]:
        at = 0.0
        while True:
            at += rng.expovariate(self.rate)
            yield at


class Bursts(BaseModel):
    """Bursts: every `every` seconds `size` calls with Poisson arrivals at `rate` per second, none between bursts."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["bursts"] = "bursts"
    rate: Annotated[float, Field(gt=0)]
    size: Whole
    every: Annotated[float, Field(gt=0)]

    @property
    def mean_rate(self) -> float:
        return self.size / max(self.every, self.size / self.rate)

    def times(self, rng: Random) -> Iterator[float]:
        begin = 0.0
        while True:
            at = begin
            for _ in range(self.size):
                at += rng.expovariate(self.rate)
                yield at
            begin = max(begin + self.every, at)


class Replay(BaseModel):
    """A trace given by the user, scaled to `rate` calls per second; answers have at most `most_generated` tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["trace"] = "trace"
    rate: Annotated[float, Field(gt=0)]
    most_generated: Whole = 8

    @property
    def mean_rate(self) -> float:
        return self.rate


Arrivals = Annotated[Poisson | Bursts | Replay, Field(discriminator="kind")]


def drawn(arrivals: Poisson | Bursts, sizes: Sizes, count: int, seed: int, plain: float = 0.0) -> list[Call]:
    """The first `count` calls; a share `plain` of them asks for plain answers."""
    times = islice(arrivals.times(chance(seed, "arrivals")), count)
    rng, kinds = chance(seed, "sizes"), chance(seed, "plain")
    return [Call(k, at, *sizes.draw(rng), kinds.random() < plain) for k, at in enumerate(times)]


def replayed(replay: Replay, rows: list[tuple[float, int, int]], count: int) -> list[Call]:
    """The first `count` calls of the trace; a trace that is too short is repeated."""
    mean_gap = (rows[-1][0] - rows[0][0]) / (len(rows) - 1)
    lap, scale = (len(rows) * mean_gap, 1 / (replay.rate * mean_gap))
    calls = []
    for k in range(count):
        laps, row = divmod(k, len(rows))
        at, tokens, generated = rows[row]
        calls.append(Call(k, (laps * lap + at) * scale, max(1, tokens), min(max(1, generated), replay.most_generated)))
    return calls


def read_trace(path: Path) -> list[tuple[float, int, int]]:
    """The rows of a trace: seconds since the first call, prompt tokens and generated tokens."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            raise TraceError(f"{path}:1: no column {', '.join(missing)}; a trace has {', '.join(COLUMNS)}")
        rows = [read_row(row, f"{path}:{reader.line_num}") for row in reader]
    if len(rows) < 2 or rows[0][0] == rows[-1][0]:
        raise TraceError(f"{path}: a trace needs two calls at different times")
    for number, (one, next_one) in enumerate(pairwise(rows), 3):
        if next_one[0] < one[0]:
            raise TraceError(f"{path}:{number}: earlier than the line before; a trace must be in order")
    return [(at - rows[0][0], tokens, generated) for at, tokens, generated in rows]


def read_row(row: dict[str, str], where: str) -> tuple[float, int, int]:
    try:
        # Traces have seven digits of a second; Python reads six.
        at = datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC).timestamp()
        return at, int(row["ContextTokens"]), int(row["GeneratedTokens"])
    except (TypeError, ValueError) as error:
        raise TraceError(f"{where}: {error}; a line has the form 2023-11-16 18:15:46.6805900,374,44") from None
