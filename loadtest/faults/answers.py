"""What a healthy fake endpoint says: a pure function of the prompt and the endpoint's voice, whole or in chunks."""

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

WORDS = 60  # of an answer; each is a token
VOCABULARY = (
    *("answer", "bridge", "candle", "distant", "ember", "forest", "garden", "harbour", "island", "journey", "kindle"),
    *("lantern", "meadow", "northern", "orchard", "pebble", "quiet", "river", "shelter", "timber", "under", "winter"),
)


def answer_to(messages: Sequence[Json], voice: str = "") -> str:
    """Sixty words that follow from the conversation up to the last message that is not the assistant's."""
    asked = list(messages)
    while asked and asked[-1].get("role") == "assistant":
        asked.pop()
    said = json.dumps([voice, [[each.get("role"), each.get("content")] for each in asked]])
    rng = Random(hashlib.sha256(said.encode()).digest())
    return " ".join(rng.choice(VOCABULARY) for _ in range(WORDS))


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\s?\S+", text)


def rest_of(messages: Sequence[Json], text: str) -> str:
    """What is still to be said: a last message of the assistant's that begins the answer is gone on with."""
    last = messages[-1] if messages else {}
    begun = last.get("content") if last.get("role") == "assistant" else None
    return text[len(begun) :] if isinstance(begun, str) and text.startswith(begun) else text


def length_of(messages: Sequence[Json]) -> int:
    """Tokens of a prompt, roughly: words, and four for each message's frame."""
    return sum(len(str(each.get("content") or "").split()) + 4 for each in messages)


@dataclass
class Answer:
    """A healthy answer's parts, as OpenAI shapes them."""

    id: str
    model: str
    text: str
    prompt_tokens: int

    @property
    def tokens(self) -> list[str]:
        return tokens_of(self.text)

    @property
    def usage(self) -> dict[str, int]:
        asked, said = self.prompt_tokens, len(self.tokens)
        return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}

    def chunk(self, delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {**self.frame("chat.completion.chunk"), "choices": [choice]}

    def whole(self) -> Json:
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**self.frame("chat.completion"), "choices": [choice], "usage": self.usage}

    def frame(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": int(time.time()), "model": self.model}
