"""A thousand malformed and hostile requests against `firsttoken serve`.

Each gets a clear 4xx or a closed connection, the next client is served, nothing is smuggled to an endpoint, and the
process's memory does not grow. Bytes that must not be taken for a request contain one for the model `smuggled`, which
the endpoint would count.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import httptools
import pytest

from tests.fuzz.corpus import REQUESTS
from tests.fuzz.mutations import mutate
from tests.processes import Fake, Router, fake, router

AT_ONCE = 50  # connections
PATIENCE = 15.0  # seconds until a connection must have its answer or be closed; slow senders are refused after two
BODY = 1 << 20  # bytes: the limit of a request body in these tests
GROWTH = 8 << 20  # bytes of memory that a round may add
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
PATHS = (b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/models", b"/nowhere")
CHAT = b'{"model":"chat","messages":[{"role":"user","content":"Hi"}]}'
UNSERVED = b'{"model":"nobody","messages":[]}'  # a valid call that is refused: no endpoint is asked


def post(body: bytes, *lines: bytes, path: bytes = PATHS[0], length: bytes | None = None) -> bytes:
    head = (b"POST %b HTTP/1.1" % path, b"host: a", b"content-length: " + (length or b"%d" % len(body)), *lines)
    return b"\r\n".join((*head, b"", body))


def bare(*lines: bytes, path: bytes = PATHS[0], body: bytes = b"") -> bytes:
    """A request with these header lines as its only framing."""
    return b"\r\n".join((b"POST %b HTTP/1.1" % path, b"host: a", *lines, b"", body))


def chunked(*chunks: bytes, path: bytes = PATHS[0]) -> bytes:
    return bare(b"transfer-encoding: chunked", path=path, body=b"".join(chunks))


SMUGGLED = post(b'{"model":"smuggled"}')
WHOLE = b"%x\r\n%b\r\n" % (len(UNSERVED), UNSERVED)
LAST = b"0\r\n\r\n"

# Families of malformed requests. In the first, the length of the body has two readings, or none.


def smuggling() -> Iterator[bytes]:
    length = b"%d" % len(UNSERVED)
    lengths = [
        (b"content-length: " + length, b"content-length: 0"),
        (b"content-length: 0", b"content-length: " + length),
        (b"content-length: " + length, b"Content-Length: " + length + b"0"),
        *[
            (b"content-length:" + value,)
            for value in (
                *(b" +" + length, b" -" + length, b" 0x20", b" %b, %b" % (length, length), b" 3,4", b" 1 2", b" 1e2"),
                *(
                    b" " + length + b";",
                    b"",
                    b" ",
                    b" 99999999999999999999",
                    b" 18446744073709551616",
                    b" many",
                    b"\t\0" + length,
                ),
                *(b" \xd9\xa3", b' "3"', b" 3\x0b", b" 3.0", b" 1_0", b" 0b1", b" 0o7", b" -0", b" --1", b" 3\r"),
            )
        ],
    ]
    codings = [
        (b"transfer-encoding: " + value,)
        for value in (
            *(
                b"gzip",
                b"identity",
                b"chunked, identity",
                b"xchunked",
                b"chunkedx",
                b"chunked;q=1",
                b"cow",
                b'"chunked"',
            ),
            *(b"\x0bchunked", b"chunked\0", b"chunk ed", b"CHUNKED, gzip", b"chunked,\r\n gzip", b", , gzip"),
        )
    ]
    both = [
        (coding, b"content-length: " + value)
        for coding in (
            b"transfer-encoding: chunked",
            b"Transfer-Encoding:\tchunked",
            b"transfer-encoding: gzip, chunked",
        )
        for value in (length, b"0", b"4")
    ]
    names = [
        (name + b": chunked", b"content-length: " + length)
        for name in (
            b"transfer-encoding ",
            b" transfer-encoding",
            b"transfer\0-encoding",
            b"transfer-encoding\r",
            b"x\n te",
        )
    ]
    for lines, path in product((*lengths, *codings, *both, *both, *names), PATHS[:4]):
        body = UNSERVED if not any(b"chunked" in line.lower() for line in lines) else WHOLE + LAST
        yield bare(*lines, path=path, body=body + SMUGGLED)


def chunks() -> Iterator[bytes]:
    sizes = (
        *(
            b"zz",
            b"-1",
            b"+5",
            b"0x5",
            b"5 5",
            b" 5",
            b"",
            b"g",
            b"5\0",
            b"\xb2",
            b"fffffffffffffffff",
            b"8000000000000000",
        ),
        *(b"1" * 40, b"5\r", b"5 ;", b"5 ;a=b", b'5;"', b"5\n\n", b"_5", b"5_", b"5h", b"5.0", b"'5'", b"5,5"),
    )
    for size, before in product(sizes, (b"", WHOLE)):
        yield chunked(before, size, b"\r\n", SMUGGLED, LAST)
    for end in (b"", b"\n", b"\r", b"\n\r", b"\0\0", b"xx", b"\r\r\n", b"ab\r\n"):
        yield chunked(b"5\r\nhello", end, SMUGGLED, LAST)
    for flood in (b"a" * 200_000, b"a=b;" * 50_000, b'a="' + b"\\x" * 100_000, b"\xff" * 200_000, b"\0" * 10):
        yield chunked(b"5;", flood, b"\r\nhello\r\n", LAST)
        yield chunked(b"5;" + flood)
    for trailers in (
        b"x: y\r\n" * 40_000,
        b"x: " + b"y" * 200_000,
        b"x" * 200_000,
        b" x: y\r\n",
        b"x\0: y\r\n",
        b": y\r\n",
    ):
        yield chunked(WHOLE, b"0\r\n", trailers, b"\r\n\r\n")
        yield chunked(WHOLE, b"0\r\n", trailers)
    for _ in range(20):
        yield chunked(*[b"1;%b\r\nx\r\n" % (b"y" * 1000)] * 500)


def heads() -> Iterator[bytes]:
    for path in PATHS:
        for flood in (
            *(b"x: y\r\n" * 50_000, b"x: " + b"y" * 500_000, b"x" * 500_000 + b": y\r\n", b"x:\r\n" * 50_000),
            *(b"".join(b"x-%d: y\r\n" % number for number in range(9000)), b"cookie: " + b"a=b; " * 50_000),
        ):
            yield b"POST %b HTTP/1.1\r\n%b" % (path, flood)
            yield b"GET %b HTTP/1.1\r\n%b\r\n" % (path, flood)
        for line in (
            *(
                b"x: a\0b",
                b"x: a\rb",
                b"x: a\nb",
                b"x\0: a",
                b"x y: a",
                b": a",
                b"x",
                b" x: a",
                b"x: a\r\n folded: b",
                b"\0",
            ),
            *(b"x\t: a", b"(x): a", b"x:a\r\r", b"\xff: a", b"x@: a", b"x: a\x7f", b"x: a\x01", b"host"),
        ):
            yield post(UNSERVED, line, path=path) + SMUGGLED


def request_lines() -> Iterator[bytes]:
    lines = (
        *(
            b"GET",
            b"GET ",
            b"GET /",
            b"GET  /v1/models",
            b"get /v1/models HTTP/1.1",
            b"GET /v1/models HTTP/1",
            b"GET / HTTP/1.1.1",
        ),
        *(
            b"GET /v1/models http/1.1",
            b"GET /v1/models HTTP/9.9",
            b"GET /v1/models HTTP/0.9",
            b"GET /v1/models HTTP/2.0",
        ),
        *(
            b"GET /v1/models HTTPS/1.1",
            b"GET /v1/models ICE/1.0",
            b"PLAY rtsp://a/v1/models RTSP/1.0",
            b"OPTIONS rtsp://a RTSP/1.0",
        ),
        *(b"GET http://a HTTP/1.1", b"GET http:// HTTP/1.1", b"GET http://a:b/ HTTP/1.1", b"GET http://[::1/ HTTP/1.1"),
        *(b"GET //a/v1/models HTTP/1.1", b"GET \\v1\\models HTTP/1.1", b"GET v1/models HTTP/1.1", b"GET ?x HTTP/1.1"),
        *(b"GET /v1/../../etc/passwd HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /%ff%fe HTTP/1.1", b"GET /\xff HTTP/1.1"),
        *(
            b"GET /v1/models\0 HTTP/1.1",
            b"GET /v1/models\t HTTP/1.1",
            b"GET /v1/mo\rdels HTTP/1.1",
            b"GET /%zz HTTP/1.1",
        ),
        *(b"CONNECT a:443 HTTP/1.1", b"CONNECT /v1/models HTTP/1.1", b"TRACE / HTTP/1.1", b"BREW / HTTP/1.1", b"* * *"),
        *(
            b"GET /" + b"x" * 100_000 + b" HTTP/1.1",
            b"GET /?" + b"x=y&" * 50_000 + b" HTTP/1.1",
            b"X" * 100_000,
            b"\0" * 1000,
        ),
        *(
            b"GET /v1/models HTTP/1.1 x",
            b"PRI * HTTP/2.0",
            b"SSH-2.0-x",
            b"\x16\x03\x01\x02\0\x01\0",
            b"\xff" * 100,
            b"{}",
        ),
        *(
            b"OPTIONS * HTTP/1.1",
            b"POST * HTTP/1.1",
            b"DELETE /v1/chat/completions HTTP/1.1",
            b"PUT /v1/models HTTP/1.1",
        ),
    )
    for line, end in product(lines, (b"\r\n", b"\n", b"\r\nhost: a\r\nhost: b\r\n")):
        yield line + end + b"\r\n"


def bodies() -> Iterator[bytes]:
    deep = 100_000  # as deep as the limit of a body allows; without a limit it would be a million and more
    texts: list[bytes] = [
        *(
            b"",
            b"[]",
            b"null",
            b"{",
            b"}",
            b'{"model"}',
            b'{"model":}',
            b"{,}",
            b"[1,]",
            b"nan",
            b"NaN",
            b"'",
            b'"',
            b"\\",
        ),
        *(b"[" * deep, b'{"a":' * deep, b"[" * deep + b"]" * deep, b'{"model":' + b"[" * deep + b"]" * deep + b"}"),
        *(
            b'{"model":"nobody","messages":' + b"[" * deep + b"]" * deep + b"}",
            b'[{"a":' * deep,
            b"\xef\xbb\xbf" + UNSERVED,
        ),
        *(UNSERVED.decode().encode(coding) for coding in ("utf-16", "utf-32", "utf-16-le", "utf-7")),
        *(
            b'{"model":"%b"}' % text
            for text in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\\ud800", b"\\u00", b"\\x41", b"\n", b"\0")
        ),
        *(
            b'{"model":"nobody","x":"%b"}' % text
            for text in (b"\xff", b"\xc0\xaf", b"\\ud800", b"\xf5\x80\x80\x80", b"\x80" * 999)
        ),
        *(
            b'{"model":"nobody","n":%b}' % value
            for value in (b"1e999", b"-1", b"9" * 9999, b"0.5", b"01", b"--1", b"Infinity", b'"1"')
        ),
        *(
            b'{"model":"nobody","seed":%b}' % value
            for value in (b"9" * 9999, b"1e999", b"-0", b"1" + b"0" * 99999, b"0x10", b".5")
        ),
        *(
            b'{"model":%b}' % value
            for value in (b"1", b"null", b"true", b"[]", b"{}", b'""', b'"' + b"x" * 99999 + b'"', b'"a"b')
        ),
        *(
            b'{"model":"nobody","stream":%b}' % value
            for value in (b"1", b'"yes"', b"[]", b"null", b"nul", b"truetrue", b"{}")
        ),
        b"{" + b'"model":"nobody",' * 40_000 + b'"stream":1}',
        b"{" + b",".join(b'"%d":0' % number for number in range(50_000)) + b"}",
        b'{"model":"nobody","' + b"x" * 500_000 + b'":1}',
        b'{"model":"nobody"}' + b" " * 500_000,
        b'{"model":"nobody"}' * 1000,
    ]
    for text, path in product(texts, PATHS[:3]):
        yield post(text, path=path)
        yield chunked(b"%x\r\n%b\r\n" % (len(text), text) if text else b"", LAST, path=path)


def too_large() -> Iterator[bytes]:
    for path in PATHS[:3]:
        yield post(b" " * (2 * BODY), path=path)
        yield chunked(*[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 20, path=path)
        yield post(b"", path=path, length=b"%d" % (1 << 62))
        yield post(b"", b"expect: 100-continue", path=path, length=b"%d" % (1 << 40))
    yield post(b"x" * (32 << 20))


def offers() -> Iterator[bytes]:
    """Offers to change the protocol, Expect, and pipelined floods."""
    for protocol in (b"h2c", b"websocket", b"TLS/1.0", b"x" * 1000, b"websocket, h2c", b"\xff"):
        offer = b"connection: upgrade\r\nupgrade: " + protocol
        yield post(UNSERVED, offer)
        yield post(UNSERVED, offer, b"http2-settings: AAMAAABk", b"sec-websocket-key: x", path=b"/nowhere")
        yield post(UNSERVED, offer) * 200
        yield b"GET /nowhere HTTP/1.1\r\nhost: a\r\n%b\r\n\r\n" % offer * 200
    for value in (b"100-continue", b"100-Continue", b"200-ok", b"100-continue, 100-continue", b"x" * 9999):
        yield post(UNSERVED, b"expect: " + value)
        yield bare(b"expect: " + value, b"content-length: 0")
        yield post(UNSERVED, *[b"expect: " + value] * 6)
    for count in (2, 20, 2000):
        yield post(UNSERVED) * count
        yield b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n" * count
        yield (post(UNSERVED) + b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n") * count
        yield post(UNSERVED, b"connection: close") + SMUGGLED * count
        yield b"no HTTP\r\n\r\n" + SMUGGLED * count
        yield post(UNSERVED, b"connection: close") + b"\xff" * 1000 * count


def slow() -> Iterator[bytes]:
    """Beginnings of requests; the rest is never sent."""
    for part in (
        post(CHAT),
        chunked(WHOLE, LAST),
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        post(CHAT, path=b"/nowhere"),
    ):
        for share in range(1, 10):
            yield part[: len(part) * share // 10]


def mutated() -> Iterator[bytes]:
    recordings = [value.replace(b'"chat"', b'"nobody"') for value in REQUESTS.values()]
    for seed in range(200):
        rng = Random(seed)
        yield mutate(rng.choice(recordings), rng, recordings).replace(b'"chat"', b'"nobody"')


# Only a 4xx or a closed connection is right, except in the families that contain valid requests: MAY_BE_UNDERSTOOD.
FAMILIES: dict[str, Callable[[], Iterator[bytes]]] = {
    "two lengths, or none that is one": smuggling,
    "chunks": chunks,
    "heads": heads,
    "request lines": request_lines,
    "bodies": bodies,
    "bodies that are too large": too_large,
    "offers and floods": offers,
    "slow senders": slow,
    "anything": mutated,
}
MAY_BE_UNDERSTOOD = {"request lines": {200}, "anything": {200}, "slow senders": {200}}


class Answers:
    """The answers, as httptools reads them."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bodies: list[bytes] = []
        self.whole = 0  # number of complete answers
        self.last = False
        self.parser = httptools.HttpResponseParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.last |= name.lower() == b"connection" and value.lower() == b"close"

    def on_headers_complete(self) -> None:
        if self.parser.get_status_code() >= 200:
            self.statuses.append(self.parser.get_status_code())
            self.bodies.append(b"")

    def on_body(self, body: bytes) -> None:
        self.bodies[-1] += body

    def on_message_complete(self) -> None:
        self.whole = len(self.statuses)


