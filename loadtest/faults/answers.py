"""Answers of the healthy fake endpoint: a pure function of the prompt and the endpoint's voice, whole or in chunks."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Json = dict[str, Any]

WORDS = 60  # words of an answer; each is one token
VOCABULARY = (
    *("answer", "bridge", "candle", "distant", "ember", "forest", "garden", "harbour", "island", "journey", "kindle"),
    *("lantern", "meadow", "northern", "orchard", "pebble", "quiet", "river", "shelter", "timber", "under", "winter"),
)


def answer_to(messages: Sequence[Json], voice: str = "") -> str:
    """Sixty words determined by the voice and the conversation, without the assistant's messages at its end."""
    asked = list(messages)
    while asked and asked[-1].get("role") == "assistant":
        asked.pop()
    seed = json.dumps([voice, [[each.get("role"), each.get("content")] for each in asked]])
    rng = Random(hashlib.sha256(seed.encode()).digest())
    return " ".join(rng.choice(VOCABULARY) for _ in range(WORDS))


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\s?\S+", text)


def rest_of(messages: Sequence[Json], text: str) -> str:
    """The part of the answer still to send: an assistant's last message that begins the answer is continued."""
    last = messages[-1] if messages else {}
    begun = last.get("content") if last.get("role") == "assistant" else None
    return text[len(begun) :] if isinstance(begun, str) and text.startswith(begun) else text


def length_of(messages: Sequence[Json]) -> int:
    """The approximate number of tokens in a prompt: its words, and four tokens per message."""
    return sum(len(str(each.get("content") or "").split()) + 4 for each in messages)


@dataclass
class Answer:
    """One healthy answer, in the form of OpenAI's API."""

    id: str
    model: str
    text: str
    prompt_tokens: int

    @property
    def tokens(self) -> list[str]:
        return tokens_of(self.text)

    @property
    def usage(self) -> dict[str, int]:
        prompt, completion = self.prompt_tokens, len(self.tokens)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def chunk(self, delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {**self.frame("chat.completion.chunk"), "choices": [choice]}

    def whole(self) -> Json:
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**self.frame("chat.completion"), "choices": [choice], "usage": self.usage}

    def frame(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": int(time.time()), "model": self.model}
