"""First-token laws: the distribution of an endpoint's first-token time, without queueing, loading or failures.

A law is a value with three views of the same distribution:

    first_token(u, at, tokens)      the quantile of u in (0, 1)
    survival(times, at, tokens)     the share of calls that take longer
    mean(at, tokens)

for a call with `tokens` prompt tokens that arrived at scenario time `at`; all in seconds. `state(at)` is equal for two
times at which the law is the same. Some kinds depend on the seed, the endpoint's name or the data, which are known only
when a run begins: `bound` returns the law of that run, and reading an unbound one is an error.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadtest.latency.draws import chance

Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Floats = NDArray[np.float64]
Data = Mapping[str, Sequence[float]]  # measured first-token times by endpoint

NORMAL = NormalDist()
EDGE = 1e-9  # distance that a quantile keeps from 0 and 1
SPELLS = 200  # spells of each kind that are drawn for an endpoint; then the sequence repeats


class DataError(ValueError):
    """The user's data lacks an endpoint that a scenario needs."""


@dataclass(frozen=True)
class Given:
    """The facts that a law needs from a run. Without `data`, empirical laws use their `stand_in`."""

    seed: int
    endpoint: str
    data: Data | None = None


class Law(BaseModel):
    """The base of all kinds of laws; an immutable value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def bound(self, given: Given) -> Law:
        return self

    @abstractmethod
    def first_token(self, u: float, at: float = 0.0, tokens: int = 0) -> float: ...
    @abstractmethod
    def survival(self, times: Floats, at: float = 0.0, tokens: int = 0) -> Floats: ...
    @abstractmethod
    def mean(self, at: float = 0.0, tokens: int = 0) -> float: ...

    @property
    def reads(self) -> bool:
        """True if the prompt's size matters."""
        return False

    def state(self, at: float) -> Hashable:
        return None


# ---- Laws of one kind


class Constant(Law):
    """A law with one constant time."""

    kind: Literal["constant"] = "constant"
    seconds: Seconds

    def first_token(self, u: float, at: float = 0.0, tokens: int = 0) -> float:
        return self.seconds

    def survival(self, times: Floats, at: float = 0.0, tokens: int = 0) -> Floats:
        return np.where(times < self.seconds, 1.0, 0.0)

    def mean(self, at: float = 0.0, tokens: int = 0) -> float:
        return self.seconds


class Lognormal(Law):
    """A lognormal law; `sigma` is the standard deviation of the logarithm, about 0.25 to 0.5 for hosted models."""

    kind: Literal["lognormal"] = "lognormal"
    median: Seconds
    sigma: Annotated[float, Field(gt=0)]

    def first_token(self, u: float, at: float = 0.0, tokens: int = 0) -> float:
        return self.median * math.exp(self.sigma * NORMAL.inv_cdf(u))

    def survival(self, times: Floats, at: float = 0.0, tokens: int = 0) -> Floats:
        logs = np.log(np.maximum(times, 1e-300) / self.median) / (self.sigma * math.sqrt(2))
        return np.array([math.erfc(x) / 2 for x in logs.flat]).reshape(logs.shape)

    def mean(self, at: float = 0.0, tokens: int = 0) -> float:
        return self.median * math.exp(self.sigma**2 / 2)


class Samples(Law):
    """A law of measured times, in ascending order, each equally likely."""

    kind: Literal["samples"] = "samples"
    times: tuple[float, ...]

    def first_token(self, u: float, at: float = 0.0, tokens: int = 0) -> float:
        return self.times[int(u * len(self.times))]

    def survival(self, times: Floats, at: float = 0.0, tokens: int = 0) -> Floats:
        return 1.0 - np.searchsorted(self.times, times, side="right") / len(self.times)

    def mean(self, at: float = 0.0, tokens: int = 0) -> float:
        return math.fsum(self.times) / len(self.times)


# ---- Laws made of others


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    share: Share
    law: AnyLaw


class Mixture(Law):
    """A mixture: each part's share of the calls follows its law, as with stalls or two kinds of machines.

    The quicker parts come first.
    """

    kind: Literal["mixture"] = "mixture"
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def adds_up(self) -> Mixture:
        if abs(total := math.fsum(part.share for part in self.parts) - 1) > 1e-9:
            raise ValueError(f"the shares of the parts come to {total + 1:g} instead of 1")
        return self

    def bound(self, given: Given) -> Law:
        parts = tuple(part.model_copy(update={"law": part.law.bound(given)}) for part in self.parts)
        return self.model_copy(update={"parts": parts})

    def first_token(self, u: float, at: float = 0.0, tokens: int = 0) -> float:
        for part in self.parts[:-1]:
            if u < part.share:
                break
            u -= part.share
        else:
            part = self.parts[-1]
        # Rounding may give exactly 0 or 1.
        return part.law.first_token(min(max(u / part.share, EDGE), 1 - EDGE), at, tokens)

    def survival(self, times: Floats, at: float = 0.0, tokens: int = 0) -> Floats:
        total: Floats = np.sum([part.share * part.law.survival(times, at, tokens) for part in self.parts], axis=0)
        return total

    def mean(self, at: float = 0.0, tokens: int = 0) -> float:
        return math.fsum(part.share * part.law.mean(at, tokens) for part in self.parts)

    @property
    def reads(self) -> bool:
        return any(part.law.reads for part in self.parts)

    def state(self, at: float) -> Hashable:
        return tuple(part.law.state(at) for part in self.parts)


