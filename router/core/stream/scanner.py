"""A scanner over the bytes of a token stream: it finds the events, and in them what a decision needs.

It is fed what came from the network, however it was cut, and gives back what may go to the client: whole events only,
as they came, so that whatever follows (an error, another endpoint's tokens) begins on a boundary. An event that is no
JSON is left out: both OpenAI SDKs stop at one. (Grammar: WHATWG HTML, server-sent events; lines end in CR, LF or
CRLF.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from router.core.stream.error_body import is_error

# A blank line. Atomic, or the CR and the LF of one line's end would count as two.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_MARK = b"\xef\xbb\xbf"  # a byte order mark
_FAILED = "network_error"  # Zhipu's finish_reason for an answer that it could not go on with
# What openai-python keeps: after an id, or beside a retry, it takes the next comment for an empty event, and fails.
_KEPT_BY_CLIENTS = re.compile(rb"(?:(?<=[\r\n])|\A)(?:id|retry)(?::[^\r\n]*)?(?:\r\n|\r|\n|\Z)")
_NAMED_ERROR = re.compile(rb"(?:\A|[\r\n])event: ?error[ \t]*(?:[\r\n]|\Z)")
CUT_SHORT = {"message": _FAILED, "code": _FAILED}
UNFINISHED = {"message": "[DONE] before any reason to finish", "code": "unfinished"}
# Never found within a text, where its quotes would have backslashes.
_FINISH_REASON = re.compile(rb'("finish_reason"\s*:\s*)"(\w+)"')


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None

    @property
    def useful(self) -> bool:
        return bool(
            self.content
            or self.reasoning_content
            or self.tool_calls
            or self.reasoning
            or self.refusal
            or self.function_call
            or self.audio
        )


class _Choice(msgspec.Struct, gc=False):
    index: Any = 0
    delta: _Delta | None = None
    text: Any = None
    finish_reason: Any = None

    @property
    def useful(self) -> bool:
        return bool(self.text or (self.delta is not None and self.delta.useful))


class _Finish(msgspec.Struct, gc=False):
    index: Any = 0
    finish_reason: Any = None
    useful = False


class Usage(msgspec.Struct, gc=False):
    """A server may write anything there; what is a count, is told."""

    prompt: Any = msgspec.field(default=None, name="prompt_tokens")
    completion: Any = msgspec.field(default=None, name="completion_tokens")

    @property
    def prompt_tokens(self) -> int | None:
        return _count(self.prompt)

    @property
    def completion_tokens(self) -> int | None:
        return _count(self.completion)


AnyUsage = Usage | str | bool | int | float | list[Any] | None


class _Event(msgspec.Struct, gc=False):
    """What an event may say up to the first token."""

    choices: list[_Choice] | None = None
    usage: AnyUsage = None
    error: Any = None


class _LaterEvent(msgspec.Struct, gc=False):
    """And after it: its text is not even looked at."""

    choices: list[_Finish] | None = None
    usage: AnyUsage = None
    error: Any = None


_read_event = msgspec.json.Decoder(_Event).decode
_read_later_event = msgspec.json.Decoder(_LaterEvent).decode


def renamed(data: bytes, finishes: Mapping[str, str]) -> bytes:
    """An event or answer with the reasons to finish that OpenAI's clients know; all else as it is."""
    return _FINISH_REASON.sub(lambda m: b'%b"%b"' % (m[1], finishes.get(m[2].decode(), m[2].decode()).encode()), data)


def cut_short(answer: bytes) -> bool:
    """Whether an answer that is not a stream ended for want of a network behind it."""
    return any(match[2].decode() == _FAILED for match in _FINISH_REASON.finditer(answer))


class EventTooLarge(ValueError):
    """An event is longer than the limit."""


