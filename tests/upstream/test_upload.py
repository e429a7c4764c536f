"""A large request goes out in pieces: alone on a transport that is set, and whole on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from router.upstream.exchange import Request
from router.upstream.spliced import Spliced
from router.upstream.upload import PIECE, Upload
from tests.upstream.servers import ASKED, JSON, SERVED, Call, on_each_loop, pooling, serving, settled, until, whole

HEAD = b"POST / HTTP/1.1\r\n\r\n"
LARGE = bytes(range(256)) * (10 << 12)  # 10 MiB


class Transport:
    """Keeps what is written. Its protocol is paused after the writes whose numbers are in `full`."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.full: set[int] = set()
        self.closing = False
        self.upload: Upload | None = None

    def writelines(self, parts: Sequence[memoryview]) -> None:
        self.writes.append(b"".join(parts))
        if len(self.writes) in self.full and self.upload is not None:
            self.upload.pause()

    def is_closing(self) -> bool:
        return self.closing


def begun(*parts: bytes | bytearray | memoryview) -> tuple[Transport, Upload]:
    transport = Transport()
    transport.upload = upload = Upload(cast(asyncio.Transport, cast(Any, transport)), parts)
    return transport, upload


@on_each_loop
async def test_each_turn_writes_one_piece() -> None:
    transport, upload = begun(HEAD, LARGE)
    for turn in range(1, len(LARGE) // PIECE + 1):
        if turn == 1:
            upload.advance()
        assert (len(transport.writes), len(transport.writes[-1]), upload.sent) == (turn, PIECE, False)
        await asyncio.sleep(0)
    await settled(lambda: len(transport.writes))
    assert [len(piece) for piece in transport.writes[-2:]] == [PIECE, len(HEAD)]  # the head has moved the last bytes
    assert upload.sent
    assert b"".join(transport.writes) == HEAD + LARGE


@on_each_loop
@pytest.mark.parametrize("size", [1, 1000, PIECE - 1, PIECE, PIECE + 1])
async def test_parts_of_any_size_are_written_in_order(size: int) -> None:
    parts = [HEAD, *(bytes([65 + number]) * size for number in range(5)), b"", b"}"]
    transport, upload = begun(*parts)
    upload.advance()
    await until(lambda: upload.sent)
    assert b"".join(transport.writes) == b"".join(parts)
    assert all(len(piece) <= PIECE for piece in transport.writes)
    assert len(transport.writes) == -(-sum(map(len, parts)) // PIECE)


@on_each_loop
async def test_nothing_is_written_while_the_transport_is_full() -> None:
    transport, upload = begun(HEAD, LARGE)
    transport.full = {2, 3}
    upload.advance()
    for written in (2, 3):
        await settled(lambda: len(transport.writes))
        assert len(transport.writes) == written
        upload.resume()
    await until(lambda: upload.sent)
    assert b"".join(transport.writes) == HEAD + LARGE


@on_each_loop
async def test_a_resume_without_a_pause_writes_nothing_more_in_a_turn() -> None:
    transport, upload = begun(HEAD, LARGE)
    upload.advance()
    upload.resume()
    await asyncio.sleep(0)
    assert len(transport.writes) <= 2
    upload.stop()


@on_each_loop
@pytest.mark.parametrize("end", ["stopped", "closed"])
async def test_the_rest_of_an_upload_that_is_stopped_or_closed_is_not_written(end: str) -> None:
    transport, upload = begun(HEAD, LARGE)
    upload.advance()
    if end == "stopped":
        upload.stop()
    transport.closing = end == "closed"
    await settled(lambda: len(transport.writes))
    assert len(transport.writes) == 1


@on_each_loop
async def test_the_bytes_are_not_copied_and_not_kept() -> None:
    body = bytearray(LARGE)
    _, upload = begun(HEAD, body)
    upload.advance()
    with pytest.raises(BufferError):
        body.clear()
    await until(lambda: upload.sent)
    body.clear()


# On a connection.


def request(body: bytes | bytearray | Spliced) -> Request:
    return Request(b"%b\r\ncontent-length: %d\r\n\r\n" % (ASKED.head.split(b"\r\n")[0], len(body)), body)


def spliced() -> Spliced:
    text = msgspec.Raw(b'"%b"' % (b"a" * len(LARGE)))
    return Spliced({"model": msgspec.Raw(b'"m"'), "messages": text, "prompt": text})


@on_each_loop
@pytest.mark.parametrize("kind", ["bytes", "array", "spliced"])
async def test_a_large_body_arrives_whole_and_the_connection_is_kept(kind: str) -> None:
    body = LARGE if kind == "bytes" else bytearray(LARGE) if kind == "array" else spliced()
    async with serving() as server, pooling(server) as pool:
        for number in range(2):
            call = Call.to(pool, request(body))
            if number == 0:
                peer = await server.accept()
            assert (await peer.answer(whole())).body == bytes(body)
            assert (await call.ended()).outcome == SERVED
            await until(lambda: pool.idle)
        assert server.accepted == 1


@on_each_loop
async def test_a_connection_whose_server_answers_before_it_has_read_the_body_is_closed() -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool, request(LARGE * 3))
        peer = await server.accept()
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(whole())
        assert (await call.ended()).outcome == SERVED
        assert call.body == JSON
        await until(lambda: not pool.busy)
        assert pool.idle == 0


@on_each_loop
@pytest.mark.parametrize("ended_by", ["the exchange", "the server"])
async def test_an_upload_ends_with_its_connection(ended_by: str) -> None:
    async with serving() as server, pooling(server) as pool:
        call = Call.to(pool, request(LARGE * 3))
        peer = await server.accept()
        await peer.reader.readuntil(b"\r\n\r\n")
        if ended_by == "the server":
            peer.reset()
            assert (await call.ended()).outcome[0] == "fault"
        else:
            call.exchange.close()
            assert len(await peer.left()) < len(LARGE) * 3
        await until(lambda: not pool.busy)
