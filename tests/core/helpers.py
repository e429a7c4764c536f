"""Helpers of the core tests: a time, a policy, fixed randomness, routes, and endpoints brought into a state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from hypothesis import HealthCheck, settings

from router.core.choice.budget import Budget
from router.core.choice.hedge_plan import HedgePlan
from router.core.choice.hedge_window import HedgeWindow
from router.core.choice.route import Policy, Route, Tier
from router.core.demand import Demand, DemandKind
from router.core.endpoint.breaker import IN_A_ROW
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.slots import Slots
from router.core.endpoint.waiting_queue import QueueLimit
from router.core.verdict import Cause, Outcome, Verdict

T = 1000.0  # seconds; not 0, so that a test notices a time that was never set

CHAT = "chat/completions"
ANSWER, EMBEDDING = Demand("answer"), Demand("embedding", 0.0, "embeddings")

# No example may fail for taking long: that depends on the machine.
properties = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


class Steady(Random):
    """Fixed randomness: no exploration, the upper middle of near-ties, and pauses of 1.5 times their minimum."""

    def random(self) -> float:
        return 0.5


class Exploring(Random):
    """Fixed randomness that explores with every call."""

    def random(self) -> float:
        return 0.0


@dataclass(frozen=True)
class PassivePolicy:
    """A policy under which no hedge is sent, no attempt given up and no budget filled, unless a test asks for it."""

    deadline: float = 60.0
    hedge: float | Literal["auto", "off"] = "off"
    abandon: float = 1000.0
    hedge_budget: float = 2.0**-40  # almost nothing; 0 would turn hedges or retries off
    retry_budget: float = 2.0**-40
    patience: float = 0.0

    @property
    def policy(self) -> Policy:
        return Policy(
            deadline=self.deadline,
            hedge=self.hedge,
            abandon=self.abandon,
            hedge_budget=self.hedge_budget,
            retry_budget=self.retry_budget,
        )


def make_route(
    tiers: Sequence[Sequence[Endpoint]],
    policies: Mapping[Endpoint, PassivePolicy] | None = None,
    *,
    patience: float = 0.0,
    hedges: Budget | None = None,
    retries: Budget | None = None,
    queue: QueueLimit | None = None,
    plan: HedgePlan | None = None,
) -> Route:
    """A route over these tiers, numbered from 1; without `policies` all endpoints have a `PassivePolicy`."""
    if policies is None:
        policies = {endpoint: PassivePolicy() for tier in tiers for endpoint in tier}
    deadlines = [policy.deadline for policy in policies.values()]
    return Route(
        model="chat",
        tiers=tuple(Tier.of(number, tier) for number, tier in enumerate(tiers, 1)),
        policies={endpoint: passive.policy for endpoint, passive in policies.items()},
        hedges=hedges or Budget(),
        retries=retries or Budget(),
        deadline=max(deadlines),
        shortest_deadline=min(deadlines),
        patience=patience,
        resume="off",
        affinity="off",
        affinity_margin=0.0,
        queue=queue or QueueLimit(),
        plan=plan or HedgePlan(),
        window=HedgeWindow(),
    )


def endpoint(
    name: str = "a",
    seconds: float | None = 1.0,
    *,
    weight: float = 1.0,
    limit: int | None = None,
    kind: DemandKind = "first_token",
) -> Endpoint:
    """An endpoint whose expected wait is close to `seconds`; None: an unmeasured one. `limit` is its concurrency."""
    made = Endpoint(name, weight=weight, slots=Slots(limit))
    if seconds is not None:
        learn(made, *[seconds] * 100, kind=kind)
    return made


def learn(of: Endpoint, *seconds: float, now: float = T, kind: DemandKind = "first_token") -> None:
    """Record these waits, and draw the curve."""
    for value in seconds:
        of.forecast.latency(kind).observe(value, now)
    of.forecast.latency(kind).draw()


def trip(of: Endpoint, now: float = T) -> None:
    """Open the breaker by failures that take no time."""
    for _ in range(IN_A_ROW):
        of.begin(now).end(Outcome(Verdict.FAULT), now)


def recover(of: Endpoint, now: float) -> None:
    """Close the breaker at `now`, after it was open for long: the slow start begins."""
    trip(of, now - 100.0)
    of.begin(now).end(Outcome(Verdict.SERVED), now)
    learn(of, 0.2, now=now)


def refuse(of: Endpoint, outcome: Outcome, now: float = T, *, calls: int = 2, operation: str = CHAT) -> None:
    """The endpoint refuses so many calls, one after the other, with different requests: two begin a cooldown."""
    for number in range(calls):
        demand = Demand("first_token", 0.0, operation, b"request %d" % number)
        of.begin(now, demand).end(outcome, now)


def busy(of: Endpoint, seconds: float, now: float = T) -> None:
    """Begin a cooldown of so many seconds, without a trial: the endpoint reports that its quota is used up."""
    refuse(of, Outcome(Verdict.BUSY, retry_after=seconds, cause=Cause.QUOTA), now)


def fill(of: Endpoint, now: float = T) -> None:
    """Take all slots, by attempts that have their first token."""
    assert of.availability.slots.configured is not None
    while not of.availability.full:
        of.begin(now).first_token(now)
