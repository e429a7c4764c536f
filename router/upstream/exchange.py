"""One attempt's request and answer. An exchange never awaits: it calls its listener when there is news.

    the wire calls       head, data, complete, lost or fail; then flush
    the exchange calls   news of its listener, when a first token, more of the answer, or the end has come
    the listener reads   outcome, first_token, take(); and calls pause, resume, close

The head decides how an answer is read: a token stream event by event; any other good answer as a whole; an error for
its verdict and cause. Content-Type and Content-Encoding are believed only as far as the first bytes agree. An
interrupted stream, an empty stream, a 200 with an error in it and a 200 without an answer in it are never SERVED.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from router.core.call import Operation
from router.core.quote import quoted
from router.core.stream.error_body import error_of, is_error, message_of
from router.core.stream.events import (
    Answer,
    Embeddings,
    Error,
    Usage,
    convert,
    read_answer,
    read_embeddings,
    read_leniently,
)
from router.core.stream.scanner import EventTooLarge, Scanner, data_of, failure, renamed
from router.core.verdict import OURS, SERVED, Doubt, Outcome, Verdict, doubt_of
from router.dialects.base import Dialect
from router.upstream.masking import NO_MASK, Mask
from router.upstream.spliced import Spliced

Headers = list[tuple[bytes, bytes]]

MAX_ERROR = 256 << 10  # bytes of an error body that are kept: it may repeat a whole prompt
MAX_MALFORMED = 1000  # events that are not JSON: each costs some microseconds
MAX_SILENT = 1 << 20  # bytes of comments and empty events before the first token
MAX_RETRY_AFTER = 86_400.0  # seconds: a day; some servers send `inf`
MAX_CODE = 40  # characters of an error's code that a reason repeats
MAX_CHECKED = 1 << 20  # bytes of a complete answer up to which it is checked to be JSON: about 2 ms


_SPACE = b"\xef\xbb\xbf \t\r\n"  # may stand before JSON or a stream: white space, or a byte order mark
_STREAM_BEGINS = (b"data:", b"event:", b":", b"id:", b"retry:")
_JSON_BEGINS = (b"{", b"[")
_UTF8 = re.compile(rb"charset\s*=\s*\"?(?:utf-?8|us-ascii)\b", re.IGNORECASE)
_PAGE = re.compile(rb"\s*<")  # HTML or XML: no words for people
MAX_TEXT = 2000  # bytes of an error in plain text that are read
MAX_HEAD = 4096  # bytes of a read in which an answer's beginning is looked for
MAX_BEGINNING = 16  # bytes that are enough to recognise a stream; white space before it not counted


class Request(msgspec.Struct, frozen=True):
    """The bytes of one HTTP/1.1 request."""

    head: bytes
    body: bytes | bytearray | Spliced

    def __repr__(self) -> str:
        """Leave out the head, which holds the endpoint's key, and the body, which holds a prompt."""
        return f"<Request {len(self.head)} + {len(self.body)} bytes>"


class Limits(NamedTuple):
    """The largest event and the largest answer that an endpoint may send, in bytes."""

    event: int = 32 << 20
    answer: int = 64 << 20


LIMITS = Limits()


class Listener(Protocol):
    """The receiver of an exchange's news."""

    def news(self, exchange: Exchange) -> None: ...


