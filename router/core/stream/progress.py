"""Whether a stream makes progress after its first token, for the limit on its silence (`stall`).

Progress is output, an empty delta, a finish reason or usage. A heartbeat of any form is none: a comment, an event
without choices, a choice without output, JSON that is no object. To look costs as much as the scanner's own reading,
and nearly every event is progress. So the events are kept unread for a few reads, and then read from the newest back.
"""

from __future__ import annotations

import re

import msgspec

from router.core.stream.events import Error, Event, convert, counts, has_output, read_event, read_leniently
from router.core.stream.lines import data_of, split

MAX_READS = 16  # reads of a stream that are kept unread
LONG_READ = 4096  # bytes: after a longer one they are read at once, so that few bytes are kept
# In a text the quotes have backslashes.
_TOOL_CALL = re.compile(rb'"(?:tool_calls"\s*:\s*\[\s*\{|function_call"\s*:\s*\{\s*")')


class Progress:
    """The time of a stream's last progress (`at`), and whether it has begun a call of a tool (`tool_call`).

    The owner adds the events of each read to `unread`, with their time. It calls `look` before it reads the attributes,
    and where too much is unread (MAX_READS, LONG_READ).
    """

    __slots__ = ("at", "tool_call", "unread")

    def __init__(self, now: float) -> None:
        self.at, self.tool_call = now, False
        self.unread: list[tuple[float, bytes]] = []

    def resume(self, now: float) -> None:
        """The stream was not read for a while: its silence begins now."""
        self.look()
        self.at = now

    def look(self) -> None:
        """Bring the attributes up to date."""
        unread, self.unread = self.unread, []
        if not self.tool_call:
            self.tool_call = any(
                (b'"tool_calls"' in events or b'"function_call"' in events) and _TOOL_CALL.search(events)
                for _, events in unread
            )
        for then, events in reversed(unread):
            if progresses(events):
                self.at = max(self.at, then)
                break


def progresses(events: bytes) -> bool:
    """True if any of the events is progress."""
    return any(_progresses(data_of(event)) for event in reversed(split(events)))


def _progresses(data: bytes) -> bool:
    if data.lstrip()[:1] != b"{":
        return False
    try:
        event = read_event(data)
    except Error:
        try:
            value = read_leniently(data.decode())
        except ValueError:
            return False
        try:
            event = convert(value, Event)
        except msgspec.ValidationError:
            return has_output(value)
    return counts(event.usage) or any(choice.progresses for choice in event.choices or ())
