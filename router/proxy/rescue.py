"""The rest of an answer whose stream broke after the first token, from another endpoint.

    replay      ask for the whole answer again, and send what the client lacks: for answers that repeat exactly
    continue    ask for what follows the client's text, at endpoints that can go on from a text

A `Rescue` exists from the commit of a call that may be rescued; other calls pay nothing for it. When the relay reports
a broken stream, it starts a new dispatch, and the stream that wins there is joined to what the client has. A second
break is rescued in the same way, within the attempts of one call.
"""

from __future__ import annotations

from typing import Literal

from router.core.call import Call
from router.core.choice.race import Race
from router.core.choice.route import Route
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.stream.splice import Continuation, Diverged, Replay
from router.core.stream.transcript import Transcript
from router.core.verdict import Outcome, Verdict
from router.errors import RouterError, StreamBroken
from router.proxy.dispatch import PING, Dispatch
from router.proxy.open_call import OpenCall
from router.proxy.relay import Relay
from router.upstream.exchange import Exchange

Method = Literal["replay", "continue"]

PING_PAUSE = 5.0  # seconds between two pings while a replay repeats what the client has already
_NO_STREAM = Outcome(Verdict.ABANDONED, "an answer that is no stream")


def method_of(call: Call, route: Route) -> Method | None:
    """How a stream of the call would be rescued; None where a broken one can only be ended."""
    match route.resume:
        case "replay":
            return "replay"
        case "auto":
            return "replay" if call.deterministic else None
        case "continue":
            return "continue" if call.plain else None
    return None


class Rescue:
    """One call's rescue: notes what the client receives, and gets it the rest when its stream breaks."""

    __slots__ = ("_calls", "_event", "_method", "_open", "_pinged_at", "_race", "_splice", "_text", "_transcript")

    def __init__(self, open_call: OpenCall, method: Method, race: Race) -> None:
        """`race` is the one that the first stream has won."""
        self._open, self._method, self._race = open_call, method, race
        self._transcript = Transcript()  # of what the client has received
        self._splice: Replay | Continuation | None = None  # of a second stream
        self._event = b""  # ends the client's stream if no endpoint goes on
        self._text = ""  # to be continued
        self._calls: dict[Endpoint, Call] = {}  # what each endpoint is asked that can continue the text
        self._pinged_at = 0.0

    # Called by the relay.

    def pass_on(self, data: bytes, *, complete: bool) -> bytes:
        """The part of a stream's `data` that the client gets; `complete` with the last. Raises Diverged."""
        splice = self._splice
        if splice is not None:
            data = splice.feed(data)
            if complete:
                data += splice.finish()
            elif not data:
                self._ping()
        self._transcript.note(data)
        return data

    def stream_broke(self, event: bytes, *, full: bool) -> None:
        """Ask other endpoints for the rest. `event` ends the client's stream if that fails."""
        open_call, self._event = self._open, event
        call, context = open_call.call, open_call.context
        now = context.scheduler.now()
        try:
            route = self._prepare()
        except Diverged as error:
            self.fail(StreamBroken(f"The answer can't be rescued: {error}."), now)
            open_call.end(now)
            return
        history = self._race.history
        race = Race(route, open_call.demand, now, context.rng, call.patience, call.retries, history=history)
        Dispatch(open_call, race, self, ping_at=now, full=full).start()

    # Called by the dispatch.

    def call_for(self, endpoint: Endpoint) -> Call:
        return self._open.call if self._method == "replay" else self._calls[endpoint]

    def unusable(self, exchange: Exchange, outcome: Outcome) -> Outcome | None:
        """Reject refusals, of a request that the client did not make, and answers that are not streams."""
        if outcome.verdict is Verdict.REFUSED:
            return outcome
        return None if exchange.streams else _NO_STREAM

    def take_over(self, exchange: Exchange, attempt: Attempt, race: Race, now: float, *, full: bool) -> None:
        open_call, had = self._open, self._transcript
        open_call.record.prompt_tokens = open_call.record.completion_tokens = None  # those counted before the break
        self._calls.clear()
        self._splice = Replay(had) if self._method == "replay" else Continuation(had, self._text)
        self._race, self._pinged_at = race, now
        Relay(open_call, exchange, attempt, self).start(full=full)

    def fail(self, error: RouterError, now: float) -> None:
        """End the client's stream with the event of the break; no later `error` tells more about it."""
        self._open.record.error = StreamBroken.code
        self._open.client.end(self._event)

    # The second race.

    def _prepare(self) -> Route:
        """The route over the endpoints that can be asked for the rest. Raises Diverged where the answer can't be
        rescued by any.
        """
        open_call = self._open
        if self._method == "replay":
            Replay(self._transcript)
            return open_call.route
        text = self._transcript.plain
        if text is None:
            raise Diverged("the answer is more than a text")
        self._text = text.rstrip()
        for endpoint in open_call.route.endpoints if self._text else ():
            call = open_call.targets[endpoint].going_on(open_call.call, self._text, self._transcript.tokens)
            if call is not None:
                self._calls[endpoint] = call
        route = open_call.route.restricted(lambda endpoint: endpoint in self._calls)
        if route is None:
            raise Diverged("no endpoint can continue it")
        return route

    def _ping(self) -> None:
        now = self._open.context.scheduler.now()
        if now >= self._pinged_at + PING_PAUSE:
            self._pinged_at = now
            self._open.client.write(PING)
