"""A scanner over the bytes of a token stream: finds the events, and in them the facts that a decision needs.

`feed` takes bytes as the network cut them and returns the bytes to forward: whole events only, unchanged, so that
anything that follows (an error, the tokens of another endpoint) begins at the boundary of an event. An event that even
Python's `json` cannot read is dropped, because both OpenAI SDKs stop at one. Grammar: WHATWG HTML, server-sent events;
lines end in CR, LF or CRLF.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from router.core.stream.error_body import is_error
from router.core.stream.events import (
    Choice,
    Error,
    Event,
    Finish,
    LaterEvent,
    Usage,
    convert,
    decoded,
    has_output,
    read_event,
    read_later_event,
    read_leniently,
)
from router.core.stream.finish import GOOD, failure, has_finish, renamed
from router.core.stream.lines import BLANK_LINE, LINE_END, data_of, ended, is_utf8
from router.core.stream.template import MAX_TRIES, Template

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Lines that openai-python remembers: after an id, or beside a retry, it reads the next comment as an empty event and
# fails.
_REMEMBERED_LINES = re.compile(rb"(?:(?<=[\r\n])|\A)(?:id|retry)(?::[^\r\n]*)?(?:\r\n|\r|\n|\Z)")
_EVENT_ERROR = re.compile(rb"(?:\A|[\r\n])event: ?error[ \t]*(?:[\r\n]|\Z)")
COUNTED = 64 << 10  # bytes of an unfinished event from which on it counts against the budget
UNFINISHED = {"message": "[DONE] without a finish_reason", "code": "unfinished"}


MAX_MALFORMED = 1000  # events that are not JSON: each costs some microseconds
MAX_SILENT = 1 << 20  # bytes of whole events before the first token; after it, of noise between two events
_NO_CHOICES: set[int] = set()  # never added to: an empty set for each stream would take 216 bytes


class Budget(Protocol):
    """The bytes that are held in the whole process, as a scanner knows them."""

    held: int

    def release(self, size: int) -> None:
        """Give bytes back."""


class EventTooLarge(ValueError):
    """An event is longer than the limit."""


class TooMuchNoise(ValueError):
    """The stream sends much, but next to nothing that can be read."""


class Scanner:
    """The facts of one stream, as far as it has come.

    `first_token`: there was output. `finished`: every choice has its finish reason. `done`: [DONE] came. `error`: the
    content of an error event, `error_event` the event to forward in its place. `over`: nothing more is read, because of
    [DONE] or an error. `turned`: `finished` or `over` has changed since the owner last cleared it. `usage`: as reported
    last. `events` counts events with readable data, `malformed` those without; comments count as neither.
    """

    __slots__ = (
        "_begun",
        "_budget",
        "_budgeted",
        "_doubted",
        "_finished",
        "_finishes",
        "_held",
        "_last",
        "_limit",
        "_must_finish",
        "_noise",
        "_noise_since",
        "_read",
        "_template",
        "_tries",
        "choices",
        "done",
        "error",
        "error_event",
        "events",
        "finished",
        "first_token",
        "malformed",
        "over",
        "turned",
        "usage",
    )

    def __init__(
        self,
        choices: int = 1,
        limit: int = 32 << 20,
        finishes: Mapping[str, str] | None = None,
        *,
        must_finish: bool = False,
        budget: Budget | None = None,
    ) -> None:
        """`limit`: bytes of one event. `budget`: a large event counts against it while it is put together. `finishes`:
        finish reasons, and the names under which they are forwarded. `must_finish`: an answer without a finish reason
        is incomplete, even after [DONE].
        """
        self.choices, self._limit, self._finishes, self._must_finish = choices, limit, finishes or {}, must_finish
        self._held: bytearray | None = None  # the beginning of an event whose end has not come yet
        self._budget, self._budgeted = budget, 0  # bytes of the budget that this stream has
        self._begun = False  # a byte order mark has been looked for
        self._finished = _NO_CHOICES  # choices that gave a finish reason
        self._doubted = _NO_CHOICES  # choices with output after their finish reason
        self._read: Callable[[bytes], Event | LaterEvent] = read_event
        self._template: Template | None = None
        self._tries, self._last = MAX_TRIES, b""  # templates that may still be made, and the last event that was parsed
        self.first_token = self.finished = self.done = self.over = self.turned = False
        self.error: Any = None
        self.error_event = b""
        self.usage: Usage | None = None
        self.events = self.malformed = 0
        self._noise = self._noise_since = 0  # bytes without an event, and the value of `events` since then

    @property
    def finishes(self) -> bool:
        """The stream gave a finish reason."""
        return bool(self._finished)

    @property
    def whole(self) -> bool:
        """The answer is complete: every choice gave a finish reason, or the stream sent [DONE]."""
        return self.error is None and (self.done or self.finished)

    @property
    def held(self) -> bytes:
        """The bytes of an event whose end has not come yet."""
        return bytes(self._held or b"")

    def feed(self, chunk: bytes) -> bytes:
        """Read a piece of the stream; return the bytes to forward, none after [DONE] or an error.

        Raises EventTooLarge and TooMuchNoise.
        """
        if self.over:
            return b""
        template = self._template
        if template is not None and self._held is None and template.fits(chunk):
            self.events += 1
            return chunk
        if (
            self._held is None
            and chunk[:7] == b"data: {"
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk[-1] == 10
            and 13 not in chunk  # a CR: white space in JSON, but the end of a line in a stream
        ):
            forwarded = self._data(chunk[6:], chunk)  # exactly one event, the usual case
            if self._tries and forwarded is chunk and self._read is read_later_event:
                self._learn(chunk)
            return forwarded
        if not self._begun and not (chunk := self._beginning(chunk)):
            return b""
        if self._held is not None or chunk[-2:] != b"\n\n":
            chunk = self._whole_events(chunk)
        events = chunk.split(b"\n\n") if b"\r" not in chunk else BLANK_LINE.split(chunk)
        del events[-1]
        forwarded = self._each(chunk, events)
        if chunk and not self.over:
            self._count_noise(len(chunk))
        return forwarded

    def _learn(self, event: bytes) -> None:
        """Make a template of the last two events that were parsed, so that the next ones need not be."""
        if b"\\" in event:  # an escape in its text, which no template fits
            return
        self._tries -= 1
        self._template = Template.of(self._last, event) or self._template
        self._last = event

    def _each(self, chunk: bytes, events: list[bytes]) -> bytes:
        """Read the events of a chunk; return the bytes to forward."""
        for index, event in enumerate(events):
            if not event:  # line ends only, of which a read may hold thousands
                continue
            read = self._event(event)
            if read is not event:
                if self.done and index == len(events) - 1:
                    return chunk
                return self._with_changes(chunk, events, index, read)
        return chunk

    def finish(self) -> bytes:
        """The stream has ended. A last event that lacks only its blank line gets one; otherwise the SDKs drop it."""
        held, self._held = self._held, None
        if not held or self.over:
            return b""
        event = bytes(held).rstrip(b"\r\n")
        return self._forwarded(event, b"\n\n", self._event(event)) if event else b""

    def _count_noise(self, size: int) -> None:
        """Count the bytes of whole events if none of them could be read. Raises TooMuchNoise."""
        self._noise = self._noise + size if self._noise_since == self.events else 0
        self._noise_since = self.events
        if self._noise > MAX_SILENT:
            raise TooMuchNoise(
                f"more than {MAX_SILENT} bytes that cannot be read" if self.first_token else no_token_yet()
            )

    def _count_malformed(self) -> None:
        self.malformed += 1
        if self.malformed > MAX_MALFORMED:
            raise TooMuchNoise(f"more than {MAX_MALFORMED} events that cannot be read")

    def release(self) -> None:
        """Give the budget back what an unfinished event has of it: the stream is read no further."""
        if self._budgeted:
            self._count(0)

    def _count(self, size: int) -> None:
        """Have so many bytes of the budget."""
        more, self._budgeted = size - self._budgeted, size
        if self._budget is None:
            return
        if more > 0:
            self._budget.held += more
        elif more < 0:
            self._budget.release(-more)

    def _beginning(self, chunk: bytes) -> bytes:
        """The stream without its byte order mark, of which only a part may have come. openai-python would read the mark
        as a part of the first line, and lose the event.
        """
        if self._held is not None:
            chunk = bytes(self._held) + chunk
        if len(chunk) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(chunk):
            self._held = bytearray(chunk)
            return b""
        self._held, self._begun = None, True
        return chunk if self.events or self.malformed else chunk.removeprefix(_BYTE_ORDER_MARK)

    def _whole_events(self, chunk: bytes) -> bytes:
        """Join a piece to the bytes held back, and hold back what follows the last blank line."""
        held = self._held
        if held is None:
            held = self._held = bytearray()
        start = max(0, len(held) - 3)  # a blank line may have been cut in two
        held += chunk
        if held.find(b"\r", start) >= 0:
            stop = len(held) - held.endswith(b"\r\n\r")  # its LF is on the way, and belongs to this event
            end = max((match.end() for match in BLANK_LINE.finditer(held, start, stop)), default=0)
        else:
            end = held.rfind(b"\n\n", start) + 2
            end = end if end > 1 else 0
        if len(held) > COUNTED or self._budgeted:
            self._count(len(held) - end)
        if len(held) - end > self._limit:
            raise EventTooLarge(f"an event is longer than {self._limit} bytes")
        whole = bytes(held[:end])
        if end == len(held):
            self._held = None
        else:
            del held[:end]
        return whole

    def _with_changes(self, chunk: bytes, events: list[bytes], changed: int, read: bytes) -> bytes:
        """The slow path: some events are dropped or replaced, and the others forwarded, each with its own end.

        `changed` is the index of the first such event, and `read` what `_event` returned for it.
        """
        ends = BLANK_LINE.findall(chunk)
        kept = [event + end for event, end in zip(events[:changed], ends, strict=False)]
        kept.append(self._forwarded(events[changed], ends[changed], read))
        for event, end in zip(events[changed + 1 :], ends[changed + 1 :], strict=False):
            if self.over:
                break
            kept.append(self._forwarded(event, end, self._event(event)))
        return b"".join(kept)

    def _forwarded(self, event: bytes, end: bytes, read: bytes) -> bytes:
        """The bytes to forward for an event that was read: itself with its end, its replacement, or nothing."""
        return event + end if read is event or self.done else read

    # Reading one event. Each method returns the very object `event` if it is forwarded as it is, else its replacement
    # with a blank line, or nothing. For [DONE] it returns nothing and sets `done`.

    def _event(self, event: bytes) -> bytes:
        if event[:7] == b"data: {" and b"\n" not in event and b"\r" not in event:
            return self._data(event[6:], event)
        if event[:1] == b":" and b"\n" not in event and b"\r" not in event:
            return event  # a comment of one line, the usual heartbeat
        data = data_of(event) if event != b"data: [DONE]" else b"[DONE]"
        if not data and all(line[:1] == b":" for line in LINE_END.split(event) if line):
            return event  # a comment
        if data[:6] == b"[DONE]":
            if self._must_finish and self.first_token and not self._finished and not self._doubted:
                return self._fail(UNFINISHED)
            self.done = self.over = self.turned = True
            return b""
        if not data:  # a lone `id:`, `retry:` or `event:`, which openai-python reads as an empty event and fails
            return b""
        if _EVENT_ERROR.search(event):
            return self._named_error(data, event)
        read = self._data(data, event)
        if read and _REMEMBERED_LINES.search(event):
            return ended(_REMEMBERED_LINES.sub(b"", read))
        return read

    def _named_error(self, data: bytes, event: bytes) -> bytes:
        """An event named `error` is an error, whatever its data."""
        error = decoded(data)
        if not error:
            error, data = {"message": "an error"}, b'{"message":"an error"}'
        if isinstance(error, dict) and error.get("error"):
            return self._data(data, event)
        self.events += 1
        return self._foreign_error(error, data)

    def _foreign_error(self, error: Any, data: bytes) -> bytes:
        """An error in another form is wrapped in the one at which both OpenAI SDKs raise."""
        return self._fail(error, b'data: {"error":' + b"".join(data.splitlines()) + b"}")

    def _fail(self, error: Any, event: bytes = b"") -> bytes:
        """End the stream with an error. Its event is kept in `error_event`; nothing is forwarded from here."""
        self.error, self.over, self.turned = error, True, True
        self.error_event = ended(event) if event else b""
        return b""

    def _data(self, data: bytes, event: bytes) -> bytes:
        """Read the data of an event; `event` may come with or without its blank line."""
        try:
            read = self._read(data)
        except Error:
            lenient = self._leniently(data)
            if lenient is None:
                return b""
            if isinstance(lenient, dict):
                return self._unknown_form(lenient, event)
            read = lenient
        else:
            if not data.isascii() and not is_utf8(data):
                self._count_malformed()
                return b""
        self.events += 1
        if read.error:  # a text may have its kind in a key beside it, so the whole object is kept
            return self._fail(read.error if isinstance(read.error, dict) else decoded(data) or read.error, event)
        if read.usage is not None and isinstance(read.usage, Usage):
            self.usage = read.usage
        choices = read.choices
        if not choices:
            return event if choices is not None or read.usage is not None else self._no_output(data, event)
        forwarded = event
        for choice in choices:
            reason = choice.finish_reason
            if reason and (reason in GOOD or has_finish(reason)):
                failed = None if reason in GOOD else failure(reason)
                if failed is not None:
                    return self._fail(failed)
                self._finish(choice)
                if self._finishes and str(choice.finish_reason) in self._finishes:
                    forwarded = ended(renamed(event, self._finishes))
            elif choice.has_output:
                if not self.first_token:
                    self.first_token, self._read = True, read_later_event
                elif self._finished:
                    self._take_back(choice)
        return forwarded

    def _leniently(self, data: bytes) -> Event | LaterEvent | dict[str, Any] | None:
        """An event that the strict reader does not read: JSON that only Python reads, or other JSON than a chunk.

        Returns a dict if it has the form of no chunk; None, and counts it, if it cannot be read.
        """
        try:
            value = read_leniently(data.decode())
        except ValueError:
            self._count_malformed()
            return None
        if not isinstance(value, dict):
            return {}  # a heartbeat
        later = self._read is read_later_event
        try:
            return convert(value, LaterEvent) if later else convert(value, Event)
        except msgspec.ValidationError:
            return value

    def _unknown_form(self, value: dict[str, Any], event: bytes) -> bytes:
        """JSON that is no chunk of a completion. Values in its choices are output: the client may know them."""
        self.events += 1
        if value.get("error"):
            return self._fail(value["error"], event)
        if has_output(value) and not self.first_token:
            self.first_token, self._read = True, read_later_event
        return event

    def _take_back(self, choice: Choice | Finish) -> bool:
        """Output after a finish reason: the reason was none. True if the choice has, or had, such output.

        Some adapters write a reason in every event. From then on only a reason without output counts.
        """
        index = self._counted(choice)
        if index is not None and index in self._finished:
            self._finished.discard(index)
            self._doubted = self._doubted or set()
            self._doubted.add(index)
            self.finished, self.turned = False, True
        return index in self._doubted

    def _finish(self, choice: Choice | Finish) -> None:
        """Note a finish reason. An empty answer is an answer, so it is a first token too."""
        self.first_token, self._read = True, read_event  # output that follows takes the reason back
        self._template, self._tries = None, 0
        if choice.has_output and self._take_back(choice):
            return
        index = self._counted(choice)
        if index is not None:
            self._finished = self._finished or set()
            self._finished.add(index)
            self.finished, self.turned = len(self._finished) >= self.choices, True

    def _counted(self, choice: Choice | Finish) -> int | None:
        """The index of a choice; None if the call asked for no such choice."""
        index = choice.index
        if index is None:
            return 0
        return index if type(index) is int and 0 <= index < self.choices else None

    def _no_output(self, data: bytes, event: bytes) -> bytes:
        """An event with neither choices nor usage: a keep-alive, or an error without an `error` key."""
        body = decoded(data)
        return self._foreign_error(body, data) if is_error(body) else event


def no_token_yet() -> str:
    return f"no token within {MAX_SILENT} bytes of the stream"
