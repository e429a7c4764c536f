"""The parsers under test, and what must hold for any input. A new target is a function and a line in TARGETS."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from random import Random
from typing import NamedTuple, get_args

import httptools
import msgspec
import pytest

from router.core.body import BYTE_ORDER_MARK, MAX_DEPTH, MAX_KEYS, Body, InvalidBody
from router.core.call import Call, Fields, InvalidCall, Operation, parse
from router.core.choice.affinity import key_of
from router.core.record import CallRecord
from router.core.stream.lines import split
from router.core.stream.scanner import MAX_MALFORMED, EventTooLarge, Scanner, TooMuchNoise
from router.core.stream.splice import Continuation, Diverged, Replay
from router.core.stream.template import MAX_TRIES
from router.core.stream.transcript import Transcript
from router.core.verdict import Outcome, Verdict
from router.dialects import DIALECTS
from router.ops.signals import load_of, read
from router.proxy.handler import OPERATIONS
from router.proxy.headers import MAX_HEAD, answer_headers, optional, pairs, passed_on
from router.proxy.intake import Bounds
from router.upstream.exchange import Exchange, Limits, Request
from router.upstream.http1 import Connection
from tests.fuzz import corpus, reference
from tests.fuzz.mutations import cut, mutate
from tests.fuzz.wires import Answering, Transport, pool_without_network, server_side
from tests.support.outcomes import outcome_of

Run = Callable[[bytes, Random], None]


class Target(NamedTuple):
    """Recordings to mutate, and a check: `run` raises if something does not hold."""

    samples: Mapping[str, bytes]
    run: Run

    @property
    def inputs(self) -> Sequence[bytes]:
        return tuple(self.samples.values())


# Token streams.


def sse(data: bytes, rng: Random) -> None:
    """A stream is forwarded and read the same however it is cut, and an SDK can read what is forwarded."""
    choices = rng.choice((1, 1, 2))
    try:
        whole, forwarded = _scan([data], choices)
    except TooMuchNoise:  # however the stream is cut
        assert data.count(b"data") > MAX_MALFORMED
        with pytest.raises(TooMuchNoise):
            _scan(cut(data, rng), choices)
        return
    split, also = _scan(cut(data, rng), choices)
    assert _facts(split) == _facts(whole), (_facts(split), _facts(whole))
    assert reference.blocks(also) == reference.blocks(forwarded)
    assert also.translate(None, b"\r\n") == forwarded.translate(None, b"\r\n")
    _readable(forwarded)
    _as_the_reference_reads(data, whole)
    _bounded(data, rng)


def template(data: bytes, rng: Random) -> None:
    """A scanner that knows a stream's template reads and forwards what one does that parses each event."""
    events = [event + b"\n\n" for event in split(data) if event[:6] == b"data: "]
    pieces = [
        mutate(event, rng, events) if rng.random() < 0.2 else event.replace(b"o", rng.choice(_TEXTS))
        for event in events
        for _ in range(rng.randrange(1, 6))
    ]
    facts = []
    for tries in (MAX_TRIES, 0):
        scanner = Scanner(finishes=DIALECTS["zhipu"].finishes)
        scanner._tries = tries
        out: list[bytes] = []
        try:
            out.extend(scanner.feed(piece) for piece in pieces if piece)
        except ValueError as error:
            out.append(str(error).encode())
        facts.append((out, _facts(scanner), scanner.events, scanner.malformed, scanner.usage))
    assert facts[0] == facts[1], facts


_TEXTS = (b"o", b"0", b"some words", "模型".encode(), b"\xff", b"\\n", b'","x":"', b'"}]},{"', b"\x7f", b"")


def _scan(pieces: Sequence[bytes], choices: int) -> tuple[Scanner, bytes]:
    scanner = Scanner(choices, finishes=DIALECTS["zhipu"].finishes)
    out = []
    for piece in pieces:
        ready = scanner.feed(piece)
        assert ready == b"" or _ends_an_event(ready), ready[-20:]
        out.append(ready)
    out.append(scanner.finish())
    assert scanner.finish() == b""
    return scanner, b"".join(out)


def _ends_an_event(ready: bytes) -> bool:
    return ready.endswith((b"\n\n", b"\r\r", b"\n\r", b"\r\n\r\n", b"\n\r\n", b"\r\r\n"))


