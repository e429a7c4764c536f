"""One response as it is written, without a connection: its head, its framing, and what becomes of the connection."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from router.errors import RouterError
from router.proxy import reply
from router.proxy.reply import DUE, ENDED, SENDING, STARTED, Reply, State

DATE = b"date: today\r\n"


class Connection:
    """A transport and a server; `reply` answers a request of HTTP/1.1 that is complete."""

    def __init__(self, *, stopping: bool = False, chunked: bool = True) -> None:
        self.written: list[bytes] = []
        self.ended = 0
        self.aborted = False
        self.default_headers = [(b"date", b"today")]
        handler: Any = SimpleNamespace(stopping=stopping)
        self.reply = Reply(self, self, handler, self._count)
        self.reply.state, self.reply.chunked = DUE, chunked

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True

    def _count(self) -> None:
        self.ended += 1


class Listener:
    """The owner of an answer whose client may leave."""

    def __init__(self) -> None:
        self.left = 0

    def gone(self) -> None:
        self.left += 1

    def full(self) -> None:
        raise AssertionError

    def drained(self) -> None:
        raise AssertionError

    def stop(self, error: RouterError) -> None:
        raise error


def owned(to: Connection) -> Listener:
    owner = Listener()
    to.reply.owner = owner
    return owner


def test_each_state_is_known_by_its_own_name() -> None:
    assert {name: getattr(reply, name) for name in State.__members__} == State.__members__


def test_an_answer_with_its_length_is_one_write() -> None:
    to = Connection()
    to.reply.start(200, b"x: y\r\n", 5)
    assert (to.reply.state, to.written) == (STARTED, [])
    to.reply.end(b"Hello")
    assert to.written == [b"HTTP/1.1 200 OK\r\n" + DATE + b"x: y\r\ncontent-length: 5\r\n\r\nHello"]
    assert (to.reply.state, to.reply.keep, to.ended) == (ENDED, True, 1)


def test_a_stream_is_sent_in_chunks_and_its_head_with_the_first() -> None:
    to = Connection()
    to.reply.start(200, b"")
    to.reply.write(b"")
    assert to.written == []
    to.reply.write(b"Hel")
    assert to.reply.state is SENDING
    to.reply.write(b"lo, you there")
    to.reply.end()
    head, *pieces = to.written
    assert head == b"HTTP/1.1 200 OK\r\n" + DATE + b"transfer-encoding: chunked\r\n\r\n3\r\nHel\r\n"
    assert pieces == [b"d\r\nlo, you there\r\n", b"0\r\n\r\n"]


def test_the_last_bytes_and_the_last_chunk_are_one_write() -> None:
    to = Connection()
    to.reply.start(200, b"")
    to.reply.write(b"Hel")
    to.reply.end(b"lo")
    assert to.written[1:] == [b"2\r\nlo\r\n0\r\n\r\n"]


def test_a_stream_for_http_1_0_ends_with_its_connection() -> None:
    to = Connection(chunked=False)
    to.reply.start(200, b"")
    to.reply.end(b"Hello")
    assert to.written == [b"HTTP/1.1 200 OK\r\n" + DATE + b"connection: close\r\n\r\nHello"]
    assert to.reply.keep is False


@pytest.mark.parametrize(("stopping", "keep"), [(True, True), (False, False)])
def test_the_last_answer_of_a_connection_says_so(stopping: bool, keep: bool) -> None:
    to = Connection(stopping=stopping)
    to.reply.keep = keep
    to.reply.start(200, b"", 0)
    to.reply.end()
    assert to.written[0].endswith(b"connection: close\r\n\r\n")
    assert to.reply.keep is False


def test_a_status_without_a_name_has_none() -> None:
    to = Connection()
    to.reply.start(299, b"", 0)
    to.reply.end()
    assert to.written[0].startswith(b"HTTP/1.1 299 \r\n")


def test_the_date_is_the_servers_newest() -> None:
    for day in (b"monday", b"tuesday"):
        to = Connection()
        to.default_headers = [(b"date", day)]
        to.reply.start(200, b"", 0)
        to.reply.end()
        assert b"date: " + day in to.written[0]


def test_after_its_end_nothing_is_written() -> None:
    to = Connection()
    to.reply.start(200, b"", 0)
    to.reply.end()
    before = list(to.written)
    to.reply.start(200, b"", 0)
    to.reply.write(b"more")
    to.reply.end(b"more")
    assert (to.written, to.ended) == (before, 1)


def test_a_client_that_leaves_is_reported_to_the_owner_once() -> None:
    to = Connection()
    owner = owned(to)
    to.reply.lost()
    to.reply.lost()
    to.reply.end(b"too late")
    assert (owner.left, to.reply.owner, to.written, to.ended) == (1, None, [], 0)


def test_an_aborted_answer_cuts_the_connection_and_is_not_ended() -> None:
    to = Connection()
    owner = owned(to)
    to.reply.abort()
    to.reply.end()
    assert (to.aborted, to.ended, owner.left, to.reply.owner) == (True, 0, 0, None)
