"""Decodes compressed request bodies: gzip, deflate and zstd (RFC 9110 §8.4.1, RFC 8878).

A body is decoded in pieces, so that a small one that becomes large costs no long turn of the loop, and never more than
the limit on bodies.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

import zstandard

from router.core.body import LARGE, Body
from router.core.quote import quoted
from router.errors import BadRequest, BodyTooLarge, RouterError, UnsupportedCoding
from router.proxy.client import Client, Headers
from router.scheduler import Scheduler, Timer

PIECE = 32 << 10  # bytes that are decoded, and read as JSON, in one turn of the loop: at most some 3 ms
MAX_WINDOW = 8 << 20  # bytes that zstd may look back, and so allocate (RFC 8878 recommends to support 8 MiB)
MAX_CODINGS = 2  # one upon the other; no client needs more
_BROKEN = (OSError, EOFError, zlib.error, zstandard.ZstdError)  # what the decoders raise


def codings_of(headers: Headers) -> list[bytes]:
    """The content codings of a body in the order in which they were applied; empty for a plain one."""
    found = [value for name, value in headers if name == b"content-encoding"]
    codings = [coding.strip().lower() for coding in b",".join(found).split(b",")] if found else []
    return [coding for coding in codings if coding not in (b"", b"identity")]


def decoded(body: bytes, codings: Sequence[bytes], limit: int) -> Iterator[bytes]:
    """The pieces of a decoded body. Raises UnsupportedCoding at once.

    While it is read, BodyTooLarge, and BadRequest where the body is not encoded so.
    """
    unknown = [coding for coding in codings if coding not in _OPEN]
    if unknown or len(codings) > MAX_CODINGS:
        names = quoted(b", ".join(unknown or codings).decode("latin-1"))
        raise UnsupportedCoding(
            f"The request body has the content-encoding '{names}', which is not supported. "
            "Send it uncompressed, or as gzip, deflate or zstd."
        )
    source: IO[bytes] = io.BytesIO(body)
    for coding in reversed(codings):
        source = _OPEN[coding](source)
    return _pieces(source, codings, limit)


def _pieces(source: IO[bytes], codings: Sequence[bytes], limit: int) -> Iterator[bytes]:
    size = 0
    try:
        while piece := source.read(PIECE):
            size += len(piece)
            if size > limit:
                raise BodyTooLarge(f"The request's body, once decoded, is larger than the limit of {limit} bytes.")
            yield piece
    except _BROKEN as error:
        coding = b", ".join(codings).decode()
        raise BadRequest(
            f"The request body cannot be decoded as '{coding}', its content-encoding: {quoted(str(error))}.",
            code="invalid_encoding",
        ) from None


class Unpacking:
    """The owner of a client while its body is decoded, a piece in each turn of the loop.

    Ends with `done` and the body, with `failed`, or with `left` if the client leaves first.
    """

    __slots__ = ("_client", "_done", "_failed", "_large", "_left", "_pieces", "_scheduler", "_taken", "_timer")

    def __init__(
        self,
        pieces: Iterator[bytes],
        client: Client,
        scheduler: Scheduler,
        *,
        done: Callable[[bytes | Body], None],
        failed: Callable[[RouterError], None],
        left: Callable[[], None],
    ) -> None:
        self._pieces, self._client, self._scheduler = pieces, client, scheduler
        self._done, self._failed, self._left = done, failed, left
        self._timer = Timer(scheduler, self.advance)
        self._taken = b""
        self._large: Body | None = None  # in its place, once it is large
        client.owner = self

    def advance(self) -> None:
        try:
            piece = next(self._pieces, b"")
        except RouterError as error:
            self.stop(error)
            return
        if piece:
            self._take(piece)
            self._timer.at(self._scheduler.now())
            return
        self._end()
        self._done(self._large or self._taken)

    def _take(self, piece: bytes) -> None:
        if self._large is not None:
            self._large.feed(piece)
            return
        self._taken += piece
        if len(self._taken) > LARGE:
            self._large = Body()
            self._large.feed(self._taken)

    def _end(self) -> None:
        self._timer.close()
        self._client.owner = None

    # Called by the client.

    def gone(self) -> None:
        self._end()
        self._left()

    def full(self) -> None:
        """Do nothing: nothing has been written yet."""

    def drained(self) -> None:
        """Do nothing: nothing has been written yet."""

    def stop(self, error: RouterError) -> None:
        self._end()
        self._failed(error)


class _Deflate(io.RawIOBase):
    """The zlib format (RFC 9110 §8.4.1.2), or the raw one that some clients send under that name."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._decoder = zlib.decompressobj()
        self._rest = b""
        self._begun = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._decoder.eof:
            data = self._rest or self._source.read(PIECE)
            if not data:
                raise EOFError("it ends too early")
            if not self._begun and (data[0] & 15 != 8 or int.from_bytes(data[:2]) % 31):
                self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
            self._begun = True
            piece = self._decoder.decompress(data, size)
            self._rest = self._decoder.unconsumed_tail
            if piece:
                return piece
        return b""


def _gzip(source: IO[bytes]) -> IO[bytes]:
    return gzip.GzipFile(fileobj=source, mode="rb")  # type: ignore[return-value]


def _deflate(source: IO[bytes]) -> IO[bytes]:
    return _Deflate(source)  # type: ignore[return-value]


def _zstd(source: IO[bytes]) -> IO[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    return decompressor.stream_reader(source, read_across_frames=True)


_OPEN: Mapping[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"deflate": _deflate,
    b"zstd": _zstd,
}
