"""Parsing of a request body: the fields read, the refusals, and that the bytes of every value stay unchanged."""

from __future__ import annotations

import gc
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.body import MAX_ATTACHMENTS, Body
from router.core.call import BYTES_PER_TOKEN, MAX_MODEL_NAME, Call, InvalidCall, Operation, parse
from tests.core.helpers import properties

OPERATIONS: tuple[Operation, ...] = ("chat/completions", "completions", "embeddings")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def refusal(body: bytes) -> InvalidCall:
    with pytest.raises(InvalidCall) as refused:
        parse("chat/completions", body)
    return refused.value


def test_a_call_is_the_body_and_the_few_fields_that_routing_needs() -> None:
    body = b'{"model": "chat", "stream": true, "n": 3, "messages": []}'
    call = parse("chat/completions", body)
    assert (call.operation, call.model, call.stream, call.choices) == ("chat/completions", "chat", True, 3)
    assert call.body is body


@pytest.mark.parametrize("n", [1, 2, 128])
def test_a_client_may_ask_for_any_number_of_answers(n: int) -> None:
    assert parse("chat/completions", b'{"model": "m", "n": %d}' % n).choices == n


def test_the_default_is_one_answer_without_streaming() -> None:
    for body in (
        b'{"model": "chat"}',
        b'{"model": "chat", "stream": null, "n": null}',
        b'{"model":"chat","stream":false}',
    ):
        call = parse("chat/completions", body)
        assert (call.stream, call.choices, call.demand.kind) == (False, 1, "answer")


@pytest.mark.parametrize(
    ("operation", "stream", "kind"),
    [
        ("chat/completions", b"true", "first_token"),
        ("completions", b"true", "first_token"),
        ("chat/completions", b"false", "answer"),
        ("completions", b"false", "answer"),
        ("embeddings", b"false", "embedding"),
        ("embeddings", b"true", "embedding"),  # there are no tokens to stream
    ],
)
def test_the_demand_kind(operation: Operation, stream: bytes, kind: str) -> None:
    call = parse(operation, b'{"model": "m", "stream": %b}' % stream)
    assert call.demand.kind == kind
    assert call.stream is (kind == "first_token")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"   ", "invalid_json", None),
        (b"hello", "invalid_json", None),
        (b'{"model": "m"', "invalid_json", None),
        (b'{"model": "m"}}', "invalid_json", None),
        (b'{"model": "m",}', "invalid_json", None),
        (b"{'model': 'm'}", "invalid_json", None),
        (b'{"model": "m", "x": NaN}', "invalid_json", None),
        (b'\xef\xbb{"model": "m"}', "invalid_json", None),
        (b'{"model": "\xff"}', "invalid_json", None),
        (b'{"model": "\\ud800"}', "invalid_json", None),
        ('{"model": "m"}'.encode("utf-16"), "invalid_json", None),
        (b'["model"]', "invalid_json", None),
        (b"null", "invalid_json", None),
        (b'"model"', "invalid_json", None),
        (b"{}", "missing_model", "model"),
        (b'{"model": null}', "missing_model", "model"),
        (b'{"model": ""}', "missing_model", "model"),
        (b'{"model": 7}', "missing_model", "model"),
        (b'{"model": ["m"]}', "missing_model", "model"),
        (b'{"Model": "m"}', "missing_model", "model"),
        (b'{"model": "%b"}' % (b"m" * (MAX_MODEL_NAME + 1)), "invalid_model", "model"),
        (b'{"model": "m", "stream": "true"}', "invalid_type", "stream"),
        (b'{"model": "m", "stream": 1}', "invalid_type", "stream"),
        (b'{"model": "m", "n": 0}', "invalid_type", "n"),
        (b'{"model": "m", "n": -1}', "invalid_type", "n"),
        (b'{"model": "m", "n": 1.5}', "invalid_type", "n"),
        (b'{"model": "m", "n": "2"}', "invalid_type", "n"),
        (b'{"model": "m", "n": true}', "invalid_type", "n"),
    ],
)
def test_a_body_that_cannot_be_routed_is_refused_with_code_and_param(body: bytes, code: str, param: str | None) -> None:
    error = refusal(body)
    assert (error.code, error.param) == (code, param)
    assert str(error).endswith(".")


def test_a_model_name_of_the_maximum_length_is_valid() -> None:
    assert parse("completions", b'{"model": "%b"}' % (b"m" * MAX_MODEL_NAME)).model == "m" * MAX_MODEL_NAME


DEPTH = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEPTH,
        b'{"a":' * DEPTH,
        b'{"model": "m", "messages": %b}' % (b"[" * DEPTH + b"]" * DEPTH),
        b'{"model": %b}' % (b"[" * DEPTH + b"]" * DEPTH),
        b'{"model": "m", "n": %b}' % (b'{"a":' * DEPTH + b"1" + b"}" * DEPTH),
    ],
)
def test_very_deep_nesting_is_refused(body: bytes) -> None:
    assert refusal(body).code == "invalid_json"


