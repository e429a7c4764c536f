"""One attempt's request and answer. An exchange never awaits: it calls its listener when there is news.

    the wire calls       head, data, complete, lost or fail; then flush
    the exchange calls   news of its listener, when a first token, more of the answer, or the end has come
    the listener reads   outcome, first_token, take(); and calls pause, resume, close

The head decides how an answer is read: a token stream event by event; any other good answer as a whole; an error for
its verdict and cause. An interrupted stream, an empty stream and a 200 with an error in it are never SERVED.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from router.core.stream.error_body import error_of, is_error
from router.core.stream.events import Answer, Usage, read_answer
from router.core.stream.scanner import CUT_SHORT, EventTooLarge, Scanner, cut_short, data_of, renamed
from router.core.verdict import OURS, SERVED, Outcome, Verdict, doubt_of
from router.dialects.base import Dialect
from router.upstream.masking import NO_MASK, Mask

Headers = list[tuple[bytes, bytes]]

MAX_ERROR = 256 << 10  # bytes of an error body that are kept: it may repeat a whole prompt
MAX_SILENT = 1 << 20  # bytes of comments and empty events before the first token
MAX_RETRY_AFTER = 86_400.0  # seconds: a day; some servers send `inf`
MAX_CHECKED = 1 << 20  # bytes of a complete answer up to which it is checked to be JSON: about 2 ms


class Request(msgspec.Struct, frozen=True):
    """The bytes of one HTTP/1.1 request."""

    head: bytes
    body: bytes

    def __repr__(self) -> str:
        """Leave out the head, which holds the endpoint's key, and the body, which holds a prompt."""
        return f"<Request {len(self.head)} + {len(self.body)} bytes>"


class Limits(NamedTuple):
    """The largest event and the largest answer that an endpoint may send, in bytes."""

    event: int = 4 << 20
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

    `events` counts the events of a token stream (comments are none), `done` is True once the stream sent its own end.
    `resent`: the request was sent a second time, because its first connection had died unused. `error` is the error
    object of an answer that is not a stream.
    """

    __slots__ = (
        "_choices",
        "_chunks",
        "_dialect",
        "_habits",
        "_limits",
        "_mask",
        "_news",
        "_retry_after",
        "_scanner",
        "_size",
        "done",
        "error",
        "events",
        "headers",
        "listener",
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
    ) -> None:
        self.listener = listener
        self._dialect, self._choices, self._limits = dialect, choices, limits
        self._habits = Habits() if habits is None else habits
        self._mask = mask
        self._scanner: Scanner | None = None  # of a token stream
        self._chunks: list[bytes] = []
        self._size = 0
        self._news = False
        self._retry_after: float | None = None  # seconds, from the headers
        self.events = 0
        self.done = self.resent = False
        self.wire: Wire | None = None
        self.status = 0
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
        if good and kind[:17].lower() == b"text/event-stream":
            must_finish = self._habits.finishes
            self._scanner = Scanner(self._choices, self._limits.event, self._dialect.finishes, must_finish=must_finish)
        if good and encoding and encoding.lower() != b"identity":
            self.fail("the answer has a content-encoding, but none was accepted", passing=False)

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
            self.fail(str(error))
            return
        self.events = scanner.events
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
            if self._scanner is not None:
                self._end_of_stream(self._scanner, "the stream ended before the answer was complete")
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

    # Ends.

    def _end(self, outcome: Outcome) -> None:
        """Set the outcome. Only the first end counts."""
        if self.outcome is None:
            self.outcome, self._news = outcome, True

    def _broken(self, reason: str) -> None:
        self._end(Outcome(Verdict.FAULT, reason, self._retry_after))

    def _collect(self, data: bytes) -> None:
        self._size += len(data)
        good = 200 <= self.status < 300
        if self._size <= (self._limits.answer if good else MAX_ERROR):
            self._chunks.append(data)
        elif good:
            self.fail(f"the answer is longer than {self._limits.answer} bytes")
        else:
            self._end_of_error()  # the status is enough for a verdict

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
        self.usage = scanner.usage
        self._judge(200, scanner.error, "an error event")
        if self.verdict is Verdict.REFUSED and not scanner.first_token:
            self._refused_at_once(scanner)

    def _refused_at_once(self, scanner: Scanner) -> None:
        """Turn a refusal before the first token into an answer that does not stream: a status can still report it."""
        self._scanner, self.error = None, scanner.error
        self._chunks[:] = [self._mask.bytes(data_of(scanner.error_event))]
        others = [header for header in self.headers if header[0] != b"content-type"]
        self.headers = [*others, (b"content-type", b"application/json")]

    def _end_of_stream(self, scanner: Scanner, broken: str) -> None:
        rest = scanner.finish()
        if rest:
            self._chunks.append(rest)
        self.usage = scanner.usage
        if scanner.error is not None:
            self._error_event(scanner)
        elif not scanner.first_token:
            self._broken("an empty stream" if scanner.done else broken)
        elif scanner.whole:
            self._end(SERVED)
            self._habits.finishes = self._habits.finishes or scanner.finishes
        else:
            self._broken(broken)

    def _end_of_answer(self) -> None:
        if self._size > MAX_CHECKED:
            self._end(SERVED)
            return
        body = b"".join(self._chunks)
        self._chunks[:] = [body]
        try:
            answer = _read_own_answer(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.fail("the answer is not valid JSON" if body else "an empty answer")
            return
        if answer.error or (answer.usage is None and is_error(_read(body))):
            self.error, self._chunks[:] = answer.error, [self._mask.bytes(body)]
            self._judge(200, _read(body), "an error in an answer")
            return
        if self._dialect.finishes:
            if cut_short(body):
                self._judge(200, CUT_SHORT, "an answer cut short")
                return
            self._chunks[:] = [renamed(body, self._dialect.finishes)]
        self.usage = answer.usage if isinstance(answer.usage, Usage) else None
        self._end(SERVED)

    def _end_of_error(self) -> None:
        body = self._mask.bytes(b"".join(self._chunks))
        self._chunks[:] = [body]
        decoded = _read(body)
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
        doubt = doubt_of(status, cause, retry_after=retry_after is not None)
        reason = f"{where}{_code_in(body, self._mask)}"
        self._end(Outcome(verdict, reason, retry_after, cause, passing=passing, doubt=doubt))


def _read(body: bytes) -> Any:
    """The decoded body; None if it is not JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _read_own_answer(body: bytes) -> Answer:
    """The usage and error of an answer in any form. Raises an error if it is not JSON, in UTF-8 throughout.

    The typed decoder alone does not check that: it skips strings that are not asked for, and stops at another form.
    """
    if not body.isascii():
        body.decode()
    try:
        return read_answer(body)
    except msgspec.ValidationError:
        msgspec.json.decode(body)
        return Answer()


def _code_in(body: Any, mask: Mask) -> str:
    """The error's code, if it has one; never its message, which may repeat a key or a prompt."""
    error = error_of(body)
    code = error.get("code") if error else None
    return f" ({mask.text(str(code))[:40]})" if isinstance(code, (str, int)) and code else ""


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
