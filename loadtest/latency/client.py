"""A small client of chat completions over kept connections, which records the time of the first token.

Calls take neither coroutine nor task: `done` is called exactly once per question, with its `Answer`. The first token is
the first event with content. An answer is whole if it streamed up to `[DONE]` or, without a stream, arrived in full
length; everything else is an error, described in `error`.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools

CONNECT_WITHIN = 5.0
# Seconds after which an idle connection is closed, at random between the two: connections that were opened together
# must not close together, and none may outlive the server's own limit (75 s for this router).
IDLE_FOR = 60.0, 75.0
EVENT_END = re.compile(rb"\r?\n\r?\n")
MAX_ERROR_CHARS = 200  # characters kept of an error


@dataclass(slots=True)
class Answer:
    """The result of one question; times are those of time.monotonic()."""

    sent: float
    first: float | None = None  # the first token
    ended: float | None = None
    status: int | None = None
    error: str | None = None
    text: str = ""  # text of the first token; without a stream, of the whole answer
    tokens: int = 0  # events with content

    @property
    def ok(self) -> bool:
        return self.ended is not None and self.error is None


Done = Callable[[Answer], None]


@dataclass(frozen=True)
class Target:
    """The server to call: the base URL of an OpenAI-compatible API, without /chat/completions."""

    host: str
    port: int
    path: str
    key: str = "any"

    @classmethod
    def of(cls, url: str, key: str = "any") -> Target:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url}: not an http:// URL such as http://127.0.0.1:8080/v1")
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/"), key)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}{self.path}"

    def request(self, body: dict[str, Any]) -> bytes:
        content = json.dumps(body).encode()
        head = (
            f"POST {self.path}/chat/completions HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


class Client:
    """Connections to one target, opened on demand; the most recently used one is used first."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.loop = asyncio.get_running_loop()
        self.idle: list[Connection] = []
        self.connections: set[Connection] = set()
        self.opened = 0

    def ask(self, request: bytes, limit: float, done: Done) -> None:
        """Send a request at once, or on a new connection; no end within `limit` seconds is an error."""
        question = Question(self, request, limit, done)
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                connection.ask(question)
                return
        self.opened += 1
        connecting = self.loop.create_task(self.connect(question))
        connecting.add_done_callback(lambda task: None if task.cancelled() else task.result())

    async def connect(self, question: Question) -> None:
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self), self.target.host, self.target.port
                )
        except (OSError, TimeoutError) as error:
            question.end(f"no connection: {error or 'timeout'}")
        else:
            if question.over:
                connection.become_idle()
            else:
                connection.ask(question)

    def close(self) -> None:
        for connection in list(self.connections):
            connection.transport.abort()


class Question:
    """One open request, which ends exactly once."""

    def __init__(self, client: Client, request: bytes, limit: float, done: Done) -> None:
        self.request, self.done = request, done
        self.answer = Answer(sent=time.monotonic())
        self.connection: Connection | None = None
        self.timer = client.loop.call_later(limit, self.late, limit)

    @property
    def over(self) -> bool:
        return self.answer.ended is not None

    def late(self, limit: float) -> None:
        connection = self.connection
        self.end(f"no end within {limit:g} s")
        if connection is not None:
            connection.transport.abort()

    def end(self, error: str | None = None) -> None:
        if self.over:
            return
        self.timer.cancel()
        answer = self.answer
        answer.ended, answer.error = time.monotonic(), answer.error or error
        self.connection = None
        self.done(answer)


class Connection(asyncio.Protocol):
    """One connection, which takes one question after another."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.question: Question | None = None
        self.closing: asyncio.TimerHandle | None = None  # while it is idle

    # ---- Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.connections.discard(self)
        self.keep()
        self.end(f"the connection broke: {exc or 'closed'}")

    def data_received(self, data: bytes) -> None:
        self.now = time.monotonic()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self.transport.abort()
            raise
        except httptools.HttpParserError as error:
            self.end(f"not HTTP: {error}")
            self.transport.abort()

    # ---- One question

    def become_idle(self) -> None:
        """Wait for the next question, but not for longer than IDLE_FOR."""
        self.client.idle.append(self)
        self.closing = self.client.loop.call_later(random.uniform(*IDLE_FOR), self.transport.close)

    def keep(self) -> None:
        """Cancel the close of an idle connection."""
        if self.closing is not None:
            self.closing.cancel()
            self.closing = None

    def ask(self, question: Question) -> None:
        self.keep()
        self.question, question.connection = question, self
        self.parser = httptools.HttpResponseParser(self)
        self.streams, self.rest, self.whole = False, b"", False
        self.transport.write(question.request)

    def end(self, error: str | None = None) -> None:
        question, self.question = self.question, None
        if question is not None:
            question.end(error)

    # ---- Callbacks of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self.streams = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        if self.question is not None:
            self.question.answer.status = self.parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        if self.question is None:
            return
        self.rest = self.rest + data if self.rest else data
        if self.streams:
            *events, self.rest = EVENT_END.split(self.rest)
            for event in events:
                self.event(event, self.question.answer)

    def event(self, event: bytes, answer: Answer) -> None:
        """Read one event. Events are parsed as JSON up to the first token; after it, only errors are."""
        if not event.startswith(b"data:"):
            return
        data = event[5:].strip()
        if data == b"[DONE]":
            self.whole = True
        elif b'"error"' in data and (error := error_in(data)):
            answer.error = error
        elif answer.first is not None:
            answer.tokens += b'"content"' in data
        elif text := content_of(data):
            answer.first, answer.text, answer.tokens = self.now, text, 1

    def on_message_complete(self) -> None:
        question = self.question
        if question is None:
            return
        answer = question.answer
        if self.streams:
            error = None if self.whole else "the stream ended without [DONE]"
        elif answer.status != 200:
            error = f"{answer.status}: {error_in(self.rest) or self.rest[:MAX_ERROR_CHARS].decode(errors='replace')}"
        else:
            answer.text = content_of(self.rest)
            answer.first, answer.tokens, error = self.now, 1, None
        if self.parser.should_keep_alive():
            self.become_idle()
        else:
            self.transport.close()
        self.end(error)


def content_of(data: bytes) -> str:
    try:
        choices = json.loads(data).get("choices") or [{}]
    except (ValueError, AttributeError):
        return ""
    message = choices[0].get("delta") or choices[0].get("message") or {}
    return message.get("content") or ""


def error_in(data: bytes) -> str:
    """The message of an error; "" if the data is not an error."""
    try:
        error = json.loads(data).get("error")
    except (ValueError, AttributeError):
        return ""
    return str(error.get("message") if isinstance(error, dict) else error)[:MAX_ERROR_CHARS] if error else ""
