"""The JSON of events and answers, as the decoders see it: data only.

msgspec needs the annotations of these structs at run time, so this module is never compiled.
"""

from __future__ import annotations

from typing import Any

import msgspec


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class Usage(msgspec.Struct, gc=False):
    """The token counts of an answer. A server may send any value; one that is no count reads as None."""

    prompt: Any = msgspec.field(default=None, name="prompt_tokens")
    completion: Any = msgspec.field(default=None, name="completion_tokens")

    @property
    def prompt_tokens(self) -> int | None:
        return _count(self.prompt)

    @property
    def completion_tokens(self) -> int | None:
        return _count(self.completion)


AnyUsage = Usage | str | bool | int | float | list[Any] | None


# ---- Events up to the first token


class Delta(msgspec.Struct, gc=False):
    """The fields of a delta that may hold output."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None

    @property
    def has_output(self) -> bool:
        return bool(
            self.content
            or self.reasoning_content
            or self.tool_calls
            or self.reasoning
            or self.refusal
            or self.function_call
            or self.audio
        )


class Choice(msgspec.Struct, gc=False):
    """A choice of a chat completion chunk, or of a completion's (`text`)."""

    index: Any = 0
    delta: Delta | None = None
    text: Any = None
    finish_reason: Any = None

    @property
    def has_output(self) -> bool:
        return bool(self.text or (self.delta is not None and self.delta.has_output))


class Event(msgspec.Struct, gc=False):
    """An event that may hold the first token."""

    choices: list[Choice] | None = None
    usage: AnyUsage = None
    error: Any = None


# ---- Events after the first token


class Finish(msgspec.Struct, gc=False):
    """A choice of a later event: only its end matters."""

    index: Any = 0
    finish_reason: Any = None
    has_output = False


class LaterEvent(msgspec.Struct, gc=False):
    """An event after the first token; its text is not decoded."""

    choices: list[Finish] | None = None
    usage: AnyUsage = None
    error: Any = None


# ---- Answers that do not stream


class Answer(msgspec.Struct, gc=False):
    """The usage and the error of an answer that does not stream."""

    usage: AnyUsage = None
    error: Any = None


# ---- Events for a transcript


class Content(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A delta with text only. Many servers send the other fields too, as null."""

    content: str
    role: str | None = None
    refusal: None = None
    reasoning_content: None = None
    reasoning: None = None
    tool_calls: None = None
    function_call: None = None


class ContentChoice(msgspec.Struct, gc=False):
    """A choice with text only."""

    delta: Content
    index: int = 0
    text: None = None
    finish_reason: None = None


class Token(msgspec.Struct, gc=False):
    """An event with text of one choice and nothing else, as nearly every event is; any other fails to decode."""

    choices: tuple[ContentChoice]


read_event = msgspec.json.Decoder(Event).decode
read_later_event = msgspec.json.Decoder(LaterEvent).decode
read_answer = msgspec.json.Decoder(Answer).decode
read_token = msgspec.json.Decoder(Token).decode
