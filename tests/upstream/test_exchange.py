"""Exchanges: the outcome, the bytes and the news for each sequence of calls by the wire. No socket, no loop."""

from __future__ import annotations

import email.utils
import time

import pytest

from router.core.stream.scanner import MAX_SILENT
from router.core.verdict import Verdict
from router.dialects import DIALECTS
from router.proxy.body_budget import BodyBudget
from router.upstream.exchange import MAX_CHECKED, MAX_ERROR, Limits
from router.upstream.labels import Headers
from tests.support.outcomes import outcome_of
from tests.upstream.servers import DONE, FINISH, JSON, ROLE, SERVED, STREAM, Call, token

EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
PLAIN: Headers = [(b"content-type", b"application/json")]


class Wire:
    """A wire that records the calls to it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def close(self) -> None:
        self.calls.append("close")


def streaming(*pieces: bytes, **options: object) -> Call:
    """A call that has received these pieces of a stream, each with a read of its own."""
    call = Call(**options)  # type: ignore[arg-type]
    call.exchange.head(200, EVENTS)
    for piece in pieces:
        call.exchange.data(piece)
        call.exchange.flush()
    return call


def answered(
    body: bytes, status: int = 200, *headers: tuple[bytes, bytes], kind: str = "openai", **options: object
) -> Call:
    """A call with a complete answer."""
    call = Call(DIALECTS[kind], **options)  # type: ignore[arg-type]
    call.exchange.head(status, [*PLAIN, *headers])
    call.exchange.data(body)
    call.exchange.complete()
    call.exchange.flush()
    return call


# A stream.


def test_the_first_news_of_a_stream_is_its_first_token() -> None:
    call = streaming(ROLE, b": ping\n\n")
    assert (call.news_count, call.exchange.streams, call.exchange.first_token) == (0, True, False)
    call.exchange.data(token("Hello"))
    call.exchange.flush()
    assert (call.news_count, call.exchange.first_token) == (1, True)
    assert call.body == ROLE + b": ping\n\n" + token("Hello")


def test_one_read_makes_one_news() -> None:
    call = streaming(ROLE + token("a"))
    for text in "bcd":
        call.exchange.data(token(text))
    call.exchange.flush()
    call.exchange.flush()
    assert call.news_count == 2


@pytest.mark.parametrize(
    "delta",
    [
        b'{"content":"a"}',
        b'{"reasoning_content":"a"}',
        b'{"reasoning":"a"}',
        b'{"refusal":"a"}',
        b'{"tool_calls":[{"index":0,"id":"x"}]}',
        b'{"function_call":{"name":"x"}}',
    ],
)
def test_a_first_token_is_output_of_any_kind(delta: bytes) -> None:
    assert streaming(b'data: {"choices":[{"delta":%b}]}\n\n' % delta).exchange.first_token


@pytest.mark.parametrize(
    "event",
    [
        ROLE,
        b"data: {}\n\n",
        b'data: {"choices":[]}\n\n',
        b": ping\n\n",
        b'data: {"choices":[{"delta":{"content":""}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":null,"tool_calls":[]}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":5}}\n\n',
        token("half")[:-2],
    ],
)
def test_an_event_without_output_is_no_first_token(event: bytes) -> None:
    assert not streaming(event).exchange.first_token


@pytest.mark.parametrize("usage", [b'"none"', b"[]", b"{}", b'{"prompt_tokens":"5"}', b"1.5", b"null"])
def test_odd_usage_in_an_answer_changes_nothing_else(usage: bytes) -> None:
    call = answered(b'{"usage":%b,"choices":[{"text":"x"}]}' % usage)
    assert call.outcome == SERVED
    assert call.exchange.usage is None or call.exchange.usage.prompt_tokens is None
    assert answered(b'{"usage":%b,"error":{"code":"boom"}}' % usage).outcome[1] == "an error in an answer (boom)"


def test_a_complete_stream_is_served_with_its_usage() -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
    call = streaming(ROLE, token("Hello"), FINISH, usage + DONE)
    assert call.outcome[0] == "running"
    call.exchange.complete()
    call.exchange.flush()
    assert call.outcome == SERVED
    assert call.exchange.usage is not None
    assert (call.exchange.usage.prompt_tokens, call.exchange.usage.completion_tokens) == (5, 2)


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        (STREAM, SERVED),
        (STREAM.removesuffix(DONE), SERVED),
        (ROLE + token("Hello") + DONE, SERVED),
        (ROLE + FINISH + DONE, SERVED),
        (STREAM.removesuffix(b"\n\n"), SERVED),
        (ROLE + token("Hello"), ("fault", "the stream ended before the answer was complete")),
        (ROLE + DONE, ("fault", "an empty stream")),
        (DONE, ("fault", "an empty stream")),
        (b"", ("fault", "the stream ended before the answer was complete")),
        (b": ping\n\n", ("fault", "the stream ended before the answer was complete")),
    ],
    ids=range(10),
)
def test_a_stream_is_served_only_if_it_is_complete(sent: bytes, outcome: tuple[str, str]) -> None:
    call = streaming(sent)
    call.exchange.complete()
    assert call.outcome == outcome


@pytest.mark.parametrize(("finished", "outcome"), [([0], "fault"), ([0, 0], "fault"), ([1, 0], "served")])
def test_of_several_choices_each_must_finish(finished: list[int], outcome: str) -> None:
    ends = [b'data: {"choices":[{"index":%d,"delta":{},"finish_reason":"stop"}]}\n\n' % index for index in finished]
    call = streaming(token("a"), *ends, choices=2)
    call.exchange.complete()
    assert call.outcome[0] == outcome


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (b'{"code":"boom"}', Verdict.FAULT, "an error event (boom)"),
        (b'"boom"', Verdict.FAULT, "an error event"),
        (b'{"code":429}', Verdict.BUSY, "an error event (429)"),
        (b'{"type":"rate_limit_error","code":null}', Verdict.BUSY, "an error event"),
        (b'{"code":"context_length_exceeded"}', Verdict.REFUSED, "an error event (context_length_exceeded)"),
        (b'{"message":"sk-secret"}', Verdict.FAULT, "an error event"),
        (b'{"code":{"a":1}}', Verdict.FAULT, "an error event"),
        (b'{"code":"%b"}' % (b"x" * 100), Verdict.FAULT, f"an error event ({'x' * 40})"),
    ],
)
@pytest.mark.parametrize("before", [b"", ROLE, ROLE + token("Hello")], ids=["first", "role", "token"])
def test_an_error_event_ends_a_stream(before: bytes, error: bytes, verdict: Verdict, reason: str) -> None:
    call = streaming(before + b'data: {"error":%b}\n\n' % error + token("more"))
    assert (call.exchange.verdict, outcome_of(call.exchange).reason) == (verdict, reason)
    if verdict is Verdict.REFUSED and b"Hello" not in before:  # before the first token it is a refusal with a status
        assert (call.body, call.exchange.streams) == (b'{"error":%b}' % error, False)
    else:
        assert (call.body, call.exchange.streams) == (before, True)
    call.exchange.complete()
    call.exchange.lost("gone")
    assert (call.exchange.verdict, outcome_of(call.exchange).reason) == (verdict, reason)


def test_after_done_only_the_end_of_the_http_message_is_awaited() -> None:
    call = streaming(token("Hello") + DONE, token("late"))
    assert (call.exchange.done, call.exchange.verdict) == (True, None)
    assert call.body == token("Hello") + DONE
    call.exchange.complete()
    assert call.outcome == SERVED


def test_done_without_a_token_ends_the_stream_at_once() -> None:
    assert streaming(ROLE + DONE).outcome == ("fault", "an empty stream")


def test_an_event_over_the_limit_ends_a_stream() -> None:
    call = streaming(ROLE, b"data: " + b"x" * 1000, b"x" * 1000, limits=Limits(event=1500))
    assert call.outcome == ("fault", "an event is longer than 1500 bytes")
    call.exchange.data(token("more"))
    assert call.exchange.take() == b""
    assert call.exchange.final  # another answer would be as large


def test_a_stream_without_a_token_ends_at_a_limit() -> None:
    call = streaming()
    for _ in range(MAX_SILENT // len(ROLE) + 1):
        call.exchange.data(ROLE)
    assert call.outcome == ("fault", f"no token within {MAX_SILENT} bytes of the stream")


# A plain answer.


def test_a_plain_answer_makes_news_when_it_is_complete() -> None:
    call = Call()
    call.exchange.head(200, PLAIN)
    call.exchange.data(JSON[:9])
    call.exchange.flush()
    assert (call.news_count, call.exchange.first_token, call.exchange.streams) == (0, False, False)
    call.exchange.data(JSON[9:])
    call.exchange.complete()
    call.exchange.flush()
    assert (call.news_count, call.body, call.outcome, call.exchange.first_token) == (1, JSON, SERVED, True)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (JSON, SERVED),
        (b'{"error":null,"choices":[{"text":"x"}]}', SERVED),
        (b'{"error":{},"choices":[{"text":"x"}]}', SERVED),
        (b"[1]", ("fault", "the answer has another form than that of the operation")),
        (b'{"usage":"free"}', ("fault", "the answer has no choices")),
        (b"", ("fault", "an empty answer")),
        (b" ", ("fault", "the answer is not valid JSON")),
        (b"hello", ("fault", "the answer is not valid JSON")),
        (JSON[:-1], ("fault", "the answer is not valid JSON")),
        (b'{"a":"\xff"}', ("fault", "the answer is not valid JSON")),  # no SDK reads it
        (b"[1", ("fault", "the answer is not valid JSON")),  # half of an answer of unknown form
        (b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", ("fault", "the answer is not valid JSON")),
        (b'{"error":{"code":"boom"}}', ("fault", "an error in an answer (boom)")),
        (b'{"error":"boom"}', ("fault", "an error in an answer")),
        (b'{"error":{"code":"rate_limit_exceeded"}}', ("busy", "an error in an answer (rate_limit_exceeded)")),
    ],
    ids=range(15),
)
def test_a_good_answer_is_json_without_an_error(body: bytes, outcome: tuple[str, str]) -> None:
    assert answered(body).outcome == outcome


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"c","object":"chat.completion","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":0}}',
        b'{"choices":null}',
        b"{}",
        b"null",
        b"[]",
        b'"ok"',
        b"7",
        b'{"status":"ok","version":"1.2.3"}',
        b'{"choices":{}}',
        b'{"choices":["x"]}',
        b'{"data":[{"embedding":[0.5]}]}',
    ],
)
def test_an_answer_without_choices_is_a_fault(body: bytes) -> None:
    for operation in ("chat/completions", "completions"):
        exchange = answered(body, operation=operation).exchange
        assert (exchange.verdict, exchange.first_token) == (Verdict.FAULT, False)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"data":[]}', b'{"data":null}', b"null", b'{"choices":[{}]}', b'{"data":[1]}']
)
def test_an_embedding_without_data_is_a_fault(body: bytes) -> None:
    assert answered(body, operation="embeddings").exchange.verdict is Verdict.FAULT


def test_an_embedding_with_data_is_an_answer() -> None:
    body = b'{"object":"list","data":[{"embedding":[0.5,1]},{"embedding":"AAAA"}],"usage":{"prompt_tokens":2}}'
    call = answered(body, operation="embeddings")
    assert (call.outcome, call.body) == (SERVED, body)
    assert call.exchange.usage is not None
    assert call.exchange.usage.prompt_tokens == 2


@pytest.mark.parametrize("reason", [b"length", b"stop", b"content_filter"])
def test_an_empty_message_with_a_reason_to_finish_is_an_answer(reason: bytes) -> None:
    body = b'{"choices":[{"message":{"content":""},"finish_reason":"%b"}]}' % reason
    assert answered(body).outcome == SERVED


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource", "network_error"])
@pytest.mark.parametrize("kind", sorted(DIALECTS))
def test_an_answer_whose_finish_reason_is_a_failure_is_a_fault(kind: str, reason: str) -> None:
    choices = b'[{"message":{"content":"one two"},"finish_reason":"stop"},{"finish_reason":"%b"}]' % reason.encode()
    call = answered(b'{"choices":%b}' % choices, kind=kind)
    assert call.outcome == ("fault", f"an answer cut short ({reason})")
    call = streaming(ROLE, b'data: {"choices":%b}\n\n' % choices, DONE, dialect=DIALECTS[kind])
    assert call.outcome == ("fault", f"an error event ({reason})")


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":"\\ud83d"}}]}',
        b'{"choices":[{"message":{"content":"x"},"logprobs":{"content":[{"logprob":-Infinity},{"logprob":NaN}]}}]}',
        b'\xef\xbb\xbf{"choices":[{"message":{"content":"x"}}]}',
        '{"choices":[{"message":{"content":"x"}}]}'.encode("utf-16"),
    ],
)
def test_an_answer_that_python_reads_is_passed_on_byte_for_byte(body: bytes) -> None:
    call = answered(body)
    assert (call.outcome, call.body) == (SERVED, body)
    without = body.replace(b"choices", b"chances").replace("choices".encode("utf-16le"), "chances".encode("utf-16le"))
    assert answered(without).exchange.verdict is Verdict.FAULT


# Labels that the bytes contradict.


@pytest.mark.parametrize("kind", [b"text/plain", b"application/json", b"application/octet-stream", None])
@pytest.mark.parametrize(
    "before", [b"", b": ping\n\n", b"\n\n", b"\xef\xbb\xbf", b"event: message\n", b"retry: 3000\n\n"]
)
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_stream_is_recognised_by_its_first_bytes(kind: bytes | None, before: bytes, size: int) -> None:
    call = Call()
    call.exchange.head(200, [] if kind is None else [(b"content-type", kind)])
    sent = before + ROLE + token("Hello") + FINISH + DONE
    for at in range(0, len(sent), size):
        call.exchange.data(sent[at : at + size])
    call.exchange.complete()
    call.exchange.flush()
    assert (call.outcome, call.exchange.streams) == (SERVED, True)
    assert call.exchange.headers == [(b"content-type", b"text/event-stream; charset=utf-8")]
    assert token("Hello") + FINISH + DONE in call.body


def test_json_under_the_type_of_a_stream_is_an_answer_that_does_not_stream() -> None:
    call = Call()
    call.exchange.head(200, EVENTS)
    call.exchange.data(JSON[:9])
    call.exchange.data(JSON[9:])
    call.exchange.complete()
    call.exchange.flush()
    assert (call.outcome, call.body, call.exchange.streams) == (SERVED, JSON, False)
    assert call.exchange.headers == [(b"content-type", b"application/json")]


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd", b"deflate"])
@pytest.mark.parametrize("size", [1, 1000])
def test_a_content_encoding_that_the_bytes_contradict_is_dropped(encoding: bytes, size: int) -> None:
    for kind, body, streams in ((PLAIN, JSON, False), (EVENTS, STREAM, True), (EVENTS, b": hi\n\n" + STREAM, True)):
        call = Call()
        call.exchange.head(200, [*kind, (b"content-encoding", encoding)])
        for at in range(0, len(body), size):
            call.exchange.data(body[at : at + size])
        call.exchange.complete()
        call.exchange.flush()
        assert (call.outcome, call.body, call.exchange.streams) == (SERVED, body, streams)
        assert b"content-encoding" not in dict(call.exchange.headers)
    refused = answered(b'{"error":{"message":"no"}}', 400, (b"content-encoding", encoding)).exchange
    assert b"content-encoding" not in dict(refused.headers)


def test_a_charset_that_the_bytes_contradict_is_dropped() -> None:
    body = '{"choices":[{"message":{"content":"schön"}}]}'.encode()
    for charset, kept in ((b"iso-8859-1", False), (b"utf-16", False), (b"utf-8", True), (b'"UTF8"', True)):
        call = Call()
        call.exchange.head(200, [(b"content-type", b"application/json; charset=" + charset)])
        call.exchange.data(body)
        call.exchange.complete()
        assert (b"charset" in dict(call.exchange.headers)[b"content-type"]) is kept
    for charset in (b"latin-1", b"utf-16"):
        call = Call()
        call.exchange.head(200, [(b"content-type", b"text/event-stream; charset=" + charset)])
        assert call.exchange.headers == [(b"content-type", b"text/event-stream")]
    utf16 = body.decode().encode("utf-16")
    call = Call()
    call.exchange.head(200, [(b"content-type", b"application/json; charset=utf-16")])
    call.exchange.data(utf16)
    call.exchange.complete()
    assert call.outcome == SERVED
    assert dict(call.exchange.headers)[b"content-type"] == b"application/json; charset=utf-16"


def test_a_very_long_answer_is_not_checked_to_be_json() -> None:
    assert answered(b"x" * (MAX_CHECKED + 1)).outcome == SERVED


def test_an_answer_over_the_limit_is_a_fault() -> None:
    call = Call(limits=Limits(answer=100))
    call.exchange.head(200, PLAIN)
    call.exchange.data(b"x" * 101)
    assert call.outcome == ("fault", "the answer is longer than 100 bytes")


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd", b"gzip, identity"])
@pytest.mark.parametrize("headers", [EVENTS, PLAIN], ids=["stream", "plain"])
def test_a_compressed_answer_is_a_permanent_fault(headers: Headers, encoding: bytes) -> None:
    call = Call()
    call.exchange.head(200, [*headers, (b"content-encoding", encoding)])
    call.exchange.data(b"\x1f\x8b\x08\x00")
    assert call.outcome == ("fault", "the answer has a content-encoding, but none was accepted")
    assert not outcome_of(call.exchange).passing


@pytest.mark.parametrize("encoding", [b"identity", b"Identity", b""])
def test_the_identity_encoding_is_accepted(encoding: bytes) -> None:
    assert answered(JSON, 200, (b"content-encoding", encoding)).outcome == SERVED


# An error.


@pytest.mark.parametrize(
    ("status", "body", "verdict", "reason", "passing"),
    [
        (500, b"oops", Verdict.FAULT, "status 500", True),
        (503, b"", Verdict.FAULT, "status 503", True),
        (429, b"", Verdict.BUSY, "status 429", True),
        (529, b"", Verdict.BUSY, "status 529", True),
        (400, b'{"error":{"code":"bad"}}', Verdict.REFUSED, "status 400 (bad)", False),
        (422, b'{"detail":[]}', Verdict.REFUSED, "status 422", False),
        (401, b'{"error":{"code":"invalid_api_key"}}', Verdict.FAULT, "status 401 (invalid_api_key)", False),
        (404, b"not found", Verdict.FAULT, "status 404", False),
        (302, b"", Verdict.FAULT, "a redirect (status 302), which is not followed", False),
        (400, b"\xff\xfe", Verdict.REFUSED, "status 400", False),
        (400, b"[" * 9999, Verdict.REFUSED, "status 400", False),
        (400, b'{"error":"too long"}', Verdict.REFUSED, "status 400", False),
    ],
)
def test_an_error_is_judged_by_its_status_and_code(
    status: int, body: bytes, verdict: Verdict, reason: str, passing: bool
) -> None:
    exchange = answered(body, status).exchange
    assert (exchange.verdict, outcome_of(exchange).reason, outcome_of(exchange).passing) == (verdict, reason, passing)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"This server does not support embeddings.","code":501}}',
         "This server does not support embeddings."),
        (b'{"error":"no such thing"}', "no such thing"),
        (b'{"detail":"Not authenticated"}', "Not authenticated"),
        (b"upstream connect error", "upstream connect error"),
        (b"<html><body>502 Bad Gateway</body></html>", ""),
        (b"", ""),
        (b'{"error":{"message":"your key sk-123456 is wrong\\nCRITICAL \\u001b[2J \\u202e"}}',
         "your key *** is wrong CRITICAL \\x1b[2J \\u202e"),
        (b'{"error":{"message":"%b"}}' % (b"x" * 5000), "x" * 199 + "…"),
    ],
)  # fmt: skip
def test_an_endpoints_own_words_are_kept_bounded_escaped_and_without_keys(body: bytes, message: str) -> None:
    outcome = outcome_of(answered(body, 501).exchange)
    assert outcome.message == message
    assert outcome.explained == (f'{outcome.reason}: "{message}"' if message else outcome.reason)


def test_a_code_is_shown_without_control_characters_and_keys() -> None:
    code = b'{"error":{"code":"x\\n2026-01-01 CRITICAL \\u001b[2J sk-abcdefgh"}}'
    assert outcome_of(answered(code, 500).exchange).reason == "status 500 (x 2026-01-01 CRITICAL \\x1b[2J ***)"


@pytest.mark.parametrize(
    ("code", "verdict"), [("1302", "busy"), ("1113", "fault"), ("1261", "refused"), ("1234", "fault")]
)
def test_a_dialect_knows_its_vendors_codes(code: str, verdict: str) -> None:
    body = b'{"error":{"code":"%b","message":"..."}}' % code.encode()
    assert answered(body, 429, kind="zhipu").outcome == (verdict, f"status 429 ({code})")
    call = streaming(b"data: " + body + b"\n\n", dialect=DIALECTS["zhipu"])
    assert call.outcome == (verdict, f"an error event ({code})")


def test_only_the_beginning_of_a_long_error_is_kept() -> None:
    call = Call()
    call.exchange.head(400, PLAIN)
    for _ in range(40):
        call.exchange.data(b"x" * 10_000)
        call.exchange.flush()
    assert call.outcome == ("refused", "status 400")
    assert call.news_count == 1
    assert 0 < len(call.body) <= MAX_ERROR


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b" 1.5 ")], 1.5),
        ([(b"retry-after", b"-3")], 0.0),
        ([(b"retry-after-ms", b"250"), (b"retry-after", b"1")], 0.25),
        ([(b"retry-after", b"1"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"\xff")], None),
        ([(b"retry-after-ms", b"soon"), (b"retry-after", b"2")], 2.0),
        ([], None),
    ],
    ids=range(9),
)
def test_retry_after_is_read_from_the_headers(headers: Headers, seconds: float | None) -> None:
    assert outcome_of(answered(b"", 429, *headers).exchange).retry_after == seconds


@pytest.mark.parametrize("sent", [b"inf", b"-inf", b"nan", b"1e999", b"99999999999999999999"])
@pytest.mark.parametrize("name", [b"retry-after", b"retry-after-ms"])
def test_an_absurd_retry_after_is_bounded_or_ignored(name: bytes, sent: bytes) -> None:
    seconds = outcome_of(answered(b"", 429, (name, sent)).exchange).retry_after
    assert seconds is None or 0.0 <= seconds <= 366 * 86400.0


def test_retry_after_may_be_a_date() -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True).encode()
    seconds = outcome_of(answered(b"", 503, (b"retry-after", date)).exchange).retry_after
    assert seconds == pytest.approx(30, abs=2)
    assert (
        outcome_of(answered(b"", 503, (b"retry-after", b"Thu, 01 Jan 1970 00:00:00 GMT")).exchange).retry_after == 0.0
    )


# A lost connection.


@pytest.mark.parametrize(
    ("status", "sent", "outcome"),
    [
        (0, b"", ("fault", "gone")),
        (200, JSON, ("fault", "gone")),
        (500, b"oo", ("fault", "status 500")),
        (400, b"oo", ("refused", "status 400")),
        (307, b"", ("fault", "a redirect (status 307), which is not followed")),
    ],
)
def test_a_status_received_before_the_connection_was_lost_counts(
    status: int, sent: bytes, outcome: tuple[str, str]
) -> None:
    call = Call()
    if status:
        call.exchange.head(status, PLAIN)
        call.exchange.data(sent)
    call.exchange.lost("gone")
    assert call.outcome == outcome


@pytest.mark.parametrize(
    ("sent", "outcome"), [(STREAM, SERVED), (ROLE + token("a"), ("fault", "gone")), (b"", ("fault", "gone"))]
)
def test_a_stream_that_was_complete_when_the_connection_was_lost_is_served(
    sent: bytes, outcome: tuple[str, str]
) -> None:
    call = streaming(sent)
    call.exchange.lost("gone")
    assert call.outcome == outcome


# The end of an exchange.


def test_only_the_first_end_counts() -> None:
    call = answered(JSON)
    call.exchange.fail("late")
    call.exchange.lost("gone")
    call.exchange.complete()
    call.exchange.flush()
    assert (call.outcome, call.news_count) == (SERVED, 1)


def test_a_closed_exchange_has_no_news_and_closes_its_wire_once() -> None:
    call, wire = Call(), Wire()
    call.exchange.wire = wire
    call.exchange.pause()
    call.exchange.resume()
    call.exchange.close()
    call.exchange.close()
    call.exchange.pause()
    call.exchange.fail("late")
    call.exchange.flush()
    assert wire.calls == ["pause", "resume", "close"]
    assert call.news_count == 0


def test_the_repr_of_an_exchange_shows_its_state() -> None:
    assert repr(Call().exchange) == "<Exchange unanswered running>"
    assert "status 500" in repr(answered(b"", 500).exchange)


def test_an_event_that_is_put_together_counts_against_the_budget_until_its_end() -> None:
    budget = BodyBudget(1 << 20)
    large = b"x" * 100_000
    call = streaming(ROLE, b'data: {"x":"', large, limits=Limits(budget=budget))
    assert budget.held == len(large) + 12
    call.exchange.data(large)
    assert budget.held == 2 * len(large) + 12
    call.exchange.data(b'"}\n\ndata: {')
    assert budget.held == 7
    call.exchange.close()
    assert budget.held == 0


def test_an_event_that_is_given_up_counts_no_longer() -> None:
    budget = BodyBudget(1 << 20)
    call = streaming(ROLE, b"data: " + b"x" * 100_000, limits=Limits(event=150_000, budget=budget))
    assert budget.held > 100_000
    call.exchange.data(b"x" * 100_000)
    assert call.outcome is not None
    call.exchange.close()
    assert budget.held == 0


def test_the_usual_events_do_not_count_against_the_budget() -> None:
    budget = BodyBudget(1 << 20)
    streaming(ROLE, b'data: {"x":"' + b"x" * 10_000, limits=Limits(budget=budget))
    assert budget.held == 0