class Outcome(NamedTuple):
    sent: bytes
    answers: Answers
    closed: bool  # by the router
    error: str = ""


async def attack(address: tuple[str, int], data: bytes, *, half_closed: bool = False) -> Outcome:
    """Send all data that the router accepts; read one answer, and to the end of the connection if one is announced."""
    answers = Answers()
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(data)
            if half_closed:
                writer.write_eof()
            while not answers.whole or answers.last:
                piece = await reader.read(65536)
                if not piece:
                    return Outcome(data, answers, True)
                answers.parser.feed_data(piece)
            return Outcome(data, answers, False)
    except ConnectionError:
        return Outcome(data, answers, True)
    except TimeoutError:
        return Outcome(data, answers, False, f"neither answered nor closed within {PATIENCE:g} s")
    except httptools.HttpParserError as error:
        return Outcome(data, answers, False, f"answered by what is no HTTP: {error}")
    finally:
        writer.transport.abort()


async def attacks(address: tuple[str, int], family: Iterable[bytes], *, half_closed: bool = False) -> list[Outcome]:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(data: bytes) -> Outcome:
        async with room:
            return await attack(address, data, half_closed=half_closed)

    return await asyncio.gather(*map(one, family))


def flood_unread(address: tuple[str, int], seconds: float) -> int:
    """Send requests and never read; return how many bytes the router accepted."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(0.5)
        sock.connect(address)
        until, taken, asked = time.monotonic() + seconds, 0, post(UNSERVED) * 500
        while time.monotonic() < until:
            try:
                taken += sock.send(asked)
            except TimeoutError:
                continue
            except ConnectionError:
                break
        return taken


def assert_refused(outcome: Outcome, or_answered: set[int]) -> None:
    statuses = outcome.answers.statuses
    shown = f"{outcome.sent[:300]!r} ({len(outcome.sent)} bytes): {statuses} {outcome.answers.bodies[:1]}"
    assert not outcome.error, f"{outcome.error}: {shown}"
    assert statuses or outcome.closed, shown
    assert all(400 <= status < 500 or status in or_answered for status in statuses), shown
    for status, body in zip(statuses[: outcome.answers.whole], outcome.answers.bodies, strict=False):
        if status >= 400 and body:
            assert json.loads(body)["error"]["message"], shown


# The router, and its state after each attack.


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Fake]:
    with fake("there") as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, endpoint: Fake) -> Iterator[Router]:
    models = {"chat": "quick", "smuggled": "smuggled"}
    entry: dict[str, Any] = {"name": "there", "base_url": f"{endpoint.origin}/v1", "models": models}
    limits = {"FIRSTTOKEN_MAX_BODY": str(BODY), "FIRSTTOKEN_REQUEST_TIMEOUT": "1s", "FIRSTTOKEN_KEEP_ALIVE": "2s"}
    with router(tmp_path_factory.mktemp("hostile"), {"endpoints": [entry]}, **limits) as running:
        yield running
    assert "Traceback" not in running.output
    assert "ERROR" not in running.output


def memory(of: Router, what: str = "VmRSS") -> int:
    """Bytes of memory that the process has, or its maximum (VmHWM)."""
    (size,) = re.findall(rf"{what}:\s+(\d+) kB", Path(f"/proc/{of.process.pid}/status").read_text())
    return int(size) * 1024


def assert_it_serves(served: Router, endpoint: Fake) -> None:
    asked = endpoint.asked("quick")
    answer = served.control.post("/v1/chat/completions", content=CHAT, headers={"connection": "close"})
    assert answer.status_code == 200
    assert answer.json()["choices"]
    assert (endpoint.asked("quick"), endpoint.asked("smuggled")) == (asked + 1, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_attack_gets_a_4xx_or_a_closed_connection_and_the_next_client_is_served(
    family: str, served: Router, endpoint: Fake
) -> None:
    for outcome in asyncio.run(attacks(served.address, FAMILIES[family]())):
        assert_refused(outcome, MAY_BE_UNDERSTOOD.get(family, set()))
    assert_it_serves(served, endpoint)


def test_each_client_that_closes_half_way_is_answered_or_closed(served: Router, endpoint: Fake) -> None:
    parts = [part for part in slow() for _ in range(3)]
    for outcome in asyncio.run(attacks(served.address, parts, half_closed=True)):
        assert_refused(outcome, {200})
    assert_it_serves(served, endpoint)


@LINUX
def test_clients_that_never_read_are_not_read_and_cut_off(served: Router, endpoint: Fake) -> None:
    before = memory(served)
    with ThreadPoolExecutor(10) as many:
        taken = list(many.map(lambda _: flood_unread(served.address, 3), range(10)))
    assert max(taken) < 16 << 20  # the buffers of the sockets
    assert memory(served) < before + GROWTH
    assert_it_serves(served, endpoint)


@LINUX
def test_memory_does_not_grow(served: Router, endpoint: Fake) -> None:
    """Two fifths of each family warm up; another fifth adds less than GROWTH."""
    held = []
    for part in range(3):
        every = chain.from_iterable(family() for family in FAMILIES.values())
        asyncio.run(attacks(served.address, islice(every, part, None, 5)))
        assert_it_serves(served, endpoint)
        held.append(memory(served))
    assert held[2] - held[1] < GROWTH, held
    assert memory(served, "VmHWM") - held[1] < AT_ONCE * BODY  # at most one body for each concurrent client


def test_there_are_more_than_a_thousand_attacks() -> None:
    assert sum(1 for family in FAMILIES.values() for _ in family()) > 1000
