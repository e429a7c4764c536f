"""The calls of a run played over its servers in virtual time, by a policy that is told more than a router can know.

    a call comes ──> policy.first ──> asked ──┬─ its first token ──> answered, rivals are let go
                          ^                   ├─ the policy's delay ──> a rival is asked beside it
                          │                   └─ refused, or silent for PATIENCE
                          └───────────────────────┘

Slots, lines and caps count as they do in a run. Whom a policy has asked for a call it does not ask again, until nobody
is left; then, after a PAUSE, everybody may be asked again.
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

PATIENCE = 15.0  # seconds for an endpoint that will never answer
PAUSE = 0.5
DEADLINE = 120.0  # seconds; then a call is given up


class Hedge(NamedTuple):
    """Ask the rival if there is no first token after so many seconds."""

    delay: float
    rival: str


class Policy(Protocol):
    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        """Whom to ask now, but those tried; None: nobody, for now."""

    def hedge(self, call: Call, asked: str, now: float) -> Hedge | None:
        """How to go on beside the one that is asked now."""


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a call: seconds to its first token (inf: never), from whom, who was asked, and how many rivals."""

    k: int
    first_token: float
    endpoint: str | None
    asked: tuple[str, ...]
    rivals: int


@dataclass(slots=True, eq=False)
class Playing:
    """A call on its way."""

    call: Call
    asked: list[str] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    live: dict[str, Ticket] = field(default_factory=dict)
    rivals: int = 0
    answer: Played | None = None


class Play:
    """Runs once."""

    def __init__(self, servers: Mapping[str, Server], calls: Sequence[Call], policy: Policy) -> None:
        self.servers, self.calls, self.policy = servers, calls, policy
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._in_line: dict[Ticket, Playing] = {}
        self._looks: dict[Server, float] = {}

    def run(self) -> list[Played]:
        everyone = [Playing(call) for call in self.calls]
        for playing in everyone:
            self._at(playing.call.at, partial(self._go_on, playing))
        while self._events:
            now, _, happens = heappop(self._events)
            happens(now)
        return [playing.answer or self._unanswered(playing) for playing in everyone]

    # What happens to a call.

    def _go_on(self, playing: Playing, now: float) -> None:
        """Nobody is asked for it: somebody must be."""
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
            self._at(now + hedge.delay, partial(self._hedge, playing, name, hedge.rival))

    def _hedge(self, playing: Playing, name: str, rival: str, now: float) -> None:
        due = playing.answer is None and name in playing.live and rival not in playing.tried
        if due and self.servers[rival].takes(now):
            playing.rivals += 1
            self._ask(playing, rival, now)

    def _ask(self, playing: Playing, name: str, now: float) -> None:
        call, server = playing.call, self.servers[name]
        playing.asked.append(name)
        playing.tried.add(name)
        ticket = playing.live[name] = server.ask(call.k, call.at, call.tokens, call.generated, now)
        if ticket.refusal:
            self._at(now + ticket.refusal.delay, partial(self._failed, playing, name))
        elif ticket.due is None:
            self._in_line[ticket] = playing
            self._look(server, now)
        elif isinf(ticket.due):
            self._at(now + PATIENCE, partial(self._failed, playing, name))
        else:
            self._at(ticket.due, partial(self._first_token, playing, name))

    def _failed(self, playing: Playing, name: str, now: float) -> None:
        self._let_go(playing, name, now)
        self._go_on(playing, now)

    def _first_token(self, playing: Playing, name: str, now: float) -> None:
        if playing.answer is None:
            del playing.live[name]  # goes on at its server until it ends
            asked = tuple(playing.asked)
            playing.answer = Played(playing.call.k, now - playing.call.at, name, asked, playing.rivals)
            for rival in list(playing.live):
                self._let_go(playing, rival, now)

    def _let_go(self, playing: Playing, name: str, now: float) -> None:
        if name in playing.live:
            ticket = playing.live.pop(name)
            self._in_line.pop(ticket, None)
            self.servers[name].end(ticket, now)
            self._look(self.servers[name], now)

    def _unanswered(self, playing: Playing) -> Played:
        return Played(playing.call.k, inf, None, tuple(playing.asked), playing.rivals)

    # Time.

    def _look(self, server: Server, now: float) -> None:
        """Who got a slot out of the line; and when to look again."""
        for ticket in server.tick(now):
            playing = self._in_line.pop(ticket)
            assert ticket.due is not None
            self._at(max(now, ticket.due), partial(self._first_token, playing, server.name))
        if server.next_at != self._looks.get(server):
            self._looks[server] = server.next_at
            self._at(server.next_at, partial(self._look, server))

    def _at(self, time: float, happens: Callable[[float], None]) -> None:
        if time < inf:
            heappush(self._events, (time, next(self._order), happens))
