"""What can be done for a stream that breaks after its beginning: what its client has, and how others are asked for the
rest.

    replay      for the whole answer once more, of which the client gets what it lacks: right where two answers are one
    continue    for what follows the client's text, where the endpoint can go on from a text

Made at the commit of a call that may be rescued, so that others pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from router.core.call import Call
from router.core.choice.route import Route
from router.core.endpoint.endpoint import Endpoint
from router.core.stream.splice import Continuation, Diverged, Replay, Transcript
from router.proxy.serving import Target

Way = Literal["replay", "continue"]


class Rescue:
    """Of one call. `transcript` is what its client was sent; `splice` makes one with it what rescues it."""

    __slots__ = ("_call", "_calls", "_text", "_way", "splice", "transcript")

    def __init__(self, call: Call, way: Way) -> None:
        self._call, self._way = call, way
        self._text: str | None = None  # what the client has, where others are asked for what follows it,
        self._calls: dict[Endpoint, Call] = {}  # and how each is asked who can
        self.splice: Replay | Continuation | None = None
        self.transcript = Transcript()

    @staticmethod
    def way(call: Call, route: Route) -> Way | None:
        """None where a stream that breaks can only be ended."""
        match route.resume:
            case "replay":
                return "replay"
            case "auto":
                return "replay" if call.deterministic else None
            case "continue":
                return "continue" if call.plain else None
        return None

    def route(self, route: Route, targets: Mapping[Endpoint, Target]) -> Route:
        """Those endpoints that can be asked for the rest. Raises Diverged where nothing can be made of what is here."""
        if self._way == "replay":
            Replay(self.transcript)
            return route
        self._text = self.transcript.plain
        if self._text is None:
            raise Diverged("it is more than a text")
        given = self._text.rstrip()
        for endpoint in route.endpoints if given else ():
            call = targets[endpoint].going_on(self._call, given, self.transcript.tokens)
            if call is not None:
                self._calls[endpoint] = call
        restricted = route.restricted(lambda endpoint: endpoint in self._calls)
        if restricted is None:
            raise Diverged("no endpoint can continue a text")
        return restricted

    def call_for(self, endpoint: Endpoint) -> Call:
        """What an endpoint of that route is asked."""
        return self._call if self._text is None else self._calls[endpoint]

    def begun(self) -> None:
        """An endpoint goes on: from now on its stream is spliced."""
        self._calls.clear()
        self.splice = (
            Replay(self.transcript) if self._text is None else Continuation(self.transcript, self._text.rstrip())
        )
