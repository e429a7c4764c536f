"""Mutations of an input: a few random steps, each of a kind that has broken a parser somewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

MAX_INPUT = 1 << 16  # bytes of an input; other tests have long inputs

TOKENS = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"\r\r\n",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"data: ",
    b"data:",
    b"data: [DONE]\n\n",
    b"event: error\n",
    b"id: 1\n",
    b"retry: 1\n\n",
    b": ping\n\n",
    b"[DONE]",
    b'{"error":{"code":"1302"}}',
    b'"error":',
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"01",
    b"1_0",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b"\\u",
    b"\\ud800",
    b"\\x41",
    b",",
    b":",
    b'"finish_reason":"stop"',
    b'"usage":{}',
    b'"delta":{"content":"x"}',
    b'"choices":[',
    b"transfer-encoding: chunked\r\n",
    b"content-length: 3\r\n",
    b"content-length: +3\r\n",
    b"transfer-encoding: identity, chunked\r\n",
    b"connection: close\r\n",
    b"expect: 100-continue\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\n",
    b"content-encoding: gzip\r\n",
    b"0\r\n\r\n",
    b"5\r\n",
    b"ffffffffffffffff\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0",
    b"RTSP/1.0",
    b"GET / HTTP/1.1\r\n\r\n",
    b"content-type: text/event-stream\r\n",
    b" ",
    b"\t",
    b"\x0b",
    b";",
    b"\x80",
    b"\x7f",
)
NUMBERS = (
    b"0",
    b"1",
    b"-1",
    b"2",
    b"9",
    b"255",
    b"65536",
    b"4294967296",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1e400",
    b"0x10",
    b"+5",
    b"1.5",
    b"9" * 400,
)
_NUMBER = re.compile(rb"\d+")

Mutation = Callable[[bytes, Random, Sequence[bytes]], bytes]


def mutate(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Apply some steps, mostly one or two, so that much of the original is left."""
    for _ in range(min(8, 1 + int(rng.expovariate(0.7)))):
        data = rng.choice(MUTATIONS)(data, rng, others)
    return data[:MAX_INPUT]


def cut(data: bytes, rng: Random) -> list[bytes]:
    """Cut into pieces, none of them empty: few, many, or of one byte each."""
    if len(data) < 2:
        return [data] if data else []
    kind = rng.random()
    if kind < 0.1:
        return [data[at : at + 1] for at in range(min(len(data), 400))] + ([data[400:]] if len(data) > 400 else [])
    count = rng.randrange(1, 4) if kind < 0.5 else rng.randrange(1, 1 + min(40, len(data) - 1))
    places = sorted({rng.randrange(1, len(data)) for _ in range(count)})
    return [data[start:end] for start, end in pairwise((0, *places, len(data)))]


def _flip(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ (1 << rng.randrange(8)),)) + data[at + 1 :]


def _any_byte(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randrange(1, 4)) + data[at:]


def _token(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TOKENS) + data[at + rng.choice((0, 0, 1, 4)) :]


def _delete(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + 1 + int(rng.expovariate(0.1)) :]


def _cut_off(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    start = rng.randrange(len(other) + 1)
    at = rng.randrange(len(data) + 1)
    return data[:at] + other[start : start + rng.randrange(1, 200)] + data[rng.choice((at, len(data))) :]


def _append(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return data + rng.choice(others)


def _lines(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Drop, double or move a line, or change its end."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at = rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[at])
    elif kind == 2:
        lines.insert(rng.randrange(len(lines)), lines.pop(at))
    else:
        lines[at] = lines[at].rstrip(b"\r\n") + rng.choice((b"\n", b"\r", b"\r\n", b"", b"\r\r\n"))
    return b"".join(lines)


def _number(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Change a number: a length, a status, an index."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    match = rng.choice(found)
    number = rng.choice(NUMBERS) if rng.random() < 0.6 else b"%d" % max(0, int(match[0][:18]) + rng.randrange(-2, 3))
    return data[: match.start()] + number + data[match.end() :]


def _grow(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Repeat a piece many times: depth, floods, long names."""
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 1, 5, 60))] or b"["
    return data[:start] + piece * rng.choice((2, 10, 100, 700)) + data[start:]


def _case(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = start + rng.randrange(1, 30)
    return data[:start] + data[start:end].swapcase() + data[end:]


MUTATIONS: tuple[Mutation, ...] = (
    _flip, _any_byte, _token, _token, _delete, _cut_off, _splice, _append, _lines, _number, _grow, _case,
)  # fmt: skip
