"""A fake OpenAI endpoint as a process of its own, which counts its live generations. Standard library only.

The process prints its port (its argument, or a free one) and serves on 127.0.0.1 until it is killed. The upstream
model's name selects the mode, unless `POST /behave {"mode": …}` has set one (null: the model's name again):

    quick           at once                             late-300        after 300 ms without even a status
    step            a first token, then waits for /go   endless         tokens until the client leaves
    frozen          nothing, ever                       mute            status and role, never a token
    stalls          three tokens, then nothing          flood           as many bytes as the client reads
    refuse-500      that status, with an error's body   cut             three tokens, then the connection is gone
    error           an error instead of a token         breaks          three tokens, then an error event
    unfinished      three tokens, then a proper end     tools           two tool calls, interleaved
    big             15 MB of tokens, as fast as they are read

A generation is live from its request until the end of its answer, or until its client has left, which is noticed at
once, even while nothing is sent. `GET /stats` reports the counts; `POST /go` continues all generations in `step`.
"""

import asyncio
import base64
import itertools
import json
import struct
import sys
from collections import Counter
from typing import Any

Json = dict[str, Any]

WORDS = ("Hello", " from", " a", " fake", " endpoint.")
TEXT = "".join(WORDS)
VECTOR = (0.5, -0.25, 0.125)
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
FAILURE = {"error": {"message": "failed under a 200", "type": "fake", "param": None, "code": "fake_failure"}}
GAP = 0.005  # seconds between two tokens of `endless`
PAUSE = 0.02  # seconds between the last token and a failure, so that they are read as two events


class Endpoint:
    """The state of the process."""

    def __init__(self) -> None:
        self.live = self.opened = self.finished = self.cancelled = 0
        self.blocked = 0  # generations that wait for their client to read
        self.asked: Counter[str] = Counter()  # requests by model
        self.mode: str | None = None
        self.last: Json = {}  # the latest request
        self.going = asyncio.Event()

    def stats(self) -> Json:
        counts = {name: getattr(self, name) for name in ("live", "opened", "finished", "cancelled", "blocked")}
        return {**counts, "asked": self.asked, "last": self.last}

    def go(self) -> None:
        self.going.set()
        self.going = asyncio.Event()


