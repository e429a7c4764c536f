"""Samples of errors of many kinds of servers, and the cause that each is read as: as a status with a body, as the first
event of a stream, as a later event, and as an answer of status 200.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.verdict import Cause, Verdict
from router.dialects import DIALECTS, zhipu
from router.dialects.base import MAX_QUOTA_WAIT, QUOTA_WAIT
from router.upstream.exchange import Exchange
from router.upstream.labels import Headers
from tests.support.endpoints import COMMENT, DONE, JSON, SSE, event, sse
from tests.support.outcomes import outcome_of

A = Cause
LONG = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens. Please reduce it."


def error(message: str = "…", **also: Any) -> dict[str, Any]:
    return {"error": {"message": message, **also}}


# The server, the configured kind, the status, the body, and the cause; then the cause without a status, if it differs.
ROWS: list[tuple[Any, ...]] = [
    # OpenAI, and compatible services.
    ("openai", "openai", 429, error(type="requests", code="rate_limit_exceeded"), A.THROTTLED),
    ("openai", "openai", 429, error(type="insufficient_quota", code="insufficient_quota"), A.DENIED),
    ("openai", "openai", 401, error(type="invalid_request_error", code="invalid_api_key"), A.DENIED),
    ("openai", "openai", 404, error(type="invalid_request_error", code="model_not_found"), A.MISCONFIGURED),
    ("openai", "openai", 400, error(type="invalid_request_error", code="context_length_exceeded"), A.TOO_LONG),
    ("openai", "openai", 400, error(LONG, type="invalid_request_error", code=None), A.TOO_LONG),
    ("openai", "openai", 400, error(type="invalid_request_error", code="content_policy_violation"), A.POLICY),
    ("openai", "openai", 400, error(type="invalid_request_error", param="n", code=None), A.INVALID),
    ("openai", "openai", 500, error(type="server_error", code=None), A.TRANSIENT),
    ("openai", "openai", 429, error(), A.THROTTLED, A.TRANSIENT),
    ("azure", "openai", 400, error(code="content_filter", status=400, innererror={}), A.POLICY),
    ("deepseek", "openai", 402, error("Insufficient Balance", code="invalid_request_error"), A.DENIED, A.TRANSIENT),
    ("mistral", "openai", 400, error("Prompt contains 9 tokens, too large for model with 8 maximum context length",
                                     type="invalid_request_error"), A.TOO_LONG),
    ("anthropic", "openai", 529, {"type": "error", "error": {"type": "overloaded_error"}}, A.OVERLOADED),
    ("anthropic", "openai", 429, {"type": "error", "error": {"type": "rate_limit_error"}}, A.THROTTLED),
    ("anthropic", "openai", 400, {"type": "error", "error": {"type": "invalid_request_error",
     "message": "prompt is too long: 209001 tokens > 200000 maximum"}}, A.TOO_LONG),
    ("openrouter", "openai", 402, error("Insufficient credits", code=402), A.DENIED),
    ("openrouter", "openai", 429, error("free-models-per-day", code=429), A.THROTTLED),
    ("openrouter", "openai", 502, error("Provider returned error", code=502), A.TRANSIENT),
    ("google", "openai", 429, [error(code=429, status="RESOURCE_EXHAUSTED")], A.THROTTLED),
    ("google", "openai", 400, [error("API key expired.", code=400, status="INVALID_ARGUMENT",
     details=[{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}])], A.DENIED),
    ("google", "openai", 400, error("API key expired.", code=400, status="INVALID_ARGUMENT",
     details=[{"reason": "API_KEY_INVALID"}]), A.DENIED),
    ("google", "openai", 400, error("User location is not supported for the API use.", code=400,
     status="FAILED_PRECONDITION"), A.TRANSIENT),
    ("xai", "openai", 400, {"code": "Client specified an invalid argument",
     "error": "Incorrect API key provided: xa***et. You can obtain an API key from https://console.x.ai."},
     A.TRANSIENT),
    ("anthropic", "openai", 400, {"type": "error", "error": {"type": "invalid_request_error",
     "message": "Your credit balance is too low to access the Anthropic API."}}, A.TRANSIENT),
    ("anthropic", "openai", 400, {"type": "error", "error": {"type": "invalid_request_error",
     "message": "This organization has been disabled."}}, A.TRANSIENT),
    ("openrouter", "openai", 400, error("foo/bar is not a valid model ID", code=400), A.TRANSIENT),
    ("openrouter", "openai", 400, error("Provider returned error", code=400), A.TRANSIENT),
    ("deepseek", "openai", 400, error("Model Not Exist", type="invalid_request_error"), A.TRANSIENT),
    ("litellm", "openai", 400, error("/chat/completions: Invalid model name passed in model=x", code="400"),
     A.TRANSIENT),
    ("groq", "openai", 400, error("The model `x` has been decommissioned and is no longer supported.",
     type="invalid_request_error", code="model_decommissioned"), A.MISCONFIGURED),
    ("groq", "openai", 400, error("Failed to call a function. Please adjust your prompt.",
     type="invalid_request_error", code="tool_use_failed"), A.TRANSIENT),
    ("groq", "openai", 413, error("Request too large on tokens per minute (TPM): limit 6000, requested 12000.",
     type="tokens", code="rate_limit_exceeded"), A.TOO_LONG),
    ("openai", "openai", 429, error("Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested "
     "13000.", type="tokens", code="rate_limit_exceeded"), A.TOO_LONG),
    ("openai", "openai", 429, error("Rate limit reached for gpt-4 on tokens per min (TPM): Limit 10000, Used 9000, "
     "Requested 3000.", type="tokens", code="rate_limit_exceeded"), A.THROTTLED),
    ("nginx", "openai", 413, {"detail": "Request Entity Too Large"}, A.TOO_LONG, A.TRANSIENT),
    ("moonshot", "openai", 429, error("engine overloaded", type="engine_overloaded_error"), A.OVERLOADED),
    ("alibaba", "openai", 400, error("Access denied", code="Arrearage", type="Arrearage"), A.DENIED),
    ("alibaba", "openai", 400, error("…", code="data_inspection_failed"), A.POLICY),
    ("azure", "openai", 403, error(code="content_filter", type="invalid_request_error"), A.POLICY),
    ("a gateway", "openai", 409, error("busy", type="invalid_request_error"), A.TRANSIENT, A.INVALID),
    ("a gateway", "openai", 400, error("The server is overloaded, try again later."), A.TRANSIENT),
    ("fireworks", "openai", 400, error("Account a is suspended, possibly due to reaching the monthly spending limit.",
     type="invalid_request_error"), A.TRANSIENT),
    ("together", "openai", 400, error("Unable to access model foo.", type="invalid_request_error",
     code="model_not_available"), A.TRANSIENT),
    ("cerebras", "openai", 400, {"message": "Wrong", "type": "invalid_request_error", "param": "api_key",
     "code": "wrong_api_key"}, A.TRANSIENT),
    ("vertex", "openai", 400, [error("Project x is not allowed to use Publisher Model.", code=400,
     status="FAILED_PRECONDITION")], A.TRANSIENT),
    ("volcengine", "openai", 400, error("…", code="InvalidEndpointOrModel.NotFound"), A.TRANSIENT),
    ("volcengine", "openai", 400, error("…", code="ModelNotOpen"), A.TRANSIENT),
    ("hugging face", "openai", 400, {"error": "Authorization header is correct, but the token seems invalid"},
     A.TRANSIENT),
    ("cloudflare", "openai", 400, {"errors": [{"code": 5007, "message": "No such model @cf/x or task"}], "result": {},
     "success": False}, A.TRANSIENT),
    ("novita", "openai", 400, {"code": 400, "reason": "INVALID_API_KEY", "message": "invalid key"}, A.DENIED),
    ("lm studio", "openai", 400, error("No models loaded.", type="invalid_request_error", param="model", code=None),
     A.TRANSIENT),
    ("vllm", "vllm", 400, error("The model does not support Embeddings API", type="BadRequestError", code=400),
     A.TRANSIENT),
    ("vllm", "vllm", 400, error("EngineCore encountered an issue.", type="BadRequestError", code=400), A.TRANSIENT),
    ("sglang", "vllm", 400, error("The request queue is full.", type="BadRequest", code=400), A.TRANSIENT),
    ("fastapi", "openai", 422, {"detail": [{"loc": ["body", "model"], "msg": "…", "type": "enum"}]}, A.TRANSIENT),
    ("one-api", "openai", 400, error("无效的令牌", type="one_api_error"), A.TRANSIENT),
    ("one-api", "openai", 400, error("账户余额不足", type="one_api_error"), A.TRANSIENT),
    # What blames the request, though it has such words: in quotes they are the client's, and others are our own.
    ("openai", "openai", 400, error("Invalid value: 'API key expired'. Supported values are: 'auto' and 'none'.",
     type="invalid_request_error", param="tool_choice", code="invalid_value"), A.INVALID),
    ("openai", "openai", 400, error("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
     "'max_completion_tokens' instead.", type="invalid_request_error", code="unsupported_parameter"), A.INVALID),
    ("openai", "openai", 400, error("Invalid schema key: 'x' is invalid.", code="invalid_json_schema"), A.INVALID,
     A.TRANSIENT),
    ("openai", "openai", 400, error("Unexpected token in JSON.", code="invalid_image_url"), A.INVALID, A.TRANSIENT),
    ("fastapi", "openai", 422, {"detail": [{"loc": ["body", "n"], "msg": "Extra inputs are not permitted",
     "type": "extra_forbidden"}]}, A.INVALID, A.TRANSIENT),
    ("vllm", "vllm", 400, error("This model does not support tools", type="BadRequestError", code=400), A.INVALID),
    # Self-hosted servers.
    ("vllm", "vllm", 400, error(LONG, type="BadRequestError", param=None, code=400), A.TOO_LONG),
    ("vllm", "vllm", 400, error("bad", type="BadRequestError", param=None, code=400), A.INVALID),
    ("vllm", "vllm", 404, error("no such model", type="NotFoundError", param=None, code=404), A.MISCONFIGURED),
    ("vllm", "vllm", 500, error("engine dead", type="InternalServerError", code=500), A.TRANSIENT),
    ("older vllm", "vllm", 400, {"object": "error", "message": LONG, "type": "BadRequestError", "param": None,
     "code": 400}, A.TOO_LONG),
    ("sglang", "vllm", 400, {"object": "error", "message": "The input (5000 tokens) is longer than the model's "
     "context length (4096 tokens).", "type": "BadRequest", "param": None, "code": 400}, A.TOO_LONG),
    ("llama.cpp", "openai", 400, error("the request exceeds the available context size", code=400,
     type="exceed_context_size_error", n_prompt_tokens=1407, n_ctx=256), A.TOO_LONG),
    ("older llama.cpp", "openai", 500, error("the request exceeds the available context size. try increasing the "
     "context size or enable context shift", code=500, type="server_error"), A.TOO_LONG),
    ("llama.cpp", "openai", 503, error("Loading model", code=503, type="unavailable_error"), A.TRANSIENT),
    ("tgi", "openai", 422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
     "Given: 4000 `inputs` tokens and 200 `max_new_tokens`", "error_type": "validation"}, A.TOO_LONG),
    ("tgi", "openai", 422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
     "error_type": "validation"}, A.TOO_LONG),
    ("tgi", "openai", 422, {"error": "Template error", "error_type": "validation"}, A.INVALID),
    ("tgi", "openai", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, A.OVERLOADED),
    ("tgi", "openai", 424, {"error": "CUDA error", "error_type": "generation"}, A.TRANSIENT),
    ("ollama", "openai", 404, {"error": "model 'x' not found, try pulling it first"}, A.MISCONFIGURED, A.TRANSIENT),
    ("ollama", "openai", 503, error("server busy", type="api_error"), A.TRANSIENT),
    ("fastapi", "openai", 422, {"detail": [{"loc": ["body"], "msg": "field required", "type": "missing"}]},
     A.INVALID, A.TRANSIENT),
    ("fastapi", "openai", 401, {"detail": "Not authenticated"}, A.DENIED, A.TRANSIENT),
    ("a gateway", "openai", 400, {"detail": error(code="context_length_exceeded")}, A.TOO_LONG),
    ("a gateway", "openai", 500, {"message": "slow down", "code": "rate_limit_exceeded"}, A.THROTTLED),
    # Zhipu.
    *(("zhipu", "zhipu", 401, error(code=code), A.DENIED) for code in ("1000", "1001", "1002", "1003", "1004")),
    *(("zhipu", "zhipu", 429, error(code=code), A.DENIED) for code in ("1110", "1111", "1112", "1113", "1121")),
    *(("zhipu", "zhipu", 429, error(code=code), A.DENIED) for code in ("1309", "1311")),
    *(("zhipu", "zhipu", 400, error(code=code), A.MISCONFIGURED) for code in ("1211", "1212", "1220", "1221")),
    *(("zhipu", "zhipu", 400, error(code=code), A.INVALID) for code in ("1210", "1213", "1214", "1215")),
    *(("zhipu", "zhipu", 500, error(code=code), A.TRANSIENT) for code in ("500", "1200", "1230", "1231", "1234")),
    *(("zhipu", "zhipu", 400, error(code=code), A.POLICY) for code in ("1300", "1301")),
    *(("zhipu", "zhipu", 429, error(code=code), A.THROTTLED) for code in ("1302", "1303", 1302)),
    *(("zhipu", "zhipu", 429, error(code=code), A.OVERLOADED) for code in ("1305", "1312")),
    *(("zhipu", "zhipu", 429, error(code=code), A.QUOTA) for code in ("1304", "1308", "1310", "1313", "1316")),
    ("zhipu", "zhipu", 400, error(code="1261"), A.TOO_LONG),
    ("zhipu, as anthropic", "zhipu", 429, {"type": "error", "error": {"type": "rate_limit_error", "code": "1308",
     "message": "[1308][已达到 5 小时的使用上限。您的限额将在 2026-09-16 13:42:53 重置。][20260916]"}}, A.QUOTA),
    ("zhipu's gateway", "zhipu", 401, {"code": 1002, "msg": "Authorization Token非法", "success": False}, A.DENIED),
]  # fmt: skip
SAMPLES = [(*row[:5], row[-1]) for row in ROWS]
IDS = [f"{who}-{status}-{json.dumps(body)[:60]}" for who, _, status, body, *_ in SAMPLES]


class Judged:
    """An exchange without a wire, and the number of its news."""

    def __init__(self, kind: str) -> None:
        self.news_count = 0
        self.exchange = Exchange(self, DIALECTS[kind])

    def news(self, exchange: Exchange) -> None:
        self.news_count += 1


def answered(kind: str, status: int, body: bytes, headers: Headers = JSON) -> Exchange:
    judged = Judged(kind)
    judged.exchange.head(status, headers)
    judged.exchange.data(body)
    judged.exchange.complete()
    return judged.exchange


def streamed(kind: str, *pieces: bytes) -> Exchange:
    judged = Judged(kind)
    judged.exchange.head(200, SSE)
    for piece in pieces:
        judged.exchange.data(piece)
    judged.exchange.complete()
    return judged.exchange


def in_a_stream(body: Any) -> Any:
    return body[0] if isinstance(body, list) else body


@pytest.mark.parametrize(("who", "kind", "status", "body", "cause", "_untold"), SAMPLES, ids=IDS)
def test_the_cause_of_a_status_and_body(
    who: str, kind: str, status: int, body: Any, cause: Cause, _untold: Cause
) -> None:
    exchange = answered(kind, status, json.dumps(body).encode())
    assert (outcome_of(exchange).cause, exchange.verdict) == (cause, cause.verdict)


@pytest.mark.parametrize(
    "body",
    [
        # Bedrock (three), Siliconflow, MiniMax, Databricks: without their status these bodies are no errors.
        {"message": "The provided model identifier is invalid."},
        {"message": "Invocation of model ID x with on-demand throughput isn’t supported."},
        {"message": "The security token included in the request is expired"},
        {"code": 30003, "message": "Model disabled.", "data": None},
        {"base_resp": {"status_code": 1004, "status_msg": "login fail"}},
        {"error_code": "BAD_REQUEST", "message": "Model serving endpoint is stopped"},
    ],
)
def test_a_400_in_any_vendors_form_that_is_not_about_the_request_is_transient(body: Any) -> None:
    exchange = answered("openai", 400, json.dumps(body).encode())
    assert (outcome_of(exchange).cause, exchange.verdict) == (Cause.TRANSIENT, Verdict.FAULT)


@pytest.mark.parametrize(("who", "kind", "_status", "body", "_cause", "cause"), SAMPLES, ids=IDS)
def test_the_cause_of_the_first_event_of_a_stream(
    who: str, kind: str, _status: int, body: Any, _cause: Cause, cause: Cause
) -> None:
    role = event("", role="assistant")
    for before in (b"", role, COMMENT):
        exchange = streamed(kind, before, sse(in_a_stream(body)), DONE)
        assert (outcome_of(exchange).cause, exchange.verdict) == (cause, cause.verdict)
        assert exchange.first_token is (cause.verdict is Verdict.REFUSED)  # a fault must not win the race
        refused = cause.verdict is Verdict.REFUSED
        assert exchange.streams is not refused
        assert json.loads(exchange.take())["error"] if refused else exchange.take() == before


@pytest.mark.parametrize(("who", "kind", "_status", "body", "_cause", "cause"), SAMPLES, ids=IDS)
def test_the_cause_of_a_later_event(who: str, kind: str, _status: int, body: Any, _cause: Cause, cause: Cause) -> None:
    exchange = streamed(kind, event("Hello"), sse(in_a_stream(body)), event("more"))
    assert (outcome_of(exchange).cause, exchange.verdict) == (cause, cause.verdict)
    assert exchange.take() == event("Hello")
    assert json.loads(exchange.error_event.removeprefix(b"data: "))["error"]  # both OpenAI SDKs raise at an `error`


@pytest.mark.parametrize(("who", "kind", "_status", "body", "_cause", "cause"), SAMPLES, ids=IDS)
def test_the_cause_of_a_named_event(who: str, kind: str, _status: int, body: Any, _cause: Cause, cause: Cause) -> None:
    exchange = streamed(kind, b"event: error\n" + sse(in_a_stream(body)))
    assert (outcome_of(exchange).cause, exchange.verdict) == (cause, cause.verdict)


@pytest.mark.parametrize(("who", "kind", "_status", "body", "_cause", "cause"), SAMPLES, ids=IDS)
def test_the_cause_of_an_answer_of_status_200(
    who: str, kind: str, _status: int, body: Any, _cause: Cause, cause: Cause
) -> None:
    if isinstance(body, list):
        return  # an answer may be a list
    exchange = answered(kind, 200, json.dumps(body).encode())
    assert (outcome_of(exchange).cause, exchange.verdict) == (cause, cause.verdict)


# Streams that begin with something other than a token.


@pytest.mark.parametrize(
    "silence",
    [
        b": OPENROUTER PROCESSING\n\n",
        b'data: {"type": "ping"}\n\n',
        b'data: {"id":"x","object":"chat.completion.chunk","choices":[],"prompt_filter_results":[{}]}\n\n',  # Azure
        # llama.cpp's prompt progress
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
        b'"prompt_progress":{"total":1000,"cache":0,"processed":512,"time_ms":90}}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"","reasoning_content":null,"tool_calls":[]}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":0}}\n\n',
        b'event: ping\ndata: {"type":"ping"}\n\n',
        b'data: {"status":"in_progress","detail":"searching"}\n\n',
        b'data: {"code":200,"message":"ok"}\n\n',
    ],
)
@pytest.mark.parametrize("kind", sorted(DIALECTS))
def test_a_keep_alive_event_is_no_first_token_and_no_error(kind: str, silence: bytes) -> None:
    judged = Judged(kind)
    judged.exchange.head(200, SSE)
    judged.exchange.data(silence)
    judged.exchange.flush()
    assert (judged.exchange.first_token, judged.exchange.verdict, judged.news_count) == (False, None, 0)
    judged.exchange.complete()
    assert (judged.exchange.verdict, outcome_of(judged.exchange).cause) == (Verdict.FAULT, None)
    assert not streamed(kind, silence, DONE).first_token  # [DONE] alone is no answer
    assert streamed(kind, silence, event("Hi"), event(finish="stop")).verdict is Verdict.SERVED


def test_an_event_named_error_is_an_error_whatever_its_data() -> None:
    for body in (b"data: out of memory\n\n", b'data: {"retry": true}\n\n', b"data: [1]\n\n", b"data: null\n\n"):
        exchange = streamed("openai", b"event: error\n" + body)
        assert (exchange.verdict, outcome_of(exchange).cause) == (Verdict.FAULT, Cause.TRANSIENT)
        assert exchange.error_event.startswith(b'data: {"error":')


@pytest.mark.parametrize("kind", sorted(DIALECTS))
@settings(deadline=None, max_examples=60)
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "detail", "message", "code", "type", "choices", "object", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ),
    status=st.sampled_from([200, 400, 401, 429, 500]),
)
def test_any_answer_of_an_endpoint_has_a_verdict(kind: str, body: Any, status: int) -> None:
    exchange = answered(kind, status, json.dumps(body).encode())
    assert exchange.verdict is not None
    assert exchange.verdict is not Verdict.SERVED or status == 200
    streamed(kind, sse(body), b"event: error\n" + sse(body))


# Quotas.

NOW = datetime(2026, 8, 25, 4, 0, 0, tzinfo=zhipu.BEIJING).timestamp()
TO_RESET = 3 * 3600 + 41 * 60 + 44


@pytest.mark.parametrize(
    ("code", "message", "seconds"),
    [
        ("1308", "已达到 5 小时的使用上限。您的限额将在 2026-08-25 07:41:44 重置。", TO_RESET),
        (
            "1308",
            "[1308][已达到 5 小时的使用上限。您的限额将在 2026-08-25 07:41:44 重置。][2026082516330100]",
            TO_RESET,
        ),
        ("1308", "Usage limit reached for 5 hour. Your limit will reset at 2026-08-25 07:41:44", TO_RESET),
        ("1310", "您已达到每周/每月使用上限，您的限额将在 2026-08-27 04:00:00 重置。", 2 * 86_400),
        ("1310", "Weekly/Monthly Limit Exhausted. Your limit will reset at 2026-08-24T23:41:44Z", TO_RESET),
        ("1316", "Resets at 2026-08-25T07:41:44.000+08:00", TO_RESET),
        ("1304", "该 API 已达今日调用次数限额", 20 * 3600),  # midnight in Beijing
        ("1308", "soon", None),
        ("1308", "Your limit will reset at 2026-02-31 07:41:44", None),
        ("1308", "Your limit will reset at 2026-08-25 03:59:59", None),  # in the past: one of the clocks is wrong
        ("1313", "您的账户当前使用模式不符合公平使用策略", None),
    ],
)
def test_zhipus_messages_say_when_a_quota_resets(code: str, message: str, seconds: float | None) -> None:
    assert zhipu.resets_in(code, message, NOW) == seconds
    judged = DIALECTS["zhipu"].judge(429, error(message, code=code), None, NOW)
    assert judged.cause is Cause.QUOTA
    assert judged.retry_after == (QUOTA_WAIT if seconds is None else min(seconds, MAX_QUOTA_WAIT))


def test_retry_after_counts_if_the_quota_names_no_time() -> None:
    assert DIALECTS["zhipu"].judge(429, error(code="1308"), 7200.0, NOW).retry_after == 7200.0
    assert DIALECTS["zhipu"].judge(429, error(code="1308"), 1e9, NOW).retry_after == MAX_QUOTA_WAIT


@settings(deadline=None)
@given(message=st.text(), code=st.sampled_from(["1304", "1308"]), now=st.floats(0, 4e9))
def test_any_message_can_be_read(message: str, code: str, now: float) -> None:
    found = zhipu.resets_in(code, message, now)
    assert found is None or found > 0


# Zhipu's own finish reasons.


@pytest.mark.parametrize(
    ("theirs", "ours"), [("sensitive", "content_filter"), ("model_context_window_exceeded", "length"), ("stop", "stop")]
)
def test_zhipus_finish_reasons_are_translated_to_openais(theirs: str, ours: str) -> None:
    last = b'data: {"id":"1","choices":[{"index":0,"finish_reason":"%b","delta":{"content":""}}]}\n\n'
    text = event('"finish_reason":"sensitive"')  # inside a text it is not translated
    for pieces in ([text, last % theirs.encode(), DONE], [text + last % theirs.encode() + DONE]):
        exchange = streamed("zhipu", *pieces)
        assert exchange.verdict is Verdict.SERVED
        assert exchange.take() == text + last % ours.encode() + DONE
    untranslated = streamed("openai", last % theirs.encode(), DONE)
    assert untranslated.take() == last % theirs.encode() + DONE
    unfinished = (last % theirs.encode()).rstrip()
    assert streamed("zhipu", text, unfinished).take() == text + last % ours.encode()


def test_zhipus_finish_reasons_are_translated_in_answers_that_do_not_stream() -> None:
    body = b'{"choices": [{"finish_reason": "%b", "message": {"content": "\\"finish_reason\\":\\"sensitive\\""}}]}'
    exchange = answered("zhipu", 200, body % b"sensitive")
    assert (exchange.verdict, exchange.take()) == (Verdict.SERVED, body % b"content_filter")
    assert answered("openai", 200, body % b"sensitive").take() == body % b"sensitive"
    failed = answered("zhipu", 200, body % b"network_error")
    assert (failed.verdict, outcome_of(failed).cause) == (Verdict.FAULT, Cause.TRANSIENT)


def test_a_clients_request_id_is_not_sent_to_zhipu() -> None:
    assert "request_id" in zhipu.UNKNOWN
