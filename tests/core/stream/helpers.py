"""Shared by the tests of a broken answer: chunks as events, and what is in them."""

from __future__ import annotations

import json
from typing import Any

from router.core.stream.lines import data_of, split
from router.core.stream.transcript import Transcript

DONE = b"data: [DONE]\n\n"
Json = dict[str, Any]


def sse(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chunk(index: int = 0, *, id: str = "one", finish: str | None = None, **delta: Any) -> bytes:
    """The event of one choice of a chat completion."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return sse({"id": id, "created": 1, "model": f"of-{id}", "choices": [choice]})


def transcript_of(*events: bytes) -> Transcript:
    transcript = Transcript()
    for event in events:
        transcript.note(event)
    return transcript


def chunks_in(data: bytes) -> list[Json]:
    datas = [data_of(event) for event in split(data)]
    return [json.loads(payload) for payload in datas if payload and payload != b"[DONE]"]


def deltas(data: bytes) -> list[Json]:
    return [choice.get("delta", {}) for chunk in chunks_in(data) for choice in chunk["choices"]]


def text(data: bytes, part: str = "content", index: int = 0) -> str:
    choices = [choice for chunk in chunks_in(data) for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice.get("delta", {}).get(part) or "" for choice in choices)


def cut(whole: str, places: list[int]) -> list[str]:
    """A text in pieces."""
    places = sorted({place % (len(whole) + 1) for place in places})
    return [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True) if a < b]