def _facts(scanner: Scanner) -> tuple[object, ...]:
    usage = scanner.usage and (scanner.usage.prompt_tokens, scanner.usage.completion_tokens)
    counts = scanner.events, scanner.malformed
    return (scanner.first_token, scanner.done, repr(scanner.error), *counts, scanner.whole, usage)


def _readable(forwarded: bytes) -> None:
    """Assert that openai-python can read the stream: it stops at an event without data or with invalid JSON."""
    for block in reference.blocks(forwarded):
        text = reference.payload(block)
        if text.startswith(b"[DONE]"):
            continue
        assert text, f"an event without data was forwarded: {block}"
        try:
            value = reference.read_json(text)
        except reference.Odd:
            continue
        assert not (isinstance(value, dict) and value.get("error")), "an error was forwarded"


def _as_the_reference_reads(data: bytes, scanner: Scanner) -> None:
    ended = data if _ends_an_event(data) else data.rstrip(b"\r\n") + b"\n\n"  # as `finish` does
    try:
        read = reference.facts(ended)
    except reference.Odd:
        return
    found = (scanner.events, scanner.malformed, scanner.done, scanner.first_token, scanner.error is not None)
    assert found == (read.events, read.malformed, read.done, read.first_token, read.failed), (found, read)


def _bounded(data: bytes, rng: Random) -> None:
    """Assert that the bytes held back stay within the limit; a larger event may only raise EventTooLarge."""
    scanner = Scanner(1, 64)
    try:
        for piece in cut(data, rng):
            scanner.feed(piece)
            assert scanner._held is None or len(scanner._held) <= 64
    except EventTooLarge:
        pass


# A broken stream, and another that continues it.


def resume(data: bytes, rng: Random) -> None:
    """Two streams make one complete answer for the client, or Diverged is raised because they differ."""
    try:
        forwarded = _scan([data], 1)[1]
    except TooMuchNoise:  # a stream without an answer; `sse` checks that it deserves this
        return
    events = [event + b"\n\n" for event in split(forwarded)]
    had, all_of_it = events[: rng.randrange(len(events) + 1)], _transcript(events)
    other = [event + b"\n\n" for event in split(_scan([rng.choice(tuple(corpus.STREAMS.values()))], 1)[1])]
    for stream in (events, other):
        try:
            replay = Replay(_transcript(had))
            out = [replay.feed(event) for event in stream]
            out.append(replay.finish())
        except Diverged:
            continue
        finally:
            _continued(had, stream)
        client = _transcript([*had, b"".join(out)])
        _readable(b"".join(out))
        assert stream is other or (client.texts, client.finished) == (all_of_it.texts, all_of_it.finished)


def _transcript(events: Sequence[bytes]) -> Transcript:
    transcript = Transcript()
    for event in events:
        transcript.note(event)
    transcript.read()
    return transcript


def _continued(had: Sequence[bytes], stream: Sequence[bytes]) -> None:
    transcript = _transcript(had)
    try:
        continuation = Continuation(transcript, (transcript.plain or "").rstrip())
        out = b"".join([*map(continuation.feed, stream), continuation.finish()])
    except Diverged:
        return
    _readable(out)


# Answers of endpoints.


class _Listener:
    """A listener that reads as a call does: takes what there is, and closes at the end."""

    def __init__(self, rng: Random) -> None:
        self._rng, self._pauses = rng, rng.random() < 0.2
        self.taken: list[bytes] = []
        self.outcome: Outcome | None = None

    @property
    def ended(self) -> bool:
        return self.outcome is not None

    def news(self, exchange: Exchange) -> None:
        assert not self.ended, "news after the end"
        assert exchange.verdict is not None or exchange.first_token, "news without content"
        self.taken.append(exchange.take())
        if exchange.outcome is not None:
            self.outcome = exchange.outcome
            exchange.close()
        elif self._pauses:
            self._rng.choice((exchange.pause, exchange.resume))()


_ASKED = Request(b"POST / HTTP/1.1\r\nhost: there\r\ncontent-length: 2\r\n\r\n", b"{}")
_TIGHT = Limits(event=600, answer=2000)


