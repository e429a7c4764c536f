"""Endpoints that play scripts. The exchange and its scanner are real; only the wire is simulated.

A script lists what an endpoint sends and when, in seconds after its request:

    streams("Hel", "lo", first=0.3, gap=0.1)            a whole token stream
    opens(0.1) + says(0.3, "Hel") + cuts(0.5)           a stream that breaks
    answers({"object": "list"}, 0.2)                    JSON at once
    fails_with(503, 0.1, retry_after=2)                 an error
    refuses_connection(0.01), SILENT                    nothing at all
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from router.scheduler import Scheduler
from router.upstream.exchange import Exchange, Request
from router.upstream.labels import Headers

SSE: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON: Headers = [(b"content-type", b"application/json")]
DONE = b"data: [DONE]\n\n"
COMMENT = b": still there\n\n"


class Step(NamedTuple):
    at: float
    say: Callable[[ScriptedWire], None]


Script = tuple[Step, ...]
Plays = Script | Callable[[], Script]

SILENT: Script = ()  # accepts the request and sends nothing


# ---- Events


def event(
    content: str | None = None,
    *,
    role: str | None = None,
    finish: str | None = None,
    usage: tuple[int, int] | None = None,
) -> bytes:
    """One event of a chat stream; `usage` is prompt and completion tokens."""
    delta = {name: value for name, value in (("role", role), ("content", content)) if value is not None}
    shape: dict[str, Any] = {"object": "chat.completion.chunk"}
    shape["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish}] if delta or finish else []
    if usage is not None:
        shape["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return sse(shape)


def sse(shape: Any) -> bytes:
    return b"data: " + json.dumps(shape).encode() + b"\n\n"


def error_event(message: str = "the engine died", **also: Any) -> bytes:
    return sse({"error": {"message": message, **also}})


# ---- Scripts


def head(at: float, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Script:
    return (Step(at, lambda wire: wire.exchange.head(status, list(headers))),)


def sends(at: float, data: bytes) -> Script:
    """Send bytes of a body."""
    return (Step(at, lambda wire: wire.data(data)),)


def ends(at: float) -> Script:
    """End the body as HTTP requires it."""
    return (Step(at, ScriptedWire.complete),)


def cuts(at: float, reason: str = "the connection was closed before the answer was complete") -> Script:
    return (Step(at, lambda wire: wire.lost(reason)),)


def opens(at: float = 0.0, headers: Iterable[tuple[bytes, bytes]] = ()) -> Script:
    """Send the head and the role of a token stream, which are no first token yet."""
    return head(at, 200, [*SSE, *headers]) + sends(at, event("", role="assistant"))


def says(at: float, *texts: str, gap: float = 0.1) -> Script:
    """Send tokens, the first of them at `at`."""
    return tuple(step for i, text in enumerate(texts) for step in sends(at + gap * i, event(text)))


def finishes(at: float, *, done: bool = True, usage: tuple[int, int] | None = None) -> Script:
    """Send the last events of a stream, and end it."""
    last = event(finish="stop") + (event(usage=usage) if usage else b"") + (DONE if done else b"")
    return sends(at, last) + ends(at)


def streams(
    *texts: str,
    first: float = 0.3,
    gap: float = 0.1,
    done: bool = True,
    usage: tuple[int, int] | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> Script:
    """Send a whole token stream: the role at once, the texts from `first` on, the end a `gap` after the last text."""
    return (
        opens(0.0, headers) + says(first, *texts, gap=gap) + finishes(first + gap * len(texts), done=done, usage=usage)
    )


def answers(shape: Any, at: float = 0.3, *, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = JSON) -> Script:
    """Send a complete answer in one piece."""
    body = shape if isinstance(shape, bytes) else json.dumps(shape).encode()
    return head(at, status, headers) + sends(at, body) + ends(at)


def fails_with(status: int, at: float = 0.1, *, retry_after: float | None = None, **error: Any) -> Script:
    """Send an error in OpenAI's format."""
    headers = [*JSON, *([(b"retry-after", b"%g" % retry_after)] if retry_after is not None else [])]
    return answers({"error": {"message": f"status {status}", **error}}, at, status=status, headers=headers)


def refuses_connection(at: float = 0.0) -> Script:
    return (Step(at, lambda wire: wire.fail("no connection: Connection refused")),)


def completion(text: str = "Hello", usage: tuple[int, int] = (3, 5)) -> dict[str, Any]:
    """The body of a chat completion that does not stream."""
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]},
    }


