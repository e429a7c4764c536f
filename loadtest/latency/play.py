"""The calls of a run played over its servers in virtual time, by a policy that knows more than a router can.

    a call arrives ─> policy.first ─> attempt ─┬─ first token ──────────> answered, other attempts are cancelled
                          ^                    ├─ the policy's delay ───> a hedge at the hedge target
                          │                    └─ refused, or silent for PATIENCE
                          └────────────────────────┘

Slots, queues and caps count as they do in a run. A policy tries each endpoint once per call. If none is left, all may
be tried again after a PAUSE.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf, isinf
from typing import NamedTuple, Protocol

from loadtest.latency.arrivals import Call
from loadtest.latency.servers import Server, Ticket

PATIENCE = 15.0  # seconds after which a silent attempt counts as failed
PAUSE = 0.5  # seconds before all endpoints may be tried again
DEADLINE = 120.0  # seconds after which a call is given up


class Hedge(NamedTuple):
    """A planned hedge: an attempt at `target` if there is no first token after `delay` seconds."""

    delay: float
    target: str


class Policy(Protocol):
    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        """The endpoint to try now, other than those tried; None if there is none for now."""

    def hedge(self, call: Call, asked: str, now: float) -> Hedge | None:
        """The hedge to plan beside an attempt at the endpoint `asked`."""


@dataclass(frozen=True, slots=True)
class Played:
    """The result of one call."""

    k: int
    first_token: float  # seconds; inf if there was none
    endpoint: str | None  # the endpoint that answered
    asked: tuple[str, ...]  # the endpoints tried, in order
    hedges: int


@dataclass(slots=True, eq=False)
class Playing:
    """The state of one open call."""

    call: Call
    asked: list[str] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    live: dict[str, Ticket] = field(default_factory=dict)
    hedges: int = 0
    answer: Played | None = None


class Play:
    """One pass of all calls over the servers; `run` may be called once."""

    def __init__(self, servers: Mapping[str, Server], calls: Sequence[Call], policy: Policy) -> None:
        self.servers, self.calls, self.policy = servers, calls, policy
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._queued: dict[Ticket, Playing] = {}
        self._looks: dict[Server, float] = {}

    def run(self) -> list[Played]:
        all_calls = [Playing(call) for call in self.calls]
        for playing in all_calls:
            self._at(playing.call.at, partial(self._go_on, playing))
        while self._events:
            now, _, happens = heappop(self._events)
            happens(now)
        return [playing.answer or self._unanswered(playing) for playing in all_calls]

    # ---- Events of a call

    def _go_on(self, playing: Playing, now: float) -> None:
        """Start an attempt for a call without open attempts."""
        if playing.answer or playing.live or now > playing.call.at + DEADLINE:
            return
        name = self.policy.first(playing.call, playing.tried, now)
        if name is None:
            playing.tried.clear()
            self._at(now + PAUSE, partial(self._go_on, playing))
            return
        hedge = self.policy.hedge(playing.call, name, now)
        self._ask(playing, name, now)
        if hedge:
            self._at(now + hedge.delay, partial(self._hedge, playing, name, hedge.target))

    def _hedge(self, playing: Playing, name: str, target: str, now: float) -> None:
        due = playing.answer is None and name in playing.live and target not in playing.tried
        if due and self.servers[target].takes(now):
            playing.hedges += 1
            self._ask(playing, target, now)

    def _ask(self, playing: Playing, name: str, now: float) -> None:
        call, server = playing.call, self.servers[name]
        playing.asked.append(name)
        playing.tried.add(name)
        ticket = playing.live[name] = server.ask(call.k, call.at, call.tokens, call.generated, now)
        if ticket.refusal:
            self._at(now + ticket.refusal.delay, partial(self._failed, playing, name))
        elif ticket.due is None:
            self._queued[ticket] = playing
            self._look(server, now)
        elif isinf(ticket.due):
            self._at(now + PATIENCE, partial(self._failed, playing, name))
        else:
            self._at(ticket.due, partial(self._first_token, playing, name))

    def _failed(self, playing: Playing, name: str, now: float) -> None:
        self._cancel(playing, name, now)
        self._go_on(playing, now)

    def _first_token(self, playing: Playing, name: str, now: float) -> None:
        if playing.answer is None:
            del playing.live[name]  # the attempt continues at its server until it ends
            asked = tuple(playing.asked)
            playing.answer = Played(playing.call.k, now - playing.call.at, name, asked, playing.hedges)
            for other in list(playing.live):
                self._cancel(playing, other, now)

    def _cancel(self, playing: Playing, name: str, now: float) -> None:
        if name in playing.live:
            ticket = playing.live.pop(name)
            self._queued.pop(ticket, None)
            self.servers[name].end(ticket, now)
            self._look(self.servers[name], now)

    def _unanswered(self, playing: Playing) -> Played:
        return Played(playing.call.k, inf, None, tuple(playing.asked), playing.hedges)

    # ---- Time

    def _look(self, server: Server, now: float) -> None:
        """Schedule the first tokens of attempts that got a slot from the queue, and the next look at this server."""
        for ticket in server.tick(now):
            playing = self._queued.pop(ticket)
            assert ticket.due is not None
            self._at(max(now, ticket.due), partial(self._first_token, playing, server.name))
        if server.next_at != self._looks.get(server):
            self._looks[server] = server.next_at
            self._at(server.next_at, partial(self._look, server))

    def _at(self, time: float, happens: Callable[[float], None]) -> None:
        if time < inf:
            heappush(self._events, (time, next(self._order), happens))
