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
from typing import Any, NamedTuple, Protocol

import msgspec

from router.core.call import Operation
from router.core.stream.error_body import is_error
from router.core.stream.events import Usage, decoded
from router.core.stream.finish import renamed
from router.core.stream.lines import data_of
from router.core.stream.scanner import (
    MAX_SILENT,
    Budget,
    EventTooLarge,
    Scanner,
    TooMuchNoise,
    no_token_yet,
)
from router.core.verdict import SERVED, Doubt, Outcome, Verdict
from router.dialects.base import Dialect
from router.upstream.labels import MAX_BEGINNING, Headers, form_of, right_charset, without
from router.upstream.masking import NO_MASK, Mask
from router.upstream.refusal import judged, retry_after_of
from router.upstream.spliced import Spliced
from router.upstream.whole import failed_choice, read_whole, says_something

MAX_ERROR = 256 << 10  # bytes of an error body that are kept: it may repeat a whole prompt
MAX_CHECKED = 1 << 20  # bytes of a complete answer up to which it is checked to be JSON: about 2 ms
MAX_TEXT = 2000  # bytes of an error in plain text that are read
MAX_HEAD = 4096  # bytes in which an answer's beginning is looked for

_PAGE = re.compile(rb"\s*<")  # HTML or XML: no words for people


class Request(msgspec.Struct, frozen=True):
    """The bytes of one HTTP/1.1 request."""

    head: bytes
    body: bytes | bytearray | Spliced

    def __repr__(self) -> str:
        """Leave out the head, which holds the endpoint's key, and the body, which holds a prompt."""
        return f"<Request {len(self.head)} + {len(self.body)} bytes>"