class Wire(Protocol):
    """The carrier of an exchange: a connection, or an object that behaves like one."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


class Habits:
    """Learned habits of an endpoint's answers.

    `finishes`: the endpoint gives a finish reason in every answer. From then on a [DONE] without one counts as cut:
    some intermediaries end every stream with [DONE], also a broken one.
    """

    __slots__ = ("finishes",)

    def __init__(self) -> None:
        self.finishes = False


class Exchange:
    """One attempt's answer as it arrives; `outcome` is None until the answer has ended.

    `finished`: every choice of a token stream has its finish reason; `done`: the stream sent its own end. `malformed`
    counts unreadable events. `final`: no endpoint is to be asked again, because the next answer would be as
    large. `resent`: the request was sent a second time, because its first connection had died unused. `error` is the
    error object of an answer that is not a stream.
    """

    __slots__ = (
        "_choices",
        "_chunks",
        "_dialect",
        "_encoding",
        "_events",
        "_habits",
        "_kind",
        "_limits",
        "_mask",
        "_news",
        "_noise",
        "_operation",
        "_retry_after",
        "_scanner",
        "_size",
        "done",
        "error",
        "final",
        "finished",
        "headers",
        "listener",
        "malformed",
        "outcome",
        "resent",
        "status",
        "usage",
        "wire",
    )

    def __init__(
        self,
        listener: Listener | None,
        dialect: Dialect,
        choices: int = 1,
        limits: Limits = LIMITS,
        habits: Habits | None = None,
        mask: Mask = NO_MASK,
        operation: Operation = "chat/completions",
    ) -> None:
        self.listener = listener
        self._operation = operation
        self._dialect, self._choices, self._limits = dialect, choices, limits
        self._habits = Habits() if habits is None else habits
        self._mask = mask
        self._scanner: Scanner | None = None  # of a token stream
        self._chunks: list[bytes] = []
        self._size = self._noise = self._events = 0
        self._news = False
        self._retry_after: float | None = None  # seconds, from the headers
        self._kind = b""  # the Content-Type
        self._encoding = False  # the headers name a Content-Encoding; None was accepted
        self.done = self.final = self.finished = self.resent = False
        self.wire: Wire | None = None
        self.status = self.malformed = 0
        self.headers: Headers = []
        self.outcome: Outcome | None = None
        self.usage: Usage | None = None
        self.error: Any = None

    def __repr__(self) -> str:
        outcome = self.outcome
        end = "running" if outcome is None else f"{outcome.verdict.value} {outcome.reason}"
        return f"<Exchange {self.status or 'unanswered'} {end}>"

    # For the listener.

    @property
    def streams(self) -> bool:
        """The answer is a token stream."""
        return self._scanner is not None

    @property
    def error_event(self) -> bytes:
        """The event with which the endpoint itself ended its stream, if it did."""
        return b"" if self._scanner is None else self._mask.bytes(self._scanner.error_event)

    @property
    def verdict(self) -> Verdict | None:
        """The outcome's verdict; None until the answer has ended."""
        return None if self.outcome is None else self.outcome.verdict

    @property
    def first_token(self) -> bool:
        if self.outcome is not None:
            return self.outcome.verdict in (Verdict.SERVED, Verdict.REFUSED)
        return self._scanner is not None and self._scanner.first_token

    def take(self) -> bytes:
        """The bytes to forward since the last call; for an answer that does not stream, the whole of it."""
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return data

    def pieces(self) -> list[bytes]:
        """The same bytes as `take` returns, in several pieces if they are many."""
        pieces, self._chunks = self._chunks, []
        return pieces

    def pause(self) -> None:
        if self.wire is not None:
            self.wire.pause()

    def resume(self) -> None:
        if self.wire is not None:
            self.wire.resume()

    def close(self) -> None:
        """Give up the answer: no more news, and the wire is closed, so that the endpoint notices."""
        self.listener = None
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close()

    # For the wire.

    def head(self, status: int, headers: Headers) -> None:
        """The status and the headers have come; header names are in lower case."""
        self.status, self.headers = status, headers
        good, kind, encoding = 200 <= status < 300, b"", b""
        for name, value in headers:
            if name == b"content-type":
                kind = value
            elif name == b"content-encoding":
                encoding = value
            elif not good and name[:11] == b"retry-after":
                self._retry_after = _retry_after(name, value, self._retry_after)
        self._kind = kind
        self._encoding = bool(encoding) and encoding.lower() != b"identity"
        if good and kind[:17].lower() == b"text/event-stream" and not self._encoding:
            self._begin_stream()

    def data(self, data: bytes) -> None:
        if self.outcome is not None:
            return
        scanner = self._scanner
        if scanner is None:
            self._collect(data)
            return
        try:
            ready = scanner.feed(data)
        except EventTooLarge as error:
            self.final = True
            self._end(Outcome(Verdict.FAULT, str(error), passing=False, doubt=Doubt.REQUEST))
            return
        self.finished = scanner.finished
        if scanner.events != self._events:
            self._events, self._noise = scanner.events, 0
        elif self._is_noise(scanner, data, ready):
            return
        if ready:
            self._chunks.append(ready)
            self._news = True
            if not scanner.first_token:
                self._still_silent(len(ready))
        if scanner.over:
            self._over(scanner)

    def complete(self) -> None:
        """The answer has ended according to HTTP."""
        if self.outcome is None:
            scanner = self._scanner
            if scanner is not None and not scanner.events and scanner.held.lstrip(_SPACE)[:1] == b"{":
                self._no_stream(scanner.held)
            elif scanner is not None:
                self._end_of_stream(scanner, "the stream ended before the answer was complete")
            elif 200 <= self.status < 300:
                self._end_of_answer()
            else:
                self._end_of_error()

    def lost(self, reason: str) -> None:
        """The connection was lost. What came before may still be a complete stream, or an error."""
        if self.outcome is not None:
            return
        if self._scanner is not None:
            self._end_of_stream(self._scanner, reason)
        elif self.status >= 300:
            self._end_of_error()  # the status is enough for a verdict
        else:
            self.fail(reason)

    def fail(self, reason: str, verdict: Verdict = Verdict.FAULT, *, passing: bool = True) -> None:
        self._end(Outcome(verdict, reason, self._retry_after, passing=passing))

    def flush(self) -> None:
        """Call the listener, once for all that came with one read."""
        if self._news and self.listener is not None:
            self._news = False
            self.listener.news(self)

    def _is_noise(self, scanner: Scanner, data: bytes, ready: bytes) -> bool:
        """Count a read without an event that can be read; fail if there were too many. An event that is being put
        together is not counted: it has a limit of its own.
        """
        if len(scanner.held) < len(data) and not scanner.over and (scanner.first_token or not ready):
            self._noise += len(data)
        if self._noise <= MAX_SILENT and scanner.malformed <= MAX_MALFORMED:
            return False
        self.fail(f"more than {MAX_SILENT} bytes, or {MAX_MALFORMED} events, that cannot be read")
        return True

    # Ends.

    def _end(self, outcome: Outcome) -> None:
        """Set the outcome. Only the first end counts."""
        if self.outcome is None:
            self.outcome, self._news = outcome, True

    def _broken(self, reason: str) -> None:
        self._end(Outcome(Verdict.FAULT, reason, self._retry_after))

    def _no_answer(self, reason: str) -> None:
        """A 200 without an answer, which may be due to the request."""
        self._end(Outcome(Verdict.FAULT, reason, self._retry_after, doubt=Doubt.REQUEST))

    def _collect(self, data: bytes) -> None:
        good = 200 <= self.status < 300
        if good and (self._encoding or self._size < MAX_BEGINNING) and not self._goes_on(data):
            return
        self._size += len(data)
        if self._size <= (self._limits.answer if good else MAX_ERROR):
            self._chunks.append(data)
        elif good:
            self.fail(f"the answer is longer than {self._limits.answer} bytes")
        else:
            self._end_of_error()  # the status is enough for a verdict

    # The beginning of an answer: what it is, whatever its headers say.

    def _goes_on(self, data: bytes) -> bool:
        """Look at the beginning of a good answer; False if these bytes have been dealt with, as a stream or a fault.

        Both OpenAI SDKs read a stream of any Content-Type. Some relays send plain bytes under a Content-Encoding of
        another hop.
        """
        if data[:1] == b"{" and not self._size and not self._encoding:
            return True  # the usual case
        beginning = (b"".join(self._chunks) + data[:MAX_HEAD]).lstrip(_SPACE)
        if beginning.startswith(_STREAM_BEGINS):
            self._drop_encoding()
            self._begin_stream()
            first, self._size = b"".join([*self._chunks, data]), 0
            self._chunks.clear()
            self._set_header(b"content-type", b"text/event-stream; charset=utf-8")
            self.data(first)
            return False
        if self._encoding and beginning:
            if not beginning.startswith(_JSON_BEGINS) and not any(map(_begins_with(beginning), _STREAM_BEGINS)):
                self.fail("the answer has a content-encoding, but none was accepted", passing=False)
                return False
            if beginning.startswith(_JSON_BEGINS):
                self._drop_encoding()
        return True

    def _begin_stream(self) -> None:
        must_finish = self._habits.finishes
        self._scanner = Scanner(self._choices, self._limits.event, self._dialect.finishes, must_finish=must_finish)

    def _drop_encoding(self) -> None:
        """The bytes contradict the Content-Encoding, so that no client could read them with it."""
        if self._encoding:
            self._encoding = False
            self.headers = [header for header in self.headers if header[0] != b"content-encoding"]

    def _drop_charset(self, body: bytes) -> None:
        """Drop a charset that the body contradicts: JSON in UTF-8."""
        if b"charset" in self._kind.lower() and not _UTF8.search(self._kind):
            try:
                body.decode()
            except UnicodeDecodeError:
                return
            self._set_header(b"content-type", self._kind.partition(b";")[0].strip())

    def _set_header(self, name: bytes, value: bytes) -> None:
        self.headers = [*(header for header in self.headers if header[0] != name), (name, value)]

    def _still_silent(self, size: int) -> None:
        self._size += size
        self._news = False  # a role or a comment is not what the listener waits for
        if self._size > MAX_SILENT:
            self.fail(f"no token within {MAX_SILENT} bytes of the stream")

    def _over(self, scanner: Scanner) -> None:
        """The stream sent an error or [DONE]. After [DONE] only the end of the HTTP message is missing."""
        if scanner.error is not None:
            self._error_event(scanner)
        elif not scanner.first_token:
            self._broken("an empty stream")
        else:
            self.done = True

    def _error_event(self, scanner: Scanner) -> None:
        self.usage, self.malformed = scanner.usage, scanner.malformed
        self._judge(200, scanner.error, "an error event")
        if self.verdict is Verdict.REFUSED and not scanner.first_token:
            self._refused_at_once(scanner)

    def _refused_at_once(self, scanner: Scanner) -> None:
        """Turn a refusal before the first token into an answer that does not stream: a status can still report it."""
        self._scanner, self.error = None, scanner.error
        self._chunks[:] = [self._mask.bytes(data_of(scanner.error_event))]
        self._set_header(b"content-type", b"application/json")

    def _end_of_stream(self, scanner: Scanner, broken: str) -> None:
        rest = scanner.finish()
        if rest:
            self._chunks.append(rest)
        self.usage, self.malformed = scanner.usage, scanner.malformed
        if scanner.error is not None:
            self._error_event(scanner)
        elif not scanner.first_token:
            self._broken("an empty stream" if scanner.done else broken)
        elif scanner.whole:
            self._end(SERVED)
            self._habits.finishes = self._habits.finishes or scanner.finishes
        else:
            self._broken(broken)

    def _no_stream(self, body: bytes) -> None:
        """JSON under the Content-Type of a stream: an answer, or an error, that does not stream."""
        self._scanner, self._chunks[:], self._size = None, [body], len(body)
        self._set_header(b"content-type", b"application/json")
        self._end_of_answer()

    def _end_of_answer(self) -> None:
        if self._size > MAX_CHECKED:
            self._end(SERVED)
            return
        body = b"".join(self._chunks)
        self._chunks[:] = [body]
        if not body:
            self.fail("an empty answer")
            return
        try:
            answer = self._read_answer(body)
        except ValueError:
            self.fail("the answer is not valid JSON")
            return
        if answer is None or answer.error or (not answer.content and is_error(_read(body))):
            self._end_without_answer(body)
            return
        failed = next(filter(None, [failure(c.finish_reason) for c in answer.choices or () if c.finish_reason]), None)
        if failed is not None:
            self._judge(200, failed, "an answer cut short")
            return
        if not answer.content:
            self._no_answer(f"the answer has no {'data' if self._operation == 'embeddings' else 'choices'}")
            return
        if self._dialect.finishes:
            self._chunks[:] = [renamed(body, self._dialect.finishes)]
        self.usage = answer.usage if isinstance(answer.usage, Usage) else None
        if b";" in self._kind:
            self._drop_charset(body)
        self._end(SERVED)

    def _read_answer(self, body: bytes) -> Answer | Embeddings | None:
        """The answer in a body; None if it is JSON of another form. Raises ValueError if it is not even that.

        The typed decoder alone does not check that: it skips strings that are not asked for, and stops at another form.
        """
        embeds = self._operation == "embeddings"
        try:
            if not body.isascii():
                body.decode()
            return read_embeddings(body) if embeds else read_answer(body)
        except Error:
            value = read_leniently(body)
        try:
            return convert(value, Embeddings) if embeds else convert(value, Answer)
        except msgspec.ValidationError:
            return None

    def _end_without_answer(self, body: bytes) -> None:
        """End a 200 that is an error, or JSON of another form, as a status page has."""
        decoded = _read(body)
        error = decoded.get("error") if isinstance(decoded, dict) else None
        if error or is_error(decoded):
            self.error, self._chunks[:] = error, [self._mask.bytes(body)]
            self._judge(200, decoded, "an error in an answer")
        else:
            self._no_answer("the answer has another form than that of the operation")

    def _end_of_error(self) -> None:
        body = self._mask.bytes(b"".join(self._chunks))
        self._chunks[:] = [body]
        decoded = _read(body)
        if decoded is not None:
            self._drop_encoding()
            self._drop_charset(body)
        elif not _PAGE.match(body):
            decoded = body[:MAX_TEXT].decode(errors="replace")
        self.error = decoded.get("error") if isinstance(decoded, dict) else None  # the form at which SDKs raise
        if 300 <= self.status < 400:
            self._judge(self.status, None, f"a redirect (status {self.status}), which is not followed")
        else:
            self._judge(self.status, decoded, f"status {self.status}")

    def _judge(self, status: int, body: Any, where: str) -> None:
        """End with the verdict that the dialect reads from a status and an error body."""
        cause, retry_after = judged = self._dialect.judge(status, body, self._retry_after, time.time())
        verdict = judged.verdict
        passing = verdict is Verdict.BUSY or (
            verdict is Verdict.FAULT and cause not in OURS and not 300 <= status < 500
        )
        code, message = _words_of(body, self._mask)
        doubt = doubt_of(status, cause, retry_after=retry_after is not None)
        reason = f"{where}{code}"
        self._end(Outcome(verdict, reason, retry_after, cause, passing=passing, doubt=doubt, message=message))


