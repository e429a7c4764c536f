"""A route: how one client-facing model is served, the single definition that choice, explanation and proxy share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from router.core.choice.budget import Budget
from router.core.choice.hedge_plan import HedgePlan
from router.core.choice.hedge_window import HedgeWindow
from router.core.choice.shortlist import LARGE, Shortlist
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.waiting_queue import QueueLimit


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's policy for one model at one endpoint: times in seconds, budgets in attempts per call."""

    deadline: float = 120.0
    hedge: float | Literal["auto", "off"] = "auto"
    abandon: float = 15.0
    stall: float = 30.0
    hedge_budget: float = 0.10
    retry_budget: float = 0.20


@dataclass(frozen=True, slots=True)
class Tier:
    """Endpoints of equal preference; `number` is that of the configuration. A large tier has a shortlist."""

    number: int
    endpoints: tuple[Endpoint, ...]
    shortlist: Shortlist | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def of(number: int, endpoints: Iterable[Endpoint]) -> Tier:
        members = tuple(endpoints)
        return Tier(number, members, Shortlist(members) if len(members) > LARGE else None)


@dataclass(frozen=True, slots=True)
class Route:
    """One model's tiers, the preferred one first; the policy of each endpoint; and who pays for extra attempts.

    `deadline` and `shortest_deadline` are the longest and the shortest of its policies. `affinity` is what identifies a
    conversation (`prefix`, `header:NAME` or `off`), `affinity_margin` the seconds that staying with it may cost.
    """

    model: str
    tiers: tuple[Tier, ...]
    policies: Mapping[Endpoint, Policy]
    hedges: Budget
    retries: Budget
    deadline: float
    shortest_deadline: float
    patience: float
    resume: Literal["auto", "replay", "continue", "off"]
    affinity: str
    affinity_margin: float
    queue: QueueLimit
    plan: HedgePlan
    window: HedgeWindow

    @property
    def endpoints(self) -> Iterable[Endpoint]:
        """All endpoints, in the order of the configuration."""
        return self.policies.keys()

    @property
    def by_preference(self) -> list[Endpoint]:
        """All endpoints, tier by tier."""
        return [endpoint for tier in self.tiers for endpoint in tier.endpoints]

    def tier_of(self, endpoint: Endpoint) -> Tier:
        """The tier of one of its endpoints."""
        return next(tier for tier in self.tiers if endpoint in tier.endpoints)

    def without_shortlists(self) -> Route:
        """The same route, of whose tiers all endpoints are looked at: a shortlist notes each call that it serves."""
        if all(tier.shortlist is None for tier in self.tiers):
            return self
        return replace(self, tiers=tuple(Tier(tier.number, tier.endpoints) for tier in self.tiers))

    def restricted(self, keep: Callable[[Endpoint], bool]) -> Route | None:
        """The route over those endpoints for which `keep` is true; None if there are none.

        Tiers keep their numbers, and empty ones are left out. Deadlines, budgets, queue and plan stay the model's.
        """
        policies = {endpoint: policy for endpoint, policy in self.policies.items() if keep(endpoint)}
        if not policies:
            return None
        if len(policies) == len(self.policies):
            return self
        tiers = (Tier.of(tier.number, (e for e in tier.endpoints if e in policies)) for tier in self.tiers)
        return replace(self, tiers=tuple(tier for tier in tiers if tier.endpoints), policies=MappingProxyType(policies))

    def replan(self, now: float) -> None:
        """Recompute the plan of hedges from what is known now."""
        for _ in self.replanning(now):
            pass

    def replanning(self, now: float) -> Iterator[None]:
        """Do as `replan` does, in steps of a fraction of a millisecond; calls may come between two of them."""
        return self.plan.renewing([tier.endpoints for tier in self.tiers], self.hedges, now)
