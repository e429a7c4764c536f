"""Finish reasons: which are good ends, which stand for a failure, and how they are renamed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

GOOD = ("stop", "length", "tool_calls")  # nearly all finish reasons
# Finish reasons for an answer that the server could not complete: vLLM and SGLang; DeepSeek; Zhipu; gateways. A client
# would take such an answer for a whole one.
FAILURES = frozenset({"abort", "aborted", "insufficient_system_resource", "network_error", "error", "server_error"}) | {
    "internal_error", "failed", "cancelled", "canceled", "timeout",
}  # fmt: skip
_NO_FINISH = ("null", "None", "none")
# Never matches inside a text, where the quotes have backslashes.
_FINISH_REASON = re.compile(rb'("finish_reason"\s*:\s*)"(\w+)"')


def has_finish(reason: Any) -> bool:
    """True if a `finish_reason` is one. Some adapters write that there is none as a text."""
    return bool(reason) and reason not in _NO_FINISH


def failure(reason: Any) -> dict[str, str] | None:
    """The error that a finish reason stands for; None if the reason is a good end."""
    if isinstance(reason, dict):  # SGLang's own form
        reason = reason.get("type")
    if isinstance(reason, str) and (name := reason.lower()) in FAILURES:
        return {"message": f"finish_reason {name}", "code": name}
    return None


def renamed(data: bytes, finishes: Mapping[str, str]) -> bytes:
    """Replace the finish reasons of an event or answer by those that OpenAI's clients know."""
    return _FINISH_REASON.sub(lambda m: b'%b"%b"' % (m[1], finishes.get(m[2].decode(), m[2].decode()).encode()), data)
