"""One client request, parsed once: the bytes of its body and the few fields that routing needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from typing import Any, Literal

import msgspec

from router.core.body import (
    ATTACHMENT,
    BYTE_ORDER_MARK,
    MAX_ATTACHMENTS,
    MAX_KEYS,
    PROMPT_BEGINS,
    Body,
    InvalidBody,
    too_many_keys,
)
from router.core.body import Fields as Fields  # its name for all who change fields
from router.core.demand import Demand, DemandKind

Operation = Literal["chat/completions", "completions", "embeddings"]

_split = msgspec.json.Decoder(Fields).decode  # the top-level keys, each with the bytes of its value
_value = msgspec.json.Decoder().decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_SPACE = b" \t\r\n"
MAX_LENIENT = 1 << 20  # bytes of a body that are read by Python's slower reader: about 10 ms
# Of JSON, for a token of English text. The effect of a prompt's size on the wait is measured in the same unit, so a
# rough figure is enough.
BYTES_PER_TOKEN = 4.0
MAX_MODEL_NAME = 256  # characters; the model's name goes into messages and metrics
MAX_READ = 16 << 10  # bytes of a value that is decoded for routing, in some microseconds

TOO_LONG = object()  # in place of a value of more than MAX_READ bytes


class InvalidCall(ValueError):
    """A request body that cannot be routed. `code` names the fault, `param` the field at fault."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class Call(msgspec.Struct, frozen=True, eq=False):
    """A parsed client request.

    `fields` maps each top-level key to the bytes of its value, so that changing one for an endpoint parses nothing.
    `headers` are the header lines to pass on, each with its line end. `optional_headers` are those of the client that
    only some endpoints may see. `patience` is how many seconds the client waits.
    `retries` is how often the client has sent the request before. `conversation` is a key shared by calls that profit
    from the same endpoint; empty without affinity. `asks_why` is True if the client wants the routing explained.
    `attached` is how many bytes of the body are attachments in base64; None if they have not been counted.
    """

    operation: Operation
    body: bytes | bytearray
    fields: Fields
    headers: bytes
    model: str
    stream: bool = False
    choices: int = 1
    patience: float = inf
    retries: int = 0
    conversation: bytes = b""
    asks_why: bool = False
    optional_headers: Sequence[tuple[bytes, bytes]] = ()
    attached: int | None = None

    def __repr__(self) -> str:
        """Leave out the prompt and the headers, which are the client's secrets."""
        return f"<Call {self.operation} {self.model} {len(self.body)} bytes>"

    @property
    def demand(self) -> Demand:
        """The kind of output that its client waits for, and the estimated size of its prompt.

        The size is four bytes of the body per token, without what is attached as base64.
        """
        size = len(self.body)
        if self.attached is not None:
            size -= self.attached
        elif ATTACHMENT in self.body:
            size -= sum(part.find(b'"') for part in self.body.split(ATTACHMENT, MAX_ATTACHMENTS)[1:])
        kind: DemandKind = "first_token" if self.stream else "embedding" if self.operation == "embeddings" else "answer"
        return Demand(kind, size / BYTES_PER_TOKEN, self.operation, self.body)

    @property
    def deterministic(self) -> bool:
        """True if the same request should give the same answer again: a seed, or a temperature of 0."""
        seed, temperature = _peek(self.fields, "seed"), _peek(self.fields, "temperature")
        return seed is not None or (temperature == 0 and temperature is not False)

    @property
    def plain(self) -> bool:
        """True if the answer is one free text, so that another endpoint could continue a part of it."""
        wanted = _peek(self.fields, "response_format")
        free = wanted is None or (isinstance(wanted, dict) and wanted.get("type") == "text")
        unusual = ("logprobs", "top_logprobs", "audio", "echo", "suffix", "prediction")
        return free and self.choices == 1 and not any(_peek(self.fields, name) for name in unusual)


