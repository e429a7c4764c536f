"""Judges what an endpoint reports of itself: an error body, an error event, a redirect, a Retry-After."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

from router.core.quote import quoted
from router.core.stream.error_body import error_of, message_of
from router.core.verdict import OURS, Outcome, Verdict, doubt_of
from router.dialects.base import Dialect
from router.upstream.masking import Mask

MAX_RETRY_AFTER = 86_400.0  # seconds: a day; some servers send `inf`
MAX_CODE = 40  # characters of an error's code that a reason repeats


def judged(dialect: Dialect, mask: Mask, status: int, body: Any, retry_after: float | None, where: str) -> Outcome:
    """The outcome that a dialect reads from a status and an error body; `where` begins its reason."""
    cause, retry_after = judgement = dialect.judge(status, body, retry_after, time.time())
    verdict = judgement.verdict
    passing = verdict is Verdict.BUSY or (verdict is Verdict.FAULT and cause not in OURS and not 300 <= status < 500)
    code, message = _words_of(body, mask)
    doubt = doubt_of(status, cause, retry_after=retry_after is not None)
    return Outcome(verdict, f"{where}{code}", retry_after, cause, passing=passing, doubt=doubt, message=message)


def _words_of(body: Any, mask: Mask) -> tuple[str, str]:
    """The error's code, as it is appended to a reason, and the error's own text; both empty if there is none.

    Both come from outside, and may repeat a key of ours. The text may repeat a prompt too, so that only the client that
    sent it, and the operator's log of faults, see it.
    """
    error = error_of(body)
    if error is None:
        return "", ""
    code = error.get("code")
    shown = f" ({quoted(mask.text(str(code)))[:MAX_CODE]})" if isinstance(code, (str, int)) and code else ""
    return shown, quoted(mask.text(message_of(error)))


def retry_after_of(name: bytes, value: bytes, known: float | None) -> float | None:
    """The seconds in a header; `known` is the value of an earlier one. `retry-after-ms` takes precedence over
    `retry-after`, which holds a number of seconds or a date (RFC 9110 §10.2.3).
    """
    text = value.decode("latin-1").strip()
    try:
        if name == b"retry-after-ms":
            return min(max(0.0, float(text) / 1000), MAX_RETRY_AFTER)
        if name == b"retry-after" and known is None:
            return min(max(0.0, float(text)), MAX_RETRY_AFTER)
    except ValueError:
        try:
            return min(max(0.0, parsedate_to_datetime(text).timestamp() - time.time()), MAX_RETRY_AFTER)
        except (ValueError, OverflowError):
            return known
    return known
