"""Log lines, written by a thread: a slow or missing reader blocks no call, and is logged once."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from router.core.endpoint.endpoint import Endpoint
from router.core.record import CallRecord
from router.core.verdict import Outcome, Verdict
from router.ops.logs import CLOSED, AccessLog, Escaping, Lines, lost_lines

PIPE = 65_536  # bytes that a pipe holds, by Linux's default


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            pass


def until(condition: Callable[[], object]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + 10.0
        time.sleep(0.001)


def read(reader: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(reader, size - len(data))
    return data


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_lines_are_written_whole_and_in_order(pipe: tuple[int, int]) -> None:
    lines = Lines("here", pipe[1])
    put = [b"line %d\n" % number for number in range(1000)]
    for line in put:
        lines.put(line)
    lines.close()
    os.close(pipe[1])
    assert os.read(pipe[0], PIPE) == b"".join(put)
    assert (lines.dropped, lines._thread.is_alive()) == (0, False)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_slow_reader_blocks_nothing_and_loses_lines_and_that_is_logged(
    pipe: tuple[int, int], blocking: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    os.set_blocking(pipe[1], blocking)
    lines, line = Lines("here", pipe[1], max_waiting=100), b"x" * 999 + b"\n"
    lines.put(b"first\n")
    assert read(pipe[0], 6) == b"first\n"
    for _ in range(PIPE // len(line) + 1):
        lines.put(line)
    until(lambda: lines._waiting.empty())  # the thread has taken all lines; the pipe is full and has not taken the last
    for _ in range(500):
        lines.put(line)
    assert lines.dropped == 400
    assert messages(caplog) == ["here: written -> dropped: its reader is too slow"]
    read(pipe[0], (PIPE // len(line) + 1 + 100) * len(line))
    until(lambda: len(caplog.records) == 2)
    assert messages(caplog)[1] == "here: dropped -> written: 400 lines have been dropped so far"
    lines.put(b"last\n")
    assert read(pipe[0], 5) == b"last\n"
    lines.close()
    assert len(caplog.records) == 2


@pytest.mark.parametrize("file", ["closed by its reader", "none"])
def test_a_file_without_a_reader_ends_the_log_with_one_message(
    pipe: tuple[int, int], file: str, caplog: pytest.LogCaptureFixture
) -> None:
    os.close(pipe[0])
    lines = Lines("here", pipe[1] if file != "none" else CLOSED, max_waiting=10)
    for _ in range(5):
        lines.put(b"x\n")
    until(lambda: not lines._thread.is_alive())
    for _ in range(50):
        lines.put(b"x\n")
    lines.close()
    reason = "Bad file descriptor" if file == "none" else "Broken pipe"
    assert messages(caplog) == [f"here: written -> ended: {reason}"]


def test_close_waits_for_the_reader_but_not_for_long(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines("here", pipe[1], max_waiting=10)
    for _ in range(200):
        lines.put(b"x" * PIPE)
    began = time.monotonic()
    lines.close(within=0.05)
    lines.put(b"more")
    assert time.monotonic() - began < 1.0
    assert messages(caplog)[-1] == "here: written -> ended: its reader did not take the last lines within 0.05 s"
    os.close(pipe[0])  # ends the thread
    until(lambda: not lines._thread.is_alive())


def test_lines_are_a_stream_for_logging(pipe: tuple[int, int]) -> None:
    lines = Lines("here", pipe[1])
    handler = logging.StreamHandler(lines)
    handler.emit(logging.makeLogRecord({"msg": "über %s", "args": ("\udcff",)}))
    lines.close()
    os.close(pipe[1])
    assert os.read(pipe[0], PIPE) == "über \\udcff\n".encode()


def test_a_call_is_logged_as_a_line_of_json_without_its_content(pipe: tuple[int, int]) -> None:
    record = CallRecord("req_1", "chat/completions", 1000.0, model="chat", stream=True, status=200, endpoint="a")
    record.first_token, record.ended, record.prompt_tokens = 0.5, 2.0, 7
    attempt = Endpoint("a", "m").begin(1000.25)
    attempt.first_token(1000.5)
    attempt.end(Outcome(Verdict.SERVED), 1002.0)
    record.attempts = [attempt]
    record.why = msgspec.Raw(b'{"asked":"a"}')
    log = AccessLog(pipe[1])
    log.ended(record)
    log.close()
    assert json.loads(os.read(pipe[0], PIPE)) == {
        "request_id": "req_1",
        "operation": "chat/completions",
        "model": "chat",
        "stream": True,
        "status": 200,
        "error": "",
        "endpoint": "a",
        "queued": 0.0,
        "first_token": 0.5,
        "ended": 2.0,
        "prompt_tokens": 7,
        "completion_tokens": None,
        "attempts": [
            {
                "endpoint": "a",
                "model": "m",
                "role": "first",
                "began": 0.25,
                "first_token": 0.5,
                "ended": 2.0,
                "verdict": "served",
                "cause": None,
                "reason": "",
            }
        ],
        "why": {"asked": "a"},
    }


# Text from outside.


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("code x\n2026-01-01 CRITICAL forged", "code x\\n2026-01-01 CRITICAL forged"),
        ("\x1b[2J\x07\r\x00", "\\x1b[2J\\x07\\r\\x00"),
        ("\x7f\x85\x9b31m", "\\x7f\\x85\\x9b31m"),
        ("a\u202eb\u2066c\u200fd\u2028e\u061cf", "a\\u202eb\\u2066c\\u200fd\\u2028e\\u061cf"),
        ("Grüße, 模型 🙂", "Grüße, 模型 🙂"),
    ],
)
def test_text_from_outside_can_neither_forge_a_line_nor_steer_a_terminal(text: str, written: str) -> None:
    assert Escaping("%(message)s").format(logging.makeLogRecord({"msg": "%s", "args": (text,)})) == written


def test_the_lines_of_a_traceback_are_indented_and_escaped() -> None:
    try:
        raise ValueError("x\n2026-01-01 CRITICAL forged \x1b[2J")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": (type(error), error, error.__traceback__)})
    first, *others = Escaping("%(message)s").format(record).split("\n")
    assert first == "failed"
    assert all(line.startswith("  ") for line in others)
    assert others[-1] == "  2026-01-01 CRITICAL forged \\x1b[2J"


def test_the_access_log_escapes_what_json_does_not(pipe: tuple[int, int]) -> None:
    record = CallRecord("req_1", "chat/completions", 1000.0, model="a\u202eb\x9bc\x7f\nü")
    log = AccessLog(pipe[1])
    log.ended(record)
    log.close()
    line = os.read(pipe[0], PIPE)
    assert b'"model":"a\\u202eb\\u009bc\\u007f\\n\xc3\xbc"' in line
    assert json.loads(line)["model"] == record.model


# A disk that is full.


def test_a_full_disk_loses_lines_counts_them_and_recovers(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write, room = os.write, [6]

    def write_to_a_disk(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(file, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", write_to_a_disk)
    lines = Lines("here", pipe[1])
    before = lost_lines()["here"]
    lines.put(b"first line\n")
    until(lambda: lines.dropped == 1)
    lines.put(b"second\n")
    until(lambda: lines.dropped == 2)
    room[0] = 1000
    lines.put(b"third\n")
    until(lambda: len(caplog.records) == 2)
    lines.close()
    assert read(pipe[0], 13) == b"first \nthird\n"
    assert messages(caplog) == [
        "here: written -> lost: No space left on device",
        "here: lost -> written: 2 lines have been lost so far",
    ]
    assert lost_lines()["here"] - before == 2


def test_lines_after_the_end_count_as_lost(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    lines = Lines("here", pipe[1])
    lines.put(b"x\n")
    until(lambda: not lines._thread.is_alive())
    lines.put(b"x\n")
    assert lines.dropped >= 1
