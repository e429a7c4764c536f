"""Compares the headers of an answer with its bytes. Headers are believed only as far as the bytes agree.

Both OpenAI SDKs read a stream of any Content-Type. Some relays send plain bytes under a Content-Encoding of another
hop.
"""

from __future__ import annotations

import re
from typing import Literal

Headers = list[tuple[bytes, bytes]]

MAX_BEGINNING = 16  # bytes that are enough to recognise a stream; white space before it not counted

_SPACE = b"\xef\xbb\xbf \t\r\n"  # may stand before JSON or a stream: white space, or a byte order mark
_STREAM_BEGINS = (b"data:", b"event:", b":", b"id:", b"retry:")
_JSON_BEGINS = (b"{", b"[")
_UTF8 = re.compile(rb"charset\s*=\s*\"?(?:utf-?8|us-ascii)\b", re.IGNORECASE)

Form = Literal["stream", "json", "other", "unknown"]


def form_of(beginning: bytes) -> Form:
    """The form of an answer; "unknown" as long as its beginning may still become a stream."""
    text = beginning.lstrip(_SPACE)
    if text.startswith(_STREAM_BEGINS):
        return "stream"
    if text.startswith(_JSON_BEGINS):
        return "json"
    return "unknown" if any(begin.startswith(text) for begin in _STREAM_BEGINS) else "other"


def without(headers: Headers, name: bytes) -> Headers:
    return [header for header in headers if header[0] != name]


def right_charset(kind: bytes, body: bytes) -> bytes:
    """A Content-Type without the charset that the body contradicts: JSON is in UTF-8 (RFC 8259 §8.1)."""
    if b"charset" not in kind.lower() or _UTF8.search(kind):
        return kind
    try:
        body.decode()
    except UnicodeDecodeError:
        return kind
    return kind.partition(b";")[0].strip()
