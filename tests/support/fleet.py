"""A scenario of the load test played on the decision alone: real races over the load test's servers, in virtual time.

Without the wire, minutes take a second and the result is the same each time. The result is a Run of the load test, so
that its marks can judge it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random

from loadtest.latency.arrivals import Call
from loadtest.latency.laws import Data
from loadtest.latency.results import Asked, Outcome, Run
from loadtest.latency.scenarios import Scenario
from loadtest.latency.servers import Server, Ticket
from router.config import parse
from router.core.choice.race import Race
from router.core.choice.table import Table, rebuild
from router.core.demand import Demand
from router.core.endpoint.endpoint import Attempt
from router.core.verdict import Cause, Verdict
from router.core.verdict import Outcome as End
from router.ops.planner import EVERY

START = 1000.0  # of the router's clock; the scenario's begins at 0
LOOK = 0.05  # seconds between two checks of a queued call; the router would notify it


class Fleet:
    """One run of a scenario; `table` is the router's. `openings` counts how often a breaker has opened.

    Without `shortlists`, each call looks at all endpoints, even of a large tier.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        calls: Iterable[Call],
        data: Data | None = None,
        *,
        shortlists: bool = True,
    ) -> None:
        entries = [
            {"name": e.name, "kind": e.kind, "base_url": f"http://{e.name}/v1", "models": ["chat"], "tier": e.tier}
            | ({"concurrency": e.concurrency} if e.concurrency else {})
            for e in scenario.endpoints
        ]
        self.table: Table = rebuild(parse(json.dumps({"defaults": dict(scenario.policy), "endpoints": entries})))
        route = self.table.routes["chat"]
        self.route = route if shortlists else route.without_shortlists()
        self.servers = scenario.servers(seed, data)
        self.scenario, self.seed, self.rng = scenario, seed, Random(seed)
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self.playing = [_Playing(self, call) for call in calls]
        self.asked: list[tuple[Server, Ticket, Attempt]] = []
        self.openings = 0
        self._closed = {endpoint.availability.breaker: True for endpoint in self.route.endpoints}

    def play(self) -> Run:
        for playing in self.playing:
            self.at(playing.call.at, playing.arrive)
        self.at(0.0, self._plan)
        while self._heap:
            now, _, what = heappop(self._heap)
            what(now)
            self._count_openings()
        outcomes = [playing.outcome() for playing in self.playing]
        return Run(self.scenario.name, self.seed, inf, "race", outcomes, [_asked(*each) for each in self.asked])

    def at(self, when: float, what: Callable[[float], None]) -> None:
        heappush(self._heap, (when, next(self._order), what))

    def _count_openings(self) -> None:
        for breaker, was_closed in self._closed.items():
            if was_closed is not (breaker.retry_at is None):
                self._closed[breaker] = not was_closed
                self.openings += was_closed

    def _plan(self, now: float) -> None:
        self.route.replan(START + now)
        if now < self.playing[-1].call.at:
            self.at(now + EVERY, self._plan)


def _asked(server: Server, ticket: Ticket, attempt: Attempt) -> Asked:
    refusal = ticket.refusal
    if refusal is not None:
        became = f"{refusal.status} {refusal.code or ''}".strip() if refusal.status else "no connection"
        return Asked(ticket.k, server.name, ticket.asked, None, became)
    first_token = ticket.due - ticket.asked if ticket.due is not None and ticket.due < inf else None
    return Asked(
        ticket.k, server.name, ticket.asked, first_token, "served" if attempt.verdict is Verdict.SERVED else "cancelled"
    )


class _Playing:
    """One call: the work of dispatch, without exchanges."""

    def __init__(self, fleet: Fleet, call: Call) -> None:
        self.fleet, self.call = fleet, call
        self.race: Race
        self.first_token: float | None = None
        self._tickets: dict[Attempt, tuple[Server, Ticket]] = {}
        self._wake_at = inf

    def outcome(self) -> Outcome:
        call, winner = self.call, self.race.winner
        status, error = (200, None) if winner is not None else (503, "lost")
        endpoint = winner.endpoint.name if winner is not None else None
        ended = self.first_token or self.race.deadline - self.race.began
        return Outcome(call.k, call.at, call.tokens, self.first_token, ended, status, error, endpoint, 0.0)

    def arrive(self, now: float) -> None:
        demand = Demand("answer" if self.call.plain else "first_token", float(self.call.tokens))
        self.race = Race(self.fleet.route, demand, START + now, self.fleet.rng)
        self._advance(now)

    def _advance(self, now: float) -> None:
        race, clock = self.race, START + now
        if race.winner is not None:
            return
        if clock >= race.deadline:
            self._close(race.abandon(clock), now)
            return
        for late in race.give_up(clock):
            race.failed(late, End(Verdict.FAULT, passing=False), clock)
            self._close([late], now)
        while (attempt := race.next_attempt(clock)) is not None:
            self._ask(attempt, now)
        wake_at = min(race.wake_at, race.deadline) - START
        if race.wanted:
            wake_at = min(wake_at, now + LOOK)
        if not race.lost and wake_at < self._wake_at:
            self._wake_at = wake_at
            self.fleet.at(max(wake_at, now), self._wake)

    def _wake(self, now: float) -> None:
        self._wake_at = inf
        self._advance(now)

    def _ask(self, attempt: Attempt, now: float) -> None:
        fleet, call = self.fleet, self.call
        server = fleet.servers[attempt.endpoint.name]
        ticket = server.ask(call.k, call.at, call.tokens, call.generated, now)
        self._tickets[attempt] = server, ticket
        fleet.asked.append((server, ticket, attempt))
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
            # A plain answer is there when its last token is.
            there = ticket.ends if self.call.plain else ticket.due
            self.fleet.at(there, lambda then: self._token(attempt, ticket, then))

    def _refused(self, attempt: Attempt, ticket: Ticket, now: float) -> None:
        if attempt.ended is not None or ticket.refusal is None:
            return
        busy = ticket.refusal.status == 429
        verdict, cause = (Verdict.BUSY, Cause.THROTTLED) if busy else (Verdict.FAULT, None)
        self.race.failed(attempt, End(verdict, retry_after=ticket.refusal.retry_after, cause=cause), START + now)
        self._advance(now)

    def _token(self, attempt: Attempt, ticket: Ticket, now: float) -> None:
        if attempt.ended is not None:
            return
        self._close(self.race.commit(attempt, START + now), now)
        assert ticket.due is not None
        self.first_token = ticket.due - self.call.at
        self.fleet.at(ticket.ends, lambda then: attempt.end(End(Verdict.SERVED), START + then))

    def _close(self, attempts: Iterable[Attempt], now: float) -> None:
        for attempt in attempts:
            server, ticket = self._tickets[attempt]
            server.end(ticket, now)
