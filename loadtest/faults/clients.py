"""The clients: a raw one that sees the whole stream, and the official SDKs. Each call gives one `Outcome`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import httpx

from loadtest.faults.judge import Outcome
from loadtest.processes import ROOT, BenchError

Json = dict[str, Any]

NAMES = ("raw", "openai-python", "openai-node")
KEY = "any"
NODE_SCRIPT = ROOT / "tests" / "node" / "ask.mjs"


@dataclass
class Reading:
    """The state of one answer while it is read."""

    began: float
    text: str = ""
    code: str | None = None
    status: int | None = None
    model: str | None = None
    usage: Json | None = None
    first_token: float | None = None
    # Only `raw` sees the following.
    silence: float = 0.0  # the longest silence
    pings: int = 0
    done: bool = False

    def chunk(self, chunk: Json) -> None:
        self.model, self.usage = chunk.get("model") or self.model, chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or ():
            part = choice.get("delta") or choice.get("message") or {}
            if part.get("content"):
                self.first_token = self.first_token or time.monotonic() - self.began
                self.text += part["content"]

    def answer(self) -> Outcome:
        return self._outcome("answer")

    def failed(self, error: str, code: object = None) -> Outcome:
        self.code = None if code is None else str(code)
        return replace(self._outcome("error"), error=error)

    def _outcome(self, kind: Any) -> Outcome:
        facts = {name: value for name, value in vars(self).items() if name != "began"}
        return Outcome(kind, time.monotonic() - self.began, **facts)


class Client(Protocol):
    async def ask(self, model: str, messages: list[Json], *, stream: bool) -> Outcome: ...


@contextlib.asynccontextmanager
async def client(name: str, base_url: str, timeout: float | None) -> AsyncIterator[Client]:
    """Open the client of that name; `timeout` in seconds, None for the client's own default."""
    making = {"raw": RawClient.open, "openai-python": PythonSDK.open, "openai-node": NodeSDK.open}[name]
    async with making(base_url, timeout) as made:
        yield made


# ---- The raw client


@dataclass
class RawClient:
    """A careful client: skips data that is not JSON, and treats an error event as an error."""

    http: httpx.AsyncClient

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, base_url: str, timeout: float | None) -> AsyncIterator[Client]:
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=timeout, trust_env=False) as http:
            yield cls(http)

    async def ask(self, model: str, messages: list[Json], *, stream: bool) -> Outcome:
        body: Json = {"model": model, "messages": messages}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        reading = Reading(time.monotonic())
        try:
            async with self.http.stream("POST", "chat/completions", json=body) as response:
                reading.status = response.status_code
                if response.status_code != 200:
                    return _refused(reading, await response.aread())
                if not stream:
                    return _read(reading, await response.aread()) or reading.answer()
                return await self._stream(reading, response)
        except httpx.HTTPError as error:
            return reading.failed(f"{type(error).__name__}: {error}")

    async def _stream(self, reading: Reading, response: httpx.Response) -> Outcome:
        last = reading.began
        async for line in response.aiter_lines():
            now = time.monotonic()
            reading.silence, last = max(reading.silence, now - last), now
            reading.pings += line.startswith(":")
            data = line[5:].strip() if line.startswith("data:") else ""
            if data == "[DONE]":
                reading.done = True
            elif data and (error := _read(reading, data.encode())):
                return error
        return reading.answer()


def _read(reading: Reading, data: bytes) -> Outcome | None:
    """Read one chunk or a whole answer; returns the outcome if the data is an error."""
    try:
        chunk = json.loads(data)
    except ValueError:
        return None
    if chunk.get("error"):
        return _refused(reading, data)
    reading.chunk(chunk)
    return None


def _refused(reading: Reading, body: bytes) -> Outcome:
    try:
        error = json.loads(body)["error"]
        return reading.failed(str(error["message"]), error.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return reading.failed(body.decode(errors="replace"))


# ---- The official SDKs


@dataclass
class PythonSDK:
    sdk: Any  # imported on use: other clients do not need the package

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, base_url: str, timeout: float | None) -> AsyncIterator[Client]:
        import openai

        # A plain number would also replace the SDK's connect timeout of 5 s.
        limits: Any = {} if timeout is None else {"timeout": openai.Timeout(timeout, connect=5.0)}
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, http_client=http, **limits) as sdk:
            yield cls(sdk)

    async def ask(self, model: str, messages: list[Json], *, stream: bool) -> Outcome:
        reading = Reading(time.monotonic())
        try:
            if not stream:
                whole = await self.sdk.chat.completions.create(model=model, messages=messages)
                reading.chunk(whole.model_dump())
                return reading.answer()
            chunks = await self.sdk.chat.completions.create(
                model=model, messages=messages, stream=True, stream_options={"include_usage": True}
            )
            async for chunk in chunks:
                reading.chunk(chunk.model_dump())
        except Exception as error:  # every exception of the SDK reaches its user
            reading.status = getattr(error, "status_code", None)
            return reading.failed(f"{type(error).__name__}: {error}", getattr(error, "code", None))
        return reading.answer()


@dataclass
class NodeSDK:
    """The SDK in a Node process that reads questions and writes outcomes, one line of JSON each."""

    process: asyncio.subprocess.Process
    waiting: dict[int, asyncio.Future[Json]]
    numbers: Any

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, base_url: str, timeout: float | None) -> AsyncIterator[Client]:
        node = shutil.which("node")
        if node is None or not (NODE_SCRIPT.parent / "node_modules" / "openai").is_dir():
            raise BenchError("the Node SDK is not installed: it needs node 20, and npm --prefix tests/node ci")
        pipe = asyncio.subprocess.PIPE
        arguments = [base_url, *([] if timeout is None else [str(timeout)])]
        process = await asyncio.create_subprocess_exec(node, str(NODE_SCRIPT), *arguments, stdin=pipe, stdout=pipe)
        made = cls(process, {}, count())
        reading = asyncio.create_task(made.read())
        try:
            yield made
        finally:
            reading.cancel()
            process.kill()
            await process.wait()

    async def ask(self, model: str, messages: list[Json], *, stream: bool) -> Outcome:
        number, began = next(self.numbers), time.monotonic()
        answer = self.waiting[number] = asyncio.get_running_loop().create_future()
        question = {"number": number, "model": model, "messages": messages, "stream": stream}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        try:
            facts = await answer
        finally:
            del self.waiting[number]
        return Outcome(seconds=time.monotonic() - began, **facts)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            outcome = json.loads(line)
            waiting = self.waiting.get(outcome.pop("number"))
            if waiting is not None:
                waiting.set_result(outcome)
        for waiting in self.waiting.values():
            waiting.set_exception(BenchError("the process with the Node SDK ended"))
