"""Compressed request bodies: decoded within bounds, or refused by name."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard

from router.errors import BadRequest, BodyTooLarge, RouterError, UnsupportedCoding
from router.proxy.compression import PIECE, codings_of, decoded
from tests.support import Player, endpoint
from tests.support.endpoints import streams

BODY = b'{"model":"chat","stream":true,"messages":[{"role":"user","content":"' + b"hi " * 3000 + b'"}]}'
LIMIT = 32 << 20


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("x-gzip", gzip.compress),
    ("gzip", lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstd),
    ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
    ("zstd, gzip", lambda data: gzip.compress(zstd(data))),
    ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    ("gzip, zstd", lambda data: zstd(gzip.compress(data))),
    ("identity, gzip", gzip.compress),
]


@pytest.mark.parametrize(("coding", "packed"), PACKERS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(PACKERS)])
def test_a_compressed_body_is_decoded_and_goes_on_plain(coding: str, packed: Callable[[bytes], bytes]) -> None:
    play = Player(endpoint("a", streams("Hello"), models=["chat"]))
    call = play.call(body=packed(BODY), headers=[(b"content-encoding", coding.encode())])
    play.run()
    assert call.text == "Hello"
    assert play["a"].wires[0].request.body == BODY
    assert "content-encoding" not in play["a"].wires[0].headers


@pytest.mark.parametrize("coding", ["br", "compress", "aws-chunked", "gzip, br", "gzip, gzip, gzip", "x\x1b[2j"])
def test_an_unknown_coding_is_refused_by_name(coding: str) -> None:
    play = Player(endpoint("a", streams("Hello")))
    call = play.call(body=b"\x8b\x01\x02", headers=[(b"content-encoding", coding.encode())])
    play.run()
    assert (call.status, call.error["code"]) == (415, "unsupported_encoding")
    assert coding.rpartition(", ")[2].replace("\x1b", "\\x1b") in call.error["message"]
    assert call.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert len(play["a"].wires) == 0


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("body", [b"no such format", gzip.compress(BODY, mtime=0)[:40], zlib.compress(BODY)[:40]])
def test_a_body_that_is_not_encoded_so_is_refused(coding: str, body: bytes) -> None:
    play = Player(endpoint("a", streams("Hello")))
    call = play.call(body=body, headers=[(b"content-encoding", coding.encode())])
    play.run()
    assert (call.status, call.error["code"]) == (400, "invalid_encoding")
    assert coding in call.error["message"]


def test_a_plain_body_under_a_coding_is_read_as_it_is() -> None:
    play = Player(endpoint("a", streams("Hello"), models=["chat"]))
    call = play.call(body=BODY, headers=[(b"content-encoding", b"gzip")])
    play.run()
    assert call.text == "Hello"


@pytest.mark.parametrize(("coding", "packed"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"zstd", zstd)])
def test_a_bomb_is_refused_at_the_limit_and_takes_little_memory(
    coding: bytes, packed: Callable[[bytes], bytes]
) -> None:
    bomb = packed(b" " * (64 << 20))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            assert max(map(len, decoded(bomb, [coding], 8 << 20))) <= PIECE
        assert tracemalloc.get_traced_memory()[1] < 8 * PIECE
    finally:
        tracemalloc.stop()


def test_a_client_that_leaves_while_its_body_is_decoded_is_recorded() -> None:
    play = Player(endpoint("a", streams("Hello")))
    call = play.call(0.0, body=gzip.compress(BODY), headers=[(b"content-encoding", b"gzip")], leaves_at=0.0)
    play.run()
    assert call.record.error == "client_left"
    assert len(play["a"].wires) == 0


def test_codings_are_read_from_all_headers_in_their_order() -> None:
    assert codings_of([(b"a", b"b")]) == []
    assert codings_of([(b"content-encoding", b"Gzip,, identity"), (b"content-encoding", b" zstd")]) == [
        b"gzip",
        b"zstd",
    ]


def test_errors_are_refusals_in_openais_form() -> None:
    with pytest.raises(UnsupportedCoding):
        decoded(b"x", [b"br"], LIMIT)
    pieces: Iterator[bytes] = decoded(b"x", [b"gzip"], LIMIT)
    with pytest.raises(BadRequest) as caught:
        next(pieces)
    assert isinstance(caught.value, RouterError)
    assert caught.value.status == 400
