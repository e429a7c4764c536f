"""Runs the race of one call: starts exchanges, keeps one timer, and hands the winner to the relay at its first token.

It is an object that is told things, and `advance` is what it does each time:

    start       the call is there
    news        an exchange has a first token, or has ended
    tick        time has come: a hedge, a retry, a ping, the deadline
    gone        the client left

Until the relay takes over it owns the call, so it ends exactly once: committed, failed, late, or left.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from router.core.call import Call
from router.core.endpoint import Attempt
from router.core.race import Race
from router.core.record import AttemptRecord, CallRecord
from router.core.table import Route
from router.core.verdict import Verdict
from router.errors import DeadlineExceeded, EndpointsFailed, Overloaded, RouterError
from router.proxy.client import Client
from router.proxy.headers import told
from router.proxy.relay import Relay
from router.proxy.serving import Serving
from router.proxy.shell import Shell
from router.scheduler import Timer
from router.upstream.exchange import Exchange

PING = b": ping\n\n"  # a comment, which both SDKs pass over; never with an id, or openai-python reads an empty event
PINGING = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache, no-transform")]
COME_BACK = 1.0  # seconds, where no endpoint says when


class Dispatch:
    __slots__ = (
        "_attempts",
        "_call",
        "_client",
        "_ended",
        "_exchanges",
        "_ping_at",
        "_race",
        "_record",
        "_retry_after",
        "_route",
        "_serving",
        "_shell",
        "_timer",
        "_verdicts",
    )

    def __init__(
        self,
        call: Call,
        route: Route,
        serving: Serving,
        client: Client,
        record: CallRecord,
        shell: Shell,
        ended: Callable[[CallRecord], None],
    ) -> None:
        self._call, self._route, self._serving, self._client = call, route, serving, client
        self._record, self._shell, self._ended = record, shell, ended
        tiers = serving.tiers(route, call.operation)
        self._race = Race(tiers, route.policies, route.hedges, route.retries, call.wait, record.arrived, shell.rng)
        self._exchanges: dict[Exchange, Attempt] = {}
        self._attempts: dict[Attempt, AttemptRecord] = {}
        self._verdicts: set[Verdict] = set()
        self._retry_after: float | None = None
        self._timer = Timer(shell.scheduler, self.tick)
        self._ping_at = record.arrived + shell.ping_after if call.stream else inf

    def start(self) -> None:
        self._client.owner = self
        self.advance()

    # What it is told.

    def news(self, exchange: Exchange) -> None:
        attempt = self._exchanges.get(exchange)
        if attempt is None:
            return
        verdict = exchange.verdict
        if verdict is Verdict.FAULT or verdict is Verdict.BUSY:
            self._failed(exchange, attempt, verdict)
            self.advance()
        elif exchange.first_token:
            self._commit(exchange, attempt)

    def tick(self) -> None:
        self.advance()

    def gone(self) -> None:
        """Until now nothing was answered, so there is nothing to end but the attempts."""
        self._record.error = "client_left"
        self._record.status = 499
        self._end()

    def full(self) -> None:
        """Only pings are written yet."""

    def drained(self) -> None: ...

    # What it does.

    def advance(self) -> None:
        race, now = self._race, self._shell.scheduler.now()
        if now >= race.deadline:
            self._late(now)
            return
        for late in race.give_up(now):
            self._give_up(late, now)
        while (attempt := race.next_attempt(now)) is not None:
            self._begin(attempt, now)
        if race.lost:
            self._fail(self._exhausted())
            return
        if now >= self._ping_at:
            self._ping(now)
        self._timer.at(min(race.wake_at, self._ping_at))

    def _begin(self, attempt: Attempt, now: float) -> None:
        endpoint = attempt.endpoint
        self._attempts[attempt] = line = AttemptRecord(
            endpoint.name, endpoint.model, attempt.role, now - self._record.arrived
        )
        self._record.attempts.append(line)
        self._exchanges[self._serving.targets[endpoint].begin(self._call, self)] = attempt

    def _commit(self, exchange: Exchange, attempt: Attempt) -> None:
        """The first token, a complete answer, or a refusal that the client is to see: this attempt is the answer."""
        now = self._shell.scheduler.now()
        refused = exchange.verdict is Verdict.REFUSED
        losers = self._race.settle(attempt, now) if refused else self._race.commit(attempt, now)
        self._timer.cancel()
        del self._exchanges[exchange]
        for loser in losers:
            self._note(loser, now, "lost the race")
        for lost in self._exchanges:
            lost.close()
        self._exchanges.clear()
        record = self._record
        if not refused:
            record.first_token = self._attempts[attempt].first_token = now - record.arrived
        record.endpoint = attempt.endpoint.name
        stall = self._route.policies[attempt.endpoint].stall
        Relay(exchange, attempt, self._attempts[attempt], record, self._client, self._shell, stall, self._ended).start()

    def _failed(self, exchange: Exchange, attempt: Attempt, verdict: Verdict) -> None:
        now = self._shell.scheduler.now()
        del self._exchanges[exchange]
        exchange.close()
        self._verdicts.add(verdict)
        if exchange.retry_after is not None:
            self._retry_after = min(exchange.retry_after, self._retry_after or inf)
        self._race.failed(attempt, verdict, now, exchange.retry_after, passing=exchange.passing)
        self._note(attempt, now, exchange.reason)

    def _give_up(self, attempt: Attempt, now: float) -> None:
        exchange = next(exchange for exchange, other in self._exchanges.items() if other is attempt)
        exchange.fail("no first token in time", passing=False)
        self._failed(exchange, attempt, Verdict.FAULT)

    def _note(self, attempt: Attempt, now: float, reason: str) -> None:
        line = self._attempts[attempt]
        line.ended, line.verdict, line.reason = now - self._record.arrived, attempt.verdict, reason

    # While nothing has come.

    def _ping(self, now: float) -> None:
        """The client has waited long: give it its 200 and a sign of life, before something on the way cuts it."""
        if not self._record.status:
            self._record.status = 200
            self._client.start(200, PINGING + told(self._record, ""))
        self._client.write(PING)
        self._ping_at = now + self._shell.ping_every

    # Ends.

    def _late(self, now: float) -> None:
        tried = ", ".join(line.endpoint for line in self._record.attempts) or "none"
        self._fail(DeadlineExceeded(f"No first token within {now - self._record.arrived:.0f} s (asked: {tried})."))

    def _exhausted(self) -> RouterError:
        """What to say when nobody is left to ask."""
        if not self._record.attempts:
            return Overloaded(
                f"All endpoints of '{self._call.model}' have as many calls as they take.", retry_after=COME_BACK
            )
        tried = "; ".join(f"{line.endpoint}: {line.reason}" for line in self._record.attempts)
        if self._verdicts == {Verdict.BUSY}:
            return Overloaded(
                f"All endpoints of '{self._call.model}' are busy ({tried}).",
                code="endpoints_busy",
                retry_after=COME_BACK if self._retry_after is None else self._retry_after,
            )
        return EndpointsFailed(f"No endpoint of '{self._call.model}' could answer ({tried}).")

    def _fail(self, error: RouterError) -> None:
        record, client = self._record, self._client
        record.error = error.code
        record.ended = self._shell.scheduler.now() - record.arrived
        client.owner = None
        if record.status:  # the 200 is gone already
            client.end(error.event)
        else:
            record.status = error.status
            body = error.body
            last = record.attempts[-1].endpoint if record.attempts else ""
            client.start(error.status, error.headers + told(record, last), len(body))
            client.end(body)
        self._end()

    def _end(self) -> None:
        now = self._shell.scheduler.now()
        self._client.owner = None
        self._timer.cancel()
        for loser in self._race.abandon(now):
            self._note(loser, now, "the call was over")
        for exchange in self._exchanges:
            exchange.close()
        self._exchanges.clear()
        self._record.ended = now - self._record.arrived
        self._ended(self._record)
