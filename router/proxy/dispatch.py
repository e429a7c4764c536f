"""Runs the race of one call: starts exchanges, keeps one timer, and hands the winner to the relay at its first token.

It is an object that is told things, and `advance` is what it does each time:

    start       the call is there
    news        an exchange has a first token, or has ended
    gone        the client left
    stop        the router stops
    called      it waited in line, and a slot is kept for it
    its timer   time has come: a hedge, a retry, a ping, the deadline

Until the relay takes over it owns the call, so it ends exactly once: committed, failed, late, or left. It owns it again
when a stream broke that may be rescued, and runs a second race, for the rest.
"""

from __future__ import annotations

from math import inf

from router.core.call import Call
from router.core.choice.affinity import Affinity
from router.core.choice.race import Race
from router.core.choice.route import Route
from router.core.endpoint.endpoint import Attempt
from router.core.endpoint.waiting_queue import QueueEntry, expected_wait
from router.core.explain.explanation import Explanation, explain
from router.core.record import CallRecord
from router.core.stream.splice import Diverged
from router.core.verdict import Cause, Outcome, Verdict
from router.errors import RouterError, StreamBroken
from router.proxy import debug
from router.proxy.client import Client
from router.proxy.context import Context
from router.proxy.failures import exhausted, late, line_full, line_too_long, waited_in_vain
from router.proxy.headers import STREAM, call_facts, lines
from router.proxy.relay import PING, Ended, Relay, deliver
from router.proxy.rescue import Rescue
from router.proxy.serving import Serving
from router.scheduler import Timer
from router.upstream.exchange import Exchange

PINGING = b"content-type: text/event-stream; charset=utf-8\r\n" + STREAM

_NO_STREAM = Outcome(Verdict.ABANDONED, "an answer that is no stream")
_TOO_LATE = Outcome(Verdict.FAULT, "no first token in time", passing=False)