def parse(
    operation: Operation,
    body: bytes | Body,
    headers: bytes = b"",
    patience: float = inf,
    retries: int = 0,
    asks_why: bool = False,
) -> Call:
    """Parse a request body, or look at one that was read while it arrived. Raises InvalidCall."""
    data: bytes | bytearray
    attached, read = None, _read
    if isinstance(body, bytes):
        data, fields = _split_body(body)
    else:
        data, fields = _read_body(body)
        attached, read = body.attached, _peek  # a long value may take many milliseconds
    if len(fields) > MAX_KEYS:
        raise _invalid(too_many_keys())
    try:
        model, stream, choices = read(fields, "model"), read(fields, "stream"), read(fields, "n")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fields = _with_half_pairs(bytes(data), error)
        model, stream, choices = _read(fields, "model"), _read(fields, "stream"), _read(fields, "n")
    except RecursionError:
        raise InvalidCall("The request body is nested too deeply.", "invalid_json") from None
    if not isinstance(model, str) or not model:
        raise InvalidCall("You must name a model: a non-empty string.", "missing_model", "model")
    if len(model) > MAX_MODEL_NAME:
        raise InvalidCall(f"The model's name is longer than {MAX_MODEL_NAME} characters.", "invalid_model", "model")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidCall("'stream' must be true or false.", "invalid_type", "stream")
    if choices is not None and (not isinstance(choices, int) or isinstance(choices, bool) or choices < 1):
        raise InvalidCall("'n' must be a whole number of at least 1.", "invalid_type", "n")
    streams = bool(stream) and operation != "embeddings"
    choices = choices or 1
    if operation == "completions":
        choices *= _prompts(fields) if isinstance(body, bytes) else body.prompts
    return Call(
        operation, data, fields, headers, model, streams, choices, patience, retries,
        asks_why=asks_why, attached=attached,
    )  # fmt: skip


def _prompts(fields: Fields) -> int:
    """The number of prompts of a completion, each of which has `n` choices: texts, or lists of tokens, in a list."""
    prompt = bytes(fields.get("prompt", b"1"))
    if prompt[:1] != b"[" or prompt[1:].lstrip(_SPACE)[:1] not in PROMPT_BEGINS:
        return 1  # a text or a list of tokens, which may be long
    try:
        return len(_items(prompt))
    except msgspec.DecodeError:
        return 1


def _with_half_pairs(body: bytes, error: Exception) -> Fields:
    """The fields of a body with half of a surrogate pair as an escape: JavaScript cuts text so, and Python reads it.

    Raises InvalidCall for any other body that the strict reader does not read.
    """
    try:
        if len(body) > MAX_LENIENT or b"\\u" not in body:
            raise ValueError
        value = json.loads(body.decode(), parse_constant=_refuse)
        value["model"].encode()
        return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in value.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        half = " (perhaps an escape of half a surrogate pair)" if b"\\ud" in body[-MAX_LENIENT:].lower() else ""
        raise InvalidCall(f"The request body is not valid JSON: {error}{half}.", "invalid_json") from None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _split_body(body: bytes) -> tuple[bytes, Fields]:
    try:
        if not body.isascii():
            body.decode()  # msgspec does not check the encoding of values that it only splits
        return body, _split(body)
    except msgspec.ValidationError:
        raise InvalidCall("The request body must be a JSON object.", "invalid_json") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        rest = body.removeprefix(BYTE_ORDER_MARK)
        if len(rest) < len(body) and not rest.startswith(BYTE_ORDER_MARK):
            return _split_body(rest)
        return body, _with_half_pairs(body, error)
    except RecursionError:
        raise InvalidCall("The request body is nested too deeply.", "invalid_json") from None


def _read_body(body: Body) -> tuple[bytearray, Fields]:
    try:
        fields = body.end()
    except InvalidBody as error:
        raise _invalid(error) from None
    return body.data, fields


def _invalid(error: InvalidBody) -> InvalidCall:
    return InvalidCall(str(error), error.code)


def _read(fields: Fields, name: str) -> Any:
    raw = fields.get(name)
    return None if raw is None else _value(raw)


def _peek(fields: Fields, name: str) -> Any:
    """The value of a field; None if absent, or if it can't be decoded (1e999, say): only the endpoint may refuse it.

    TOO_LONG in place of a long value.
    """
    raw = fields.get(name)
    if raw is None:
        return None
    if len(memoryview(raw)) > MAX_READ:
        return TOO_LONG
    try:
        return _value(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