class Limits(NamedTuple):
    """The largest event and the largest answer that an endpoint may send, in bytes; and the budget for what is held."""

    event: int = 32 << 20
    answer: int = 64 << 20
    budget: Budget | None = None


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
    error object of an answer that is not a stream. `long`: such an answer is too long to be checked, so that it may be
    passed on before its end.
    """

    __slots__ = (
        "_choices",
        "_chunks",
        "_dialect",
        "_encoding",
        "_habits",
        "_kind",
        "_limits",
        "_mask",
        "_news",
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
        "long",
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
        self._size = 0
        self._news = False
        self._retry_after: float | None = None  # seconds, from the headers
        self._kind = b""  # the Content-Type
        self._encoding = False  # the headers name a Content-Encoding; None was accepted
        self.done = self.final = self.finished = self.long = self.resent = False
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

    @property
    def length(self) -> int | None:
        """The bytes of the answer, if its headers say so."""
        return next((int(value) for name, value in self.headers if name == b"content-length"), None)

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
        if self._scanner is not None:
            self._scanner.release()
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
                self._retry_after = retry_after_of(name, value, self._retry_after)
        self._kind = kind
        self._encoding = bool(encoding) and encoding.lower() != b"identity"
        if good and kind[:17].lower() == b"text/event-stream" and not self._encoding:
            self._begin_stream()
            if b";" in kind and (right := right_charset(kind, b"")) != kind:  # events are in UTF-8, whatever it says
                self.headers = [*without(headers, b"content-type"), (b"content-type", right)]

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
        except TooMuchNoise as noise:
            self.malformed = scanner.malformed
            self.fail(str(noise))
            return
        if ready:
            self._chunks.append(ready)
            self._news = True
            if not scanner.first_token:
                self._still_silent(len(ready))
        if scanner.turned:
            scanner.turned, self.finished = False, scanner.finished
            if scanner.over:
                self._over(scanner)

    def complete(self) -> None:
        """The answer has ended according to HTTP."""
        if self.outcome is None:
            scanner = self._scanner
            if scanner is not None and not scanner.events and form_of(scanner.held) == "json":
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
        if good and (self._encoding or (self._size < MAX_BEGINNING and data[:1] != b"{")) and self._recognised(data):
            return
        self._size += len(data)
        if self._size <= (self._limits.answer if good else MAX_ERROR):
            self._chunks.append(data)
            if self._size > MAX_CHECKED:
                self._goes_long()
        elif good:
            self._too_long()
        else:
            self._end_of_error()  # the status is enough for a verdict

    def _goes_long(self) -> None:
        if not self.long and (self.length or 0) > self._limits.answer:
            self._too_long()
        self.long = self._news = True

    def _too_long(self) -> None:
        self.fail(f"the answer is longer than {self._limits.answer} bytes")

    def _recognised(self, data: bytes) -> bool:
        """Look at the beginning of a good answer; True if its bytes have been dealt with, as a stream or a fault."""
        form = form_of(b"".join(self._chunks) + data[:MAX_HEAD]) if self._size <= MAX_HEAD else "other"
        if form == "stream":
            self._drop_encoding()
            self._begin_stream()
            first, self._size = b"".join([*self._chunks, data]), 0
            self._chunks.clear()
            self._set_header(b"content-type", b"text/event-stream; charset=utf-8")
            self.data(first)
            return True
        if form == "json":
            self._drop_encoding()
        elif form == "other" and self._encoding:
            self.fail("the answer has a content-encoding, but none was accepted", passing=False)
            return True
        return False

    def _begin_stream(self) -> None:
        must_finish = self._habits.finishes
        event, budget = self._limits.event, self._limits.budget
        self._scanner = Scanner(self._choices, event, self._dialect.finishes, must_finish=must_finish, budget=budget)

    def _drop_encoding(self) -> None:
        """The bytes contradict the Content-Encoding, so that no client could read them with it."""
        if self._encoding:
            self._encoding = False
            self.headers = without(self.headers, b"content-encoding")

    def _set_kind(self, body: bytes) -> None:
        kind = right_charset(self._kind, body)
        if kind is not self._kind:
            self._set_header(b"content-type", kind)

    def _set_header(self, name: bytes, value: bytes) -> None:
        self.headers = [*without(self.headers, name), (name, value)]

    def _still_silent(self, size: int) -> None:
        self._size += size
        self._news = False  # a role or a comment is not what the listener waits for
        if self._size > MAX_SILENT:
            self.fail(no_token_yet())

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
        scanner.release()
        self._scanner, self.error = None, scanner.error
        self._chunks[:] = [self._mask.bytes(data_of(scanner.error_event))]
        self._set_header(b"content-type", b"application/json")

    def _end_of_stream(self, scanner: Scanner, broken: str) -> None:
        try:
            rest = scanner.finish()
        except TooMuchNoise as error:
            rest, broken = b"", str(error)
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
        if self._scanner is not None:
            self._scanner.release()
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
            answer = read_whole(self._operation, body)
        except ValueError:
            self.fail("the answer is not valid JSON")
            return
        content = None if answer is None else answer.content
        if answer is None or answer.error or (not content and is_error(decoded(body))):
            self._end_without_answer(body)
        elif not content:
            self._no_answer(f"the answer has no {'data' if self._operation == 'embeddings' else 'choices'}")
        elif answer.choices and (failed := failed_choice(answer.choices)) is not None:
            self._judge(200, failed, "an answer cut short")
        elif answer.choices and not says_something(answer.choices, body):
            self._no_answer("the answer has neither output nor a finish reason")
        else:
            if self._dialect.finishes:
                self._chunks[:] = [renamed(body, self._dialect.finishes)]
            self.usage = answer.usage if isinstance(answer.usage, Usage) else None
            if b";" in self._kind:
                self._set_kind(body)
            self._end(SERVED)

    def _end_without_answer(self, body: bytes) -> None:
        """End a 200 that is an error, or JSON of another form, as a status page has."""
        value = decoded(body)
        error = value.get("error") if isinstance(value, dict) else None
        if error or is_error(value):
            self.error, self._chunks[:] = error, [self._mask.bytes(body)]
            self._judge(200, value, "an error in an answer")
        else:
            self._no_answer("the answer has another form than that of the operation")

    def _end_of_error(self) -> None:
        body = self._mask.bytes(b"".join(self._chunks))
        self._chunks[:] = [body]
        value = decoded(body)
        if value is not None:
            self._drop_encoding()
            self._set_kind(body)
        elif not _PAGE.match(body):
            value = body[:MAX_TEXT].decode(errors="replace")
        self.error = value.get("error") if isinstance(value, dict) else None  # the form at which SDKs raise
        if 300 <= self.status < 400:
            self._judge(self.status, None, f"a redirect (status {self.status}), which is not followed")
        else:
            self._judge(self.status, value, f"status {self.status}")

    def _judge(self, status: int, body: Any, where: str) -> None:
        """End with the verdict that the dialect reads from a status and an error body."""
        self._end(judged(self._dialect, self._mask, status, body, self._retry_after, where))
