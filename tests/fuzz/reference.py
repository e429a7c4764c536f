"""Slow, obviously correct readers, to compare the router's with."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import h11

from router.core.stream.error_body import is_error
from router.core.stream.events import has_output
from router.core.stream.finish import failure, has_finish


class Facts(NamedTuple):
    """The facts that a stream contains."""

    events: int = 0
    malformed: int = 0
    done: bool = False
    first_token: bool = False
    finished: frozenset[str] = frozenset()
    failed: bool = False


class Odd(ValueError):
    """JSON on which readers may differ; no SDK writes it."""


def blocks(stream: bytes) -> list[list[bytes]]:
    """The lines of each event (WHATWG HTML, server-sent events), without comments and without an unfinished event."""
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    found: list[list[bytes]] = [[]]
    for line in lines[:-1]:
        if not line:
            found.append([])
        elif not line.startswith(b":"):
            found[-1].append(line)
    return [block for block in found[:-1] if block]


def payload(block: list[bytes]) -> bytes:
    """The data of an event."""
    values = [line[5:] for line in block if line.startswith(b"data:")]
    return b"\n".join(value[1:] if value.startswith(b" ") else value for value in values)


def read_json(text: bytes) -> Any:
    """Read JSON as openai-python does. Raise ValueError if invalid, Odd if readers may differ."""
    if b"\\u" in text or len(text) > 4000:
        raise Odd  # a lone surrogate, depth, a number of thousands of digits
    try:
        return json.loads(
            text.decode(),
            parse_int=_number,
            parse_float=_number,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise Odd from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise Odd  # readers differ in which of the two counts, and in whether the other must be valid
    return read


def _number(text: str) -> float:
    if len(text) > 15 or "e" in text.lower():
        raise Odd
    return float(text)


def facts(stream: bytes) -> Facts:
    """Read a stream event by event, by the rules in core/stream/scanner.py. Raise Odd if readers may differ."""
    events = malformed = 0
    first_token = False
    finished: set[str] = set()
    for block in blocks(stream):
        text = payload(block)
        if text.startswith(b"[DONE]"):
            return Facts(events, malformed, True, first_token, frozenset(finished))
        if not text:
            continue
        if any(line.rstrip(b" \t") in (b"event: error", b"event:error") for line in block):
            return Facts(events + 1, malformed, False, first_token, frozenset(finished), True)
        try:
            value = read_json(text)
        except Odd:
            raise
        except ValueError:
            malformed += 1
            continue
        events += 1
        if not isinstance(value, dict):
            continue  # a heartbeat
        if value.get("error"):
            return Facts(events, malformed, False, first_token, frozenset(finished), True)
        if not _known_shape(value, first_token and not finished):
            first_token = first_token or has_output(value)
            continue
        if value.get("choices") is None and value.get("usage") is None and is_error(value):
            return Facts(events, malformed, False, first_token, frozenset(finished), True)
        for choice in value.get("choices") or []:
            reason = choice.get("finish_reason")
            if has_finish(reason):
                if failure(reason) is not None:
                    return Facts(events, malformed, False, first_token, frozenset(finished), True)
                finished.add(str(choice.get("index", 0)))
                first_token = True
            elif not first_token:
                first_token = _output(choice)
    return Facts(events, malformed, False, first_token, frozenset(finished))


def _known_shape(value: Any, later: bool) -> bool:
    choices = value.get("choices")
    if choices is None:
        return True
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        return False
    return later or all(isinstance(choice.get("delta"), (dict, type(None))) for choice in choices)


def _output(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text")) or any(value for name, value in delta.items() if name != "role")


class Message(NamedTuple):
    """A request or an answer, as h11 reads it."""

    line: tuple[Any, ...]
    body: bytes


def answer(wire: bytes) -> Message | None:
    """The first whole answer to a POST, if h11 finds one; the end of the connection may end it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "there"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    return _message(connection, wire, h11.Response)


def requests(wire: bytes) -> list[Message]:
    """The whole requests that h11 finds, up to its first error."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    found: list[Message] = []
    data = wire
    while (message := _message(connection, data, h11.Request)) is not None:
        found.append(message)
        data = b""
        try:
            if connection.our_state is h11.SEND_RESPONSE:
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        except h11.LocalProtocolError:
            break
    return found


def _message(connection: h11.Connection, wire: bytes, kind: type[Any]) -> Message | None:
    line: tuple[Any, ...] = ()
    body = b""
    try:
        connection.receive_data(wire)
        if wire and kind is h11.Response:
            connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                line = (event.method, event.target)
            elif isinstance(event, h11.Response):
                line = (event.status_code,)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return Message(line, body)
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return None