class Scanner:
    """Facts of one stream: `first_token`, `done` ([DONE]), `error` (an error event's contents), `over` (either of these
    two has come), `usage`, counts of events.
    """

    __slots__ = (
        "_begun",
        "_finished",
        "_finishes",
        "_held",
        "_instead",
        "_limit",
        "_must_finish",
        "choices",
        "done",
        "error",
        "error_event",
        "events",
        "first_token",
        "malformed",
        "over",
        "usage",
    )

    def __init__(
        self,
        choices: int = 1,
        limit: int = 4 << 20,
        finishes: Mapping[str, str] | None = None,
        *,
        must_finish: bool = False,
    ) -> None:
        """`finishes`: reasons to finish, and what they are called when they go on. `must_finish`: an answer without any
        is not whole, though [DONE] says so.
        """
        self.choices, self._limit, self._finishes, self._must_finish = choices, limit, finishes or {}, must_finish
        self._instead = b""  # of an event that does not go on as it is
        self._held: bytearray | None = None  # the beginning of an event whose end is not here yet
        self._begun = False  # the very first bytes are over
        self._finished: set[str] = set()  # choices that gave a reason to finish
        self.first_token = self.done = self.over = False
        self.error: Any = None
        self.error_event = b""
        self.usage: Usage | None = None
        self.events = self.malformed = 0

    @property
    def finishes(self) -> bool:
        """It gave a reason to finish."""
        return bool(self._finished)

    @property
    def whole(self) -> bool:
        """The answer has come to its end: every choice gave a reason to finish, or the stream said so."""
        return self.error is None and (self.done or len(self._finished) >= self.choices)

    def feed(self, chunk: bytes) -> bytes:
        """Take what came, give what may go on. Nothing goes on after [DONE] or an error. Raises EventTooLarge."""
        if self.over:
            return b""
        if (
            self._held is None
            and chunk[:7] == b"data: {"
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk[-1] == 10
            and 13 not in chunk  # a CR, which is white space to JSON, and ends a line
        ):
            return chunk if self._data(chunk[6:], chunk) else self._in_its_place()  # one event, as almost always
        if not self._begun and not (chunk := self._beginning(chunk)):
            return b""
        if self._held is not None or chunk[-2:] != b"\n\n":
            chunk = self._whole_events(chunk)
        events = chunk.split(b"\n\n") if b"\r" not in chunk else _BLANK_LINE.split(chunk)
        del events[-1]
        for index, event in enumerate(events):
            if not self._event(event):
                if self.done and index == len(events) - 1:
                    return chunk
                return self._without_rejected(chunk, events, index)
        return chunk

    def finish(self) -> bytes:
        """The stream is over: an event that lacks only its blank line gets one, for the SDKs drop it else."""
        held, self._held = self._held, None
        if not held or self.over:
            return b""
        event = bytes(held).rstrip(b"\r\n")
        return event + b"\n\n" if event and (self._event(event) or self.done) else self._in_its_place()

    def _beginning(self, chunk: bytes) -> bytes:
        """What follows a byte order mark, of which only a part may be here. It is no part of the first line, but
        openai-python would take it for one, and lose the event.
        """
        if self._held is not None:
            chunk = bytes(self._held) + chunk
        if len(chunk) < len(_MARK) and _MARK.startswith(chunk):
            self._held = bytearray(chunk)
            return b""
        self._held, self._begun = None, True
        return chunk if self.events or self.malformed else chunk.removeprefix(_MARK)

    def _whole_events(self, chunk: bytes) -> bytes:
        """Join what was held back, and hold back what follows the last blank line."""
        held = self._held
        if held is None:
            held = self._held = bytearray()
        start = max(0, len(held) - 3)  # a blank line may have been cut in two
        held += chunk
        if held.find(b"\r", start) >= 0:
            stop = len(held) - held.endswith(b"\r\n\r")  # its LF is on the way, and belongs to this event
            end = max((match.end() for match in _BLANK_LINE.finditer(held, start, stop)), default=0)
        else:
            end = held.rfind(b"\n\n", start) + 2
            end = end if end > 1 else 0
        if len(held) - end > self._limit:
            raise EventTooLarge(f"an event of more than {self._limit} bytes")
        whole = bytes(held[:end])
        if end == len(held):
            self._held = None
        else:
            del held[:end]
        return whole

    def _without_rejected(self, chunk: bytes, events: list[bytes], rejected: int) -> bytes:
        """The rare way: events are left out, and the others go on, each with its own end."""
        ends = _BLANK_LINE.findall(chunk)
        kept = [event + end for event, end in zip(events[:rejected], ends, strict=False)]
        kept.append(events[rejected] + ends[rejected] if self.done else self._in_its_place())
        for event, end in zip(events[rejected + 1 :], ends[rejected + 1 :], strict=False):
            if self.over:
                break
            kept.append(event + end if self._event(event) or self.done else self._in_its_place())
        return b"".join(kept)

    def _in_its_place(self) -> bytes:
        instead, self._instead = self._instead, b""
        return instead

    def _event(self, event: bytes) -> bool:
        """Read one event; False where it must not go on, or nothing after it."""
        if event[:7] == b"data: {" and b"\n" not in event and b"\r" not in event:
            return self._data(event[6:], event)
        data = data_of(event)
        if not data and all(line[:1] == b":" for line in _LINE_END.split(event) if line):
            return True  # a comment
        if data[:6] == b"[DONE]":
            if self._must_finish and self.first_token and not self._finished:
                return self._fail(UNFINISHED)
            self.done = self.over = True
            return False
        if data and _NAMED_ERROR.search(event):
            return self._named_error(data, event)
        # An event without data (a lone `id:`, `retry:` or `event:`) makes openai-python read an empty one and fail.
        as_it_is = bool(data) and self._data(data, event)
        if (as_it_is or self._instead) and _KEPT_BY_CLIENTS.search(event):
            self._instead = _ended(_KEPT_BY_CLIENTS.sub(b"", self._instead or event))
            return False
        return as_it_is

    def _named_error(self, data: bytes, event: bytes) -> bool:
        """What is called an error is one, whatever it says."""
        said = _decoded(data)
        if not said:
            said, data = {"message": "an error"}, b'{"message":"an error"}'
        if isinstance(said, dict) and said.get("error"):
            return self._data(data, event)
        self.events += 1
        return self._foreign_error(said, data)

    def _foreign_error(self, said: Any, data: bytes) -> bool:
        """It goes on in the one shape at which both OpenAI SDKs raise."""
        return self._fail(said, b'data: {"error":' + b"".join(data.splitlines()) + b"}")

    def _fail(self, error: Any, event: bytes = b"") -> bool:
        """The event is for who ends the stream; it does not go on from here, and nor does anything after it."""
        self.error, self.over, self._instead = error, True, b""
        self.error_event = _ended(event) if event else b""
        return False

    def _own_shape(self, data: bytes, event: bytes) -> bool:
        """Output in a shape of its own: whoever asked for it may know it. It must be JSON all the same."""
        try:
            read = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return False
        self.events += 1
        if isinstance(read, dict) and read.get("error"):
            return self._fail(read["error"], event)
        self.first_token = True
        return True

    def _data(self, data: bytes, event: bytes) -> bool:
        """Read an event's data; the event may have its end or not."""
        try:
            read = _read_later_event(data) if self.first_token else _read_event(data)
        except msgspec.ValidationError:
            return self._own_shape(data, event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return False
        if not data.isascii() and not _is_utf8(data):
            self.malformed += 1
            return False
        self.events += 1
        if read.error:  # whose kind may stand beside a mere text
            return self._fail(read.error if isinstance(read.error, dict) else _decoded(data) or read.error, event)
        if read.usage is not None and isinstance(read.usage, Usage):
            self.usage = read.usage
        choices, as_it_is = read.choices, True
        if not choices:
            return choices is not None or read.usage is not None or self._no_error(data)
        for choice in choices:
            if choice.finish_reason:
                self._finished.add(str(choice.index))
                self.first_token = True  # an empty answer is an answer
                if choice.finish_reason == _FAILED:
                    return self._fail(CUT_SHORT)
                if self._finishes and str(choice.finish_reason) in self._finishes:
                    self._instead, as_it_is = _ended(renamed(event, self._finishes)), False
            elif not self.first_token and choice.useful:
                self.first_token = True
        return as_it_is

    def _no_error(self, data: bytes) -> bool:
        """It has neither tokens nor usage: a sign of life, or an error in a shape of its own."""
        said = _decoded(data)
        return not is_error(said) or self._foreign_error(said, data)


def _ended(event: bytes) -> bytes:
    """With its blank line, which it may have or not."""
    return event.rstrip(b"\r\n") + b"\n\n"


def _decoded(data: bytes) -> Any:
    """None where it is no JSON; of numbers out of range the other decoders, which pass over them, see nothing."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def split(events: bytes) -> list[bytes]:
    """Whole events, each without the blank line at its end."""
    return [event for event in (_BLANK_LINE.split(events) if b"\r" in events else events.split(b"\n\n")) if event]


def data_of(event: bytes) -> bytes:
    """What the `data` lines of one event say together; nothing, of a comment."""
    lines = _LINE_END.split(event)
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line[:5] == b"data:"])


def _count(said: Any) -> int | None:
    return said if isinstance(said, int) and not isinstance(said, bool) and said >= 0 else None


def _is_utf8(data: bytes) -> bool:
    """The decoder passes over text that nobody reads; openai-python reads all of it, strictly."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
