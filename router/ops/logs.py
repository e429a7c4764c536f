"""One line of JSON a call, for those that want it: the record without what was said."""

from __future__ import annotations

import logging
import sys

import msgspec

from router.core.record import CallRecord

_encode = msgspec.json.Encoder(decimal_format="number").encode


def configure(level: str) -> None:
    """Our own messages, to standard error: time, level, what."""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)-7s %(message)s", force=True
    )
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def write_call(record: CallRecord) -> None:
    """A sink: the record as one line on standard output."""
    sys.stdout.buffer.write(_encode(record) + b"\n")
    sys.stdout.buffer.flush()
