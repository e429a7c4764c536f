"""One endpoint as a state machine over scenario time: takes attempts, sets their first-token times, counts slots.

    ask ──┬─ absent, failing, over its cap ──> refused                (nothing to end)
          ├─ silent ─────────────────────────> due = inf              (until it is ended)
          ├─ a slot is free ─────────────────> due, ends              (until `ends`, or until it is ended)
          └─ all slots are taken ────────────> due = None, queued ──> due, ends, when it gets a slot

Attempts end at their exact times, however late `tick` is called: it only returns the attempts that got a slot. Random
draws are a function of (seed, endpoint, call, attempt), and the law is that of the time at which the call arrived. A
call's first-token time at an endpoint is therefore the same whenever it is tried there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple

import numpy as np

from loadtest.latency.arrivals import Call
from loadtest.latency.draws import uniform
from loadtest.latency.endpoints import Endpoint
from loadtest.latency.laws import Data, Floats, Given, Law

POINTS = 500  # samples that represent a law: a share of 0.2 % is still visible
CHANCES = [(number + 0.5) / POINTS for number in range(POINTS)]
GRAIN = 64  # tokens to which prompt sizes are rounded when a law is looked up


class Refusal(NamedTuple):
    """The refusal of an attempt, sent after `delay` seconds. Status 0: the connection is refused."""

    status: int
    code: str | None
    retry_after: float | None
    delay: float


@dataclass(slots=True, eq=False)
class Ticket:
    """One attempt. `due` is None while queued, inf if never answered; the answer breaks after `cut` tokens."""

    k: int
    at: float
    tokens: int
    generated: int
    attempt: int
    asked: float
    refusal: Refusal | None = None
    due: float | None = None
    ends: float = inf
    cut: int | None = None
    ended: bool = False


class Server:
    """One endpoint: `ask` begins an attempt, `end` ends one whose client left; `now` never decreases."""

    def __init__(self, endpoint: Endpoint, seed: int, data: Data | None = None) -> None:
        self.endpoint, self.name, self.seed = endpoint, endpoint.name, seed
        self.law: Law = endpoint.law.bound(Given(seed, endpoint.name, data))
        self.running: set[Ticket] = set()  # attempts that hold a slot
        self.queue: deque[Ticket] = deque()
        self._silent: set[Ticket] = set()
        self._ends: list[tuple[float, int, Ticket]] = []
        self._begun: list[Ticket] = []
        self._seen: Counter[int] = Counter()
        self._loaded_at, self._idle_since = -inf, -inf
        self._probes = count(1)
        self._order = count()  # tie-breaker for tickets that end at the same time

    # ---- Events

    def ask(self, k: int | None, at: float, tokens: int, generated: int, now: float) -> Ticket:
        """Begin an attempt for a call that arrived at `at`; a k of None is a probe, drawn by its sequence number."""
        self._pass(now)
        k = -next(self._probes) if k is None else k
        ticket = Ticket(k, at, tokens, generated, self._seen[k], now)
        self._seen[k] += 1
        ticket.refusal = self._refusal(ticket, now)
        if ticket.refusal:
            ticket.ended = True
        elif self.endpoint.is_silent(now):
            ticket.due = inf
            self._silent.add(ticket)
        elif self.full:
            self.queue.append(ticket)
        else:
            self._begin(ticket, now)
        return ticket

    def end(self, ticket: Ticket, now: float) -> None:
        """End an attempt that was served or whose client left, and free its slot; a second call has no effect."""
        self._pass(now)
        if ticket in self._begun:
            self._begun.remove(ticket)
        if not ticket.ended:
            self._free(ticket, now)

    @property
    def next_at(self) -> float:
        """The time at which the first queued attempt gets a slot if no client leaves; inf if the queue is empty."""
        return self._ends[0][0] if self.queue and self._ends else inf

    def tick(self, now: float) -> list[Ticket]:
        """The attempts that got a slot from the queue since the last call, with their `due`."""
        self._pass(now)
        begun, self._begun = self._begun, []
        return begun

    # ---- State

    @property
    def in_flight(self) -> int:
        return len(self.running) + len(self.queue) + len(self._silent)

    @property
    def full(self) -> bool:
        return self.endpoint.slots is not None and len(self.running) >= self.endpoint.slots

    def takes(self, now: float) -> bool:
        """True if a call that arrived now would be answered, apart from random failures."""
        self._pass(now)
        failing = self.endpoint.failing(now)
        return not (
            self.endpoint.is_absent(now)
            or self.endpoint.is_silent(now)
            or (failing and failing.share == 1)
            or self.in_flight >= self.endpoint.cap(now)
        )

    def wait(self, at: float, tokens: int, now: float) -> float:
        """Expected seconds that a call which arrived now would spend in the queue and for loading."""
        self._pass(now)
        loading = self._loading(now)
        if not self.full:
            return loading
        generated = sum(each.generated for each in self.running) / len(self.running)
        held = self.law.mean(at, tokens) + generated / self.endpoint.rate
        return loading + (len(self.queue) + 1) * held / len(self.running)

    def state(self, at: float, tokens: int) -> Hashable:
        """A key that is equal for two calls with the same law and prompt sizes within `GRAIN` tokens."""
        return round(tokens / GRAIN) if self.law.reads else 0, self.law.state(at)

    def known(self, at: float, tokens: int) -> Floats:
        """The law for a call as `POINTS` equally likely times, in ascending order."""
        return np.sort([self.law.first_token(u, at, tokens) for u in CHANCES])

    def foreseen(self, call: Call, now: float) -> float:
        """Seconds to the first token if the call were tried now, from the actual draws; inf if there is none."""
        ticket = Ticket(call.k, call.at, call.tokens, call.generated, self._seen[call.k], now)
        if not self.takes(now) or self._refusal(ticket, now):
            return inf
        begins, slots = now + self._loading(now), sorted(each.ends for each in self.running)
        if self.full:
            for other in (*self.queue, ticket):
                begins = heappop(slots)
                heappush(slots, begins + self._first_token(other) + other.generated / self.endpoint.rate)
        return begins + self._first_token(ticket) - now

    # ---- Steps

    def _refusal(self, ticket: Ticket, now: float) -> Refusal | None:
        endpoint, failing = self.endpoint, self.endpoint.failing(now)
        if endpoint.is_absent(now):
            return Refusal(0, None, None, 0.0)
        if failing and self._draw(ticket, "error") < failing.share:
            return Refusal(failing.status, failing.code, failing.retry_after, endpoint.refuses_in)
        if self.in_flight >= endpoint.cap(now):
            return Refusal(429, "1302" if endpoint.kind == "zhipu" else None, None, endpoint.refuses_in)
        return None

    def _begin(self, ticket: Ticket, now: float) -> None:
        ready = now + self._loading(now)
        if ready > now:
            self._loaded_at = ready
        ticket.due = ready + self._first_token(ticket)
        if self.endpoint.cuts and self._draw(ticket, "cut") < self.endpoint.cuts.share:
            ticket.cut = min(self.endpoint.cuts.after, ticket.generated)
        ticket.ends = ticket.due + ticket.generated / self.endpoint.rate
        self.running.add(ticket)
        heappush(self._ends, (ticket.ends, next(self._order), ticket))

    def _first_token(self, ticket: Ticket) -> float:
        return self.law.first_token(self._draw(ticket), ticket.at, ticket.tokens)

    def _loading(self, now: float) -> float:
        cold = self.endpoint.cold
        if cold is None:
            return 0.0
        if now < self._loaded_at:
            return self._loaded_at - now
        return cold.load if not self.running and now - max(self._idle_since, self._loaded_at) > cold.after else 0.0

    def _pass(self, now: float) -> None:
        """Advance the time: free the slots of all attempts that have ended, each at its own time."""
        while self._ends and self._ends[0][0] <= now:
            ends, _, ticket = heappop(self._ends)
            if not ticket.ended:
                self._free(ticket, ends)

    def _free(self, ticket: Ticket, now: float) -> None:
        ticket.ended = True
        self._silent.discard(ticket)
        if ticket in self.running:
            self.running.remove(ticket)
            self._idle_since = now
            self._next_queued(now)
        elif ticket in self.queue:
            self.queue.remove(ticket)

    def _next_queued(self, now: float) -> None:
        if self.queue:
            ticket = self.queue.popleft()
            self._begin(ticket, now)
            self._begun.append(ticket)

    def _draw(self, ticket: Ticket, what: str = "first token") -> float:
        return uniform(self.seed, self.name, ticket.k, ticket.attempt, what)