class Linear(Law):
    """A law plus the time to read the prompt: `per_token` seconds are added for each of its tokens."""

    kind: Literal["linear"] = "linear"
    base: AnyLaw
    per_token: Annotated[float, Field(ge=0)]

    def bound(self, given: Given) -> Law:
        return self.model_copy(update={"base": self.base.bound(given)})

    def first_token(self, u: float, at: float = 0.0, tokens: int = 0) -> float:
        return self.base.first_token(u, at, tokens) + self.per_token * tokens

    def survival(self, times: Floats, at: float = 0.0, tokens: int = 0) -> Floats:
        return self.base.survival(times - self.per_token * tokens, at, tokens)

    def mean(self, at: float = 0.0, tokens: int = 0) -> float:
        return self.base.mean(at, tokens) + self.per_token * tokens

    @property
    def reads(self) -> bool:
        return True

    def state(self, at: float) -> Hashable:
        return self.base.state(at)


class From(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    at: Annotated[float, Field(ge=0)]
    law: AnyLaw


class Schedule(Law):
    """A sequence of laws, each from its time on; repeats after `every` seconds."""

    kind: Literal["schedule"] = "schedule"
    laws: Annotated[tuple[From, ...], Field(min_length=1)]
    every: Seconds | None = None

    @model_validator(mode="after")
    def in_order(self) -> Schedule:
        times = [each.at for each in self.laws]
        if times[0] != 0 or times != sorted(set(times)):
            raise ValueError(f"the times of the laws must begin at 0 and rise, not {times}")
        if self.every is not None and self.every <= times[-1]:
            raise ValueError(f"every must be more than the last law's time, {times[-1]:g}")
        return self

    def bound(self, given: Given) -> Law:
        laws = tuple(each.model_copy(update={"law": each.law.bound(given)}) for each in self.laws)
        return self.model_copy(update={"laws": laws})

    def number(self, at: float) -> int:
        """The index of the law at this time."""
        at = max(at, 0.0) % self.every if self.every else max(at, 0.0)
        return bisect_right(self.laws, at, key=lambda each: each.at) - 1

    def first_token(self, u: float, at: float = 0.0, tokens: int = 0) -> float:
        return self.laws[self.number(at)].law.first_token(u, at, tokens)

    def survival(self, times: Floats, at: float = 0.0, tokens: int = 0) -> Floats:
        return self.laws[self.number(at)].law.survival(times, at, tokens)

    def mean(self, at: float = 0.0, tokens: int = 0) -> float:
        return self.laws[self.number(at)].law.mean(at, tokens)

    @property
    def reads(self) -> bool:
        return any(each.law.reads for each in self.laws)

    def state(self, at: float) -> Hashable:
        number = self.number(at)
        return number, self.laws[number].law.state(at)


class Spells(Schedule):
    """A schedule that alternates between two laws."""

    @property
    def reads(self) -> bool:
        return any(each.law.reads for each in self.laws[:2])

    def state(self, at: float) -> Hashable:
        number = self.number(at)
        return number % 2, self.laws[number].law.state(at)


# ---- Laws that depend on a run


class Unbound(Law):
    """A law that cannot be read until it is bound to a run."""

    def first_token(self, u: float, at: float = 0.0, tokens: int = 0) -> float:
        raise TypeError(f"{self!r} is not bound to a run")

    def survival(self, times: Floats, at: float = 0.0, tokens: int = 0) -> Floats:
        raise TypeError(f"{self!r} is not bound to a run")

    def mean(self, at: float = 0.0, tokens: int = 0) -> float:
        raise TypeError(f"{self!r} is not bound to a run")


class TwoState(Unbound):
    """Alternating normal and contended spells, at times of each endpoint's own.

    `normal_for` and `contended_for` are mean lengths in seconds; `periods: fixed` makes them exact, `exponential` draws
    them.
    """

    kind: Literal["two-state"] = "two-state"
    normal: AnyLaw
    contended: AnyLaw
    normal_for: Seconds
    contended_for: Seconds
    periods: Literal["exponential", "fixed"] = "exponential"

    def bound(self, given: Given) -> Law:
        rng = chance(given.seed, given.endpoint, "spells")
        two = (self.normal.bound(given), self.normal_for), (self.contended.bound(given), self.contended_for)
        at, laws = 0.0, []
        for law, length in two * SPELLS:
            laws.append(From.model_construct(at=at, law=law))
            at += rng.expovariate(1 / length) if self.periods == "exponential" else length
        return Spells.model_construct(laws=tuple(laws), every=at)


class Empirical(Unbound):
    """The times measured at this endpoint of the user's data; without data, the law `stand_in`."""

    kind: Literal["empirical"] = "empirical"
    endpoint: str
    stand_in: AnyLaw

    def bound(self, given: Given) -> Law:
        if given.data is None:
            return self.stand_in.bound(given)
        if not given.data.get(self.endpoint):
            raise DataError(
                f"the data has no first-token times of {self.endpoint}; it has {', '.join(sorted(given.data))}"
            )
        return Samples(times=tuple(sorted(given.data[self.endpoint])))


AnyLaw = Annotated[
    Constant | Lognormal | Mixture | Linear | Schedule | TwoState | Empirical | Samples,
    Field(discriminator="kind"),
]