def http1(data: bytes, rng: Random) -> None:
    """Any answer ends exactly once, and with the same verdict and bytes however it is cut."""
    kind = rng.choice(list(DIALECTS))
    end = rng.choice(("eof", "reset", "timeout"))
    seed = rng.random()
    whole = _exchange([data] if data else [], kind, end, Random(seed))
    split = _exchange(cut(data, rng), kind, end, Random(seed))
    if "bytes of overhead" not in whole[2] + split[2]:  # counted by the read
        assert split[:2] == whole[:2], (split, whole)
        assert split[3].translate(None, b"\r\n") == whole[3].translate(None, b"\r\n")
    if rng.random() < 0.3:
        _exchange(cut(data, rng), kind, end, rng, tight=True)
    if rng.random() < 0.3 and end == "eof" and whole[0] is Verdict.SERVED and whole[1] < 300:
        read = reference.answer(data)
        if read is not None and not whole[4]:
            assert read.line == (whole[1],)
            assert read.body == whole[3], "h11 reads a different body"


def _exchange(
    pieces: Sequence[bytes], kind: str, end: str, rng: Random, *, tight: bool = False
) -> tuple[Verdict, int, str, bytes, bool]:
    pool, connection, transport = pool_without_network(512 if tight else 64 << 10)
    connection.rested = False
    first = None
    pieces = list(pieces)
    while True:
        listener = _Listener(rng)
        exchange = Exchange(listener, DIALECTS[kind], rng.choice((1, 1, 2)), _TIGHT if tight else Limits())
        if first is None:
            first = exchange, listener
        pool.begin(_ASKED, exchange)
        while pieces and not transport.closing and exchange.verdict is None:
            connection.data_received(pieces.pop(0))
        if exchange.verdict is None or transport.closing or not pieces:
            break
        assert connection in pool._idle, "neither closed nor free"
    _end_connection(connection, transport, exchange, end)
    assert exchange.verdict is not None, "it has no verdict"
    assert listener.ended, "the listener was not told of the end"
    assert exchange.outcome is listener.outcome, "the outcome has changed since"
    assert pool.busy == 0
    assert pool.idle == 0
    exchange, listener = first
    assert exchange.verdict is not None
    if exchange.verdict is Verdict.SERVED:
        assert 200 <= exchange.status < 300
    record = CallRecord("req_1", "chat/completions", 0.0, endpoint="a")
    shown = answer_headers(exchange.headers, record, 1.0, frozenset((b"x-1",)), stream=exchange.streams)
    assert len(shown) < MAX_HEAD
    _plain_headers(pairs(shown))
    if exchange.streams:
        _readable(b"".join(listener.taken))
    reason = "" if exchange.outcome is None else exchange.outcome.reason
    return exchange.verdict, exchange.status, reason, b"".join(listener.taken), exchange.streams


def _end_connection(connection: Connection, transport: Transport, exchange: Exchange, end: str) -> None:
    if end == "timeout" and exchange.verdict is None:
        exchange.lost("it stood still")
        exchange.flush()
    elif end == "eof" and not transport.closing:
        assert connection.eof_received() is False
    reset = end == "reset" and not transport.closing
    transport.closing = True
    connection.connection_lost(ConnectionResetError() if reset else None)


# Refusals.


def error(data: bytes, rng: Random) -> None:
    """Every dialect has a verdict for any error body, and never SERVED under an error status."""
    status = rng.choice((300, 307, 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529, 599))
    headers = [(b"retry-after", data[:20]), (b"retry-after-ms", data[-20:])] if rng.random() < 0.3 else []
    for dialect in DIALECTS.values():
        for under in (status, 200):
            exchange = Exchange(None, dialect)
            exchange.head(under, headers)
            for piece in cut(data, rng):
                exchange.data(piece)
            exchange.complete()
            assert exchange.verdict is not None
            assert under == 200 or exchange.verdict is not Verdict.SERVED
            assert len(outcome_of(exchange).reason) < 200
            if under == 200 and exchange.verdict is Verdict.SERVED:
                _good_json(data)


def _good_json(data: bytes) -> None:
    try:
        value = reference.read_json(data)
    except reference.Odd:
        return
    assert not (isinstance(value, dict) and value.get("error"))


# Requests of clients.

_BOUNDS = Bounds(body=8192, header=4096)


