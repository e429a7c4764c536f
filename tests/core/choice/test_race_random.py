"""Races under random events: invariants that hold all the while, and counters that are back at 0 after the end."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from random import Random

import pytest

from router.core.choice.budget import RESERVE, Budget
from router.core.choice.race import MAX_ATTEMPTS, Race
from router.core.demand import KINDS, Demand
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.endpoint.waiting_queue import QueueLimit
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import PassivePolicy, T, endpoint, make_route, trip

# How an attempt ends; None: it stays silent.
ENDS = [
    Verdict.FAULT,
    Verdict.FAULT,
    Verdict.BUSY,
    Verdict.REFUSED,
    Verdict.SERVED,
    None,
    None,
]


def random_policy(rng: Random) -> PassivePolicy:
    return PassivePolicy(
        deadline=rng.choice([1.0, 5.0, 60.0]),
        hedge=rng.choice(["auto", "off", 0.0, 0.3, 2.0]),
        abandon=rng.choice([0.1, 1.0, 15.0]),
        hedge_budget=rng.choice([0.0, 0.1, 1.0]),
        retry_budget=rng.choice([0.0, 0.2, 1.0]),
    )


class RandomCall:
    """A race with random events, and the invariants that hold all the while."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.now = rng, T
        self.endpoints = [
            endpoint(f"e{n}", rng.choice([None, 0.1, 1.0]), limit=rng.choice([None, 1, 2]))
            for n in range(rng.randint(1, 8))
        ]
        self.longer: list[Endpoint] | None = None  # endpoints left after the prompt was too long for others
        tiers: list[list[Endpoint]] = [[] for _ in range(rng.randint(1, 3))]
        for e in self.endpoints:
            rng.choice(tiers).append(e)
            e.context = rng.choice([0, 0, 8000, 128_000])
        policy = random_policy(rng)
        policies = {e: replace(policy, deadline=random_policy(rng).deadline) for e in self.endpoints}
        budgets = [Budget(rng.choice([0.0, 1.0, RESERVE])) for _ in range(2)]
        queue = QueueLimit(rng.choice([0, 5]), rng.choice([0.5, 10.0]))
        self.route = make_route(
            [tier for tier in tiers if tier],
            policies,
            patience=rng.choice([0.0, 0.0, 1.0, 5.0]),
            hedges=budgets[0],
            retries=budgets[1],
            queue=queue,
        )
        self.others: list[Attempt] = []  # running attempts of other calls
        for _ in range(rng.randint(0, 10)):
            self.elsewhere()
        self.race = Race(self.route, Demand(rng.choice(KINDS)), T, rng)
        self.attempts: list[Attempt] = []
        self.ends: dict[Attempt, tuple[float, Verdict]] = {}
        self.leaves_at = T + rng.expovariate(1 / 30)

    def elsewhere(self) -> None:
        """An attempt of another call begins or ends, a probe ends, or a breaker opens."""
        e = self.rng.choice(self.endpoints)
        event = self.rng.randrange(4)
        if event == 0 and e.availability.allows(self.now):
            self.others.append(e.begin(self.now))
        elif event == 1 and self.others:
            other = self.others.pop(self.rng.randrange(len(self.others)))
            other.end(Outcome(self.rng.choice(list(Verdict)), retry_after=self.rng.choice([None, 0.5, 5.0])), self.now)
        elif event == 2:
            e.availability.probed(self.rng.random() < 0.5, self.now)
        elif not e.availability.full:
            trip(e, self.now)

    def run(self) -> None:
        for _ in range(1000):
            self.advance()
            if self.over():
                break
            wake = self.race.wake_at
            assert wake <= self.race.deadline
            until = [wake, self.leaves_at, *(at for at, _ in self.ends.values()), self.now + self.rng.expovariate(1.0)]
            self.now = min(until)
            if self.now >= self.leaves_at:
                break
            for attempt in [attempt for attempt, (at, _) in self.ends.items() if at <= self.now]:
                self.news(attempt)
                if self.over():
                    break
            else:
                if self.now == until[-1]:
                    self.elsewhere()
        else:
            raise AssertionError("the race has been woken a thousand times")
        self.end()

    def over(self) -> bool:
        return self.race.winner is not None or self.race.lost or self.now >= self.race.deadline

    def advance(self) -> None:
        """Drive the race as the dispatcher does, until it has nothing to do at this time."""
        if self.now >= self.race.deadline:
            return
        for _ in range(2 * MAX_ATTEMPTS):
            for late in self.race.give_up(self.now):
                assert late in self.race.live
                self.ends.pop(late, None)
                self.race.failed(late, Outcome(Verdict.FAULT, passing=self.rng.random() < 0.5), self.now)
            while (attempt := self.race.next_attempt(self.now)) is not None:
                self.began(attempt)
            self.holds()
            if self.race.lost:
                self.lost_for_a_reason()
                return
            if self.race.wake_at > self.now:
                return
        raise AssertionError(f"endless at {self.now}: the race is to be woken at {self.race.wake_at}")

    def began(self, attempt: Attempt) -> None:
        assert attempt.began == self.now < self.race.began + self.route.policies[attempt.endpoint].deadline
        assert attempt.ended is None
        assert self.longer is None or attempt.endpoint in self.longer
        assert self.longer is None or attempt.endpoint not in [other.endpoint for other in self.attempts]
        self.attempts.append(attempt)
        verdict = self.rng.choice(ENDS)
        if verdict is not None:
            self.ends[attempt] = (
                self.now + self.rng.choice([0.0, self.rng.random(), self.rng.expovariate(0.1)]),
                verdict,
            )

    def news(self, attempt: Attempt) -> None:
        """The end of an attempt, as drawn when it began."""
        _, verdict = self.ends.pop(attempt)
        if verdict is Verdict.SERVED:
            losers = self.race.commit(attempt, self.now)
        elif verdict is Verdict.REFUSED and not (self.rng.random() < 0.7 and self.too_long(attempt)):
            losers = self.race.settle(attempt, self.now)
        elif verdict is Verdict.REFUSED:
            self.race.failed(attempt, Outcome(verdict, passing=False), self.now)
            self.advance()
            return
        else:
            after = self.rng.choice([None, 0.1, 1.0, 30.0])
            self.race.failed(attempt, Outcome(verdict, retry_after=after, passing=self.rng.random() < 0.7), self.now)
            self.advance()
            return
        assert all(loser.ended == self.now for loser in losers)
        attempt.end(Outcome(verdict), self.now + 10.0)

    def too_long(self, attempt: Attempt) -> bool:
        """The prompt is too long for this endpoint; True if an endpoint with a larger context is left."""
        if not self.race.longer(attempt, self.now):
            return False
        refusing = attempt.endpoint
        alike = self.route.tier_of(refusing).endpoints
        if any(e.context for e in self.endpoints):
            larger = [e for e in self.endpoints if e.context > refusing.context]
        else:
            larger = [e for e in self.endpoints if e not in alike]
        self.longer = [e for e in larger if self.longer is None or e in self.longer]
        return True

    def holds(self) -> None:
        """The invariants of a race that is not over."""
        race = self.race
        assert len(race.live) <= 2
        assert len({attempt.endpoint for attempt in race.live}) == len(race.live)
        assert race.live == [attempt for attempt in self.attempts if attempt.ended is None]
        assert race.attempts == len(self.attempts) <= MAX_ATTEMPTS
        tried = [attempt.endpoint for attempt in self.attempts]
        assert all(tried.count(e) <= 2 for e in tried)
        assert all(
            e.availability.slots.configured is None or e.availability.slots.used <= e.availability.slots.configured
            for e in self.endpoints
        )
        for budget in (self.route.hedges, self.route.retries):
            assert budget.level(self.now) >= -1e-9

    def lost_for_a_reason(self) -> None:
        """No call is lost while a sound endpoint has not been asked."""
        if len(self.attempts) < MAX_ATTEMPTS:
            tried = {attempt.endpoint for attempt in self.attempts}
            for e in self.endpoints:
                in_time = self.now < T + self.route.policies[e].deadline
                may_retry = self.route.policies[e].retry_budget > 0.0
                asked = e in tried or (self.longer is not None and e not in self.longer)
                assert asked or not e.availability.sound(self.now) or not in_time or not may_retry

    def end(self) -> None:
        """End the race and all other calls: every counter is back at 0."""
        self.race.abandon(self.now)
        assert all(attempt.ended is not None for attempt in self.attempts)
        assert self.race.wake_at == inf
        for other in self.others:
            other.end(Outcome(Verdict.ABANDONED), self.now)
        for e in self.endpoints:
            assert (e.availability.in_flight, len(e.forecast.pending), e.availability.slots.used) == (0, 0, 0)
        served = [attempt for attempt in self.attempts if attempt is self.race.winner]
        assert len(served) <= 1


@pytest.mark.parametrize("hundred", range(20))
def test_after_random_events_no_attempt_is_left_running_or_counted(hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        try:
            RandomCall(Random(seed)).run()
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
