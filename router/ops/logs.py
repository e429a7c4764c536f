"""One line of JSON a call, for those that want it: the record without what was said."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec

from router.core.record import AttemptRecord, CallRecord

_OWN = {"arrived", "attempts"}  # a time of a clock that means nothing elsewhere; and what is told apart


def configure(level: str) -> None:
    """Our own messages, to standard error: time, level, what."""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)-7s %(message)s", force=True
    )
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def write_call(record: CallRecord) -> None:
    """A sink: the record as one line on standard output."""
    line: dict[str, Any] = {name: getattr(record, name) for name in record.__struct_fields__ if name not in _OWN}
    line["attempts"] = [_attempt(attempt, record.arrived) for attempt in record.attempts]
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def _attempt(attempt: AttemptRecord, arrived: float) -> dict[str, Any]:
    """Times in seconds since the call came."""
    return {
        "endpoint": attempt.endpoint.name,
        "model": attempt.endpoint.model,
        "role": attempt.role,
        "began": attempt.began - arrived,
        "first_token": None if attempt.first_token_at is None else attempt.first_token_at - arrived,
        "ended": None if attempt.ended is None else attempt.ended - arrived,
        "verdict": attempt.verdict.value if attempt.verdict is not None else None,
        "reason": attempt.reason,
    }