def test_of_a_repeated_key_the_last_value_counts_as_in_other_parsers() -> None:
    body = b'{"model": "a", "stream": true, "model": "b", "stream": false}'
    call = parse("chat/completions", body)
    assert (call.model, call.stream) == ("b", False)
    assert json.loads(body)["model"] == "b"


def test_a_key_or_model_name_may_contain_escapes() -> None:
    assert parse("completions", rb'{"\u006dodel": "mod\u00e8le"}').model == "modèle"


@properties
@given(
    fields=st.dictionaries(st.text().filter(lambda key: key not in ("model", "stream", "n")), json_values, max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_the_bytes_of_every_value_stay_unchanged(
    fields: dict[str, object], indent: int | None, ascii_only: bool
) -> None:
    body = json.dumps({"model": "m", **fields}, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    call = parse("chat/completions", body)
    assert call.body == body
    assert set(call.fields) == set(json.loads(body))
    for name, raw in call.fields.items():
        value = bytes(raw)
        assert value in body
        assert value == value.strip()
        assert json.loads(value) == json.loads(body)[name]


def test_numbers_keep_their_digits() -> None:
    fields = parse(
        "completions", b'{"model": "m", "a": 1.10, "b": 1E2, "c": 12345678901234567890123, "d": [ 1 ]}'
    ).fields
    assert [bytes(fields[name]) for name in "abcd"] == [b"1.10", b"1E2", b"12345678901234567890123", b"[ 1 ]"]


def a_prompt(*parts: str) -> Call:
    return parse("chat/completions", json.dumps({"model": "m", "messages": parts}).encode())


def test_the_size_counts_text_and_no_attachments() -> None:
    picture = "data:image/png;base64,"
    text, with_pictures = (
        a_prompt("Hi", "there" * 100),
        a_prompt(picture + "A" * 4000, "Hi", picture, picture + "B" * 400),
    )
    assert text.demand.size == len(text.body) / BYTES_PER_TOKEN
    assert with_pictures.demand.size == (len(with_pictures.body) - 4400) / BYTES_PER_TOKEN


def test_attachments_beyond_the_maximum_count_as_text() -> None:
    call = a_prompt(*[";base64,AAAA"] * (MAX_ATTACHMENTS + 7))
    assert call.demand.size == (len(call.body) - 4 * MAX_ATTACHMENTS) / BYTES_PER_TOKEN


def test_the_headers_are_kept_unchanged() -> None:
    assert parse("completions", b'{"model": "m"}', b"a: b\r\n").headers == b"a: b\r\n"


def test_a_byte_order_mark_is_dropped() -> None:
    call = parse("chat/completions", b'\xef\xbb\xbf{"model": "m", "stream": true}')
    assert (call.model, call.stream, call.body) == ("m", True, b'{"model": "m", "stream": true}')


def test_a_second_byte_order_mark_is_no_json() -> None:
    with pytest.raises(InvalidCall, match="not valid JSON"):
        parse("chat/completions", b'\xef\xbb\xbf\xef\xbb\xbf{"model": "m"}')


@pytest.mark.parametrize("half", [b"\\ud83d", b"\\ude00", b"\\uD83D x"])
def test_half_of_a_surrogate_pair_is_read_as_python_reads_it(half: bytes) -> None:
    body = b'{"model": "m", "n": 2, "messages": [{"role": "user", "content": "%b"}]}' % half
    call = parse("chat/completions", body)
    assert (call.model, call.choices, call.body) == ("m", 2, body)
    assert half.lower()[:6] in bytes(call.fields["messages"])


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [
        (b'"one"', 2),
        (b'["one"]', 2),
        (b'["one", "two"]', 4),
        (b"[[1, 2], [3], [4]]", 6),
        (b"[1, 2, 3]", 2),
        (b"[]", 2),
        (b"null", 2),
        (b"{}", 2),
    ],
)
def test_each_prompt_of_a_list_has_choices_of_its_own(prompt: bytes, choices: int) -> None:
    body = b'{"model": "m", "n": 2, "prompt": %b}' % prompt
    assert parse("completions", body).choices == choices
    assert parse("chat/completions", body).choices == 2


@pytest.mark.parametrize("data", [b'{"model":"m"', b'{"model":1}', b'{"model":"m"}', b"[]", b'{"model":"m"}}'])
def test_a_large_body_is_freed_with_its_call_or_its_refusal(data: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        body = Body()
        body.feed(data)
        with suppress(InvalidCall):
            parse("chat/completions", body)
        del body
        assert gc.collect() == 0
    finally:
        gc.enable()