class Connection(asyncio.Protocol):
    """One connection: reads requests and runs at most one generation, which ends with the connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.received = b""
        self.generation: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        request, *lines = head.decode("latin-1").split("\r\n")
        method, path = request.split(" ")[:2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) >= length:
            self.received = rest[length:]
            self.request(method, path, headers, json.loads(rest[:length] or b"{}"))

    def eof_received(self) -> None:
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self.generation is not None:
            self.generation.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    # Answers.

    def request(self, method: str, path: str, headers: dict[str, str], body: Json) -> None:
        endpoint = self.endpoint
        if method == "GET":
            self.answer(200, endpoint.stats() if path == "/stats" else {"object": "list", "data": []})
        elif path == "/go":
            endpoint.go()
            self.answer(200, {})
        elif path == "/behave":
            endpoint.mode = body["mode"]
            self.answer(200, {})
        else:
            endpoint.last = {"path": path, "headers": headers, "body": body}
            endpoint.live += 1
            endpoint.opened += 1
            endpoint.asked[body["model"]] += 1
            self.generation = asyncio.get_running_loop().create_task(self.generate(path, body))
            self.generation.add_done_callback(self.ended)

    def ended(self, generation: "asyncio.Task[None]") -> None:
        self.generation = None
        self.endpoint.live -= 1
        if generation.cancelled():
            self.endpoint.cancelled += 1
        else:
            self.endpoint.finished += 1

    async def generate(self, path: str, body: Json) -> None:
        mode, _, number = (self.endpoint.mode or body["model"]).partition("-")
        if mode == "late":
            await asyncio.sleep(int(number) / 1000)
        elif mode == "frozen":
            await self.forever()
        elif mode == "refuse":
            self.answer(int(number), refusal(number), "retry-after: 30\r\n" if number == "429" else "")
            return
        if path.endswith("/embeddings"):
            self.answer(200, embeddings(body))
        elif body.get("stream"):
            await self.stream(mode, body, chat="/chat/" in path)
        else:
            await self.whole(mode, body, chat="/chat/" in path)

    async def whole(self, mode: str, body: Json, *, chat: bool) -> None:
        if mode == "step":
            await self.endpoint.going.wait()
        if mode == "cut":
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
            self.transport.close()
        elif mode == "error":
            self.answer(200, FAILURE)
        else:
            self.answer(200, completion(body["model"], chat=chat, tools=mode == "tools"))

    async def stream(self, mode: str, body: Json, *, chat: bool) -> None:
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        event = Chunks(body["model"], chat=chat, usage_asked=asked)
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            b"x-request-id: of-the-endpoint\r\n\r\n"
        )
        if mode == "error":
            self.send(sse(FAILURE))
            self.end()
            return
        if chat:
            self.send(event.of({"role": "assistant", "content": ""}))
        if mode == "mute":
            await self.forever()
        elif mode == "endless":
            await self.endless(event)
        elif mode == "flood":
            await self.flood(event)
        elif mode == "big":
            await self.flood(event, 1500)
        elif mode == "tools":
            for delta in tool_deltas():
                self.send(event.of(delta))
            self.send(event.of({}, "tool_calls") + event.last())
            self.end()
        else:
            await self.words(mode, event)

    async def words(self, mode: str, event: "Chunks") -> None:
        for index, word in enumerate(WORDS):
            if index == 1 and mode == "step":
                await self.endpoint.going.wait()
            if index == 3 and mode in ("stalls", "cut", "unfinished", "breaks"):
                await self.fail(mode)
                return
            self.send(event.of({"content": word}))
        self.send(event.of({}, "stop") + event.last())
        self.end()

    async def fail(self, mode: str) -> None:
        await asyncio.sleep(PAUSE)
        if mode == "stalls":
            await self.forever()
        elif mode == "cut":
            self.transport.close()
        else:
            if mode == "breaks":
                self.send(sse(FAILURE))
            self.end()

    async def endless(self, event: "Chunks") -> None:
        while True:
            self.send(event.of({"content": "on "}))
            await asyncio.sleep(GAP)

    async def flood(self, event: "Chunks", count: int | None = None) -> None:
        for index in itertools.count():
            if index == count:
                break
            if not self.writable.is_set():
                self.endpoint.blocked += 1
                try:
                    await self.writable.wait()
                finally:
                    self.endpoint.blocked -= 1
            self.send(event.of({"content": f"{index} " * 2000}))
            await asyncio.sleep(0)
        self.send(event.of({}, "stop") + event.last())
        self.end()

    async def forever(self) -> None:
        await asyncio.get_running_loop().create_future()

    # Writing.

    def answer(self, status: int, body: Json, more: str = "") -> None:
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} Fake\r\ncontent-type: application/json\r\n{more}content-length: {len(text)}\r\n\r\n"
        self.transport.write(head.encode() + text)

    def send(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self.transport.write(b"0\r\n\r\n")


class Chunks:
    """The events of one stream, as bytes."""

    def __init__(self, model: str, *, chat: bool, usage_asked: bool) -> None:
        self.model, self.chat, self.usage_asked = model, chat, usage_asked

    def of(self, delta: Json, finish: str | None = None) -> bytes:
        content: Json = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        return self.event([{"index": 0, **content, "finish_reason": finish}], None)

    def last(self) -> bytes:
        """The usage, if it was requested, and [DONE]."""
        return (self.event([], USAGE) if self.usage_asked else b"") + b"data: [DONE]\n\n"

    def event(self, choices: list[Json], usage: Json | None) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        event = {"id": "fake-1", "object": kind, "created": 1, "model": self.model, "choices": choices}
        return sse({**event, "usage": usage} if self.usage_asked else event)


def sse(event: Json) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def refusal(status: str) -> Json:
    message = f"refused by the fake endpoint with {status}"
    return {"error": {"message": message, "type": "fake", "param": "p", "code": "c"}}


def tool_deltas() -> list[Json]:
    """Two tool calls whose arguments come in pieces, the second before the first has ended."""

    def delta(index: int, arguments: str, name: str = "") -> Json:
        call: Json = {"index": index, "function": {"arguments": arguments}}
        if name:
            call |= {"id": f"call_{index}", "type": "function"}
            call["function"]["name"] = name
        return {"tool_calls": [call]}

    return [
        delta(0, "", "weather"),
        delta(0, '{"city": '),
        delta(1, "", "time"),
        delta(0, '"Paris"}'),
        delta(1, '{"zone": "CET"}'),
    ]


def completion(model: str, *, chat: bool, tools: bool) -> Json:
    calls = [
        {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
        {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": '{"zone": "CET"}'}},
    ]
    message: Json = {"role": "assistant", "content": TEXT}
    if tools:
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    content: Json = {"message": message} if chat else {"text": TEXT}
    return {
        "id": "fake-1",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, **content, "finish_reason": "tool_calls" if tools else "stop"}],
        "usage": USAGE,
    }


def embeddings(body: Json) -> Json:
    """The answer with embeddings: in base64, the SDKs' default, as little-endian floats of 32 bits."""
    vector: Any = list(VECTOR)
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode()
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, _ in enumerate(inputs)]
    return {
        "object": "list",
        "model": body["model"],
        "data": data,
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


async def serve(port: int) -> None:
    endpoint = Endpoint()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(endpoint), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
