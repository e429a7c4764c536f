"""Log output: the router's messages on standard error and, if enabled, one line per call on standard output.

Each is written by a thread of its own: a terminal, a pipe or a container's log may block, and a call must not. Text
from outside cannot forge a line or steer a terminal: control characters and those that change the direction of writing
are escaped.
"""

from __future__ import annotations

import atexit
import errno
import io
import logging
import os
import select
import sys
import time
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any

import msgspec

from router.core.quote import UNSAFE, escaped
from router.core.record import RECORD_FIELDS, AttemptRecord, CallRecord

MAX_WAITING = 10_000  # lines that wait to be written: some megabytes
CLOSE_TIMEOUT = 2.0  # seconds in which the reader can take the last lines
# In place of a standard file that was closed when the process started: by now its number may stand for another file.
CLOSED = -1

# Errors after which a file will take no more: its reader is gone, or it is no open file.
_FINAL = frozenset((errno.EPIPE, errno.EBADF))

log = logging.getLogger(__name__)
_ALL: dict[str, Lines] = {}  # by name
# Fields that are not copied: a time of the internal clock, which means nothing outside, and the attempts.
_CONVERTED = {"arrived", "attempts"}


class Lines:
    """A queue of lines for a file whose reader may be slow or gone, and whose disk may be full. `put` never waits.

        written ──MAX_WAITING lines wait──► dropped ──all are written──► written
           ├──no room on the disk────────► lost ──room again──► written
           └──closed, or the file has no reader──► ended

    Each transition is logged once. `dropped` counts the lines that were not written, for whatever reason.
    """

    def __init__(self, name: str, file: int, max_waiting: int = MAX_WAITING) -> None:
        self.dropped = 0
        self._name, self._file = name, file
        self._dropping = self._ended = self._over = self._failing = self._torn = False
        self._waiting: Queue[bytes | None] = Queue(max_waiting)
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        _ALL[name] = self

    def put(self, line: bytes) -> None:
        if self._ended:
            self.dropped += 1
            return
        try:
            self._waiting.put_nowait(line)
        except Full:
            self.dropped += 1
            if not self._dropping:
                self._dropping = True
                log.warning("%s: written -> dropped: its reader is too slow", self._name)

    def close(self, within: float = CLOSE_TIMEOUT) -> None:
        """Write the waiting lines, if their reader takes them in time; ignore all later ones."""
        until = time.monotonic() + within
        try:
            self._waiting.put(None, timeout=within)
        except Full:
            pass
        self._ended = True
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            log.warning("%s: written -> ended: its reader did not take the last lines within %g s", self._name, within)

    # The interface of a stream, for the standard library's logging.

    def write(self, text: str) -> None:
        line = text.encode(errors="backslashreplace")
        if line:
            self.put(line)

    def flush(self) -> None: ...

    # In the thread.

    def _run(self) -> None:
        try:
            while not self._over:
                self._write_or_lose(self._take())
                if self._dropping and self._waiting.empty():
                    self._dropping = False
                    log.warning("%s: dropped -> written: %d lines have been dropped so far", self._name, self.dropped)
        except OSError as error:
            self._ended = True
            log.error("%s: written -> ended: %s", self._name, error.strerror or error)

    def _take(self) -> bytes:
        """Wait for a line and return it with all that are queued behind it; None in the queue marks the end."""
        lines, line = [], self._waiting.get()
        while line is not None:
            lines.append(line)
            try:
                line = self._waiting.get_nowait()
            except Empty:
                return b"".join(lines)
        self._over = True
        return b"".join(lines)

    def _write_or_lose(self, data: bytes) -> None:
        """Write lines, or lose them if the file takes none at the moment. Raises OSError if it never will again."""
        lines = data.count(b"\n")
        if self._torn:
            data = b"\n" + data
        left = data
        try:
            while left:
                left = self._write(left)
        except OSError as error:
            if error.errno in _FINAL:
                raise
            self.dropped += min(lines, left.count(b"\n"))
            self._torn = not data[: -len(left)].endswith(b"\n") if left is not data else self._torn
            if not self._failing:
                self._failing = True
                log.warning("%s: written -> lost: %s", self._name, error.strerror or error)
        else:
            self._torn = False
            if self._failing:
                self._failing = False
                log.warning("%s: lost -> written: %d lines have been lost so far", self._name, self.dropped)

    def _write(self, data: bytes) -> bytes:
        """Write what the file takes, and return the rest."""
        try:
            return data[os.write(self._file, data) :]
        except BlockingIOError:  # another process that shares the file has made it non-blocking
            select.select([], [self._file], [])
            return data


def lost_lines() -> dict[str, int]:
    """By log, how many lines were not written."""
    return {name: lines.dropped for name, lines in _ALL.items()}


class Escaping(logging.Formatter):
    """Formats a message as one line. The lines of a traceback that follow it are indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, info: Any) -> str:
        return "\n".join("  " + escaped(line) for line in super().formatException(info).split("\n"))

    def formatStack(self, stack_info: str) -> str:
        return "\n".join("  " + escaped(line) for line in super().formatStack(stack_info).split("\n"))


class Output(io.TextIOBase):
    """A text stream whose writes go to Lines."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._lines.write(text)
        return len(text)


def take_over() -> None:
    """Replace `sys.stderr` by a queue of lines, so that no write of this process to standard error blocks or fails."""
    _keep_standard_files_open()
    messages = Lines("standard error", 2 if sys.stderr is not None else CLOSED)
    atexit.register(messages.close)
    sys.stderr = Output(messages)


def _keep_standard_files_open() -> None:
    """Open /dev/null under the numbers 0 to 2 that are free: libuv aborts the process if it has a socket there."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(file)


def configure(level: str) -> None:
    """Send the router's messages to `sys.stderr`, with time and level."""
    handler = logging.StreamHandler()
    handler.setFormatter(Escaping("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class AccessLog:
    """`ended` is a sink that writes the record, which holds no prompt and no answer, as JSON to standard output."""

    def __init__(self, file: int | None = None) -> None:
        self._lines = Lines("access log", file if file is not None else 1 if sys.stdout is not None else CLOSED)

    def ended(self, record: CallRecord) -> None:
        line: dict[str, Any] = {name: getattr(record, name) for name in RECORD_FIELDS if name not in _CONVERTED}
        line["attempts"] = [_attempt(attempt, record.arrived) for attempt in record.attempts]
        if record.malformed is not None:
            line["malformed"] = record.malformed
        text = msgspec.json.encode(line)
        if not text.isascii() or b"\x7f" in text:  # JSON itself escapes only what is below 0x20
            text = UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text.decode()).encode()
        self._lines.put(text + b"\n")

    def close(self) -> None:
        self._lines.close()


def _attempt(attempt: AttemptRecord, arrived: float) -> dict[str, Any]:
    """An attempt as JSON; times are in seconds since the call arrived."""
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
