"""Plays a scenario of the load test on the decision alone: real races over the load test's servers, in virtual time.

What the wire would add is not here, so a scenario takes seconds and comes out the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random

from loadtest.latency.arrivals import Call
from loadtest.latency.scenarios import Scenario
from loadtest.latency.servers import Server, Ticket
from router.config import parse
from router.core.endpoint import Attempt
from router.core.race import Race
from router.core.table import Table, rebuild
from router.core.verdict import Cause, Verdict
from router.ops.planner import EVERY

START = 1000.0  # of the router's clock; the scenario's begins at 0


@dataclass
class Asked:
    """One attempt, at scenario time `at`."""

    k: int
    endpoint: str
    role: str
    at: float
    status: int = 0


@dataclass
class Played:
    first_token: dict[int, float] = field(default_factory=dict)  # seconds from its arrival, of each call answered
    endpoint: dict[int, str] = field(default_factory=dict)  # who answered it
    asked: list[Asked] = field(default_factory=list)

    @property
    def extra(self) -> float:
        """Attempts that are not the first of their call, for each call."""
        calls = {asked.k for asked in self.asked}
        return len(self.asked) / len(calls) - 1.0


class Fleet:
    """One run of a scenario; `table` is the router's, `played` what came of it."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        told = [
            {"name": e.name, "kind": e.kind, "base_url": f"http://{e.name}/v1", "models": ["chat"], "tier": e.tier}
            | ({"concurrency": e.concurrency} if e.concurrency else {})
            for e in scenario.endpoints
        ]
        self.table: Table = rebuild(parse(json.dumps({"defaults": dict(scenario.policy), "endpoints": told})))
        self.route = self.table.routes["chat"]
        self.servers = scenario.servers(seed)
        self.calls = scenario.arriving(seed)
        self.rng, self.played = Random(seed), Played()
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()

    def play(self) -> Played:
        for call in self.calls:
            self.at(call.at, _Playing(self, call).arrive)
        self.at(0.0, self._replan)
        while self._heap:
            now, _, what = heappop(self._heap)
            what(now)
        return self.played

    def at(self, when: float, what: Callable[[float], None]) -> None:
        heappush(self._heap, (when, next(self._order), what))

    def _replan(self, now: float) -> None:
        self.route.replan(START + now)
        if now < self.calls[-1].at:
            self.at(now + EVERY, self._replan)


class _Playing:
    """One call: what dispatch does, without exchanges."""

    def __init__(self, fleet: Fleet, call: Call) -> None:
        self.fleet, self.call = fleet, call
        self.race: Race
        self.tickets: dict[Attempt, tuple[Server, Ticket]] = {}
        self.wake_at = inf

    def arrive(self, now: float) -> None:
        size = float(self.call.tokens)
        self.race = Race(self.fleet.route, "first_token", START + now, self.fleet.rng, size=size)
        self.advance(now)

    def advance(self, now: float) -> None:
        race, clock = self.race, START + now
        if race.winner is not None:
            return
        if clock >= race.deadline:
            self._close(race.abandon(clock), now)
            return
        for late in race.give_up(clock):
            race.failed(late, Verdict.FAULT, clock, passing=False)
            self._close([late], now)
        while (attempt := race.next_attempt(clock)) is not None:
            self._ask(attempt, now)
        wake_at = min(race.wake_at, race.deadline) - START
        if race.wanted:
            wake_at = min(wake_at, now + 0.05)  # a line is for others to play
        if not race.lost and wake_at < self.wake_at:
            self.wake_at = wake_at
            self.fleet.at(max(wake_at, now), self._wake)

    def _wake(self, now: float) -> None:
        self.wake_at = inf
        self.advance(now)

    def _ask(self, attempt: Attempt, now: float) -> None:
        fleet, call = self.fleet, self.call
        server = fleet.servers[attempt.endpoint.name]
        ticket = server.ask(call.k, call.at, call.tokens, call.generated, now)
        self.tickets[attempt] = server, ticket
        status = ticket.refusal.status if ticket.refusal else 200
        fleet.played.asked.append(Asked(call.k, server.name, attempt.role, now, status))
        if ticket.refusal:
            fleet.at(now + ticket.refusal.delay, lambda then: self._refused(attempt, ticket, then))
        else:
            self._await(attempt, server, ticket, now)

    def _await(self, attempt: Attempt, server: Server, ticket: Ticket, now: float) -> None:
        if attempt.ended is not None:
            return
        server.tick(now)
        if ticket.due is None:
            then = max(server.next_at, now + 1e-6)
            if then < inf:
                self.fleet.at(then, lambda then: self._await(attempt, server, ticket, then))
        elif ticket.due < inf:
            self.fleet.at(ticket.due, lambda then: self._token(attempt, ticket, then))

    def _refused(self, attempt: Attempt, ticket: Ticket, now: float) -> None:
        if attempt.ended is not None or ticket.refusal is None:
            return
        busy = ticket.refusal.status == 429
        self.race.failed(
            attempt,
            Verdict.BUSY if busy else Verdict.FAULT,
            START + now,
            retry_after=ticket.refusal.retry_after,
            cause=Cause.THROTTLED if busy else None,
        )
        self.advance(now)

    def _token(self, attempt: Attempt, ticket: Ticket, now: float) -> None:
        if attempt.ended is not None:
            return
        self._close(self.race.commit(attempt, START + now), now)
        played = self.fleet.played
        played.first_token[self.call.k] = now - self.call.at
        played.endpoint[self.call.k] = attempt.endpoint.name
        self.fleet.at(ticket.ends, lambda then: attempt.end(Verdict.SERVED, START + then))

    def _close(self, attempts: list[Attempt], now: float) -> None:
        for attempt in attempts:
            server, ticket = self.tickets[attempt]
            server.end(ticket, now)
