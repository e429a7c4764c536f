"""The head of a request is remembered, and only a read with the same head and one whole body is served from memory."""

from __future__ import annotations

import pytest

from router.errors import BadRequest
from router.proxy.client import Client, Headers, Request
from router.proxy.intake import Bounds
from router.proxy.known_head import KnownHead
from tests.fuzz.corpus import asked, in_chunks
from tests.fuzz.wires import Answering, server_side

BODY = b'{"model":"chat"}'
OTHER = b'{"model":"chat","n":1}'
HEADERS = [(b"host", b"there"), (b"content-type", b"application/json"), (b"content-length", b"16")]


def request(body: bytes = BODY, *more: tuple[bytes, bytes]) -> Request:
    return Request(b"/v1/chat/completions", [*HEADERS, *more], body, 1.0)


def test_a_request_with_the_same_head_and_another_body_is_read_from_memory() -> None:
    known = KnownHead.of(asked(BODY), request())
    assert known is not None
    again = known.again(asked(OTHER), 2.0)
    assert again is not None
    assert (again.path, again.headers, again.body, again.arrived) == (request().path, HEADERS, OTHER, 2.0)
    assert again.facts is not None


@pytest.mark.parametrize(
    "read",
    [
        asked(BODY)[:-1],
        asked(BODY) + b"P",
        asked(BODY, b"x: y"),
        asked(BODY, path=b"/v1/completions"),
        asked(BODY).replace(b"length: 16", b"length: +16"),
        asked(BODY).replace(b"length: 16", b"length: "),
        asked(BODY).replace(b"length: 16", b"length: 16 "),
        asked(BODY).replace(b"length: 16", b"length: 00000000000000000016"),
        asked(BODY).replace(b"\r\n\r\n", b"\n\n"),
        in_chunks(BODY, 7),
        b"",
    ],
)
def test_any_other_read_is_left_to_the_parser(read: bytes) -> None:
    known = KnownHead.of(asked(BODY), request())
    assert known is not None
    assert known.again(read, 2.0) is None


@pytest.mark.parametrize(
    ("read", "parsed"),
    [
        (asked(BODY, b"content-length: 16"), request(BODY, (b"content-length", b"16"))),
        (asked(BODY, b"expect: 100-continue"), request(BODY, (b"expect", b"100-continue"))),
        (asked(BODY, b"transfer-encoding: chunked"), request(BODY, (b"transfer-encoding", b"chunked"))),
        (asked(BODY, b"upgrade: h2c"), request(BODY, (b"upgrade", b"h2c"))),
        (asked(BODY), request(OTHER)),
        (asked(BODY).replace(b"content-length:", b"content-length:\t"), request()),
    ],
)
def test_a_head_that_leaves_a_doubt_is_not_remembered(read: bytes, parsed: Request) -> None:
    assert KnownHead.of(read, parsed) is None


def test_a_connection_remembers_from_its_second_request_on() -> None:
    handler = Answering(later=False)
    front, transport, loop = server_side(handler, Bounds())
    for body in (BODY, OTHER, BODY, OTHER):
        front.data_received(asked(body))
        loop.turn()
    facts = [each.facts is not None for each in handler.asked]
    assert [each.body for each in handler.asked] == [BODY, OTHER, BODY, OTHER]
    assert facts == [False, False, True, True]
    assert transport.sent.count(b"HTTP/1.1 200 OK") == 4
    assert front.intake.held == 0


def test_an_answer_with_a_length_leaves_the_framing_of_the_next_one_alone() -> None:
    class WithLength(Answering):
        def answer(self, client: Client) -> None:
            if len(self.asked) % 2:
                super().answer(client)
            else:
                client.start(200, b"", 2)
                client.end(b"{}")

    handler = WithLength(later=False)
    front, transport, loop = server_side(handler, Bounds())
    for _ in range(6):
        front.data_received(asked(BODY))
        loop.turn()
    assert transport.sent.count(b"transfer-encoding: chunked") == 3
    assert transport.sent.count(b"content-length: 2") == 3
    assert b"connection: close" not in transport.sent


def test_a_known_head_is_authorized_each_time() -> None:
    class Revoking(Answering):
        def authorize(self, headers: Headers) -> bytes:
            if len(self.asked) == 3:
                raise BadRequest("The key was revoked.", code="revoked")
            return b""

    handler = Revoking(later=False)
    front, _transport, loop = server_side(handler, Bounds())
    for _ in range(5):
        front.data_received(asked(BODY))
        loop.turn()
    assert len(handler.asked) == 3
    assert [error.code for error in handler.refused] == ["revoked"]


def test_a_body_beyond_the_limit_is_refused_behind_a_known_head_too() -> None:
    handler = Answering(later=False)
    front, _transport, loop = server_side(handler, Bounds(body=300))
    for body in (BODY, BODY, BODY, b'{"model":"%b"}' % (b"m" * 400)):
        front.data_received(asked(body))
        loop.turn()
    assert len(handler.asked) == 3
    assert [error.code for error in handler.refused] == ["body_too_large"]