class _Loud(logging.Handler):
    """A log handler that fails the test: an error in the router's own log is a fault of the router."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


logging.getLogger("router.proxy.front").addHandler(_Loud(logging.ERROR))


def front(data: bytes, rng: Random) -> None:
    """Requests are read as h11 reads them or refused, the same however they are cut, and each is answered."""
    whole = _connection([data] if data else [], _BOUNDS)
    split = _connection(cut(data, rng), _BOUNDS)
    too_large = {"header_too_large", "body_too_large"}  # both limits may depend on the size of the reads
    by_the_read = too_large & {refusal.code for refusal in whole.refused + split.refused}
    if not by_the_read and not whole.others:  # after a request for the application, the application answers
        assert _received(split) == _received(whole), (_received(split), _received(whole))
    _connection(cut(data, rng), _BOUNDS, later=rng)
    _connection(cut(data, rng), Bounds(body=40, header=200))
    if whole.asked:
        _no_smuggling(data, whole)


_REQUESTS = tuple(corpus.REQUESTS.values())


def known_head(data: bytes, rng: Random) -> None:
    """A connection that remembers the last head serves what one does that parses each request."""
    served = []
    whole = mutate(data, rng, _REQUESTS)
    others = [mutate(rng.choice((data, whole)), rng, _REQUESTS) for _ in range(3)]
    reads = [data, data, data, whole, data, others[0], whole, whole, whole, *others]
    for remembers in (True, False):
        handler = Answering(later=False)
        handler.with_lengths = True
        made, transport, loop = server_side(handler, _BOUNDS)
        for piece in filter(None, reads):
            if not remembers:
                made._known = None
            made.data_received(piece)
            loop.turn()
            if transport.is_closing():
                break
        # The headers are those of the first request with this head; its length is used nowhere.
        requests = [
            (request.path, [each for each in request.headers if each[0] != b"content-length"], request.body)
            for request in handler.asked
        ]
        served.append((requests, [error.code for error in handler.refused], bytes(transport.sent), loop.ran))
        transport.close()
        made.connection_lost(None)
    assert served[0] == served[1], served


def _received(handler: Answering) -> list[tuple[bytes, bytes]]:
    return [(request.path, _bytes(request.body)) for request in handler.asked]


def _bytes(body: bytes | Body) -> bytes:
    return body if isinstance(body, bytes) else bytes(body.data)


def _connection(pieces: Sequence[bytes], bounds: Bounds, later: Random | None = None) -> Answering:
    handler = Answering(later=later is not None)
    made, transport, loop = server_side(handler, bounds)
    for piece in pieces:
        made.data_received(piece)
        loop.turn()
        if transport.is_closing():
            made.connection_lost(None)
            break
        if later is not None and handler.waiting and later.random() < 0.5:
            handler.answer(handler.waiting.pop())
    assert len(handler.waiting) <= 1
    assert made.intake.held <= bounds.body + (64 << 10)
    for request in handler.asked:
        assert len(_bytes(request.body)) <= bounds.body
        _plain_headers(request.headers)
        _plain_headers(pairs(passed_on(request.headers)))
        _plain_headers(optional(request.headers, frozenset((b"x-1", b"cookie"))))
    handler.others = loop.ran
    if not transport.is_closing():
        transport.close()
        made.connection_lost(None)
    if not any(word in b"".join(pieces).upper() for word in (b"HEAD", b"CONNECT")):  # these are answered without bodies
        _answers(bytes(transport.sent))
    return handler


def _plain_headers(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Assert that no header can end a line at the next hop, and that the length is given in one way only."""
    for name, value in headers:
        assert re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9a-z]+", name), name
        assert not re.search(rb"[\r\n\0]", value), value
    lengths = [value.strip(b" \t") for name, value in headers if name == b"content-length"]
    assert len(lengths) <= 1
    assert all(re.fullmatch(rb"\d+", length) for length in lengths), lengths
    chunked = [value for name, value in headers if name == b"transfer-encoding"]
    assert not (chunked and lengths)


