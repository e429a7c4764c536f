"""One request as it is read, without a connection: its states, its bytes, and their bounds."""

from __future__ import annotations

import pytest

from router.errors import BadRequest, BodyTooLarge, HeaderTooLarge
from router.proxy import intake
from router.proxy.body_budget import BodyBudget
from router.proxy.intake import ACCEPTED, BODY, HEAD, IDLE, REFUSED, Bounds, Intake, State

BOUNDS = Bounds(body=100, header=200)


def reading(*headers: tuple[bytes, bytes], read: int = 50, url: bytes = b"/v1/embeddings?a=b") -> Intake:
    """An intake whose head has come, in `read` bytes."""
    made = Intake(BOUNDS, 1.0, BodyBudget(1000))
    made.begin(2.0)
    made.url, made.headers, made.overhead = url, list(headers), read
    return made


def test_each_state_is_known_by_its_own_name() -> None:
    assert {name: getattr(intake, name) for name in State.__members__} == State.__members__


def test_a_complete_request_is_taken_and_the_next_may_begin() -> None:
    made = reading((b"host", b"a"))
    made.end_head("1.1")
    made.state = ACCEPTED
    made.add_body(b"some")
    made.add_body(b"thing")
    request = made.take()
    assert (request.path, request.headers, request.body) == (b"/v1/embeddings", [(b"host", b"a")], b"something")
    assert request.arrived == 2.0
    assert (made.state, made.body, made.body_size, made.overhead) == (IDLE, b"", 0, 0)
    made.begin(3.0)
    assert (made.state, made.since, made.url, made.headers) == (HEAD, 3.0, b"", [])


@pytest.mark.parametrize(("read", "large"), [(50, 300), (300, 50)])
def test_a_head_is_too_large_if_it_is_larger_than_its_bound(read: int, large: int) -> None:
    """A long read may hold a short head and much of what follows, and a long head may come in short reads."""
    reading((b"x", b"y" * 50), read=300).end_head("1.1")
    made = reading((b"x", b"y" * 300), read=300)
    with pytest.raises(HeaderTooLarge, match="limit of 200 bytes"):
        made.end_head("1.1")


@pytest.mark.parametrize("version", ["0.9", "2.0", "1.7"])
def test_only_two_versions_of_http_are_supported(version: str) -> None:
    reading().end_head("1.0")
    with pytest.raises(BadRequest, match=r"HTTP/1\.1"):
        reading().end_head(version)


def test_a_body_has_its_bound() -> None:
    made = reading()
    made.add_body(b"x" * 100)
    with pytest.raises(BodyTooLarge, match="limit of 100 bytes"):
        made.add_body(b"x")


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent() -> None:
    with pytest.raises(BodyTooLarge):
        reading((b"content-length", b"101"), (b"expect", b"100-continue")).begin_body()


@pytest.mark.parametrize(
    ("headers", "asks"),
    [
        ([(b"content-length", b"100")], False),
        ([(b"expect", b"100-Continue"), (b"content-length", b"100")], True),
        ([(b"expect", b"something else")], False),
    ],
)
def test_a_client_may_ask_before_it_sends_the_body(headers: list[tuple[bytes, bytes]], asks: bool) -> None:
    made = reading(*headers)
    assert made.begin_body() is asks
    assert made.state is BODY


def test_trailers_have_the_bound_of_a_head() -> None:
    made = reading()
    made.add_trailer(b"x", b"y" * 100)
    with pytest.raises(HeaderTooLarge):
        made.add_trailer(b"x", b"y" * 100)


def test_bytes_of_a_body_give_no_credit_to_what_follows_it() -> None:
    made = reading(read=-1000)
    made.end_read()
    made.overhead += 201
    with pytest.raises(HeaderTooLarge):
        made.end_read()


def test_a_declined_offer_is_left_out_of_the_head() -> None:
    made = reading((b"upgrade", b"h2c"), (b"host", b"a"))
    assert made.without_offer(b"POST", "1.1") == b"POST /v1/embeddings?a=b HTTP/1.1\r\nhost: a\r\n\r\n"


def test_a_refused_request_keeps_no_body() -> None:
    made = reading()
    made.add_body(b"x")
    made.refuse()
    assert (made.state, made.body, made.held, made.bodies.held) == (REFUSED, b"", 0, 0)
