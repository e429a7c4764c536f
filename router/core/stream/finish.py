"""Finish reasons: which are good ends, which stand for a failure, and how they are renamed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

GOOD = ("stop", "length", "tool_calls")  # nearly all finish reasons
# Finish reasons for an answer that the server could not complete: `abort` (vLLM and SGLang), `error` and its compounds
# (gateways), `insufficient_system_resource` (DeepSeek), `network_error` (Zhipu), `MALFORMED_FUNCTION_CALL` (Google). A
# client would take such an answer for a whole one. Each vendor has names of its own, so they are known by their words.
_FAILED = re.compile(
    r"abort|error|fail|cancel|time_?d?_?out|exception|interrupt|crash|kill|evict|preempt|shut_?down|disconnect"
    r"|insufficient_(?:system_)?resource|out_of_memory|(?:^|_)oom(?:$|_)|overload|unavailable|malformed|unexpected"
    r"|rate_?limit|connection_(?:lost|closed|reset)"
)
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[\s-]+")  # where one word ends and the next begins
MAX_REASON = 60  # characters of a finish reason that are read
# JavaScript, Python, Go; Google; relays.
_NO_FINISH = frozenset({"", "null", "none", "nil", "undefined", "false", "nan", "n/a"}) | {
    "finish_reason_unspecified", "unspecified", "unfinished", "not_finished", "in_progress",
}  # fmt: skip
# Never matches inside a text, where the quotes have backslashes.
_FINISH_REASON = re.compile(rb'("finish_reason"\s*:\s*)"(\w+)"')


def has_finish(reason: Any) -> bool:
    """True if a `finish_reason` is one. Some adapters write that there is none as a text."""
    if isinstance(reason, dict):  # SGLang's own form
        reason = reason.get("type")
    if isinstance(reason, str):
        return reason.strip().lower() not in _NO_FINISH
    return bool(reason)


def failure(reason: Any) -> dict[str, str] | None:
    """The error that a finish reason stands for; None if the reason is a good end."""
    if isinstance(reason, dict):  # SGLang's own form
        reason = reason.get("type")
    if isinstance(reason, str) and _FAILED.search(name := _WORDS.sub("_", reason[:MAX_REASON]).lower()):
        return {"message": f"finish_reason {reason[:MAX_REASON]}", "code": name}
    return None


def renamed(data: bytes, finishes: Mapping[str, str]) -> bytes:
    """Replace the finish reasons of an event or answer by those that OpenAI's clients know."""
    return _FINISH_REASON.sub(lambda m: b'%b"%b"' % (m[1], finishes.get(m[2].decode(), m[2].decode()).encode()), data)
