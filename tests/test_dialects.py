"""Kinds of servers: the verdicts on their errors, and the requests that they are sent."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config import EndpointConfig
from router.core.call import parse
from router.core.verdict import Verdict, of_status
from router.dialects import DIALECTS, zhipu
from tests.support import Player, endpoint
from tests.support.endpoints import streams

KINDS = sorted(DIALECTS)
NOW = 1_780_000_000.0  # wall-clock time

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def judge(kind: str, status: int, error: object = None, retry_after: float | None = None) -> Verdict:
    return DIALECTS[kind].judge(status, error, retry_after, NOW).verdict


def adapted(kind: str, **fields: object) -> dict[str, object]:
    """The fields that a server of this kind is sent for a client's fields."""
    call = parse("chat/completions", json.dumps({"model": "m", **fields}).encode())
    sent = dict(call.fields)
    adapt = DIALECTS[kind].adapt
    if adapt is not None:
        adapt(sent)
    found: dict[str, object] = json.loads(msgspec.json.encode(sent))
    del found["model"]
    return found


# Every kind.


def test_every_kind_that_can_be_configured_has_a_dialect() -> None:
    annotation = EndpointConfig.model_fields["kind"].annotation
    assert sorted(annotation.__args__) == KINDS  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "error", [None, {}, "no", [], 7, {"message": "no"}, {"code": None, "type": None}, {"code": {"a": []}}]
)
def test_an_error_without_a_known_code_is_judged_by_its_status(kind: str, error: object) -> None:
    for status in (301, 400, 401, 404, 429, 500, 503):
        cause = of_status(status)
        assert cause is not None
        assert judge(kind, status, error) is cause.verdict
    assert judge(kind, 503, error, 2.0) is Verdict.BUSY


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=50)
@given(status=st.integers(0, 999), error=json_values)
def test_no_error_is_judged_as_served(kind: str, status: int, error: object) -> None:
    assert judge(kind, status, error) in (Verdict.REFUSED, Verdict.BUSY, Verdict.FAULT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ({"code": "context_length_exceeded"}, Verdict.REFUSED),
        ({"type": "invalid_request_error"}, Verdict.REFUSED),
        ({"code": None, "type": "invalid_request_error"}, Verdict.REFUSED),
        ({"type": "BadRequestError", "code": 400}, Verdict.REFUSED),
        ({"code": "rate_limit_exceeded"}, Verdict.BUSY),
        ({"type": "overloaded_error"}, Verdict.BUSY),
        ({"code": 429}, Verdict.BUSY),
        ({"type": "InternalServerError", "code": 500}, Verdict.FAULT),
        ({"code": "never heard of it"}, Verdict.FAULT),
    ],
)
def test_inside_a_stream_only_the_code_decides(kind: str, error: object, verdict: Verdict) -> None:
    assert judge(kind, 200, error) is judge(kind, 500, error) is verdict


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [401, 402, 403, 404, 405])
def test_a_wrong_key_account_or_model_name_is_never_the_clients_fault(kind: str, status: int) -> None:
    assert judge(kind, status, {"type": "invalid_request_error", "code": "invalid_api_key"}) is Verdict.FAULT
    assert judge(kind, status, {"type": "unknown_error", "code": "invalid_request_error"}) is Verdict.FAULT


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_code_takes_precedence_over_the_type_and_both_over_the_status(kind: str) -> None:
    assert judge(kind, 400, {"code": "rate_limit_exceeded", "type": "invalid_request_error"}) is Verdict.BUSY
    assert judge(kind, 429, {"code": "context_length_exceeded"}) is Verdict.REFUSED


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zhipu"])
def test_openai_compatible_kinds_are_sent_the_fields_unchanged(kind: str) -> None:
    fields = {"temperature": 0, "n": 2, "stream_options": {"include_usage": True}, "max_completion_tokens": 7}
    assert adapted(kind, **fields) == fields
    embeddings = {"embeddings"} - ({"embeddings"} if kind == "simulated" else set())
    assert set(DIALECTS[kind].paths) == {"chat/completions", "completions"} | embeddings


def test_only_vllm_and_sglang_close_idle_connections_soon_and_report_their_load() -> None:
    for kind in KINDS:
        on_uvicorn = kind in ("sglang", "vllm")
        assert DIALECTS[kind].idle < 5.0 if on_uvicorn else DIALECTS[kind].idle > 60.0
        assert (DIALECTS[kind].gauges is not None) == on_uvicorn


# Zhipu.


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        (429, "1302", Verdict.BUSY),  # concurrency
        (429, "1303", Verdict.BUSY),  # frequency
        (429, "1305", Verdict.BUSY),  # load
        (429, "1113", Verdict.FAULT),  # arrears
        (401, "1000", Verdict.FAULT),
        (401, "1002", Verdict.FAULT),
        (404, "1211", Verdict.FAULT),  # no such model
        (400, "1210", Verdict.REFUSED),  # a parameter
        (400, "1214", Verdict.REFUSED),
        (400, "1301", Verdict.REFUSED),  # unsafe content
        (200, "1301", Verdict.REFUSED),  # inside a stream
        (200, "1302", Verdict.BUSY),
        (500, "1234", Verdict.FAULT),
    ],
)
def test_zhipus_code_says_more_than_its_status(status: int, code: str, verdict: Verdict) -> None:
    assert judge("zhipu", status, {"code": code, "message": "…"}) is verdict
    assert judge("zhipu", status, {"code": int(code)}) is verdict


