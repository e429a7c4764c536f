"""Reads and rewrites the JSON of one chunk of a stream: its choices, and the texts in them.

A *part* says where a text stands in a choice: ("content",), or ("tool_calls", 0, "arguments").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from router.core.stream.lines import data_of

Part = tuple[str | int, ...]
Json = dict[str, Any]

_FUNCTION_CALL_KEYS = frozenset(("index", "id", "type", "function"))  # of a call to a tool that is a function

_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode


class Diverged(ValueError):
    """Two streams cannot be joined to one answer; the message says why."""


def decoded(event: bytes) -> Json | None:
    """The chunk in an event; None for a comment and for [DONE]. Raises Diverged if it cannot be read as a chunk."""
    data = data_of(event)
    if not data or data[:6] == b"[DONE]":
        return None
    try:
        chunk = _decode(data)
    # Half of a surrogate pair, or 1e999: the scanner does not decode such values.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Diverged("an event cannot be read") from None
    if not isinstance(chunk, dict) or not isinstance(chunk.get("choices", []), list | None):
        raise Diverged("an event is not a chunk of a completion")
    return chunk


def encoded(chunk: Json) -> bytes:
    """The event of a chunk."""
    return b"data: " + _encode(chunk) + b"\n\n"


def choices_of(chunk: Json) -> Iterable[tuple[int, Json]]:
    """The choices of a chunk, each with its index."""
    for choice in chunk.get("choices") or ():
        if isinstance(choice, dict):
            index = choice.get("index")
            yield index if isinstance(index, int) else 0, choice


def texts_of(choice: Json) -> dict[Part, str]:
    """The texts of a choice by part. A tool call counts from its first chunk on, with an empty name if it has none."""
    delta = choice.get("delta")
    begun: dict[Part, str] = {}
    found: dict[Part, str] = {}
    if isinstance(choice.get("text"), str):
        found["text",] = choice["text"]
    if isinstance(delta, dict):
        for name, value in delta.items():
            if name == "tool_calls":
                for place, call in _calls(delta):
                    begun[name, place, "name"] = ""
                    found |= {(name, place, key): text for key, text in _function(call.get("function"))}
            elif name == "function_call":
                found |= {(name, key): text for key, text in _function(value)}
            elif isinstance(value, str) and name != "role":
                found[name,] = value
    return begun | {part: text for part, text in found.items() if text}


def has_other_output(choice: Json) -> bool:
    """True if a choice has output that is not text: audio, or a call of a tool that is not a function."""
    delta = choice.get("delta")
    if delta is None:
        return False
    if not isinstance(delta, dict):
        return True
    others = (value for name, value in delta.items() if name not in ("tool_calls", "function_call"))
    return any(value and not isinstance(value, str) for value in others) or not all(
        _is_text(call) for _, call in _calls(delta)
    )


def _is_text(call: Json) -> bool:
    """True if a tool call is a function's, and its name and arguments are strings."""
    function = call.get("function") or {}
    if not isinstance(function, dict) or not all(isinstance(value, str) for value in function.values() if value):
        return False
    return not any(value for name, value in call.items() if name not in _FUNCTION_CALL_KEYS)


def reduced(choice: Json, missing: dict[Part, str], known: set[Part], *, others: bool) -> Json | None:
    """The rest of a choice of which the client has the parts `known`; None if nothing is left.

    Only the `missing` texts are kept, and nothing that is sent once (a role, the id of a known tool call). `others`:
    keep output that is not text, too.
    """
    left = dict(choice)
    if "text" in left:
        left["text"] = missing.get(("text",), "")
    delta = choice.get("delta")
    if isinstance(delta, dict):
        new: Json = {}
        for name, value in delta.items():
            if name == "tool_calls":
                calls = [
                    rest for at, call in _calls(delta) if (rest := _reduced_call(at, call, missing, known)) is not None
                ]
                new |= {name: calls} if calls else {}
            elif name == "function_call":
                function = {str(part[1]): text for part, text in missing.items() if part[0] == name}
                new |= {name: function} if function else {}
            elif isinstance(value, str):
                new |= {name: missing[name,]} if (name,) in missing else {}
            elif others:
                new[name] = value
        left["delta"] = new
    return left if missing or left.get("finish_reason") or (others and left.get("delta")) else None


def _reduced_call(place: int, call: Json, missing: dict[Part, str], known: set[Part]) -> Json | None:
    """The rest of a tool call, without the id if the client has it: an SDK would append a second id to the first."""
    if not any(part[:2] == ("tool_calls", place) for part in known):
        return call
    rest = {str(part[2]): text for part, text in missing.items() if part[:2] == ("tool_calls", place)}
    return {"index": place, "function": rest} if rest else None


def _calls(delta: Json) -> Iterable[tuple[int, Json]]:
    """The tool calls of a delta, each with its index."""
    calls = delta.get("tool_calls")
    for place, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            index = call.get("index")
            yield index if isinstance(index, int) else place, call


def _function(function: object) -> Iterable[tuple[str, str]]:
    """The keys of a function call that are strings: name and arguments."""
    if isinstance(function, dict):
        yield from ((key, value) for key, value in function.items() if isinstance(value, str))


def with_text(choice: Json, text: str) -> Json:
    """The choice with another text."""
    if "text" in choice:
        return {**choice, "text": text}
    delta = choice.get("delta")
    return {**choice, "delta": {**(delta if isinstance(delta, dict) else {}), "content": text}}


def combined_usage(usage: Json, before: int) -> Json:
    """The usage as if one endpoint had given the whole answer: the `before` tokens that the first endpoint generated
    count as completion, although the second endpoint had them in its prompt.
    """
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return usage
    prompt, completion = max(0, prompt - before), completion + before
    return usage | {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
