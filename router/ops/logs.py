"""What goes to standard error and, for those that want it, to standard output: our own messages, and a line a call.

Both are written by a thread, because a terminal, a pipe or a container's log may take its time, and a call must not.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import sys
import time
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any

import msgspec

from router.core.record import RECORD_FIELDS, AttemptRecord, CallRecord

MOST = 10_000  # lines that wait to be written: some megabytes
LAST_MOMENT = 2.0  # seconds that a reader is given at the end
CLOSED = -1  # in the place of a standard file that we were started without: its number may be another's by now

log = logging.getLogger(__name__)
_OWN = {"arrived", "attempts"}  # a time of a clock that means nothing elsewhere; and what is told apart


class Lines:
    """Lines for a file that may be read late, or no more: what does not fit is dropped and counted, and `put` never
    waits.

        written ──MOST wait──► dropped ──all are written──► written        either is said once
           └──closed, or nobody reads──► ended      said once too; what comes then is passed over
    """

    def __init__(self, name: str, file: int, most: int = MOST) -> None:
        self.dropped = 0
        self._name, self._file = name, file
        self._dropping = self._ended = self._over = False
        self._waiting: Queue[bytes | None] = Queue(most)
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        if self._ended:
            return
        try:
            self._waiting.put_nowait(line)
        except Full:
            self.dropped += 1
            if not self._dropping:
                self._dropping = True
                log.warning("%s: written -> dropped: its reader is late", self._name)

    def close(self, within: float = LAST_MOMENT) -> None:
        """Write what waits, if it is read soon; what comes from now on is passed over."""
        until = time.monotonic() + within
        try:
            self._waiting.put(None, timeout=within)
        except Full:
            pass
        self._ended = True
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            log.warning("%s: written -> ended: the last lines were not read within %g s", self._name, within)

    # As a stream of the standard library's logging.

    def write(self, text: str) -> None:
        self.put(text.encode(errors="backslashreplace"))

    def flush(self) -> None: ...

    # In its thread.

    def _run(self) -> None:
        try:
            while not self._over:
                self._write(self._take())
                if self._dropping and self._waiting.empty():
                    self._dropping = False
                    log.warning("%s: dropped -> written: %d lines are missing by now", self._name, self.dropped)
        except OSError as error:
            self._ended = True
            log.error("%s: written -> ended: %s", self._name, error.strerror or error)

    def _take(self) -> bytes:
        """The next lines; after None there are no more."""
        lines, line = [], self._waiting.get()
        while line is not None:
            lines.append(line)
            try:
                line = self._waiting.get_nowait()
            except Empty:
                return b"".join(lines)
        self._over = True
        return b"".join(lines)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except BlockingIOError:  # whoever shares the file made it so
                select.select([], [self._file], [])


def configure(level: str) -> None:
    """Our own messages, to standard error: time, level, what."""
    messages = Lines("standard error", 2 if sys.stderr is not None else CLOSED)
    atexit.register(messages.close)
    logging.basicConfig(
        stream=messages, level=level.upper(), format="%(asctime)s %(levelname)-7s %(message)s", force=True
    )
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class AccessLog:
    """`ended` is a sink: the record, without what was said, as one line of JSON on standard output."""

    def __init__(self, file: int | None = None) -> None:
        self._lines = Lines("access log", file if file is not None else 1 if sys.stdout is not None else CLOSED)

    def ended(self, record: CallRecord) -> None:
        line: dict[str, Any] = {name: getattr(record, name) for name in RECORD_FIELDS if name not in _OWN}
        line["attempts"] = [_attempt(attempt, record.arrived) for attempt in record.attempts]
        self._lines.put(msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        self._lines.close()


def _attempt(attempt: AttemptRecord, arrived: float) -> dict[str, Any]:
    """Times in seconds since the call came."""
    outcome = attempt.outcome
    cause = None if outcome is None else outcome.cause
    return {
        "endpoint": attempt.endpoint.name,
        "model": attempt.endpoint.model,
        "role": attempt.role,
        "began": attempt.began - arrived,
        "first_token": None if attempt.first_token_at is None else attempt.first_token_at - arrived,
        "ended": None if attempt.ended is None else attempt.ended - arrived,
        "verdict": None if outcome is None else outcome.verdict.value,
        "cause": None if cause is None else cause.value,
        "reason": "" if outcome is None else outcome.reason,
    }