def _begins_with(beginning: bytes) -> Callable[[bytes], bool]:
    return lambda whole: whole.startswith(beginning)


def _read(body: bytes) -> Any:
    """The decoded body; None if it is not JSON."""
    try:
        return msgspec.json.decode(body)
    except Error:
        pass
    try:
        return read_leniently(body)
    except ValueError:
        return None


def _words_of(body: Any, mask: Mask) -> tuple[str, str]:
    """The error's code, as it is appended to a reason, and the error's own text; both empty if there is none.

    Both come from outside, and may repeat a key of ours. The text may repeat a prompt too, so that only the client that
    sent it, and the operator's log of faults, see it.
    """
    error = error_of(body)
    if error is None:
        return "", ""
    code = error.get("code")
    shown = f" ({quoted(mask.text(str(code)))[:MAX_CODE]})" if isinstance(code, (str, int)) and code else ""
    return shown, quoted(mask.text(message_of(error)))


def _retry_after(name: bytes, value: bytes, known: float | None) -> float | None:
    """The seconds in a header; `known` is the value of an earlier one. `retry-after-ms` takes precedence over
    `retry-after`, which holds a number of seconds or a date (RFC 9110 §10.2.3).
    """
    text = value.decode("latin-1").strip()
    try:
        if name == b"retry-after-ms":
            return min(max(0.0, float(text) / 1000), MAX_RETRY_AFTER)
        if name == b"retry-after" and known is None:
            return min(max(0.0, float(text)), MAX_RETRY_AFTER)
    except ValueError:
        try:
            return min(max(0.0, parsedate_to_datetime(text).timestamp() - time.time()), MAX_RETRY_AFTER)
        except (ValueError, OverflowError):
            return known
    return known
