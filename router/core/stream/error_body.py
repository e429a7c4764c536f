"""The error in what an endpoint said, whatever its shape.

{"error": {…}}, {"error": "text", "error_type": …}   OpenAI and most; Text Generation Inference, Ollama
{"detail": …}                                        FastAPI
{"object": "error", "message": …, "code": …}         older vLLM, SGLang: the error itself
{"type": "error", "error": {…}}, [{"error": {…}}]    Anthropic; Google
{"code": …, "msg": …, "success": false}              Zhipu's gateway, with status 200
"""

from __future__ import annotations

from typing import Any

_FINE = frozenset({"0", "200", "ok", "success", "none", ""})  # codes of envelopes around what is well


def error_of(said: Any) -> dict[str, Any] | None:
    """Its error object, or one made of what is there; None where there is none."""
    for _ in range(3):  # no more wrappings than that
        if isinstance(said, list):
            said = said[0] if said else None
        elif isinstance(said, dict) and not said.get("error") and said.get("detail"):
            said = said["detail"]
    if isinstance(said, str):
        return {"message": said} if said else None
    if not isinstance(said, dict):
        return None
    error = said.get("error")
    if isinstance(error, dict):
        return error or None
    if error:
        return {"message": str(error), "type": said.get("error_type"), "code": said.get("code")}
    return said if said.keys() & {"message", "code", "type"} else None


def is_error(said: Any) -> bool:
    """Whether an answer of status 200, or an event, is an error though it has no key that says so."""
    if not isinstance(said, dict):
        return False
    if said.get("object") == "error" or said.get("type") == "error" or said.get("success") is False:
        return True
    if "choices" in said or "data" in said:
        return False
    if said.keys() == {"detail"}:  # with others beside it, it may be progress that is told
        return bool(said["detail"])
    return "message" in said and str(said.get("code", 0)).lower() not in _FINE
