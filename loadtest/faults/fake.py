"""A fake endpoint over raw sockets: has the faults of ailments.py, and logs every attempt with its result.

The fault of an attempt is the first that one of these names:

    POST /control/fault {"model": "m", "fault": "cut"}     holds until the next reset; a fault of null removes it
    the endpoint's own table of models                     (`python -m loadtest fake` has the sixteen, s01 to s16)
    the requested model, if it is the name of a fault      "cut", or "any-prefix/cut"

All other models are healthy. GET /control/log returns the log. POST /control/reset clears it and restarts the time,
for one model with the body {"model": "m"}, else for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field

import h11

from loadtest.faults.ailments import FAULTS, HEALTHY, Fault
from loadtest.faults.answers import Answer, Json, answer_to, length_of, rest_of

GAP = 0.015  # seconds between two tokens
TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_error"}  # error types


@dataclass
class Entry:
    """One attempt, as the endpoint saw it; times in seconds since the last reset."""

    at: float
    endpoint: str
    model: str
    attempt: int  # number among the attempts for this model since the reset, from 1
    stream: bool
    prefill: bool  # true if the last message was the assistant's
    prompt_tokens: int
    fault: str
    became: str = ""  # the result, in words
    ended: float | None = None
    served: bool = False  # true if the whole answer was sent


@dataclass
class Fake:
    """One endpoint with its faults and its log. `speed` divides all waits; each `voice` has answers of its own."""

    name: str = "primary"
    faults: Mapping[str, str] = field(default_factory=dict)  # fault by model
    speed: float = 1.0
    voice: str = ""
    port: int = 0
    log: list[Entry] = field(default_factory=list)
    chosen: dict[str, str] = field(default_factory=dict)  # fault by model, set over /control/fault
    began: dict[str | None, float] = field(default_factory=dict)
    connections: set[Connection] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.reset()

    @contextlib.asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Fake]:
        server = await asyncio.get_running_loop().create_server(lambda: Connection(self), host, port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for connection in list(self.connections):
                connection.abort()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    # ---- Control

    def reset(self, model: str | None = None) -> None:
        """Clear the log and the chosen faults, and restart the time, of one model or of all."""
        if model is None:
            self.log.clear()
            self.chosen.clear()
            self.began = {None: time.monotonic()}
        else:
            self.log[:] = [entry for entry in self.log if entry.model != model]
            self.chosen.pop(model, None)
            self.began[model] = time.monotonic()

    def choose(self, model: str, fault: str | None) -> None:
        if fault is None:
            self.chosen.pop(model, None)
        elif fault in FAULTS:
            self.chosen[model] = fault
        else:
            raise ValueError(f"no fault is called {fault!r}; the faults are {', '.join(FAULTS)}")

    def seen(self, model: str) -> list[Entry]:
        return [entry for entry in self.log if entry.model == model]

    # ---- Attempts

    def now(self, model: str) -> float:
        return time.monotonic() - self.began.get(model, self.began[None])

    def fault_of(self, model: str) -> str:
        return self.chosen.get(model) or self.faults.get(model) or (model if model in FAULTS else "healthy")

    def meets(self, fault: Fault, entry: Entry) -> bool:
        if fault.times is not None and entry.attempt > fault.times:
            return False
        return fault.lasts is None or entry.at < fault.lasts / self.speed

    def enter(self, body: Json) -> tuple[Entry, Fault]:
        """Log an attempt; returns the log entry and the fault that it meets."""
        model = str(body.get("model")).rpartition("/")[2]  # some routers put a provider in front
        messages = body.get("messages") or []
        name = self.fault_of(model)
        entry = Entry(
            at=round(self.now(model), 4),
            endpoint=self.name,
            model=model,
            attempt=len(self.seen(model)) + 1,
            stream=bool(body.get("stream")),
            prefill=bool(messages) and messages[-1].get("role") == "assistant",
            prompt_tokens=length_of(messages),
            fault=name,
        )
        self.log.append(entry)
        return entry, FAULTS[name] if self.meets(FAULTS[name], entry) else HEALTHY

    def end(self, entry: Entry, became: str = "", *, served: bool = False) -> None:
        """Record the end of an attempt; later calls for the same attempt have no effect."""
        if entry.ended is None:
            entry.ended, entry.served = round(self.now(entry.model), 4), served
            entry.became = became or entry.became


class Connection(asyncio.Protocol):
    """One connection: takes requests one after another; a task answers each one and ends with the connection."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.http = h11.Connection(h11.SERVER)
        self.request: h11.Request | None = None
        self.body = bytearray()
        self.answering: asyncio.Task[None] | None = None

    # ---- Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.fake.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fake.connections.discard(self)
        if self.answering is not None:
            self.answering.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self.http.receive_data(data)
            self.read()
        except h11.RemoteProtocolError:
            self.transport.close()

    def read(self) -> None:
        """Take the next request, if it is complete and no other one is being answered."""
        while self.answering is None:
            event = self.http.next_event()
            if isinstance(event, h11.Request):
                self.request, self.body = event, bytearray()
            elif isinstance(event, h11.Data):
                self.body += event.data
            elif isinstance(event, h11.EndOfMessage) and self.request is not None:
                self.answering = asyncio.create_task(self.answer(self.request, bytes(self.body)))
                self.answering.add_done_callback(self.answered)
            else:
                return

    def answered(self, task: asyncio.Task[None]) -> None:
        """Read the next request, which may be here already, with a new h11 connection: h11 never sees the answers."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.transport.abort()
            raise error
        if self.transport.is_closing():
            return
        rest, _ = self.http.trailing_data
        self.http, self.answering = h11.Connection(h11.SERVER), None
        self.data_received(rest) if rest else None

    # ---- Writing

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def head(self, status: int, *headers: str) -> None:
        self.write("\r\n".join((f"HTTP/1.1 {status} {status}", *headers, "", "")).encode())

    def json(self, status: int, content: object, *headers: str, share: float = 1.0) -> None:
        """Write an answer with its content-length, but only the first `share` of its body."""
        body = json.dumps(content).encode()
        self.head(status, "content-type: application/json", f"content-length: {len(body)}", *headers)
        self.write(body[: round(len(body) * share)])

    def error(self, status: int, message: str, code: str | None, *headers: str) -> None:
        self.json(status, error_body(status, message, code), *headers)

    def event(self, data: object) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        event = f"data: {text}\n\n".encode()
        self.write(b"%x\r\n%b\r\n" % (len(event), event))

    def abort(self) -> None:
        """Reset the connection: the peer reads an error, not an end."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def wait(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(seconds / self.fake.speed)

    # ---- One request

    async def answer(self, request: h11.Request, body: bytes) -> None:
        path = request.target.decode("latin-1").partition("?")[0]
        try:
            content = json.loads(body or b"{}")
        except ValueError:
            content = None
        if not isinstance(content, dict):
            self.error(400, "The request body is not a JSON object.", "invalid_json")
        elif path.endswith("/chat/completions"):
            await self.attempt(content)
        elif path.endswith("/models"):
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "fake"} for name in self.fake.faults]
            self.json(200, {"object": "list", "data": models})
        else:
            self.control(path, content)

    def control(self, path: str, body: Json) -> None:
        fake = self.fake
        if path == "/control/log":
            self.json(200, {"endpoint": fake.name, "speed": fake.speed, "log": [asdict(entry) for entry in fake.log]})
        elif path == "/control/reset":
            fake.reset(body.get("model") or None)
            self.json(200, {})
        elif path == "/control/fault":
            try:
                fake.choose(str(body.get("model")), body.get("fault"))
            except ValueError as error:
                self.error(400, str(error), "unknown_fault")
            else:
                self.json(200, {})
        elif path in ("/", "/health"):
            self.json(200, {"endpoint": fake.name})
        else:
            self.error(404, f"The path {path} does not exist.", "unknown_url")

    async def attempt(self, body: Json) -> None:
        entry, fault = self.fake.enter(body)
        try:
            await self.misbehave(entry, fault, body)
        except asyncio.CancelledError:
            self.fake.end(entry, f"{entry.became or 'no byte sent'}, and its client left")
            raise

    async def misbehave(self, entry: Entry, fault: Fault, body: Json) -> None:
        fake, messages = self.fake, body.get("messages") or []
        if fault.reset:
            fake.end(entry, "reset")
            self.abort()
        elif fault.silent:
            await self.wait(fault.silent)
            fake.end(entry, "closed without a byte")
            self.transport.close()
        elif fault.status != 200:
            self.refuse(entry, fault)
        elif fault.refuses_prefill and entry.prefill:
            fake.end(entry, "400 invalid_prefill")
            self.error(
                400, "This model accepts no assistant prefill: the last message must be a user's.", "invalid_prefill"
            )
        else:
            text = rest_of(messages, answer_to(messages, fake.voice))
            identity = f"chatcmpl-{fake.name}-{entry.model}-{entry.attempt}"
            answer = Answer(identity, f"{fake.name}/{entry.model}", text, entry.prompt_tokens)
            await (self.stream(entry, fault, answer, body) if entry.stream else self.plain(entry, fault, answer))

    def refuse(self, entry: Entry, fault: Fault) -> None:
        headers = []
        if fault.retry_after is not None:
            headers.append(f"retry-after: {fault.retry_after / self.fake.speed:g}")
        self.fake.end(entry, f"{fault.status} {fault.code or ''}".strip())
        self.error(fault.status, fault.message or f"It failed: {fault.description}.", fault.code, *headers)

    async def plain(self, entry: Entry, fault: Fault, answer: Answer) -> None:
        """Answer without a stream; a fault of streams becomes the nearest equivalent: a body cut, late, or not JSON."""
        await self.wait(fault.first_token)
        if fault.garbage_at is not None:
            self.fake.end(entry, "200, not JSON")
            self.head(200, "content-type: application/json", "content-length: 9")
            self.write(b'{"id": "x')
        elif fault.stops_at is not None:
            self.json(200, answer.whole(), share=0.6)
            entry.became = "200, six tenths of it"
            await self.wait(fault.stalls)
            self.fake.end(entry)
            self.transport.close()
        else:
            self.fake.end(entry, "200", served=True)
            self.json(200, answer.whole())

    async def stream(self, entry: Entry, fault: Fault, answer: Answer, body: Json) -> None:
        self.head(200, "content-type: text/event-stream; charset=utf-8", "transfer-encoding: chunked")
        entry.became, done = "200, no token", "" if fault.done else " without [DONE]"
        await self.wait(fault.first_token)
        self.event(answer.chunk({"role": "assistant", "content": ""}))
        for number, token in enumerate(answer.tokens):
            if number == fault.stops_at:
                await self.stop(entry, fault)
                return
            if number == fault.garbage_at:
                done = " with an event that was not JSON" + done
                self.event('{"id": "' + answer.id + '", "choices": [{"delta": {"content": ')
            self.event(answer.chunk({"content": token}))
            entry.became = f"200, {number + 1} tokens"
            await self.wait(GAP)
        self.event(answer.chunk({}, finish="stop"))
        if (body.get("stream_options") or {}).get("include_usage"):
            self.event({**answer.chunk({}), "choices": [], "usage": answer.usage})
        self.fake.end(entry, f"200{done}", served=True)
        if fault.done:
            self.event("[DONE]")
        self.write(b"0\r\n\r\n")

    async def stop(self, entry: Entry, fault: Fault) -> None:
        await self.wait(fault.stalls)
        if fault.error_event:
            self.event(error_body(500, "The engine broke while it answered.", "engine_broke"))
        ending = {"cut": "then cut", "reset": "then reset", "whole": "then ended without the rest"}[fault.ends]
        self.fake.end(entry, f"{entry.became}, {'an error, ' * fault.error_event}{ending}")
        if fault.ends == "reset":
            self.abort()
        elif fault.ends == "cut":
            self.transport.close()
        else:
            self.write(b"0\r\n\r\n")


def error_body(status: int, message: str, code: str | None) -> Json:
    return {"error": {"message": message, "type": TYPES.get(status, "server_error"), "param": None, "code": code}}
