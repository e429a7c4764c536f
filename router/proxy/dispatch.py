"""Runs one race for a call's answer: starts exchanges, keeps one timer, and hands the winner over at its first token.

`advance` follows each event:

    start       the race begins
    news        an exchange has a first token, or has ended
    gone        the client left
    stop        the router stops
    slot_kept   the call is in the waiting queue, and a slot is reserved for it
    its timer   a hedge, a retry, a ping or the deadline is due

A dispatch owns the client, and ends exactly once: with an attempt that it hands over, with an error, or because the
client leaves. What an endpoint is asked, and what the client gets in each case, depends on what the client has already:
that is the part of the `Answer`, which is a `FirstAnswer` or a `Rescue`.
"""

from __future__ import annotations

from typing import Protocol

from router.core.call import Call
from router.core.choice.race import Race
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.endpoint.waiting_queue import QueueEntry, expected_wait
from router.core.explain.explanation import Explanation, explain
from router.core.verdict import Cause, Outcome, Verdict
from router.errors import RouterError
from router.proxy import debug
from router.proxy.failures import deadline_exceeded, exhausted, queue_full, queue_timed_out, queue_too_slow
from router.proxy.headers import STREAM, call_facts
from router.proxy.open_call import OpenCall
from router.scheduler import Timer
from router.upstream.exchange import Exchange

PING = b": ping\n\n"  # a comment, which both SDKs ignore; never with an id, or openai-python reads an empty event
PINGING = b"content-type: text/event-stream; charset=utf-8\r\n" + STREAM  # the headers before a first ping

_TOO_LATE = Outcome(Verdict.FAULT, "no first token in time", passing=False)


class Answer(Protocol):
    """The client's side of a dispatch."""

    def call_for(self, endpoint: Endpoint) -> Call:
        """The call as this endpoint is asked it."""

    def unusable(self, exchange: Exchange, outcome: Outcome) -> Outcome | None:
        """The failure to record for an attempt that was served or refused, but is no answer for this client; None if it
        is one.
        """

    def take_over(self, exchange: Exchange, attempt: Attempt, race: Race, now: float, *, full: bool) -> None:
        """Own the client from now on, and give it this attempt's answer. `full`: the client reads slowly."""

    def fail(self, error: RouterError, now: float) -> None:
        """End the client's answer without an attempt's."""