# ---- Pool and wires that play scripts


class ScriptedPool:
    """A `Pool` for a `Target`, without connections. Each request plays the next script; the last one repeats."""

    def __init__(self, name: str, scheduler: Scheduler, plays: Sequence[Plays]) -> None:
        self.name, self._scheduler, self._plays = name, scheduler, list(plays)
        self._script_of: Callable[[Request], Script] | None = None
        self.wires: list[ScriptedWire] = []  # one for each request, in order
        self.retired: dict[str, int] = {}
        self.idle = self.opening = self.waiting = self.opened = self.reused = self.resent = 0

    def __repr__(self) -> str:
        return f"<ScriptedPool {self.name}: {self.wires}>"

    @property
    def busy(self) -> int:
        return sum(wire.open for wire in self.wires)

    @property
    def asked_at(self) -> list[float]:
        return [wire.began for wire in self.wires]

    def plays(self, *plays: Plays) -> None:
        """Replace the scripts from now on."""
        self._plays, self._script_of = list(plays), None

    def plays_by(self, script_of: Callable[[Request], Script]) -> None:
        """Let the script depend on the request from now on."""
        self._script_of = script_of

    def begin(self, request: Request, exchange: Exchange) -> None:
        if self._script_of is not None:
            self._plays = [self._script_of(request)]
        script = self._plays.pop(0) if len(self._plays) > 1 else self._plays[0]
        wire = ScriptedWire(request, exchange, self._scheduler, script() if callable(script) else script)
        exchange.wire = wire
        self.wires.append(wire)


class ScriptedWire:
    """One request at a scripted endpoint, and how it ended: `answered`, `lost`, or `closed` by the router."""

    def __init__(self, request: Request, exchange: Exchange, scheduler: Scheduler, script: Script) -> None:
        self.request, self.exchange, self._scheduler = request, exchange, scheduler
        self.began = scheduler.now()
        self.end = ""
        self.ended: float | None = None
        self.sent = b""  # bytes of the body that the router has read
        self.paused_at: list[float] = []
        self.resumed_at: list[float] = []
        self._kept: list[Step] | None = None  # steps held back while reading is paused
        self._alarms = [scheduler.call_at(self.began + step.at, self._player(step)) for step in script]

    def __repr__(self) -> str:
        return f"<ScriptedWire {self.end or 'open'} {self.began:g}-{self.ended or ''}>"

    @property
    def open(self) -> bool:
        return not self.end

    @property
    def closed_at(self) -> float | None:
        """The time at which the router closed the wire, if it did."""
        return self.ended if self.end == "closed" else None

    @property
    def line(self) -> str:
        return self._head[0]

    @property
    def headers(self) -> dict[str, str]:
        return dict(line.split(": ", 1) for line in self._head[1:])

    @property
    def json(self) -> Any:
        return json.loads(bytes(self.request.body))

    @property
    def _head(self) -> list[str]:
        return self.request.head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")

    # Called by the script.

    def data(self, data: bytes) -> None:
        self.sent += data
        self.exchange.data(data)

    def complete(self) -> None:
        self.exchange.complete()
        self._ended("answered")

    def lost(self, reason: str) -> None:
        self._ended("lost")
        self.exchange.lost(reason)

    def fail(self, reason: str) -> None:
        self._ended("lost")
        self.exchange.fail(reason)

    # Called by the exchange.

    def pause(self) -> None:
        if self.open and self._kept is None:
            self.paused_at.append(self._scheduler.now())
            self._kept = []

    def resume(self) -> None:
        if self.open and self._kept is not None:
            self.resumed_at.append(self._scheduler.now())
            kept, self._kept = self._kept, None
            self._alarms += [self._scheduler.call_at(self._scheduler.now(), self._player(step)) for step in kept]

    def close(self) -> None:
        self._ended("closed")

    # Inside.

    def _player(self, step: Step) -> Callable[[], None]:
        return lambda: self._play(step)

    def _play(self, step: Step) -> None:
        if self._kept is not None:
            self._kept.append(step)
            return
        step.say(self)
        if self.open and self.exchange.verdict is not None:
            self._ended("closed")  # like the real wire: after a verdict the rest of an answer is not read
        self.exchange.flush()

    def _ended(self, end: str) -> None:
        if self.open:
            self.end, self.ended = end, self._scheduler.now()
            self.exchange.wire = None
            for alarm in self._alarms:
                alarm.cancel()