def test_zhipu_is_not_sent_unknown_parameters() -> None:
    unknown = dict.fromkeys(zhipu.UNKNOWN, 1)
    assert adapted("zhipu", **unknown, stop=["x"]) == {"stop": ["x"]}


def test_zhipu_is_sent_the_older_name_of_the_length_limit() -> None:
    assert adapted("zhipu", max_completion_tokens=7) == {"max_tokens": 7}
    assert adapted("zhipu", max_completion_tokens=7, max_tokens=5) == {"max_tokens": 5}


@pytest.mark.parametrize(
    ("received", "sent"),
    [
        (0.5, 0.5),
        (0.01, 0.01),
        (0.99, 0.99),
        (1, 0.99),
        (1.0, 0.99),
        (2, 0.99),
        (0.001, 0.01),
        (None, None),
        ("hot", "hot"),
        (True, True),
    ],
)
def test_zhipus_temperatures_lie_in_an_open_interval(received: object, sent: object) -> None:
    assert adapted("zhipu", temperature=received) == {"temperature": sent}
    assert adapted("zhipu", top_p=received) == {"top_p": sent}


@pytest.mark.parametrize("zero", [0, 0.0, -1])
def test_a_temperature_of_zero_is_no_sampling_for_zhipu(zero: float) -> None:
    assert adapted("zhipu", temperature=zero) == {"temperature": 0.01, "do_sample": False}
    assert adapted("zhipu", top_p=zero) == {"top_p": 0.01}


@settings(deadline=None, max_examples=50)
@given(
    fields=st.dictionaries(st.sampled_from(["temperature", "top_p", "max_completion_tokens", "n", "x"]), json_values)
)
def test_any_request_can_be_adapted(fields: dict[str, object]) -> None:
    body = json.dumps({"model": "m", **fields, "n": 1}).encode().replace(b"Infinity", b"1e999")
    sent = dict(parse("chat/completions", body).fields)
    zhipu.adapt(sent)
    assert set(sent) <= {"model", "temperature", "top_p", "max_tokens", "do_sample", "x"}
    for name in ("temperature", "top_p"):
        value = json.loads(bytes(sent[name])) if name in sent else None
        if isinstance(value, float) and value != float("inf"):
            assert 0.01 <= value <= 0.99


PARAMS = {"default": {"temperature": 0, "n": 2}, "force": {"top_p": 2}, "drop": ["x", "max_tokens"]}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "simulated"])
@settings(deadline=None, max_examples=50)
@given(
    fields=st.dictionaries(st.sampled_from(["temperature", "top_p", "max_tokens", "stream_options", "x"]), json_values),
    params=st.sampled_from([{}, PARAMS]),
)
def test_any_request_can_be_sent(kind: str, fields: dict[str, Any], params: dict[str, Any]) -> None:
    """Adapting must not raise: the attempt has begun already."""
    body = json.dumps({"model": "chat", **fields}).encode().replace(b"Infinity", b"1e999")
    play = Player(endpoint("a", streams("hi"), kind=kind, params=params), hedge="off")
    call = play.call(body=body)
    play.run()
    assert (call.status, len(play["a"].wires)) == (200, 1)


@pytest.mark.parametrize(
    ("params", "received", "sent"),
    [
        ({"force": {"n": 1, "temperature": 1.5}}, {"n": 3, "temperature": 0}, {"n": 1, "temperature": 1.5}),
        ({"force": {"max_tokens": 5}}, {"max_completion_tokens": 7}, {"max_tokens": 5}),
        ({"default": {"max_tokens": 100}}, {"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"default": {"max_tokens": 100}}, {}, {"max_tokens": 100}),
        ({"drop": ["max_tokens"]}, {"max_completion_tokens": 7}, {}),
        ({"drop": ["max_completion_tokens"]}, {"max_completion_tokens": 7}, {}),
        ({"drop": ["do_sample"]}, {"temperature": 0}, {"temperature": 0.01}),
    ],
)
def test_configured_parameters_are_sent_unchanged(
    params: dict[str, Any], received: dict[str, Any], sent: dict[str, Any]
) -> None:
    play = Player(endpoint("a", streams("hi"), kind="zhipu", models={"chat": "glm"}, params=params))
    play.call(**received)
    play.run()
    assert play["a"].wires[0].json == {"model": "glm", "stream": True} | sent


def test_a_configured_header_is_sent_once() -> None:
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Tenant": "us"}
    play = Player(endpoint("a", streams("hi"), headers=headers, api_key="k"))
    play.call(headers=[(b"x-tenant", b"them"), (b"x-title", b"1"), (b"content-type", b"text/plain")])
    play.run()
    head = play["a"].wires[0].request.head.decode().removesuffix("\r\n\r\n")
    assert head.split("\r\n")[1:] == [
        "host: a",
        "content-type: application/json; charset=utf-8",
        "x-tenant: us",
        "authorization: Bearer k",
        "accept-encoding: identity",
        "x-title: 1",
        "content-length: 33",
    ]


def test_zhipu_has_no_completions_without_chat() -> None:
    assert set(DIALECTS["zhipu"].paths) == {"chat/completions", "embeddings"}