class Dispatch:
    """One race, from its first attempt to its winner or its failure."""

    __slots__ = (
        "_answer",
        "_entry",
        "_exchanges",
        "_full",
        "_open",
        "_ping_at",
        "_race",
        "_refused",
        "_timer",
    )

    def __init__(self, open_call: OpenCall, race: Race, answer: Answer, ping_at: float, *, full: bool = False) -> None:
        """`ping_at` is the time of the first ping, inf for none; `full` says that the client reads slowly."""
        self._open, self._race, self._answer = open_call, race, answer
        self._ping_at, self._full = ping_at, full
        self._exchanges: dict[Exchange, Attempt] = {}
        self._refused: tuple[Exchange, Attempt] | None = None  # the first refusal, while another attempt may be served
        self._entry: QueueEntry | None = None  # in the waiting queue
        self._timer = Timer(open_call.context.scheduler, self.advance)

    def start(self) -> None:
        self._open.client.owner = self
        self.advance()

    # Called by the exchanges, the client, the waiting queue and the handler.

    def news(self, exchange: Exchange) -> None:
        attempt = self._exchanges.get(exchange)
        if attempt is None:
            return
        outcome = exchange.outcome
        if outcome is None:
            if exchange.first_token or (exchange.long and not self._open.record.status):
                self._commit(exchange, attempt, refused=False)
            return
        verdict = outcome.verdict
        failed = verdict is Verdict.FAULT or verdict is Verdict.BUSY
        failure = outcome if failed else self._answer.unusable(exchange, outcome)
        if failure is None and verdict is Verdict.REFUSED and self._refusal_waits(exchange, attempt, outcome):
            failure = outcome
        if failure is None:
            self._commit(exchange, attempt, refused=verdict is Verdict.REFUSED)
        else:
            if exchange.final:
                self._race.refused(attempt)
            self._failed(exchange, attempt, failure)
            self.advance()

    def gone(self) -> None:
        """The client left: end the attempts. There is nothing more to answer."""
        record = self._open.record
        record.error = "client_left"
        record.status = record.status or 499
        self._end()

    def full(self) -> None:
        """Note for the relay that the client reads slowly: a dispatch writes nothing but pings."""
        self._full = True

    def drained(self) -> None:
        self._full = False

    def stop(self, error: RouterError) -> None:
        self._fail(error)

    def slot_kept(self) -> None:
        """Advance in a turn of its own: the queue calls this while another call ends."""
        self._timer.at(self._open.context.scheduler.now())

    # What is due.

    def advance(self) -> None:
        open_call, race = self._open, self._race
        record, now = open_call.record, open_call.context.scheduler.now()
        if self._entry is not None:
            self._entry.claim()
        if now >= race.deadline:
            self._conclude(self._exhausted(now) if self._entry is not None else deadline_exceeded(record, now))
            return
        for given_up in race.give_up(now):
            self._give_up(given_up)
        explained = self._explained(now) if open_call.call.asks_why and not record.attempts else None
        while (attempt := race.next_attempt(now)) is not None:
            record.attempts.append(attempt)
            self._exchanges[self._begin(attempt)] = attempt
        if explained is not None:
            self._record_why(explained)
        if race.lost:
            self._conclude(self._exhausted(now))
            return
        if (race.wanted or self._entry is not None) and not self._queued(now):
            return
        if now >= self._ping_at:
            self._ping(now)
        self._timer.at(min(race.wake_at, race.deadline, self._ping_at))

    def _begin(self, attempt: Attempt) -> Exchange:
        endpoint = attempt.endpoint
        return self._open.targets[endpoint].begin(self._answer.call_for(endpoint), self)

    def _explained(self, now: float) -> Explanation:
        """The explanation of the first attempt, to be made before the attempt changes what it explains."""
        demand = self._open.demand
        return explain(self._open.route, demand.kind, demand.size, now, debug.MAX_CANDIDATES, demand=demand)

    def _record_why(self, explained: Explanation) -> None:
        record = self._open.record
        asked = record.attempts[0].endpoint.name if record.attempts else None
        record.why = debug.header(explained, asked, affinity=bool(self._open.call.conversation))

    def _queued(self, now: float) -> bool:
        """Wait for the endpoints that the race wants, or leave the queue if it wants none; False if the call ended."""
        wanted = self._race.wanted
        if not wanted:
            self._leave_queue(now)
            return True
        if self._entry is None:
            model, queue, wait = self._open.call.model, self._open.route.queue, expected_wait(wanted)
            if queue.waiting >= queue.most:
                self._conclude(queue_full(model, wait))
                return False
            if now + wait >= self._race.queue_until:
                self._conclude(queue_too_slow(model, wait))
                return False
            self._entry = QueueEntry(queue, self.slot_kept, now)
        self._entry.want(wanted, now)
        return True

    def _leave_queue(self, now: float) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.leave(now)
            self._open.record.queued += now - entry.joined

    def _ping(self, now: float) -> None:
        """Give a client that has waited long its status 200 and a sign of life, before an intermediary times out."""
        client, record = self._open.client, self._open.record
        if not record.status:
            record.status = 200
            client.start(200, PINGING + call_facts(record, "", now))
        client.write(PING)
        self._ping_at = now + self._open.context.ping_every

    # Ends of an attempt.

    def _refusal_waits(self, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> bool:
        """True if another attempt may yet be served: then the client does not get this refusal, or not now."""
        return self._larger_context_asked(exchange, attempt, outcome) or self._earlier_runs(exchange, attempt)

    def _larger_context_asked(self, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> bool:
        """True if a request too long for this endpoint goes to those with a larger context, or a refusal is kept.

        The first refusal is kept: the client gets it if the other endpoints refuse too, or fail.
        """
        too_long = outcome.cause is Cause.TOO_LONG
        more_asked = too_long and self._race.longer(attempt, self._open.context.scheduler.now())
        if self._refused is None:
            if not more_asked:
                return False
            self._refused = exchange, attempt
        elif not too_long:
            self._race.refused(attempt)
        return True

    def _earlier_runs(self, exchange: Exchange, attempt: Attempt) -> bool:
        """True if the attempt that this one hedges is running: it may yet be served, so the refusal is kept."""
        if not self._race.refused(attempt):
            return False
        self._refused = self._refused or (exchange, attempt)
        return True

    def _failed(self, exchange: Exchange, attempt: Attempt, outcome: Outcome) -> None:
        del self._exchanges[exchange]
        exchange.close()
        if exchange.malformed:
            self._open.note_malformed(exchange, attempt)
        self._race.failed(attempt, outcome, self._open.context.scheduler.now())

    def _give_up(self, attempt: Attempt) -> None:
        exchange = next(exchange for exchange, other in self._exchanges.items() if other is attempt)
        self._failed(exchange, attempt, _TOO_LATE)

    # Ends of the dispatch.

    def _commit(self, exchange: Exchange, attempt: Attempt, *, refused: bool) -> None:
        """Answer with this attempt: its first token is here, its complete answer, the beginning of a long one, or a
        refusal for the client.
        """
        now, record = self._open.context.scheduler.now(), self._open.record
        del self._exchanges[exchange]
        if refused:
            self._race.settle(attempt, now)
        else:
            self._race.commit(attempt, now)
            self._refused = None
            if record.first_token is None:
                record.first_token = now - record.arrived
        self._hand_over(exchange, attempt, now)

    def _hand_over(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        self._timer.close()
        if self._entry is not None:
            self._leave_queue(now)
        if self._exchanges:
            self._close_exchanges()
        self._open.record.endpoint = attempt.endpoint.name
        self._answer.take_over(exchange, attempt, self._race, now, full=self._full)

    def _conclude(self, error: RouterError) -> None:
        """Answer with the refusal that was kept, which tells the client more, or else with the error."""
        if self._refused is None:
            self._fail(error)
            return
        now = self._open.context.scheduler.now()
        self._race.abandon(now)
        self._hand_over(*self._refused, now)

    def _exhausted(self, now: float) -> RouterError:
        """The error for a call that no endpoint is left for."""
        if self._entry is not None and now >= self._race.queue_until:
            return queue_timed_out(self._open.call.model, now - self._entry.joined)
        return exhausted(self._open.record, self._open.route, self._open.demand, now)

    def _fail(self, error: RouterError) -> None:
        self._answer.fail(error, self._open.context.scheduler.now())
        self._end()

    def _end(self) -> None:
        now = self._open.context.scheduler.now()
        self._open.client.owner = None
        self._leave_queue(now)
        self._timer.close()
        self._race.abandon(now)
        self._close_exchanges()
        self._open.end(now)

    def _close_exchanges(self) -> None:
        for exchange in self._exchanges:
            exchange.close()
        self._exchanges.clear()
