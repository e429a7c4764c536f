"""The answer to one attempt at a fake endpoint, written at the times that its ticket gives.

refused ────────> the refusal, after its delay
due ────────────> the first token, the others, the end; or a break after some tokens
queued, silent ─> nothing, until the state changes or the client leaves
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
    """One attempt in the log; times in seconds of the scenario, `first_token` counted from `at`."""

    k: int | None  # None: not one of the run's calls
    endpoint: str
    at: float
    first_token: float | None = None
    became: str = "waiting"


@dataclass(slots=True, eq=False)
class Answering:
    """The answer in progress, with one timer for its next write; `finish` is called once and calls `over`."""

    wire: Http
    clock: Clock
    ticket: Ticket
    voice: Voice
    stream: bool
    entry: Entry
    retry_after_divisor: float
    over: Callable[[Answering], None]
    timer: asyncio.TimerHandle | None = None
    written: int = 0  # tokens
    parts: list[tuple[int, int]] = field(default_factory=list)  # number and tokens of each part still to be written

    def begin(self) -> None:
        """Set the timer of an attempt that is refused or due; one that is queued or never answered has none."""
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

    # ---- Writing

    def refuse(self) -> None:
        refusal = self.ticket.refusal
        assert refusal is not None
        if not refusal.status:
            self.finish("no connection")
            self.wire.reset()
            return
        retry_after = refusal.retry_after and refusal.retry_after / self.retry_after_divisor
        self.finish(f"{refusal.status} {refusal.code or ''}".strip())
        self.wire.write(refused(refusal.status, refusal.code, retry_after))

    def whole(self) -> None:
        self.finish("served")
        self.wire.write(self.voice.whole())

    def first(self) -> None:
        self.parts = list(enumerate(parts_of(self.ticket.generated)))
        self.next(HEAD)

    def next(self, head: bytes = b"") -> None:
        """Write the next tokens and set a timer for the following ones; the last tokens are written with the end."""
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
        """The time of a token by its number: the first is due at `due`, the last at `ends`."""
        ticket = self.ticket
        assert ticket.due is not None
        return ticket.due + (ticket.ends - ticket.due) * number / ticket.generated
