"""The lines of server-sent events, which end in CR, LF or CRLF (WHATWG HTML, server-sent events)."""

from __future__ import annotations

import re

# A blank line. Atomic groups, or the CR and the LF of one line end would count as two.
BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
LINE_END = re.compile(rb"\r\n|\n|\r")


def split(events: bytes) -> list[bytes]:
    """Whole events, each without the blank line at its end."""
    return [event for event in (BLANK_LINE.split(events) if b"\r" in events else events.split(b"\n\n")) if event]


def data_of(event: bytes) -> bytes:
    """The `data` lines of one event, joined; empty for a comment."""
    lines = LINE_END.split(event)
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line[:5] == b"data:"])


def is_utf8(data: bytes) -> bool:
    """True if all bytes are UTF-8: typed decoders skip text that is not asked for, but openai-python decodes it."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def ended(event: bytes) -> bytes:
    """The event with a blank line at its end, whether it had one or not."""
    return event.rstrip(b"\r\n") + b"\n\n"
