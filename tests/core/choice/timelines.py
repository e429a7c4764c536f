"""Timelines of one call's race, in words: which attempts begin, at which endpoint, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.core.choice.affinity import Affinity
from router.core.choice.budget import Budget
from router.core.choice.candidates import PAUSE
from router.core.choice.hedge_plan import HedgePlan
from router.core.choice.race import Race
from router.core.demand import Demand, DemandKind
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import PassivePolicy, Steady, T, endpoint, make_route

AGAIN = PAUSE * 1.5  # seconds until a failed endpoint is asked again, with fixed randomness


class Call:
    """One call: its race, driven as the dispatcher drives it. Times are in seconds since the call came."""

    def __init__(
        self,
        *tiers: Sequence[Endpoint],
        policy: PassivePolicy | None = None,
        own: Mapping[Endpoint, PassivePolicy] | None = None,
        kind: DemandKind = "first_token",
        hedges: Budget | None = None,
        retries: Budget | None = None,
        plan: HedgePlan | None = None,
        affinity: Affinity | None = None,
    ) -> None:
        policy = policy or PassivePolicy()
        policies = {e: (own or {}).get(e, policy) for tier in tiers for e in tier}
        self.route = make_route(tiers, policies, patience=policy.patience, hedges=hedges, retries=retries, plan=plan)
        self.race = Race(self.route, Demand(kind), T, Steady(), affinity=affinity)
        self.attempts: dict[str, Attempt] = {}  # by endpoint: its last attempt

    def at(self, seconds: float) -> list[str]:
        """Drive the race at this time; return which attempts are given up and which begin."""
        now, events = T + seconds, []
        for late in self.race.give_up(now):
            self.race.failed(late, Outcome(Verdict.FAULT, passing=False), now)
            events.append(f"give up {late.endpoint.name}")
        while attempt := self.race.next_attempt(now):
            self.attempts[attempt.endpoint.name] = attempt
            events.append(f"{attempt.role} {attempt.endpoint.name}")
        return events

    def fails(
        self,
        name: str,
        seconds: float,
        verdict: Verdict = Verdict.FAULT,
        *,
        retry_after: float | None = None,
        passing: bool = True,
    ) -> list[str]:
        """The last attempt at an endpoint fails; return what follows at once."""
        self.race.failed(self.attempts[name], Outcome(verdict, retry_after=retry_after, passing=passing), T + seconds)
        return self.at(seconds)

    def token(self, name: str, seconds: float) -> list[str]:
        """The first token arrives; return the endpoints of the lost attempts."""
        return [loser.endpoint.name for loser in self.race.commit(self.attempts[name], T + seconds)]

    @property
    def wakes(self) -> float:
        """The time at which the race is to be driven again."""
        return self.race.wake_at - T

    @property
    def lost(self) -> bool:
        return self.race.lost


def three() -> tuple[Endpoint, Endpoint, Endpoint]:
    """Three endpoints, the cheapest first."""
    return endpoint("a", 0.25), endpoint("b", 1.0), endpoint("c", 4.0)


def empty_budget() -> Budget:
    """A budget that pays for nothing until calls have paid into it."""
    return Budget(reserve=0.0)
