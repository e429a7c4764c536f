"""The JSON of events and answers, as the decoders see it: data only.

msgspec needs the annotations of these structs at run time, so this module is never compiled.
"""

from __future__ import annotations

import json
from math import inf
from typing import Any, TypeVar

import msgspec

from router.core.stream.finish import has_finish

T = TypeVar("T")
MAX_LENIENT = 1 << 20  # bytes or characters: about 10 ms
MAX_DIGITS = 4000  # of a whole number: Python refuses more than 4,300 digits, and no reader needs them
MAX_TOKENS = 1 << 31  # the most tokens that one answer can credibly report


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


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


def counts(usage: AnyUsage) -> bool:
    """True if a usage has a count: a heartbeat may carry an empty one."""
    return isinstance(usage, Usage) and bool(usage.prompt_tokens or usage.completion_tokens)


AnyUsage = Usage | str | bool | int | float | list[Any] | None


# ---- Events that are looked at closely: up to the first token, and from the first finish reason on


class Choice(msgspec.Struct, gc=False):
    """A choice of a chat completion chunk, or of a completion's (`text`)."""

    index: Any = 0
    delta: dict[str, Any] | None = None
    text: Any = None
    finish_reason: Any = None

    @property
    def has_output(self) -> bool:
        """Any value but the role is output, whatever its name: vendors find new names for reasoning and the like."""
        if self.text:
            return True
        if self.delta is not None:
            for name, value in self.delta.items():
                if value and name != "role":
                    return True
        return False

    @property
    def progresses(self) -> bool:
        """True if the server is at work on this choice. vLLM sends empty deltas while it holds a tool call back."""
        return self.delta == {} or self.has_output or has_finish(self.finish_reason)


class Event(msgspec.Struct, gc=False):
    """An event that may hold the first token."""

    choices: list[Choice] | None = None
    usage: AnyUsage = None
    error: Any = None


# ---- Events between the two


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


def has_output(event: dict[str, Any]) -> bool:
    """True if a decoded answer, or an event of an unknown form, has output: any value of a choice but the role."""
    choices = event.get("choices")
    if isinstance(choices, dict):
        return _says(choices)
    return isinstance(choices, list) and any(map(_says, choices))


def _says(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return bool(choice)
    if choice.get("text"):
        return True
    output = choice.get("delta") or choice.get("message")
    if isinstance(output, dict):
        return any(value for name, value in output.items() if name != "role")
    return bool(output)


# ---- Answers that do not stream


class Answer(msgspec.Struct, gc=False):
    """A chat completion or a completion: of its choices, only whether there are any, and how they ended."""

    choices: list[Finish] | None = None
    usage: AnyUsage = None
    error: Any = None

    @property
    def content(self) -> list[Any] | None:
        return self.choices


class Item(msgspec.Struct, gc=False):
    """An embedding; nothing of it is decoded."""


class Embeddings(msgspec.Struct, gc=False):
    """An answer with embeddings that was read leniently: only whether there are any."""

    data: list[Item] | None = None
    usage: AnyUsage = None
    error: Any = None
    choices = None

    @property
    def content(self) -> list[Any] | None:
        return self.data


class Vector(msgspec.Struct, gc=False):
    """An embedding as it stands in the answer."""

    embedding: msgspec.Raw = msgspec.Raw()


class Vectors(msgspec.Struct, gc=False):
    """An answer with embeddings: only whether there are any, and whether they are empty."""

    data: list[Vector] | None = None
    usage: AnyUsage = None
    error: Any = None
    choices = None

    @property
    def content(self) -> list[Any] | None:
        data = self.data or ()
        return self.data if any(bytes(v.embedding).strip(b'[]" \t\r\n') not in (b"", b"null") for v in data) else None


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


Error = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # of the strict decoders; of JSON they cannot read


def read_leniently(data: bytes | str) -> Any:
    """JSON as Python's own reader, and so openai-python, takes it. Raises ValueError.

    The strict decoders refuse NaN, halves of surrogate pairs and numbers out of range; as bytes also a byte order mark
    and UTF-16.
    """
    if len(data) > MAX_LENIENT:
        raise ValueError("too long to be read leniently")
    try:
        return json.loads(data, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def decoded(data: bytes) -> Any:
    """The value of any JSON; None if it is not JSON."""
    try:
        return msgspec.json.decode(data)
    except Error:
        pass
    try:
        return read_leniently(data)
    except ValueError:
        return None


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) < MAX_DIGITS else inf


def convert(value: Any, kind: type[T]) -> T:
    """A value that was read leniently, as one of the structs. Raises msgspec.ValidationError."""
    try:
        return msgspec.convert(value, kind)
    except UnicodeEncodeError:  # half of a surrogate pair in a name
        raise msgspec.ValidationError("a name cannot be encoded") from None


read_event = msgspec.json.Decoder(Event).decode
read_later_event = msgspec.json.Decoder(LaterEvent).decode
read_answer = msgspec.json.Decoder(Answer).decode
read_embeddings = msgspec.json.Decoder(Vectors).decode
read_token = msgspec.json.Decoder(Token).decode