class Dispatch:
    __slots__ = (
        "_broken",
        "_call",
        "_client",
        "_context",
        "_ended",
        "_exchanges",
        "_full",
        "_ping_at",
        "_place",
        "_race",
        "_record",
        "_refused",
        "_rescue",
        "_route",
        "_serving",
        "_timer",
    )

    def __init__(
        self,
        call: Call,
        route: Route,
        serving: Serving,
        client: Client,
        record: CallRecord,
        context: Context,
        ended: Ended,
    ) -> None:
        self._call, self._route, self._serving, self._client = call, route, serving, client
        self._record, self._context, self._ended = record, context, ended
        affinity = Affinity(call.conversation, route.affinity_margin) if call.conversation else None
        demand = call.demand
        self._race = Race(route, demand, record.arrived, context.rng, call.patience, call.retries, affinity)
        self._exchanges: dict[Exchange, Attempt] = {}
        self._refused: tuple[Exchange, Attempt] | None = None  # the first that did, where somebody may still serve it
        self._full = False
        self._rescue: Rescue | None = None
        self._broken = b""  # how an answer that broke ends, if nobody goes on with it
        self._place: QueueEntry | None = None  # in line, for a slot
        self._timer = Timer(context.scheduler, self.advance)
        self._ping_at = record.arrived + context.ping_after if call.stream else inf

    def start(self) -> None:
        self._client.owner = self
        self.advance()

    # What it is told.

    def news(self, exchange: Exchange) -> None:
        attempt = self._exchanges.get(exchange)
        if attempt is None:
            return
        outcome = exchange.outcome
        verdict = None if outcome is None else outcome.verdict
        if outcome is not None and (verdict is Verdict.FAULT or verdict is Verdict.BUSY):
            self._failed(exchange, attempt, outcome)
            self.advance()
        elif outcome is not None and self._broken and (verdict is Verdict.REFUSED or not exchange.streams):
            # A refusal of what the client did not ask is not for it, and neither is an answer that is no stream.
            self._failed(exchange, attempt, outcome if verdict is Verdict.REFUSED else _NO_STREAM)
            self.advance()
        elif (
            outcome is not None
            and verdict is Verdict.REFUSED
            and (self._asks_longer(exchange, attempt, outcome) or self._others_run(exchange, attempt, outcome))
        ):
            self.advance()
        elif exchange.first_token:
            self._commit(exchange, attempt)

    def gone(self) -> None:
        """Until now nothing was answered, so there is nothing to end but the attempts."""
        self._record.error = "client_left"
        self._record.status = self._record.status or 499
        self._end()

    def full(self) -> None:
        """Only pings are written meanwhile, so this is for the relay to know."""
        self._full = True

    def drained(self) -> None:
        self._full = False

    def stop(self, error: RouterError) -> None:
        self._fail(error)

    def called(self) -> None:
        self._timer.at(self._context.scheduler.now())

    def broke(self, how: bytes, full: bool) -> None:
        """The answer has ended early, and its client with it unless somebody goes on: an event says `how`."""
        assert self._rescue is not None
        context, call, now = self._context, self._call, self._context.scheduler.now()
        self._broken, self._full = how, full
        self._client.owner = self
        self._timer = Timer(context.scheduler, self.advance)
        self._ping_at = now
        try:
            route = self._rescue.route(self._route, self._serving.targets)
        except Diverged:
            self._fail(StreamBroken("It can't be rescued."))
            return
        history = self._race.history
        self._race = Race(route, call.demand, now, context.rng, call.patience, call.retries, history=history)
        self.advance()

    # What it does.

    def advance(self) -> None:
        race, now = self._race, self._context.scheduler.now()
        if self._place is not None:
            self._place.claim()
        if now >= race.deadline:
            self._give_in(late(self._record, now) if self._place is None else self._lost(now))
            return
        for given_up in race.give_up(now):
            self._give_up(given_up)
        explained = self._explained(now) if self._call.asks_why and not self._record.attempts else None
        while (attempt := race.next_attempt(now)) is not None:
            self._record.attempts.append(attempt)
            self._exchanges[self._begin(attempt)] = attempt
        if explained is not None:
            self._tell_why(explained)
        if race.lost:
            self._give_in(self._lost(now))
            return
        if (race.wanted or self._place is not None) and not self._lined_up(now):
            return
        if now >= self._ping_at:
            self._ping(now)
        self._timer.at(min(race.wake_at, race.deadline, self._ping_at))

    def _begin(self, attempt: Attempt) -> Exchange:
        endpoint = attempt.endpoint
        call = self._call if self._rescue is None else self._rescue.call_for(endpoint)
        return self._serving.targets[endpoint].begin(call, self)

    def _explained(self, now: float) -> Explanation:
        """As things are before the first attempt, which changes them."""
        demand = self._call.demand
        return explain(self._route, demand.kind, demand.size, now, debug.MOST)

    def _tell_why(self, explained: Explanation) -> None:
        attempts, sticky = self._record.attempts, bool(self._call.conversation)
        asked = attempts[0].endpoint.name if attempts else None
        self._record.why = debug.told(explained, asked, sticky=sticky)

    def _lined_up(self, now: float) -> bool:
        """In line for what the race wants, or no longer in line; False where that ended the call."""
        wanted = self._race.wanted
        if not wanted:
            self._leave_line(now)
            return True
        if self._place is None:
            wait = expected_wait(wanted)
            if self._route.queue.waiting >= self._route.queue.most:
                self._give_in(line_full(self._call.model, wait))
                return False
            if now + wait >= self._race.queue_until:
                self._give_in(line_too_long(self._call.model, wait))
                return False
            self._place = QueueEntry(self._route.queue, self.called, now)
        self._place.want(wanted, now)
        return True

    def _leave_line(self, now: float) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.leave(now)
            self._record.queued += now - place.joined

    def _commit(self, exchange: Exchange, attempt: Attempt) -> None:
        """The first token, a complete answer, or a refusal that the client is to see: this attempt is the answer."""
        now, record = self._context.scheduler.now(), self._record
        del self._exchanges[exchange]
        if exchange.verdict is Verdict.REFUSED:
            self._race.settle(attempt, now)
        else:
            self._race.commit(attempt, now)
            self._refused = None
            if record.first_token is None:
                record.first_token = now - record.arrived
        self._hand_over(exchange, attempt, now)

    def _hand_over(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        record = self._record
        self._timer.close()
        self._leave_line(now)
        self._close_exchanges()
        record.endpoint = attempt.endpoint.name
        record.prompt_tokens = record.completion_tokens = None  # what one that broke has told is not this one's
        if exchange.streams:
            self._relay(exchange, attempt)
        else:
            deliver(exchange, attempt, record, self._client, now, self._ended)

    def _relay(self, exchange: Exchange, attempt: Attempt) -> None:
        if self._rescue is not None:
            self._rescue.begun()
        elif self._route.resume != "off" and (way := Rescue.way(self._call, self._route)) is not None:
            self._rescue = Rescue(self._call, way)
        rescue, broke = self._rescue, self.broke if self._rescue is not None else None
        stall, scheduler = self._route.policies[attempt.endpoint].stall, self._context.scheduler
        relay = Relay(exchange, attempt, self._record, self._client, scheduler, stall, self._ended, rescue, broke)
        relay.start(full=self._full)

    def _asks_longer(self, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> bool:
        """A request that is too long there is sent to who has a larger context. The first refusal is kept: it is the
        answer where that one refuses it too, or fails.
        """
        longer = outcome.cause is Cause.TOO_LONG and self._race.longer(attempt, self._context.scheduler.now())
        if self._refused is None:
            if not longer:
                return False
            self._refused = exchange, attempt
        elif outcome.cause is not Cause.TOO_LONG:
            self._race.refused(attempt)
        self._failed(exchange, attempt, outcome)
        return True

    def _others_run(self, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> bool:
        """A late attempt may yet serve what its rival refuses. If it does not, the refusal is the answer."""
        if not self._race.refused(attempt):
            return False
        self._refused = self._refused or (exchange, attempt)
        self._failed(exchange, attempt, outcome)
        return True

    def _failed(self, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> None:
        del self._exchanges[exchange]
        exchange.close()
        self._race.failed(attempt, outcome, self._context.scheduler.now())

    def _give_up(self, attempt: Attempt) -> None:
        exchange = next(exchange for exchange, other in self._exchanges.items() if other is attempt)
        self._failed(exchange, attempt, _TOO_LATE)

    def _ping(self, now: float) -> None:
        """The client has waited long: give it its 200 and a sign of life, before something on the way cuts it."""
        if not self._record.status:
            self._record.status = 200
            self._client.start(200, PINGING + call_facts(self._record, "", now))
        self._client.write(PING)
        self._ping_at = now + self._context.ping_every

    # Ends without an answer.

    def _give_in(self, error: RouterError) -> None:
        """A call that somebody refused ends with his word, which is the truth about it."""
        if self._refused is None:
            self._fail(error)
            return
        now = self._context.scheduler.now()
        self._race.abandon(now)
        self._hand_over(*self._refused, now)

    def _lost(self, now: float) -> RouterError:
        """Nobody is left to ask."""
        if self._place is not None and now >= self._race.queue_until:
            return waited_in_vain(self._call.model, now - self._place.joined)
        return exhausted(self._record, self._route, now)

    def _fail(self, error: RouterError) -> None:
        record, client = self._record, self._client
        record.error = error.code if not self._broken else StreamBroken.code
        if self._broken:
            client.end(self._broken)
        elif record.status:  # the 200 is gone already
            client.end(error.event)
        else:
            record.status = error.status
            body = error.body
            last = record.attempts[-1].endpoint.name if record.attempts else ""
            headers = lines(error.headers) + call_facts(record, last, self._context.scheduler.now())
            client.start(error.status, headers, len(body))
            client.end(body)
        self._end()

    def _end(self) -> None:
        now = self._context.scheduler.now()
        self._client.owner = None
        self._leave_line(now)
        self._timer.close()
        self._race.abandon(now)
        self._close_exchanges()
        self._record.ended = now - self._record.arrived
        self._ended(self._record)

    def _close_exchanges(self) -> None:
        for exchange in self._exchanges:
            exchange.close()
        self._exchanges.clear()
