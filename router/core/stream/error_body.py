"""Finds the error object in an answer or event, in the form of any vendor.

{"error": {…}}, {"error": "text", "error_type": …}   OpenAI and most; Text Generation Inference, Ollama
{"detail": …}                                        FastAPI
{"object": "error", "message": …, "code": …}         older vLLM, SGLang: the error itself
{"type": "error", "error": {…}}, [{"error": {…}}]    Anthropic; Google
{"code": …, "msg": …, "success": false}              Zhipu's gateway, with status 200
{"errors": [{"code": …, "message": …}]}              Cloudflare, IBM
{"base_resp": {"status_code": …, "status_msg": …}}   MiniMax
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SUCCESS_CODES = frozenset({"0", "200", "ok", "success", "none", ""})  # in envelopes around good answers
MAX_CODE = 200  # characters of a code: longer ones are none
_MAX_WRAPPINGS = 3  # of lists and `detail` around an error


def error_of(body: Any) -> dict[str, Any] | None:
    """The error object of a decoded body, or one made from its text; None if there is none."""
    for _ in range(_MAX_WRAPPINGS):
        if isinstance(body, list):
            body = body[0] if body else None
        elif isinstance(body, dict) and not body.get("error") and body.get("detail"):
            body = body["detail"]
    if isinstance(body, str):
        return {"message": body} if body else None
    if not isinstance(body, dict):
        return None
    error = body.get("error") or _first(body.get("errors"))
    if isinstance(error, dict):
        return error or None
    if error:
        return {"message": str(error), "type": body.get("error_type"), "code": body.get("code")}
    wrapped = body.get("base_resp")
    if isinstance(wrapped, dict):
        return wrapped
    return body if body.keys() & {"message", "code", "type"} else None


def _first(errors: Any) -> Any:
    return errors[0] if isinstance(errors, list) and errors else None


def codes_of(error: Mapping[str, Any]) -> list[str]:
    """The codes in an error object, the most specific first: reasons in its details (Google), reason, code, type."""
    details = error.get("details")
    found = [it.get("reason") for it in details if isinstance(it, dict)] if isinstance(details, list) else []
    found += [error.get("reason"), error.get("code"), error.get("error_code"), error.get("type")]
    return [str(code)[:MAX_CODE] for code in found if isinstance(code, (str, int, float)) and code != ""]


def message_of(error: Mapping[str, Any]) -> str:
    """The text of an error object for people; empty if it has none."""
    found = (
        error.get("message")
        or error.get("msg")
        or error.get("error")
        or error.get("detail")
        or error.get("status_msg")
        or ""
    )
    return found if isinstance(found, str) else str(found)


def is_error(body: Any) -> bool:
    """True if an answer of status 200, or an event, is an error although it has no `error` key."""
    if not isinstance(body, dict):
        return False
    if body.get("object") == "error" or body.get("type") == "error" or body.get("success") is False:
        return True
    if "choices" in body or "data" in body:
        return False
    if body.keys() == {"detail"}:  # beside other keys, `detail` may describe progress
        return bool(body["detail"])
    return "message" in body and str(body.get("code", 0)).lower() not in _SUCCESS_CODES
