"""Helpers of the tests of core: a time, a policy, fixed randomness, and endpoints in a given state."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from hypothesis import settings

from router.core.choice.route import Policy
from router.core.demand import Demand, DemandKind
from router.core.endpoint.breaker import IN_A_ROW
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.slots import Slots
from router.core.verdict import Outcome, Verdict

T = 1000.0  # any moment; not zero, where a clock that is "not set" would go unnoticed

ANSWER, EMBEDDING = Demand("answer"), Demand("embedding")

properties = settings(deadline=None, max_examples=100)


class Steady(Random):
    """Fixed randomness: no exploration, the upper middle of near-ties, and pauses of 1.5 times the minimum."""

    def random(self) -> float:
        return 0.5


class Exploring(Random):
    """Fixed randomness that always explores."""

    def random(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Rules(Policy):
    """A policy under which nothing happens by itself, unless a test sets it."""

    deadline: float = 60.0
    hedge: float | Literal["auto", "off"] = "off"
    abandon: float = 1000.0
    hedge_budget: float = 2.0**-40  # almost nothing; 0 would turn hedges or retries off
    retry_budget: float = 2.0**-40
    patience: float = 0.0


def endpoint(
    name: str = "a",
    seconds: float | None = 1.0,
    *,
    weight: float = 1.0,
    limit: int | None = None,
    wait: DemandKind = "first_token",
) -> Endpoint:
    """An endpoint whose expected wait is close to `seconds`; None makes a newcomer."""
    made = Endpoint(name, weight=weight, slots=Slots(limit))
    if seconds is not None:
        learn(made, *[seconds] * 100, wait=wait)
    return made


def learn(of: Endpoint, *seconds: float, now: float = T, wait: DemandKind = "first_token") -> None:
    for value in seconds:
        of.forecast.latency(wait).observe(value, now)
    of.forecast.latency(wait).draw()


def trip(of: Endpoint, now: float = T) -> None:
    """Open the endpoint's breaker with failures that took no time."""
    for _ in range(IN_A_ROW):
        of.begin(now).end(Outcome(Verdict.FAULT), now)


def recover(of: Endpoint, now: float) -> None:
    """Open the endpoint's breaker long before `now`, and close it `now`."""
    trip(of, now - 100.0)
    of.begin(now).end(Outcome(Verdict.SERVED), now)
    learn(of, 0.2, now=now)


def busy(of: Endpoint, seconds: float, now: float = T) -> None:
    of.begin(now).end(Outcome(Verdict.BUSY, retry_after=seconds), now)


def full(of: Endpoint, now: float = T) -> None:
    """Occupy all slots of the endpoint with attempts that are answering."""
    assert of.availability.slots.configured is not None
    while not of.availability.full:
        of.begin(now).first_token(now)
