"""One attempt at a fake endpoint on its way to its end: what its ticket says, written in time.

refused ──> the refusal, after its delay          in line, silent ──> nothing, until that changes or the client leaves
due ──────> the first token, the others, the end; or a break after some of them
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.latency.clock import Clock
from loadtest.latency.http import Http
from loadtest.latency.servers import Ticket
from loadtest.latency.voice import HEAD, Voice, parts_of, refused


@dataclass(slots=True)
class Entry:
    """One attempt in the log; seconds of the scenario, `first_token` counted from `at`."""

    k: int | None  # None: none of the run's calls
    endpoint: str
    at: float
    first_token: float | None = None
    became: str = "waiting"


@dataclass(slots=True, eq=False)
class Answering:
    """Has one timer, for the next thing that it writes; `finish` is its end, once, and tells `over`."""

    wire: Http
    clock: Clock
    ticket: Ticket
    voice: Voice
    stream: bool
    entry: Entry
    told_faster: float  # what a Retry-After is divided by
    over: Callable[[Answering], None]
    timer: asyncio.TimerHandle | None = None
    written: int = 0  # tokens
    parts: list[tuple[int, int]] = field(default_factory=list)  # still to be written: number and tokens

    def begin(self) -> None:
        """As far as it is decided: refused, due, or neither, because it is in line or is never answered."""
        ticket = self.ticket
        if ticket.refusal is not None:
            self.later(ticket.asked + ticket.refusal.delay, self.refuse)
        elif ticket.due is not None and not math.isinf(ticket.due):
            self.entry.first_token = ticket.due - ticket.asked
            if self.stream:
                self.later(ticket.due, self.first)
            else:
                self.later(ticket.ends, self.whole)

    def later(self, at: float, do: Callable[[], None]) -> None:
        self.timer = self.clock.call_at(at, do)

    def finish(self, became: str) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.entry.became = became
        self.over(self)

    # What is written.

    def refuse(self) -> None:
        refusal = self.ticket.refusal
        assert refusal is not None
        if not refusal.status:
            self.finish("no connection")
            self.wire.reset()
            return
        retry_after = refusal.retry_after and refusal.retry_after / self.told_faster
        self.finish(f"{refusal.status} {refusal.code or ''}".strip())
        self.wire.write(refused(refusal.status, refusal.code, retry_after))

    def whole(self) -> None:
        self.finish("served")
        self.wire.write(self.voice.whole())

    def first(self) -> None:
        self.parts = list(enumerate(parts_of(self.ticket.generated)))
        self.next(HEAD)

    def next(self, head: bytes = b"") -> None:
        """The next few tokens, and a timer for those after them; with the last ones goes the end."""
        number, tokens = self.parts.pop(0)
        cut = self.ticket.cut
        if cut is not None and self.written + tokens >= cut:
            self.wire.write(head + self.voice.event(number, cut - self.written))
            self.later(self.at_token(cut + 1), self.cut)
            return
        self.written += tokens
        event = head + self.voice.event(number, tokens)
        if self.parts:
            self.wire.write(event)
            self.later(self.at_token(self.written + self.parts[0][1]), self.next)
        else:
            self.finish("served")
            self.wire.write(event + self.voice.end())

    def cut(self) -> None:
        self.finish("cut")
        self.wire.reset()

    def at_token(self, number: int) -> float:
        """When so many tokens are there: the first when it is due, the last at the end."""
        ticket = self.ticket
        assert ticket.due is not None
        return ticket.due + (ticket.ends - ticket.due) * number / ticket.generated
