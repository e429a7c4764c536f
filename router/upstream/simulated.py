"""A built-in endpoint that answers in this process, at a configured first-token time and rate, and says that it is
simulated.

With it a first call streams without a key or a GPU, through the same race and relay as any other call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import msgspec

from router.scheduler import Scheduler, Timer
from router.upstream.exchange import Exchange, Request
from router.upstream.spliced import Spliced

UNREADABLE = {
    "error": {"message": "The simulated endpoint cannot read this request.", "type": "invalid_request_error"},
}
SPREAD = 0.2  # the random part of the first-token time, as a share, in both directions
MAX_QUOTED = 200  # characters of the question that the answer repeats
JSON = [(b"content-type", b"application/json")]
SSE = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Simulated:
    """A simulated endpoint, with the interface of a pool."""

    def __init__(self, name: str, scheduler: Scheduler, rng: Random, *, first_token: float, rate: float) -> None:
        self.name, self._scheduler, self._rng = name, scheduler, rng
        self._first_token, self._gap = first_token, 1.0 / rate
        self.retired: Mapping[str, int] = {}
        self.idle = self.busy = self.opening = self.waiting = self.opened = self.reused = self.resent = 0

    def __repr__(self) -> str:
        return f"<Simulated {self.name}, {self.busy} busy>"

    def start(self) -> None:
        """Do nothing: there are no connections to open."""

    def close(self) -> None:
        """Do nothing: there are no connections to close."""

    def begin(self, request: Request, exchange: Exchange) -> None:
        first = self._first_token * (1.0 + SPREAD * self._rng.uniform(-1.0, 1.0))
        exchange.wire = _Answering(self, self._scheduler, request, exchange, first, self._gap)
        self.busy += 1


class _Asked(msgspec.Struct, gc=False):
    """The fields of a request that matter here; all others are skipped unread."""

    stream: Any = None
    stream_options: Any = None
    messages: Any = None
    prompt: Any = ""


_read = msgspec.json.Decoder(_Asked).decode


class _Answering:
    """One answer in progress: a timer that writes the next piece each time it rings, until the exchange ends."""

    def __init__(
        self, pool: Simulated, scheduler: Scheduler, request: Request, exchange: Exchange, first: float, gap: float
    ) -> None:
        self._pool, self._scheduler, self._exchange, self._gap = pool, scheduler, exchange, gap
        self._chat = b"/chat/" in request.head.split(b"\r\n", 1)[0]
        self._asked: _Asked | None = None  # None if it cannot be read
        self._words: list[str] = []
        try:
            body = request.body
            asked = _read(body if not isinstance(body, Spliced) else bytes(body))
            self._words = _words(pool.name, asked)
            self._asked = asked
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # for example a number out of range
        self._streams = self._asked is not None and self._asked.stream is True
        self._events: Iterator[bytes] | None = None
        self._timer = Timer(scheduler, self._ring)
        self._due = scheduler.now() + first + (0 if self._streams else gap * len(self._words))
        self._paused = False
        self._timer.at(self._due)

    # For the exchange (a Wire).

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self._exchange.outcome is None:
            self._timer.at(self._due)

    def close(self) -> None:
        self._timer.close()
        self._pool.busy -= 1

    # For the timer.

    def _ring(self) -> None:
        if self._paused:
            return
        if self._scheduler.now() < self._due:
            self._timer.at(self._due)
            return
        exchange = self._exchange
        if self._asked is None:
            self._answer(exchange, UNREADABLE, 400)
        elif not self._streams:
            self._answer(exchange, self._completion())
        else:
            self._stream(exchange, self._asked)
        exchange.flush()

    def _answer(self, exchange: Exchange, answer: dict[str, Any], status: int = 200) -> None:
        exchange.head(status, JSON)
        exchange.data(msgspec.json.encode(answer))
        self._end(exchange)

    def _stream(self, exchange: Exchange, asked: _Asked) -> None:
        if self._events is None:
            self._events = self._chunks(asked.stream_options)
            exchange.head(200, SSE)
            exchange.data(next(self._events))  # the role; the first token follows at once
        event = next(self._events, None)
        if event is None:
            self._end(exchange)
            return
        exchange.data(event)
        self._due += self._gap
        self._timer.at(self._due)

    def _end(self, exchange: Exchange) -> None:
        exchange.wire = None
        exchange.complete()
        self.close()

    # The answer.

    def _chunks(self, options: Any) -> Iterator[bytes]:
        if self._chat:
            yield self._event({"role": "assistant", "content": ""})
        else:
            yield b": simulated\n\n"
        for word in self._words:
            yield self._event({"content": word})
        last = self._event({}, finish="stop")
        if isinstance(options, dict) and options.get("include_usage") is True:
            last += _sse(self._envelope(self._object(stream=True), []) | {"usage": self._usage()})
        yield last + b"data: [DONE]\n\n"

    def _event(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        content: dict[str, Any] = {"delta": delta} if self._chat else {"text": delta.get("content", "")}
        return _sse(self._envelope(self._object(stream=True), [{"index": 0, **content, "finish_reason": finish}]))

    def _completion(self) -> dict[str, Any]:
        text = "".join(self._words)
        content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return self._envelope(self._object(stream=False), [{"index": 0, **content, "finish_reason": "stop"}]) | {
            "usage": self._usage()
        }

    def _object(self, *, stream: bool) -> str:
        if not self._chat:
            return "text_completion"
        return "chat.completion.chunk" if stream else "chat.completion"

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": "chatcmpl-simulated", "object": kind, "created": 0, "model": self._pool.name, "choices": choices}

    def _usage(self) -> dict[str, int]:
        count = len(self._words)
        return {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _words(name: str, asked: _Asked) -> list[str]:
    """The answer in words. It repeats the question, so that the client sees that the request arrived."""
    question = _last_user_text(asked)
    text = (
        f"[simulated by {name}: no model was asked] You said: {question!r}. "
        "To get an answer, set a key or start a model, and name it in endpoints.yaml."
    )
    return [word if index == 0 else f" {word}" for index, word in enumerate(text.split(" "))]


def _last_user_text(asked: _Asked) -> str:
    messages, text = asked.messages, asked.prompt
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict) and message.get("role") == "user":
            text = message.get("content")
    if isinstance(text, list):
        text = " ".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    return str(text)[:MAX_QUOTED]
