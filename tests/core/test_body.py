"""A large body, read while it arrives: the same fields as the decoder finds, however the bytes are cut."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable
from random import Random

import msgspec
import pytest

from router.core.body import MAX_DEPTH, MAX_KEYS, Body, InvalidBody
from tests.fuzz.corpus import BODIES
from tests.fuzz.mutations import cut

_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read(pieces: Iterable[bytes], max_checked: int = 1 << 20) -> dict[str, bytes]:
    body = Body(max_checked)
    for piece in pieces:
        body.feed(piece)
    return {name: bytes(value) for name, value in body.end().items()}


def refused(data: bytes, max_checked: int = 1 << 20) -> InvalidBody:
    with pytest.raises(InvalidBody) as error:
        read([data], max_checked)
    return error.value


def single_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(
    "data",
    [
        *(BODIES[name] for name in ("chat", "streaming", "spaced", "parameters", "twice", "unicode", "odd types")),
        b"{}",
        b' { "a" : [ ] , "b" : { } , "c" : "" , "d" : -1.5e+3 , "e" : null } ',
        b'{"a":"\\"}\\\\","b":["]","\\"]",{"}":"{"}]}',
        b'{"a":[[[[1,2],[3]],{"b":{"c":[]}}]],"model":"x"}',
        json.dumps({"a": ["x" * 5000, {"y": "\\" * 5000}], "b": "z" * 5000, "n": [[i] for i in range(3000)]}).encode(),
    ],
)
def test_the_fields_are_those_that_the_decoder_finds_however_the_bytes_are_cut(data: bytes) -> None:
    wanted = {name: bytes(value) for name, value in _split(data).items()}
    assert read([data]) == read(single_bytes(data)) == read([data], 0) == wanted
    for seed in range(20):
        assert read(cut(data, Random(seed)), 0) == wanted


def test_of_two_equal_keys_the_last_one_counts() -> None:
    data = b'{"model":"first","stream":false,"mod\\u0065l":"last"}'
    assert read([data]) == {"model": b'"last"', "stream": b"false"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b'{"a":1', "truncated"),
        (b'{"a":"x', "truncated"),
        (b'{"a":["x\\', "truncated"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"<html>", r"unexpected character \(byte 0\)"),
        (b'{"a":1}x', r"trailing characters \(byte 7\)"),
        (b'{"a":1}{"a":1}', "trailing characters"),
        (b"{a:1}", r"unexpected character \(byte 1\)"),
        (b'{"a" 1}', "unexpected character"),
        (b'{"a":1 "b":2}', "unexpected character"),
        (b'{"a":1,}', "unexpected character"),
        (b'{,"a":1}', "unexpected character"),
        (b'{"a":}', "begins at byte 5"),
        (b'{"a":nul}', "begins at byte 5"),
        (b'{"a":01}', "begins at byte 5"),
        (b'{"a":[1 2]}', "begins at byte 5"),
        (b'{"a":[1}}', "begins at byte 5"),
        (b'{"a":"\x01"}', "begins at byte 5"),
        (b'{"a\\x":1}', "begins at byte 1"),
        (b'{"a":"\xff"}', "not valid UTF-8"),
        (b'{"a":"\xe6\xa8"}', "not valid UTF-8"),
    ],
)
def test_what_is_no_object_is_refused_with_the_place(data: bytes, message: str) -> None:
    with pytest.raises(InvalidBody, match=message) as whole:
        read([data])
    with pytest.raises(InvalidBody, match=message) as cut_up:
        read(single_bytes(data))
    assert whole.value.code == cut_up.value.code == "invalid_json"


def test_a_character_that_is_cut_is_whole() -> None:
    assert read(single_bytes('{"a":"模型🙂"}'.encode())) == {"a": '"模型🙂"'.encode()}


def test_a_thousand_keys_are_enough() -> None:
    def keys(count: int) -> bytes:
        return b"{" + b",".join(b'"k%d":0' % number for number in range(count)) + b"}"

    assert len(read([keys(MAX_KEYS)])) == MAX_KEYS
    error = refused(keys(MAX_KEYS + 1))
    assert (error.code, str(error)) == ("too_many_keys", "The request body has more than 1000 keys at its top level.")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_has_its_bound_in_a_value_of_any_length(opening: bytes) -> None:
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    for before in (b"", b"0," * 9000):

        def nested(depth: int, before: bytes = before) -> bytes:
            return b'{"x":[%b%b1%b]}' % (before, opening * (depth - 1), closing * (depth - 1))

        assert set(read([nested(MAX_DEPTH)], 0)) == {"x"}
        assert "nested too deeply" in str(refused(nested(MAX_DEPTH + 1), 0))
        assert "nested too deeply" in str(refused(nested(500_000), 0))


def test_a_long_value_is_left_to_its_endpoint_but_for_its_strings_and_brackets() -> None:
    assert read([b'{"a":[1 2, nul],"b":1}'], 5) == {"a": b"[1 2, nul]", "b": b"1"}
    assert "truncated" in str(refused(b'{"a":[1 2, nul,"b":1}', 5))
    assert "number is longer than" in str(refused(b'{"a":%b}' % (b"1" * 200_000), 5))
    assert "number is longer than" in str(refused(b'{"a":%b' % (b"1" * 200_000), 5))


def test_after_a_fault_nothing_more_is_kept() -> None:
    body = Body()
    body.feed(b"[")
    body.feed(b"x" * 1_000_000)
    assert body.data == b""


def test_attachments_are_counted() -> None:
    body = Body()
    image = b"data:image/png;base64," + b"A" * 10_000
    body.feed(
        b'{"model":"m","messages":[{"content":[{"url":"%b"},{"url":"%b"},{"text":"%b"}]}]}'
        % (image, image, b"B" * 9000)
    )
    body.end()
    assert body.attached == 20_000


@pytest.mark.parametrize("data", [b'{"model":"m","x":["', b"{}", b"{]", b'{"a":1,', b'{"a'])
def test_a_body_that_is_dropped_is_freed_at_once(data: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        body = Body()
        body.feed(data)
        del body
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_byte_order_mark_is_dropped_however_it_comes(size: int) -> None:
    data = b'\xef\xbb\xbf{"model": "m", "image": ";base64,AAAA"}'
    body = Body()
    for at in range(0, len(data), size):
        body.feed(data[at : at + size])
    assert {name: bytes(value) for name, value in body.end().items()}["model"] == b'"m"'
    assert (bytes(body.data), body.attached) == (data[3:], 4)


def test_a_second_byte_order_mark_is_no_json() -> None:
    body = Body()
    body.feed(b'\xef\xbb\xbf\xef\xbb\xbf{"model": "m"}')
    with pytest.raises(InvalidBody, match="unexpected character"):
        body.end()