class _Answers:
    """A counter of the answers that httptools finds."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_message_complete(self) -> None:
        self.ended += 1


def _answers(sent: bytes) -> None:
    """Assert that the bytes sent are answers, with nothing between them."""
    found = _Answers()
    parser = httptools.HttpResponseParser(found)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    if sent:
        parser.feed_data(sent)


def _no_smuggling(data: bytes, handler: Answering) -> None:
    """Assert that h11 reads the same requests, as far as it reads them."""
    read = [
        message
        for message in reference.requests(data)
        if message.line[0] == b"POST" and message.line[1].partition(b"?")[0] in OPERATIONS
    ]
    for ours, theirs in zip(handler.asked, read, strict=False):
        assert (ours.path, ours.body) == (theirs.line[1].partition(b"?")[0], theirs.body), "h11 reads another request"


# Bodies of requests.

_split = msgspec.json.Decoder(Fields).decode
_OPERATIONS: tuple[Operation, ...] = get_args(Operation)


def call(data: bytes, rng: Random) -> None:
    """A body is a call as the reference reads it, or refused with InvalidCall; every dialect can adapt the call."""
    try:
        made = parse(rng.choice(_OPERATIONS), data)
    except InvalidCall:
        return
    assert made.body in (data, data.removeprefix(BYTE_ORDER_MARK))
    try:
        value = reference.read_json(data)
    except (reference.Odd, ValueError):
        value = None
    if value is not None:
        assert (made.model, made.choices) == (value["model"], int(value.get("n") or 1))
        assert made.stream == bool(value.get("stream")) or made.operation == "embeddings"
    assert key_of("prefix", made, ()) == key_of("prefix", parse(made.operation, data + b" "), ())
    for dialect in DIALECTS.values():
        _adapted(made, dialect.adapt)


def body(data: bytes, rng: Random) -> None:
    """A body that is read while it arrives has the fields that the decoder finds, and is refused where it refuses.

    One byte order mark is dropped. Of values that are too long to be decoded more may be accepted.
    """
    wanted: dict[str, bytes] | None = None
    try:
        data.decode()
        wanted = {name: bytes(value) for name, value in _split(data.removeprefix(BYTE_ORDER_MARK)).items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    found = _read_in_pieces(cut(data, rng), 1 << 20)
    deep, many = data.count(b"[") + data.count(b"{") > MAX_DEPTH, data.count(b":") > MAX_KEYS
    assert found == wanted or (found is None and (deep or many)), (found, wanted)
    lenient = _read_in_pieces(cut(data, rng), 0)
    assert wanted is None or found is None or lenient == wanted, (lenient, wanted)


def _read_in_pieces(pieces: Sequence[bytes], max_checked: int) -> dict[str, bytes] | None:
    made = Body(max_checked)
    for piece in pieces:
        made.feed(piece)
    try:
        return {name: bytes(value) for name, value in made.end().items()}
    except InvalidBody:
        return None


def _adapted(made: Call, adapt: Callable[[Fields], None] | None) -> None:
    fields = made.fields.copy()
    if adapt is not None:
        adapt(fields)
    assert "model" in fields
    for name in ("temperature", "top_p"):
        if adapt is not None and name in fields:
            try:
                value = json.loads(bytes(fields[name]))
            except ValueError:
                continue
            assert (
                not isinstance(value, (int, float))
                or isinstance(value, bool)
                or value in (float("inf"), float("-inf"))
                or 0 < value < 1
            )


# Pages of metrics.


def load(data: bytes, rng: Random) -> None:
    """Any page is read or refused with a ValueError, and every load that is read from it is possible."""
    for gauges in (dialect.gauges for dialect in DIALECTS.values() if dialect.gauges is not None):
        try:
            samples = read(data, gauges)
        except ValueError:
            continue
        found = load_of(rng.choice(("m", "org/m", "another")), samples, gauges)
        assert found is None or any(value is not None for value in found)
        for value in found or ():
            assert value is None or 0.0 <= value < inf
        assert found is None or found.kv is None or found.kv <= 1.0


TARGETS: Mapping[str, Target] = {
    "sse": Target(corpus.STREAMS, sse),
    "template": Target(corpus.STREAMS, template),
    "resume": Target(corpus.STREAMS, resume),
    "http1": Target(corpus.ANSWERS, http1),
    "error": Target(corpus.ERRORS, error),
    "front": Target(corpus.REQUESTS, front),
    "known_head": Target(corpus.REQUESTS, known_head),
    "call": Target(corpus.BODIES, call),
    "body": Target(corpus.BODIES, body),
    "load": Target(corpus.PAGES, load),
}
