"""The bytes that fake endpoints write: streams in few writes, whole answers, errors as OpenAI and Zhipu send them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

WRITES = 2  # most writes of a stream after its first token: scripts/bench measures the cost per token
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"
WORD = " word"
# Type and code of OpenAI's errors, by status.
OPENAI = {429: ("rate_limit_error", "rate_limit_exceeded"), 503: ("server_error", "overloaded")}


def parts_of(tokens: int) -> list[int]:
    """The tokens of each write: the first token alone, the others spread evenly."""
    rest = max(0, tokens - 1)
    writes = min(WRITES, rest)
    return [1, *((rest * (n + 1)) // writes - (rest * n) // writes for n in range(writes))]


def answer(status: int, kind: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {status}", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def as_json(status: int, content: object, *headers: str) -> bytes:
    return answer(status, "application/json", json.dumps(content).encode(), *headers)


@dataclass(frozen=True, slots=True)
class Voice:
    """The wording of one answer; its first token is the endpoint's name."""

    endpoint: str
    model: str
    prompt_tokens: int
    tokens: int
    with_usage: bool

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }

    def text(self, number: int, tokens: int) -> str:
        return self.endpoint if number == 0 else WORD * tokens

    def frame(self, kind: str, **more: Any) -> dict[str, Any]:
        return {"id": "chatcmpl-fake", "object": kind, "created": 1700000000, "model": self.model, **more}

    def event(self, number: int, tokens: int) -> bytes:
        """One event of a stream; the first event has the endpoint's name."""
        role = '"role":"assistant",' if number == 0 else ""
        return self.chunk(f'{{{role}"content":"{self.text(number, tokens)}"}}', "null")

    def chunk(self, delta: str, finish: str) -> bytes:
        return _chunked(
            f'data: {{"id":"chatcmpl-fake","object":"chat.completion.chunk","created":1700000000,'
            f'"model":"{self.model}","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}\n\n'
        )

    def end(self) -> bytes:
        usage = b""
        if self.with_usage:
            usage = _chunked(
                f"data: {json.dumps(self.frame('chat.completion.chunk', choices=[], usage=self.usage))}\n\n"
            )
        return self.chunk("{}", '"stop"') + usage + _chunked("data: [DONE]\n\n") + LAST

    def stream(self) -> bytes:
        """The whole stream as one write."""
        return HEAD + b"".join(self.event(*part) for part in enumerate(parts_of(self.tokens))) + self.end()

    def whole(self) -> bytes:
        text = "".join(self.text(number, tokens) for number, tokens in enumerate(parts_of(self.tokens)))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return as_json(200, self.frame("chat.completion", choices=[choice], usage=self.usage))


def gauges(model: str, running: int, waiting: int) -> bytes:
    """A page of vLLM's metrics with the load only; the cache is not simulated."""
    lines = []
    for what, count in (("running", running), ("waiting", waiting)):
        name = f"vllm:num_requests_{what}"
        lines += [f"# TYPE {name} gauge", f'{name}{{engine="0",model_name="{model}"}} {count}.0', ""]
    return answer(200, "text/plain; version=0.0.4", "\n".join(lines).encode())


def refused(status: int, code: str | None, retry_after: float | None) -> bytes:
    """An error response. Zhipu's codes are numbers, and its errors have only a code and a message."""
    headers = [] if retry_after is None else [f"retry-after: {retry_after:g}"]
    if code is not None and code.isdigit():
        error: dict[str, str | None] = {"code": code, "message": f"refused by the load test's fake of Zhipu ({code})"}
    else:
        kind, usual = OPENAI.get(status, ("server_error", None))
        error = {"message": "refused by the load test's fake", "type": kind, "param": None, "code": code or usual}
    return as_json(status, {"error": error}, *headers)


def _chunked(text: str) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text.encode())
