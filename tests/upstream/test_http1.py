"""One connection, on real sockets: the framing of answers, invalid answers, and when the connection is closed."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest

from router.core.verdict import Verdict
from router.upstream.exchange import Limits, Request
from router.upstream.http1 import MAX_OVERHEAD, Connection
from router.upstream.pool import Address, Pool
from tests.support.outcomes import outcome_of
from tests.upstream.servers import (
    ASKED,
    DONE,
    FINISH,
    JSON,
    LAST,
    ROLE,
    SERVED,
    SSE,
    STREAM,
    Call,
    Clock,
    chunk,
    head,
    on_each_loop,
    pooling,
    serving,
    settled,
    token,
    until,
    whole,
)

EVENTS = b"content-type: text/event-stream"
CHUNKED = b"transfer-encoding: chunked"


@on_each_loop
@pytest.mark.parametrize("byte", [b"\0", b"\x01", b"\x0b", b"\x1b", b"\x7f", b"\r", b"\n", b"\r\n ", b"\n "])
async def test_a_header_with_a_control_character_is_no_http(byte: bytes) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        await (await server.accept()).answer(whole(JSON, 200, b"x-request-id: a" + byte + b"b"))
        verdict, reason = (await call.ended()).outcome
        assert (verdict, call.exchange.headers) == ("fault", [])
        assert reason.startswith("the answer is not valid HTTP")


# The end of an answer.


@on_each_loop
async def test_an_answer_with_its_length_is_served_and_the_connection_kept() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        request = await (await server.accept()).answer(whole())
        assert (await call.ended()).outcome == SERVED
        assert (call.body, call.exchange.status, call.news_count) == (JSON, 200, 1)
        assert (request.line, request.body) == (b"POST /v1/chat/completions HTTP/1.1", ASKED.body)
        assert (pool.idle, pool.busy, call.exchange.wire) == (1, 0, None)


@on_each_loop
async def test_a_chunked_stream_is_served_event_by_event_and_the_connection_kept() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE))
        await until(lambda: call.exchange.status)
        await settled(lambda: call.news_count)
        assert (call.news_count, call.exchange.streams, call.exchange.first_token) == (0, True, False)
        peer.send(chunk(token("Hello")))
        await call.first_token()
        assert call.body == ROLE + token("Hello")
        peer.send(chunk(FINISH + DONE), LAST)
        assert (await call.ended()).outcome == SERVED
        assert call.body == ROLE + token("Hello") + FINISH + DONE
        assert pool.idle == 1


@on_each_loop
@pytest.mark.parametrize("body", [chunk(STREAM) + LAST, b"".join(chunk(b"%c" % c) for c in STREAM) + LAST])
async def test_a_stream_is_read_the_same_however_it_is_cut(body: bytes) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.request()
        for byte in SSE + body:
            peer.send(b"%c" % byte)
            await peer.writer.drain()
        assert (await call.ended()).outcome == SERVED
        assert call.body == STREAM
        assert pool.idle == 1


@on_each_loop
async def test_a_close_delimited_stream_ends_with_its_connection() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(head(200, EVENTS), STREAM)
        await call.first_token()
        peer.finish()
        assert (await call.ended()).outcome == SERVED
        assert call.body == STREAM
        assert (pool.idle, pool.busy) == (0, 0)


@on_each_loop
async def test_a_close_delimited_answer_ends_with_its_connection() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(head(200, b"content-type: application/json"), JSON)
        peer.finish()
        assert (await call.ended()).outcome == SERVED
        assert call.body == JSON


@on_each_loop
async def test_a_close_delimited_answer_that_is_reset_is_incomplete() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(head(200), JSON)
        await until(lambda: call.exchange.status)
        peer.reset()
        assert (await call.ended()).outcome == ("fault", "the connection was closed before the answer was complete")


@on_each_loop
@pytest.mark.parametrize("body", [ROLE + token("Hel"), ROLE, b"", ROLE + token("Hello") + FINISH[:-5]], ids=range(4))
async def test_an_incomplete_close_delimited_stream_is_a_fault(body: bytes) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(head(200, EVENTS), body)
        peer.finish()
        assert (await call.ended()).exchange.verdict is Verdict.FAULT
        assert call.outcome[1] == "the stream ended before the answer was complete"


@on_each_loop
async def test_a_complete_stream_is_served_without_its_last_chunk() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(STREAM))
        await call.first_token()
        peer.reset()
        assert (await call.ended()).outcome == SERVED


@on_each_loop
async def test_1xx_answers_are_skipped() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        before = head(100) + head(102, b"x: y") + head(103, b"link: </>; rel=preload")
        await (await server.accept()).answer(before, whole())
        assert (await call.ended()).outcome == SERVED
        assert call.exchange.status == 200
        assert dict(call.exchange.headers)[b"content-type"] == b"application/json"
        assert not [name for name, _ in call.exchange.headers if name in (b"x", b"link")]
        assert pool.idle == 1


@on_each_loop
async def test_a_1xx_answer_is_not_the_beginning_of_the_answer() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(head(100))
        peer.finish()
        assert (await call.ended()).outcome == ("fault", "the connection was closed before the answer began")


@on_each_loop
async def test_headers_are_in_lower_case_and_trailers_are_skipped() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        answer = head(200, b"Content-Type: application/json", b"X-Request-ID: abc", b"Transfer-Encoding: chunked")
        await (await server.accept()).answer(answer, chunk(JSON), b"0\r\nx-checksum: 1\r\n\r\n")
        assert (await call.ended()).outcome == SERVED
        assert call.exchange.headers == [
            (b"content-type", b"application/json"),
            (b"x-request-id", b"abc"),
            (b"transfer-encoding", b"chunked"),
        ]
        assert call.body == JSON
        assert pool.idle == 1
        again = Call.to(pool)
        await server.peers[0].answer(whole())
        assert (await again.ended()).outcome == SERVED
        assert b"x-checksum" not in dict(again.exchange.headers)


# Whether the connection is kept.


@on_each_loop
async def test_one_connection_carries_one_request_after_the_other() -> None:
    async with serving() as server, pooling(server) as pool:
        for _ in range(3):
            call = Call.to(pool)
            await (server.peers[0] if server.peers else await server.accept()).answer(whole())
            assert (await call.ended()).outcome == SERVED
        assert (server.accepted, pool.opened, pool.reused) == (1, 1, 2)


@on_each_loop
@pytest.mark.parametrize(
    "answer",
    [
        whole(JSON, 200, b"connection: close"),
        whole(JSON, 500, b"Connection: Close"),
        whole().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["close", "close after an error", "HTTP/1.0"],
)
async def test_a_connection_that_the_server_closes_is_not_kept(answer: bytes) -> None:
    async with serving() as server, pooling(server) as pool:
        first = Call.to(pool)
        peer = await server.accept()
        await peer.answer(answer)
        await first.ended()
        assert pool.idle == 0
        await peer.left()
        second = Call.to(pool)
        await (await server.accept()).answer(whole())
        assert (await second.ended()).outcome == SERVED
        assert (pool.opened, pool.reused, pool.resent) == (2, 0, 0)


@on_each_loop
async def test_an_http_1_0_connection_with_keep_alive_is_kept() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        answer = whole(JSON, 200, b"connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
        await (await server.accept()).answer(answer)
        assert (await call.ended()).outcome == SERVED
        assert pool.idle == 1


@on_each_loop
async def test_an_error_with_its_length_leaves_the_connection_usable() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(whole(b'{"error":{"message":"no","code":"context_length_exceeded"}}', 400))
        assert (await call.ended()).outcome == ("refused", "status 400 (context_length_exceeded)")
        again = Call.to(pool)
        await peer.answer(whole())
        assert (await again.ended()).outcome == SERVED


@on_each_loop
@pytest.mark.parametrize(
    "more",
    [b"!", b"\r\nSSH-2.0\r\n", b"HTTP/1.1 2", whole(), SSE, head(100)],
    ids=["a byte", "garbage", "the beginning of another", "another", "another's head", "a 100"],
)
async def test_a_connection_with_more_than_one_answer_is_closed(more: bytes) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(whole() + more)
        assert (await call.ended()).outcome == SERVED
        assert call.body == JSON
        await peer.left()
        assert (pool.idle, pool.busy) == (0, 0)


@on_each_loop
@pytest.mark.parametrize("more", [b"!", whole(), whole(JSON, 408, b"connection: close"), head(100)], ids=range(4))
async def test_a_connection_with_bytes_but_no_request_is_closed(more: bytes) -> None:
    async with serving() as server, pooling(server, min_idle=1) as pool:
        pool.start()
        peer = await server.accept()
        await until(lambda: pool.idle == 1)
        pool._min_idle = 0
        peer.send(more)
        await peer.left()
        assert (pool.idle, pool.busy) == (0, 0)


# Invalid answers.

WRONG: dict[str, tuple[bytes, str]] = {
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", "the answer is not valid HTTP"),
    "HTTP/2": (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80", "the answer is not valid HTTP"),
    "TLS alert": (b"\x15\x03\x01\0\x02\x02\x46", "the answer is not valid HTTP"),
    "no version": (b"HTTP/9.9 200 OK\r\n\r\n", "the answer is not valid HTTP"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", "the answer is not valid HTTP"),
    "a header without a name": (b"HTTP/1.1 200 OK\r\n: x\r\n\r\n", "the answer is not valid HTTP"),
    "a header with a blank in its name": (b"HTTP/1.1 200 OK\r\na b: x\r\n\r\n", "the answer is not valid HTTP"),
    "a header with a NUL": (b"HTTP/1.1 200 OK\r\na: x\0y\r\n\r\n", "the answer is not valid HTTP"),
    "a length that is no number": (head(200, b"content-length: many"), "the answer is not valid HTTP"),
    "a length below nothing": (head(200, b"content-length: -1"), "the answer is not valid HTTP"),
    "a length beyond all bounds": (head(200, b"content-length: 99999999999999999999"), "the answer is not valid HTTP"),
    "two lengths": (head(200, b"content-length: 45", b"content-length: 46") + JSON, "the answer is not valid HTTP"),
    "a length and chunks": (
        head(200, b"content-length: 45", CHUNKED) + chunk(JSON) + LAST,
        "the answer is not valid HTTP",
    ),
    "a chunk size that is no number": (SSE + b"zz\r\n", "the answer is not valid HTTP"),
    "a chunk that is longer than it says": (SSE + b"3\r\nabcdef\r\n", "the answer is not valid HTTP"),
    "a length that is too short": (head(200, b"content-length: 20") + JSON, "the answer is not valid JSON"),
    "nothing": (head(200, b"content-length: 0"), "an empty answer"),
    "no content": (head(204), "an empty answer"),
    "a page": (whole(b"<html>Welcome to nginx!</html>"), "the answer is not valid JSON"),
    "another protocol from now on": (
        head(101, b"upgrade: h2c", b"connection: upgrade"),
        "the server switched protocols",
    ),
    "a body before the answer": (head(103, CHUNKED) + chunk(b"x") + LAST + whole(), "a 1xx answer with a body"),
    "a body before it that has a length": (head(150, b"content-length: 2") + b"{}", "a 1xx answer with a body"),
    "a redirect": (
        whole(b"", 307, b"location: https://elsewhere.test/"),
        "a redirect (status 307), which is not followed",
    ),
    "a compressed answer": (
        whole(b"\x1f\x8b\x08", 200, b"content-encoding: gzip"),
        "the answer has a content-encoding, but none was accepted",
    ),
    "a compressed stream": (
        head(200, EVENTS, CHUNKED, b"content-encoding: br") + chunk(b"\x1b\x0b\x00\xf8"),
        "the answer has a content-encoding, but none was accepted",
    ),
    "an empty stream": (SSE + LAST, "the stream ended before the answer was complete"),
    "a stream without a token": (SSE + chunk(ROLE + DONE) + LAST, "an empty stream"),
    "a stream that ends in the middle": (SSE + chunk(ROLE + token("Hel")) + LAST, "the stream ended before"),
    "an error in a stream": (SSE + chunk(ROLE + b'data: {"error":{"code":"boom"}}\n\n'), "an error event (boom)"),
    "an error in an answer": (whole(b'{"error":{"code":"boom"}}'), "an error in an answer (boom)"),
    "an error": (whole(b"<h1>Bad Gateway</h1>", 502), "status 502"),
}


@on_each_loop
@pytest.mark.parametrize("case", WRONG)
async def test_an_invalid_answer_is_a_fault_with_its_reason(case: str) -> None:
    answer, reason = WRONG[case]
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(answer)
        verdict, found = (await call.ended()).outcome
        assert verdict == "fault"
        assert re.match(re.escape(reason), found), found
        assert call.news_count == 1


BROKEN = sorted(case for case, (_, reason) in WRONG.items() if "not valid HTTP" in reason)


@on_each_loop
@pytest.mark.parametrize("case", [*BROKEN, "a length that is too short", "a compressed stream"])
async def test_after_an_unreadable_answer_the_connection_is_closed(case: str) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(WRONG[case][0])
        await call.ended()
        await peer.left()
        assert (pool.idle, pool.busy) == (0, 0)


@on_each_loop
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (head(200, b"content-length: 100") + JSON, "the connection was closed before the answer was complete"),
        (
            head(200, EVENTS, b"content-length: 1000") + ROLE + token("a"),
            "the connection was closed before the answer was complete",
        ),
        (SSE + chunk(ROLE + token("a")), "the connection was closed before the answer was complete"),
        (SSE + b"fff\r\nabc", "the connection was closed before the answer was complete"),
        (b"HTTP/1.1 200 OK\r\ncontent-ty", "the connection was closed before the answer began"),
        (b"", "the connection was closed before the answer began"),
    ],
    ids=["length", "stream with a length", "chunks", "a chunk", "head", "nothing"],
)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_an_answer_that_is_cut_off_is_a_fault(answer: bytes, reason: str, reset: bool) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(answer)
        if reset:
            await peer.writer.drain()
            await settled(lambda: call.exchange)  # all bytes are read before the reset
            peer.reset()
        else:
            peer.finish()
        assert (await call.ended()).outcome == ("fault", reason)


@on_each_loop
async def test_an_error_that_is_cut_off_counts_by_its_status() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(head(429, b"retry-after: 3", b"content-length: 500"), b'{"error":')
        peer.finish()
        assert (await call.ended()).outcome == ("busy", "status 429")
        assert outcome_of(call.exchange).retry_after == 3.0


# Too many bytes.

FLOODS: dict[str, tuple[bytes, bytes]] = {
    "header": (b"HTTP/1.1 200 OK\r\n", b"x-filler: " + b"y" * 500 + b"\r\n"),
    "header line": (b"HTTP/1.1 200 OK\r\nx-filler: ", b"y" * 500),
    "status line": (b"HTTP/1.1 200 ", b"OK" * 250),
    "hundreds": (b"", head(100) * 10),
    "chunk extension": (SSE + b"5;ext=", b"y" * 500),
    "trailer": (SSE + chunk(STREAM) + b"0\r\n", b"x-filler: " + b"y" * 500 + b"\r\n"),
}


@on_each_loop
@pytest.mark.parametrize("case", FLOODS)
async def test_endless_overhead_is_cut_off(case: str) -> None:
    begin, piece = FLOODS[case]
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(begin)
        await peer.flood(piece)
        await call.ended()
        assert call.outcome == ("fault", f"more than {MAX_OVERHEAD} bytes of overhead without answer data")
        assert (pool.idle, pool.busy) == (0, 0)


@on_each_loop
async def test_many_small_chunks_are_no_flood() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE))
        for _ in range(3):
            peer.send(*[chunk(b":\n\n") for _ in range(MAX_OVERHEAD // 8)])
        peer.send(chunk(token("Hello") + FINISH + DONE) + LAST)
        assert (await call.ended()).outcome == SERVED


def test_a_server_that_sends_each_chunk_in_three_pieces_is_no_flood() -> None:
    class Transport(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None: ...

        def is_closing(self) -> bool:
            return False

    connection, call = Connection(Pool("there", Address("there", 80, False, ""), Clock())), Call()
    connection.connection_made(Transport())
    connection.send(ASKED, call.exchange, 0.0)
    connection.data_received(SSE)
    event = chunk(token("Hello"))
    begin = event.index(b"\r\n") + 2
    for _ in range(MAX_OVERHEAD // 4):
        for piece in (event[:begin], event[begin:-2], event[-2:]):
            connection.data_received(piece)
    assert call.outcome == ("running", "")


@on_each_loop
async def test_an_event_over_the_limit_is_a_fault() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool, limits=Limits(event=10_000))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE), chunk(b'data: {"choices":['))
        await peer.flood(chunk(b"1," * 500))
        assert call.outcome == ("fault", "an event is longer than 10000 bytes")


@on_each_loop
async def test_an_answer_over_the_limit_is_a_fault() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool, limits=Limits(answer=10_000))
        peer = await server.accept()
        await peer.answer(head(200, CHUNKED), chunk(b"["))
        await peer.flood(chunk(b"1," * 500))
        assert call.outcome == ("fault", "the answer is longer than 10000 bytes")


@on_each_loop
@pytest.mark.parametrize(
    "piece", [b": ping\n\n" * 100, ROLE * 20, b"data: {}\n\n" * 50, b"\n" * 500], ids=["comments", "roles", "{}", "\\n"]
)
async def test_a_stream_that_never_sends_a_token_is_a_fault(piece: bytes) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(SSE)
        await peer.flood(chunk(piece))
        assert call.outcome == ("fault", "no token within 1048576 bytes of the stream")


@on_each_loop
@pytest.mark.parametrize("status", [400, 500])
async def test_an_error_that_does_not_end_is_cut_off_and_its_status_stands(status: int) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(head(status, CHUNKED))
        await peer.flood(chunk(b"x" * 10_000))
        assert call.outcome == ("refused" if status == 400 else "fault", f"status {status}")


# Back-pressure.


@on_each_loop
async def test_a_paused_exchange_stops_its_server_and_resumes_without_loss() -> None:
    size = 16 << 20
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool, limits=Limits(event=1 << 20))
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("first")))
        await call.first_token()
        call.exchange.pause()
        taken = len(call.body)
        event = chunk(token("x" * 65_000))
        count = size // len(event)
        peer.send(event * count)
        buffered = peer.writer.transport.get_write_buffer_size
        await settled(buffered)
        assert len(call.body) == taken  # no more was read
        assert buffered() > size // 2  # the rest waits at the server, or in the kernel
        call.exchange.resume()
        peer.send(chunk(FINISH + DONE), LAST)
        assert (await call.ended()).outcome == SERVED
        assert call.body == ROLE + token("first") + token("x" * 65_000) * count + FINISH + DONE
        assert pool.idle == 1


@on_each_loop
async def test_a_connection_paused_at_the_end_of_an_answer_reads_the_next_one() -> None:
    async with serving() as server, pooling(server) as pool:

        class Slow(Call):
            def news(self, exchange: object) -> None:
                super().news(self.exchange)
                self.exchange.pause()

        call = Slow.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(STREAM) + LAST)
        assert (await call.ended()).outcome == SERVED
        again = Call.to(pool)
        await peer.answer(whole())
        assert (await again.ended()).outcome == SERVED
        assert pool.reused == 1


@on_each_loop
async def test_a_paused_exchange_can_be_closed() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("first")))
        await call.first_token()
        call.exchange.pause()
        call.exchange.close()
        await peer.left()
        assert pool.busy == 0


@on_each_loop
async def test_a_large_request_is_sent_completely_to_a_slow_server() -> None:
    body = b'"' + b"x" * (8 << 20) + b'"'
    asked = Request(b"POST /v1/x HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body), body)
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool, asked)
        peer = await server.accept()
        await settled(lambda: call.news_count)
        assert (await peer.answer(whole())).body == body
        assert (await call.ended()).outcome == SERVED


@on_each_loop
async def test_an_error_before_the_end_of_the_request_is_read() -> None:
    body = b'"' + b"x" * (8 << 20) + b'"'
    asked = Request(b"POST /v1/x HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body), body)
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool, asked)
        peer = await server.accept()
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(whole(b'{"error":{"message":"too large"}}', 413, b"connection: close"))
        assert (await call.ended()).outcome == ("refused", "status 413")


@on_each_loop
async def test_a_connection_with_an_unfinished_request_is_not_kept() -> None:
    body = b'"' + b"x" * (8 << 20) + b'"'
    asked = Request(b"POST /v1/x HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body), body)
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool, asked)
        peer = await server.accept()
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(whole(b'{"error":{"message":"no"}}', 400))
        assert (await call.ended()).outcome == ("refused", "status 400")
        assert pool.idle == 0
        await peer.left()


# Closing.


@on_each_loop
@pytest.mark.parametrize(
    "begun",
    [b"", head(100), b"HTTP/1.1 200 OK\r\n", SSE, SSE + chunk(ROLE), head(500), head(200, EVENTS)],
    ids=range(7),
)
async def test_the_server_notices_that_the_exchange_was_closed(begun: bytes) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(begun)
        await settled(lambda: call.exchange.status)
        call.exchange.close()
        assert await peer.left() == b""
        assert (call.news_count, call.outcome, pool.busy, pool.idle) == (0, ("running", ""), 0, 0)


@on_each_loop
async def test_the_server_notices_it_in_the_middle_of_a_stream() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await call.first_token()
        call.exchange.close()
        await peer.flood(chunk(token("more")))
        assert call.body == ROLE + token("Hello")
        assert (pool.busy, pool.idle) == (0, 0)


@on_each_loop
async def test_an_exchange_closed_by_its_listener_has_no_more_news() -> None:
    async with serving() as server, pooling(server) as pool:

        class Leaving(Call):
            def news(self, exchange: object) -> None:
                super().news(self.exchange)
                self.exchange.close()

        call = Leaving.to(pool)
        peer = await server.accept()
        await peer.answer(SSE, chunk(ROLE + token("Hello")))
        await peer.left()
        assert (call.news_count, call.outcome) == (1, ("running", ""))
        assert (pool.busy, pool.idle) == (0, 0)


@on_each_loop
async def test_closing_again_or_after_the_end_does_nothing() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool)
        peer = await server.accept()
        await peer.answer(whole())
        await call.ended()
        call.exchange.close()
        call.exchange.close()
        call.exchange.pause()
        call.exchange.resume()
        again = Call.to(pool)
        await peer.answer(whole())
        assert (await again.ended()).outcome == SERVED


# The socket.


@on_each_loop
async def test_the_socket_has_no_delay_and_sends_keep_alive_probes() -> None:
    async with serving() as server, pooling(server, keepalive=30.0) as pool:
        call = Call.to(pool)
        await (await server.accept()).answer(whole())
        await call.ended()
        sock = pool._idle[0].transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [30, 3, 3]
