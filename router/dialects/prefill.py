"""Requests to continue a text: the text becomes the last message, with a mark that it is unfinished.

    continue_final_message    vLLM (its PR 8942), SGLang, TGI
    prefix                    DeepSeek (its beta address), Mistral
    partial                   Moonshot, Qwen
    trailing                  llama.cpp, LMDeploy, OpenRouter: a last message of the assistant is enough

OpenAI and Zhipu cannot do this for chats. A completion needs no mark: the text is appended to its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from router.core.call import Call, Fields

Prefill = Literal["continue_final_message", "prefix", "partial", "trailing"]


_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


# Keys that each way adds to the message, and to the request.
_WAYS: Mapping[Prefill, tuple[dict[str, Any], dict[str, Any]]] = {
    "continue_final_message": ({}, {"continue_final_message": True, "add_generation_prompt": False}),
    "prefix": ({"prefix": True}, {}),
    "partial": ({"partial": True}, {}),
    "trailing": ({}, {}),
}


def going_on(call: Call, text: str, tokens: int, prefill: Prefill | None) -> Call | None:
    """The call that asks for the continuation of `text`, which has about `tokens` tokens; None if the endpoint cannot.

    The caller strips white space from the end of `text`: a template may add its own there.
    """
    fields = call.fields.copy()
    if not _extend(call, fields, text, prefill):
        return None
    for name in ("max_tokens", "max_completion_tokens"):
        limit = _value(fields.get(name))
        if isinstance(limit, int):
            fields[name] = _raw(max(1, limit - tokens))
    return msgspec.structs.replace(call, fields=fields, body=msgspec.json.encode(fields))


def _extend(call: Call, fields: Fields, text: str, prefill: Prefill | None) -> bool:
    if call.operation == "completions":
        prompt = _value(fields.get("prompt"))
        if not isinstance(prompt, str):
            return False
        fields["prompt"] = _raw(prompt + text)
        return True
    messages = _messages(fields)
    if prefill is None or messages is None:
        return False
    of_message, of_request = _WAYS[prefill]
    fields["messages"] = _raw([*messages, {"role": "assistant", "content": text} | of_message])
    fields.update({name: _raw(value) for name, value in of_request.items()})
    return True


def _messages(fields: Fields) -> list[msgspec.Raw] | None:
    """The messages, each as its own bytes; None if they cannot be split."""
    try:
        return _split(fields.get("messages", b""))
    except (msgspec.DecodeError, RecursionError):
        return None


def _value(raw: msgspec.Raw | None) -> Any:
    """The decoded value; None if it cannot be decoded, in which case the endpoint may refuse it."""
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
