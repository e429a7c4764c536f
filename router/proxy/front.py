"""uvicorn's httptools protocol, which takes our paths before ASGI; all other paths go uvicorn's own way.

    Front ─┬─ Intake   reads a request: `intake.py`
           └─ Reply    writes its response: `reply.py`, one of the two `Client`s

This module relies on uvicorn's internals: the parser's callbacks, `cycle`, `flow`, `pipeline`, `server_state`. Should
they change, `asgi.py` serves the same calls in another way. A client that pipelines on one of our paths gets its first
answer, and then the connection closes: no client is known that does it, and RFC 9112 §9.3.2 has it ask again.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.core.record import CallRecord
from router.errors import BadRequest, RouterError, SlowRequest
from router.proxy.body_budget import MAX_WAIT, BodyBudget, no_memory
from router.proxy.client import Client, Headers, Request
from router.proxy.cors import Cors
from router.proxy.handler import OPERATIONS
from router.proxy.intake import (
    ACCEPTED,
    BODY,
    FORWARDED,
    FRAMING,
    HEAD,
    IDLE,
    OFFER,
    REFUSED,
    SKIPPED,
    Bounds,
    Intake,
)
from router.proxy.known_head import KnownHead
from router.proxy.reply import DUE, ENDED, Reply
from router.turns import FREE, REQUEST, SMALL, Turns

FRESH = 0.25  # seconds of silence before a stopping router closes a connection: until then a request may be on its way
LINGER = 2.0  # seconds that a refused client may go on sending, unread, before it is cut off
EXPIRED = 50  # connections that are looked at in a step of `expire`: some 0.1 ms
PIPELINED = 8  # requests to the application that may wait behind another; in one read there could be ten thousand

log = logging.getLogger(__name__)


class Handler(Protocol):
    """The handler as a connection knows it."""

    stopping: bool
    refusing: bool
    cors: Cors

    def authorize(self, headers: Headers, /) -> bytes: ...

    def handle(self, request: Request, client: Client, /) -> None: ...

    def record(self, path: bytes, arrived: float, /) -> CallRecord: ...

    def refuse(self, client: Client, record: CallRecord, error: RouterError, /) -> None: ...

    def left(self, record: CallRecord, /) -> None: ...


class Front(HttpToolsProtocol):
    """One client connection. uvicorn's `http` setting is `functools.partial(Front, handler, bounds, now)`.

    `now` is the clock of the handler's calls.
    """

    __slots__ = (
        "_answers",
        "_handler",
        "_held_back",
        "_kept",
        "_known",
        "_now",
        "_read",
        "_turns",
        "_unsent",
        "_waits",
        "_whole",
        "intake",
        "reply",
    )

    reply: Reply  # from `connection_made` on

    def __init__(
        self,
        handler: Handler,
        bounds: Bounds,
        now: Callable[[], float],
        *args: Any,
        turns: Turns | None = None,
        bodies: BodyBudget | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._handler, self._now, self._turns = handler, now, turns or Turns()
        self.intake = Intake(bounds, now(), bodies or BodyBudget(sys.maxsize))
        self._kept = False  # a part of what was read is kept for later turns
        self._waits = -1.0  # since when the request waits for memory; negative if it does not
        self._whole = False  # the request that waits is complete
        self._unsent = 0  # bytes that the client had not read when `expire` last looked
        self._known: KnownHead | None = None  # from the second request on: many connections carry only one
        self._answers = 0
        self._read = b""  # the read in which a request began; empty once there was another, or it is complete
        self._held_back = False  # reading is paused until the client has read its answers

    # The transport reports.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.reply = Reply(transport, self.server_state, self._handler, self._answered)
        self._turns.opened(self)

    def data_received(self, data: bytes) -> None:
        turns = self._turns
        turns.read += len(data) + REQUEST
        if (turns.read <= FREE and len(data) <= SMALL) or not turns.defer(self, data):
            self.read(data)

    # For the turns (a Reader).

    def read(self, data: bytes) -> None:
        intake = self.intake
        if intake.state is REFUSED or intake.state is SKIPPED:
            return
        if self.reply.state is not ENDED:
            self._skip_rest()  # pipelined
            return
        self._read = b""
        if intake.state is IDLE:
            if self._known is not None and self._answer_again(self._known, data):
                return
            self._known, self._read = None, data  # known again if it is one whole request, and nothing beside it
        intake.overhead += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._unread(error, data)
        if intake.state is not IDLE:
            self._incomplete()
            if self._kept and (intake.state is SKIPPED or intake.state is REFUSED):
                self._turns.drop(self)

    def hold(self, *, much: bool) -> None:
        if self.intake.state is SKIPPED or self.intake.state is REFUSED:
            self._turns.drop(self)  # its rest is not needed
            return
        if not much:
            return
        self._kept = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def go_on(self) -> None:
        if self._kept:
            self._kept = False
            self._resume_reading()

    def _resume_reading(self) -> None:
        """Read on, unless there is another reason not to."""
        paused = self._kept or self._held_back or self._waits >= 0.0 or self.flow.read_paused
        if not paused and not self.transport.is_closing():
            self.transport.resume_reading()

    # The transport reports again.

    def connection_lost(self, exc: Exception | None) -> None:
        unread = self._turns.drop(self)
        super().connection_lost(exc)
        if unread and self.intake.state is IDLE and self.reply.state is ENDED:
            self.intake.begin(self._now())  # a request that was kept for a later turn
        unanswered = self.intake.half_read and self.reply.state is ENDED
        self.reply.state = ENDED  # nothing more is written
        self._turns.at_end(partial(self._left, unanswered=unanswered))

    def _left(self, *, unanswered: bool) -> None:
        """End what the client has left behind. To free a large body takes milliseconds."""
        if unanswered:
            self._handler.left(self._record())
        self._wait_no_longer()
        self.reply.lost()
        self.intake.refuse()

    def pause_writing(self) -> None:
        if self.reply.owner is not None:
            self.reply.owner.full()
        super().pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()  # first, as an owner that writes may be full again at once
        if self.reply.owner is not None:
            self.reply.owner.drained()
        if self._held_back and not self.flow.write_paused:
            self._held_back = False
            self.flow.resume_reading()

    # The server reports.

    def shutdown(self) -> None:
        """Accept no more requests: close at once, or after the answer to the request that is being read."""
        state = self.intake.state
        if self.reply.state is not ENDED:
            self._skip_rest()
        elif state is IDLE or state is SKIPPED:
            super().shutdown()
        else:
            self.reply.keep = False

    def expire(self, now: float) -> None:
        """Close the connection if a request takes too long to arrive, or if none arrives."""
        intake = self.intake
        if intake.state is REFUSED:
            if now >= intake.since + LINGER:
                self.transport.abort()
        elif self.reply.state is not ENDED:
            return
        elif 0.0 <= self._waits <= now - MAX_WAIT:
            self._give_up(no_memory(intake.bodies.limit))
        elif intake.state is IDLE or intake.state is SKIPPED:
            if self._free():
                self._rest(now)
        elif now >= intake.since + intake.bounds.request:
            limit = intake.bounds.request
            self._give_up(SlowRequest(f"The request was not complete {limit:g} s after its first byte."))

    def timeout_keep_alive_handler(self) -> None:
        """Do nothing: uvicorn's own timer knows only the application's answers, so `expire` watches all of them."""

    # The parser reports.

    def on_message_begin(self) -> None:
        if self.reply.keep:
            self.intake.begin(self._now())
        elif self.intake.state is IDLE:
            self.intake.state = SKIPPED

    def on_url(self, url: bytes) -> None:
        if self.intake.state is HEAD:
            self.intake.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        intake = self.intake
        if intake.state is HEAD:
            intake.headers.append((name.lower(), value))
        elif intake.state is not SKIPPED and intake.state is not REFUSED:
            try:
                intake.add_trailer(name, value)
            except RouterError as error:
                self._give_up(error)

    def on_headers_complete(self) -> None:
        intake, parser = self.intake, self.parser
        if intake.state is not HEAD:
            return
        if self.reply.state is not ENDED or self._held_back or not self.reply.keep:
            self._skip_rest()
            return
        version = parser.get_http_version()
        try:
            intake.end_head(version)
        except RouterError as error:
            self._give_up(error)
            return
        upgrade = parser.should_upgrade()
        if upgrade and self._declines():
            intake.state = OFFER
        elif intake.path in OPERATIONS and parser.get_method() == b"POST" and not upgrade and self._free():
            self._accept(version)
        elif len(self.pipeline) >= PIPELINED:
            self.pipeline[0][0].keep_alive = False  # the request that came last: after its answer uvicorn closes
            self._skip_rest()
        else:
            self._forward()

    def on_body(self, body: bytes) -> None:
        intake = self.intake
        intake.overhead -= len(body) + FRAMING
        if intake.state is ACCEPTED or intake.state is BODY:
            try:
                intake.add_body(body)
            except RouterError as error:
                self._refuse(error)
        elif intake.state is FORWARDED:
            super().on_body(body)

    def on_message_complete(self) -> None:
        intake, reply = self.intake, self.reply
        if intake.state is ACCEPTED or intake.state is BODY:
            if self._waits >= 0.0:
                self._whole = True
                return
            request = intake.take()
            if self._answers and reply.keep and reply.chunked and self._read:
                self._known = KnownHead.of(self._read, request) if isinstance(request.body, bytes) else None
            self._read = b""  # the call has the bytes that it needs
            self._answer(request)
        elif intake.state is FORWARDED:
            intake.end(self._now())
            super().on_message_complete()

    # A request is answered, accepted, forwarded, skipped or refused.

    def _answer(self, request: Request) -> None:
        reply = self.reply
        reply.state = DUE
        self._handler.handle(request, reply)
        if self.flow.write_paused and reply.owner is not None:
            reply.owner.full()  # the client has not read its last answer yet

    def _answer_again(self, known: KnownHead, data: bytes) -> bool:
        """Answer a request whose head is the last one's again; False if the parser must read it."""
        reply, intake = self.reply, self.intake
        if self._held_back or not reply.keep or intake.bodies.used_up or not self._free():
            return False
        request = known.again(data, self._now())
        if request is None or len(data) > intake.bounds.body:
            return False
        intake.since, reply.chunked = request.arrived, True  # a known head is of HTTP/1.1; an answer may have set it
        try:
            reply.cors = self._handler.authorize(known.headers)
        except RouterError as error:
            self._refuse(error)
            return True
        intake.hold(len(data))
        self._answer(request)
        return True

    def _free(self) -> bool:
        """True if nothing is being answered on this connection, neither by us nor by the application."""
        return self.reply.state is ENDED and (self.cycle is None or self.cycle.response_complete)

    def _accept(self, version: str) -> None:
        """Take a request on one of our paths; its body is read only if its headers authorize it."""
        reply, self.intake.state = self.reply, ACCEPTED
        reply.keep, reply.chunked = self.parser.should_keep_alive(), version == "1.1"
        try:
            reply.cors = self._handler.authorize(self.intake.headers)
        except RouterError as error:
            self._refuse(error)
            return
        if self.intake.bodies.used_up:
            self._wait_for_memory()

    def _wait_for_memory(self) -> None:
        """Read no more until other bodies are no longer held; `expire` ends the wait."""
        self._waits, self._whole = self._now(), False
        self.intake.bodies.wait(self._memory_is_free)
        self.transport.pause_reading()

    def _memory_is_free(self) -> None:
        self._waits = -1.0
        if self._whole:
            self._whole = False
            self.on_message_complete()
        elif self.intake.state is ACCEPTED:
            self._incomplete()
        self._resume_reading()

    def _wait_no_longer(self) -> None:
        if self._waits >= 0.0:
            self._waits, self._whole = -1.0, False
            self.intake.bodies.give_up(self._memory_is_free)
            self._resume_reading()

    def _forward(self) -> None:
        """Hand a request to the application: uvicorn's own callbacks are given its head again."""
        url, headers = self.intake.url, self.intake.headers
        self.intake.state = FORWARDED
        if url[:1] != b"/" and not _has_path(url):
            self._refuse_target()
            return
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        try:
            super().on_headers_complete()
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            self._refuse_target()

    def _skip_rest(self) -> None:
        """Answer no further request: the connection closes after the answers due, or now if the client reads none."""
        self.intake.state, self.reply.keep = SKIPPED, False
        if self._held_back:
            self._close()

    def _close(self) -> None:
        """Close the connection after the last answer.

        Not at once if the client's next bytes are unread: the close would be a reset, which discards the answer.
        """
        if self._kept and self.transport.can_write_eof():
            self.intake.refuse()
            self.intake.since = self._now()
            self.transport.write_eof()  # `expire` closes the connection
        else:
            self.transport.close()

    def _incomplete(self) -> None:
        """Look at a request that goes on in a later read.

        Invite its body where the client asks, and refuse now what would be refused then.
        """
        intake = self.intake
        if self._waits >= 0.0:
            return
        if intake.state is SKIPPED or intake.state is REFUSED or self.reply.state is not ENDED:
            return
        try:
            intake.end_read()
            if intake.state is ACCEPTED and intake.begin_body():
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        except RouterError as error:
            self._give_up(error)

    def _give_up(self, error: RouterError) -> None:
        """Refuse a request that is half read, or cut it off where the application has it or answers another."""
        if self.intake.half_read and self._free():
            self._refuse(error)
        else:
            self.intake.refuse()
            self.reply.keep = False
            self.transport.abort()

    def _refuse(self, error: RouterError) -> None:
        """Answer with an error a request that can't be read to its end, and close the connection.

        Not at once: a reset in reply to what the client still sends would discard our answer (RFC 9112 §9.6).
        """
        reply = self.reply
        self._wait_no_longer()
        self.intake.refuse()
        reply.state, reply.keep = DUE, False
        reply.cors = self._handler.cors.lines(self.intake.headers)
        self._handler.refuse(reply, self._record(), error)

    def _refuse_target(self) -> None:
        self._refuse(BadRequest("The request's target must be a path, such as /v1/models.", code="invalid_http"))

    def _record(self) -> CallRecord:
        return self._handler.record(self.intake.path, self.intake.since)

    # What the parser could not read.

    def _unread(self, error: Exception, data: bytes) -> None:
        """React to an error of the parser, to an offer to upgrade, or to a callback that failed, which is our fault."""
        if isinstance(error, httptools.HttpParserUpgrade):
            self._upgrade(data[error.args[0] :])
        elif isinstance(error, httptools.HttpParserCallbackError):
            log.error("A request could not be handled", exc_info=error)
            self.transport.abort()
        elif self.reply.state is not ENDED:
            self._skip_rest()
        elif not self._free():
            self.transport.close()
        elif self.intake.state is not REFUSED and not self.transport.is_closing():
            self._refuse(BadRequest("The request is not valid HTTP/1.1.", code="invalid_http"))

    def _declines(self) -> bool:
        """True if the request offers to change the protocol, and we stay with this one (RFC 9110 §7.8)."""
        self.headers = self.intake.headers  # where uvicorn looks for the offer
        return not self._should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _upgrade(self, rest: bytes) -> None:
        """Go on after a head that offers to change the protocol.

        The parser leaves what follows such a head unread, also the body of a request that only offers it, as the
        first one of Java's own client does (h2c). Such a request is read again, without its offer.
        """
        state = self.intake.state
        if state is OFFER:
            self._read_again(rest)
        elif (state is IDLE or state is FORWARDED) and self._should_upgrade():
            self.handle_websocket_upgrade()

    def _read_again(self, rest: bytes) -> None:
        """Read a declined request without its offer, and in a loop all others of one read: it may hold thousands."""
        intake = self.intake
        while intake.state is OFFER:
            data = intake.without_offer(self.parser.get_method(), self.parser.get_http_version()) + rest
            intake.state, self.parser = IDLE, httptools.HttpRequestParser(self)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                rest = data[offer.args[0] :]
            except httptools.HttpParserError as error:
                self._unread(error, data)
                return

    # Between two requests.

    def _answered(self) -> None:
        """A response of ours has ended."""
        self._answers += 1
        self.intake.release()
        self.intake.since = self._now()
        self.server_state.total_requests += 1
        if self.intake.state is REFUSED and self.transport.can_write_eof():
            self.transport.write_eof()  # `expire` closes the connection
        elif not self.reply.keep:
            self._close()
        elif self.flow.write_paused:
            self._held_back = True
            self.flow.pause_reading()

    def _rest(self, now: float) -> None:
        """Close an idle connection; but as long as the client still reads its last answer it is not idle."""
        intake = self.intake
        idle = FRESH if self._handler.refusing else intake.bounds.idle
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, intake.since = unsent, now
        elif now >= intake.since + idle:
            self.transport.abort() if unsent else self.transport.close()


def _has_path(target: bytes) -> bool:
    """True unless the target is a host and a port, as CONNECT's is, or an address and nothing more."""
    try:
        url: Any = httptools.parse_url(target)  # whose stub says that its path is never None
    except httptools.HttpParserInvalidURLError:
        return False
    return url.path is not None


def expire(connections: set[Any], now: float) -> Generator[None, None, None]:
    """Look once at every connection of a server, in steps: that, every second, is cheaper than a timer for each."""
    for number, connection in enumerate(tuple(connections)):
        if number % EXPIRED == EXPIRED - 1:
            yield
        if isinstance(connection, Front):
            connection.expire(now)
