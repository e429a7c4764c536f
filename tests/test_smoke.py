"""The whole router as its users meet it: the console script, real sockets, endpoints in processes of their own, and
the official SDKs.

Everything listens on loopback. Every wait has a deadline, and every process is stopped on every path.
"""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from router.settings import Settings
from tests.fake_endpoint import TEXT, USAGE, VECTOR
from tests.processes import (
    HI,
    Fake,
    Json,
    Raw,
    Router,
    await_that,
    entry,
    fake,
    router,
    run,
    text_of,
)

HERE = Path(__file__).parent
NODE = shutil.which("node")
pytestmark = pytest.mark.usefixtures("direct")
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALLS = [
    {"id": "call_0", "name": "weather", "arguments": '{"city": "Paris"}'},
    {"id": "call_1", "name": "time", "arguments": '{"zone": "CET"}'},
]


# ---- The router that most tests share: alpha is asked first, beta if alpha is out or late

ONLY_ALPHA = {
    name: name
    for name in (
        *("quick", "step", "tools", "endless", "frozen", "mute", "stalls", "flood", "big", "cut", "unfinished"),
        *("breaks", "late-700", "refuse-400"),
    )
} | {"never": "frozen", "never-pinged": "frozen", "pinged": "late-700", "refused": "refuse-400"}
BOTH = {  # the modes of alpha and of beta
    "duel": ("frozen", "frozen"),
    "race": ("frozen", "step"),
    "down": ("refuse-503", "refuse-503"),
    "down-for-node": ("refuse-502", "refuse-502"),
    "busy": ("refuse-429", "refuse-429"),
    "failover": ("refuse-500", "quick"),
    "failover-401": ("refuse-401", "quick"),
    "failover-404": ("refuse-404", "quick"),
    "failover-error": ("error", "quick"),
    "failover-busy": ("refuse-529", "quick"),
}


@pytest.fixture(scope="module")
def beta() -> Iterator[Fake]:
    with fake("beta") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def shared(alpha: Fake, beta: Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        unused_url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    hedging = {"hedge": "50ms", "hedge_budget": 1}
    config: Json = {
        "defaults": {"hedge": "off", "deadline": "20s"},
        "endpoints": [
            entry(alpha, ONLY_ALPHA | {name: modes[0] for name, modes in BOTH.items()}),
            entry(beta, {name: modes[1] for name, modes in BOTH.items()} | {"failover-dead": "quick"}, tier=2),
            {"name": "dead", "base_url": unused_url, "models": {"failover-dead": "quick"}, "probe": {"kind": "off"}},
            entry(alpha, {"narrow": "frozen"}, pool={"min_idle": 1, "max": 1}) | {"name": "narrow", "api_key": "n"},
        ],
        "models": {
            "race": hedging,
            "duel": hedging,
            "never": {"deadline": "300ms"},
            "never-pinged": {"deadline": "700ms"},
            "stalls": {"stall": "300ms"},
        },
    }
    folder = tmp_path_factory.mktemp("shared")
    with router(folder, config, FIRSTTOKEN_PING_AFTER="500ms", FIRSTTOKEN_PING_EVERY="100ms") as running:
        yield running


@pytest.fixture(scope="module")
def client(shared: Router) -> Iterator[OpenAI]:
    with shared.sdk() as sdk:
        yield sdk


def calls_of(chunks: list[Any]) -> list[Json]:
    calls: dict[int, Json] = {}
    for part in (part for chunk in chunks if chunk.choices for part in chunk.choices[0].delta.tool_calls or ()):
        call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
        call["arguments"] += part.function.arguments
    return [calls[index] for index in sorted(calls)]


# ---- The Python SDK


def test_a_stream_arrives_whole(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="quick", messages=HI, stream=True))
    assert text_of(chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_token_arrives_before_the_endpoint_sends_the_next(client: OpenAI, alpha: Fake) -> None:
    stream = client.chat.completions.create(model="step", messages=HI, stream=True)
    first = [next(stream), next(stream)]  # the role, and a token
    assert text_of(first) == "Hello"
    assert alpha.live == 1
    alpha.go()
    assert text_of(first + list(stream)) == TEXT


def test_an_answer_that_does_not_stream_is_whole(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="quick", messages=HI)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == USAGE
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_tool_calls_stream_interleaved(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tools", messages=HI, stream=True, tools=TOOLS))
    assert calls_of(chunks) == CALLS
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_sdks_stream_helper_collects_tool_calls(client: OpenAI) -> None:
    with client.chat.completions.stream(model="tools", messages=HI, tools=TOOLS) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.arguments for call in calls or ()] == [call["arguments"] for call in CALLS]


def test_include_usage_brings_a_last_chunk_with_the_usage(client: OpenAI, alpha: Fake) -> None:
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="quick", messages=HI, stream=True, stream_options=options))
    assert alpha.stats()["last"]["body"]["stream_options"] == options
    assert text_of(chunks) == TEXT
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.model_dump(exclude_none=True) == USAGE


def test_legacy_completions_work_in_both_ways(client: OpenAI) -> None:
    assert client.completions.create(model="quick", prompt="Hi").choices[0].text == TEXT
    chunks = client.completions.create(model="quick", prompt="Hi", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT


@pytest.mark.parametrize("encoding", [openai.omit, "float", "base64"], ids=["by default", "as floats", "in base64"])
def test_embeddings_arrive_in_every_encoding(client: OpenAI, encoding: Any) -> None:
    answer = client.embeddings.create(model="quick", input=["one", "two"], encoding_format=encoding)
    assert [item.index for item in answer.data] == [0, 1]
    if encoding != "base64":
        assert [item.embedding for item in answer.data] == [list(VECTOR)] * 2


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {"quick", "race", "narrow"} <= listed
    assert client.models.retrieve("quick").id == "quick"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("not-served")


def test_every_answer_names_its_endpoint(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="quick", messages=HI)
    streamed = client.chat.completions.with_streaming_response.create(model="quick", messages=HI, stream=True)
    with streamed as response:
        headers = [raw.headers, response.headers]
        assert TEXT.split()[0] in response.read().decode()
    for each in headers:
        assert each["x-request-id"].startswith("req_")
        assert each["x-router-endpoint"] == "alpha"
        assert each["x-router-attempts"] == "1"
        assert re.fullmatch(r"first-token;dur=\d+\.\d", each["server-timing"])
    assert raw.request_id == raw.headers["x-request-id"]
    assert headers[0]["x-request-id"] != headers[1]["x-request-id"]
    assert headers[1]["x-upstream-request-id"] == "of-the-endpoint"
    assert headers[1]["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/models", "/v1/models/none", "/v1/chat/completions", "/"])
def test_answers_from_the_router_itself_name_no_endpoint(shared: Router, path: str) -> None:
    headers = shared.control.get(path).headers
    assert headers["x-request-id"].startswith("req_")
    assert (headers["x-router-endpoint"], headers["x-router-attempts"]) == ("-", "0")
    assert headers["server-timing"].startswith("total;dur=")


def test_the_endpoint_gets_the_request_with_our_key_and_nothing_of_the_client(client: OpenAI, alpha: Fake) -> None:
    client.chat.completions.create(
        model="failover-busy", messages=HI, extra_body={"vendor": {"x": 1}}, extra_headers={"cookie": "c=1"}
    )
    last = alpha.stats()["last"]
    assert last["body"] == {"model": "refuse-529", "messages": HI, "vendor": {"x": 1}}
    assert last["path"] == "/v1/chat/completions"
    assert last["headers"]["authorization"] == "Bearer the-key-of-alpha"
    assert last["headers"]["accept-encoding"] == "identity"
    assert not [name for name in last["headers"] if name.startswith("x-stainless") or name == "cookie"]


@pytest.mark.parametrize("stream", [True, False])
def test_the_answer_is_passed_on_byte_for_byte(shared: Router, alpha: Fake, stream: bool) -> None:
    body = {"model": "quick", "messages": HI, "stream": stream}
    through = shared.control.post("/v1/chat/completions", json=body)
    assert through.content == alpha.control.post("/v1/chat/completions", json=body).content


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_offers_http2_is_answered_over_http1(shared: Router, stream: bool) -> None:
    """Java's HTTP client offers HTTP/2 with its first request."""
    offer = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    raw = Raw(shared.address, CHAT, {"model": "quick", "messages": HI, "stream": stream}, offer)
    try:
        for _ in range(2):
            answer = raw.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}}")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            raw.send()
    finally:
        raw.leave()


def test_the_async_sdk_runs_all_flows_concurrently(shared: Router, alpha: Fake) -> None:
    async def stream(sdk: AsyncOpenAI, model: str, **more: Any) -> list[Any]:
        chunks = await sdk.chat.completions.create(model=model, messages=HI, stream=True, **more)
        return [chunk async for chunk in chunks]

    async def flows() -> None:
        async with shared.async_sdk() as sdk:
            streamed, tools, usage, answer, vectors, listed = await asyncio.gather(
                stream(sdk, "quick"),
                stream(sdk, "tools", tools=TOOLS),
                stream(sdk, "quick", stream_options={"include_usage": True}),
                sdk.chat.completions.create(model="quick", messages=HI),
                sdk.embeddings.create(model="quick", input="one"),
                sdk.models.list(),
            )
            assert text_of(streamed) == text_of(usage) == answer.choices[0].message.content == TEXT
            assert usage[-1].usage.model_dump(exclude_none=True) == USAGE
            assert calls_of(tools) == CALLS
            assert vectors.data[0].embedding == list(VECTOR)
            assert "quick" in {model.id async for model in listed}
            many = await asyncio.gather(*(stream(sdk, "quick") for _ in range(50)))
            assert {text_of(chunks) for chunks in many} == {TEXT}
            with pytest.raises(openai.APIError, match="broke"):
                await stream(sdk, "cut")
            with pytest.raises(openai.BadRequestError):
                await stream(sdk, "refused")

    asyncio.run(flows())


# ---- Failures, as the SDK reports them


def test_an_unknown_model_is_a_404_and_no_endpoint_is_asked(client: OpenAI, alpha: Fake) -> None:
    before = alpha.stats()["opened"]
    with pytest.raises(openai.NotFoundError, match="Did you mean 'quick'") as caught:
        client.chat.completions.create(model="quik", messages=HI)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id
    assert alpha.stats()["opened"] == before


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_is_passed_on_unchanged_after_one_attempt(client: OpenAI, alpha: Fake, stream: bool) -> None:
    before = alpha.asked("refuse-400")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="refused", messages=HI, stream=stream)
    message = "refused by the fake endpoint with 400"
    assert caught.value.body == {"message": message, "type": "fake", "param": "p", "code": "c"}
    assert alpha.asked("refuse-400") == before + 1


@pytest.mark.parametrize("stream", [True, False])
def test_when_all_are_down_the_sdk_does_not_multiply_our_attempts(
    client: OpenAI, alpha: Fake, beta: Fake, stream: bool
) -> None:
    before = alpha.asked("refuse-503") + beta.asked("refuse-503")
    with pytest.raises(openai.InternalServerError, match="alpha: status 503") as caught:
        client.chat.completions.create(model="down", messages=HI, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (502, "endpoints_failed")
    assert caught.value.response.headers["x-should-retry"] == "false"
    attempts = int(caught.value.response.headers["x-router-attempts"])
    assert attempts >= 2
    assert alpha.asked("refuse-503") + beta.asked("refuse-503") == before + attempts


def test_when_all_are_busy_the_client_is_told_when_to_come_back(shared: Router) -> None:
    with shared.sdk(max_retries=0) as sdk, pytest.raises(openai.RateLimitError) as caught:
        sdk.chat.completions.create(model="busy", messages=HI)
    assert 25_000 < int(caught.value.response.headers["retry-after-ms"]) <= 30_000
    assert caught.value.code == "endpoints_busy"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "model", ["failover", "failover-401", "failover-404", "failover-error", "failover-busy", "failover-dead"]
)
def test_another_endpoint_takes_over_before_the_client_sees_anything(shared: Router, model: str, stream: bool) -> None:
    with shared.sdk(max_retries=0) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model=model, messages=HI, stream=stream)
        answer: Any = raw.parse()
        text = text_of(list(answer)) if stream else answer.choices[0].message.content
    assert text == TEXT
    assert raw.headers["x-router-endpoint"] == "beta"


@pytest.mark.parametrize("model", ["cut", "unfinished", "breaks", "stalls"])
def test_a_stream_that_breaks_raises_and_is_never_a_short_answer(client: OpenAI, alpha: Fake, model: str) -> None:
    stream = client.chat.completions.create(model=model, messages=HI, stream=True)
    received: list[Any] = []
    with pytest.raises(openai.APIError, match=r"broke|failed under a 200"):
        received.extend(stream)  # keeps the chunks before the error
    assert text_of(received) == "Hello from a"
    await_that(lambda: alpha.live == 0, within=1)


def test_an_answer_that_is_cut_is_an_error_and_never_half_an_answer(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="the connection was closed before the answer was complete"):
        client.chat.completions.create(model="cut", messages=HI)


def test_no_first_token_in_time_is_a_gateway_timeout_after_one_attempt(client: OpenAI, alpha: Fake) -> None:
    before = alpha.asked("frozen")
    with pytest.raises(openai.InternalServerError, match="sent a first token") as caught:
        client.chat.completions.create(model="never", messages=HI, stream=True)
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    assert alpha.asked("frozen") == before + 1
    await_that(lambda: alpha.live == 0, within=1)


def test_pings_keep_a_long_wait_alive_and_the_sdk_ignores_them(client: OpenAI) -> None:
    patient = client.with_options(timeout=600)  # the SDK's default: longer than the router's deadline
    with patient.chat.completions.with_streaming_response.create(model="pinged", messages=HI, stream=True) as response:
        assert response.read().startswith(b": ping\n\n")
    assert text_of(list(patient.chat.completions.create(model="pinged", messages=HI, stream=True))) == TEXT


def test_an_error_after_pings_raises_inside_the_stream(client: OpenAI, alpha: Fake) -> None:
    stream = client.chat.completions.create(model="never-pinged", messages=HI, stream=True)
    with pytest.raises(openai.APIError, match="sent a first token") as caught:
        list(stream)
    assert caught.value.code == "deadline_exceeded"
    await_that(lambda: alpha.live == 0, within=1)


def test_an_invalid_request_is_a_400(client: OpenAI, shared: Router) -> None:
    with pytest.raises(openai.BadRequestError, match="name a model"):
        client.chat.completions.create(model="", messages=HI)
    answer = shared.control.post("/v1/chat/completions", content=b"{not JSON")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert shared.control.get("/v1/chat/completions").status_code == 405
    for path in ("/v1/nothing", "/v1/chat/completions/", "/"):
        assert shared.control.post(path).json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("line", [b"CONNECT example.com:443", b"GET /\xff", b"GET x", b"\x16\x03\x01"])
def test_a_request_without_a_path_is_a_400(shared: Router, line: bytes) -> None:
    with socket.create_connection(shared.address, timeout=5) as raw:
        raw.sendall(line + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_endpoints_that_recover_serve_the_very_next_call(tmp_path: Path, alpha: Fake, beta: Fake) -> None:
    config = {"endpoints": [entry(alpha, {"chat": "quick"}), entry(beta, {"chat": "quick"})]}
    with router(tmp_path, config) as running, running.sdk() as sdk:
        try:
            for endpoint in (alpha, beta):
                endpoint.behave("refuse-500")
            for _ in range(2):
                with pytest.raises(openai.InternalServerError):
                    sdk.chat.completions.create(model="chat", messages=HI)
        finally:
            for endpoint in (alpha, beta):
                endpoint.behave(None)
        assert sdk.chat.completions.create(model="chat", messages=HI).choices[0].message.content == TEXT


# ---- An endpoint stops generating as soon as its client has left

CHAT, STREAM = "chat/completions", {"messages": HI, "stream": True}


def has_read(end: bytes) -> Callable[[Raw, Fake, Fake], None]:
    return lambda raw, alpha, beta: (raw.read_until(end), None)[1]


def live(here: int, there: int) -> Callable[[Raw, Fake, Fake], None]:
    return lambda raw, alpha, beta: await_that(lambda: (alpha.live, beta.live) == (here, there))


def blocked(raw: Raw, alpha: Fake, beta: Fake) -> None:
    """Wait until the endpoint cannot write any more, because the client does not read."""
    await_that(lambda: alpha.stats()["blocked"])


LEAVING: dict[str, tuple[str, Json, Callable[[Raw, Fake, Fake], None]]] = {
    "before a status": (CHAT, {"model": "frozen", **STREAM}, live(1, 0)),
    "after a status without a token": (CHAT, {"model": "mute", **STREAM}, live(1, 0)),
    "in the middle of a stream": (CHAT, {"model": "endless", **STREAM}, has_read(b'"on "')),
    "between two tokens": (CHAT, {"model": "step", **STREAM}, has_read(b"Hello")),
    "while it was not reading": (CHAT, {"model": "flood", **STREAM}, blocked),
    "while pinged": (CHAT, {"model": "frozen", **STREAM}, has_read(b": ping")),
    "without a stream": (CHAT, {"model": "frozen", "messages": HI}, live(1, 0)),
    "from a legacy completion": ("completions", {"model": "frozen", "prompt": "Hi", "stream": True}, live(1, 0)),
    "from embeddings": ("embeddings", {"model": "frozen", "input": "Hi"}, live(1, 0)),
    "during a race": (CHAT, {"model": "duel", **STREAM}, live(1, 1)),
    "during a race without a stream": (CHAT, {"model": "duel", "messages": HI}, live(1, 1)),
    "during a race of embeddings": ("embeddings", {"model": "duel", "input": "Hi"}, live(1, 1)),
    "during a race while pinged": (CHAT, {"model": "duel", **STREAM}, has_read(b": ping")),
    "from the winner of a race": (CHAT, {"model": "race", **STREAM}, has_read(b"Hello")),
}


@pytest.mark.parametrize("how", [Raw.leave, Raw.reset], ids=["closing", "resetting"])
@pytest.mark.parametrize("when", LEAVING)
def test_no_generation_is_live_a_second_after_the_client_left(
    shared: Router, alpha: Fake, beta: Fake, when: str, how: Callable[[Raw], None]
) -> None:
    assert (alpha.live, beta.live) == (0, 0)
    path, body, until = LEAVING[when]
    raw = Raw(shared.address, path, body)
    try:
        until(raw, alpha, beta)
    finally:
        how(raw)
    await_that(lambda: (alpha.live, beta.live) == (0, 0), within=1)


def test_a_call_whose_client_left_while_queued_is_never_sent(shared: Router, alpha: Fake) -> None:
    def state(of: str, key: str) -> Json:
        listed = shared.control.get("/admin/endpoints").json()[of]
        found: Json = next(each for each in listed if each[key] == "narrow")
        return found

    before = alpha.asked("frozen")
    first = Raw(shared.address, CHAT, {"model": "narrow", **STREAM})
    second = None
    try:
        await_that(lambda: alpha.live == 1)
        second = Raw(shared.address, CHAT, {"model": "narrow", **STREAM})
        await_that(lambda: state("models", "model")["queued"] == 1)
        second.leave()
        await_that(lambda: state("models", "model")["queued"] == 0, within=1)
    finally:
        first.leave()
        if second is not None:
            second.leave()
    await_that(lambda: alpha.live == 0, within=1)
    await_that(lambda: state("endpoints", "name")["pool"]["idle"] == 1)
    assert alpha.asked("frozen") == before + 1


def test_no_generation_is_live_a_second_after_120_clients_left_at_once(shared: Router, alpha: Fake, beta: Fake) -> None:
    crowd = []
    try:
        for model in ("frozen", "mute", "endless", "duel", "race", "flood") * 20:
            crowd.append(Raw(shared.address, CHAT, {"model": model, **STREAM}))  # noqa: PERF401  # all of them are closed
        await_that(lambda: (alpha.live, beta.live) == (5 * 20, 2 * 20), within=10)
    finally:
        for raw in crowd:
            raw.leave()
    await_that(lambda: (alpha.live, beta.live) == (0, 0), within=1)


def test_a_slow_client_gets_everything_and_pauses_only_its_own_endpoint(
    shared: Router, client: OpenAI, alpha: Fake
) -> None:
    raw = Raw(shared.address, CHAT, {"model": "big", **STREAM})
    try:
        await_that(lambda: alpha.stats()["blocked"])
        assert text_of(list(client.chat.completions.create(model="quick", messages=HI, stream=True))) == TEXT
        received = raw.read_until(b"0\r\n\r\n")
    finally:
        raw.leave()
    contents = re.findall(rb'"content": "(\d+) ', received)
    assert contents == [b"%d" % index for index in range(1500)]
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_closing_the_sdks_stream_stops_the_generation(client: OpenAI, alpha: Fake) -> None:
    stream = client.chat.completions.create(model="endless", messages=HI, stream=True)
    assert text_of([next(stream), next(stream)]) == "on "
    assert alpha.live == 1
    stream.close()
    await_that(lambda: alpha.live == 0, within=1)


@pytest.mark.parametrize("stream", [True, False])
def test_cancelling_the_async_sdks_call_stops_the_generation(shared: Router, alpha: Fake, stream: bool) -> None:
    async def flow() -> None:
        async with shared.async_sdk() as sdk:
            create = sdk.chat.completions.create(model="frozen", messages=HI, stream=stream)
            task = asyncio.ensure_future(create)
            await asyncio.to_thread(await_that, lambda: alpha.live == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(await_that, lambda: alpha.live == 0, 1)

    asyncio.run(asyncio.wait_for(flow(), 10))


@pytest.fixture(scope="module")
def frozen(alpha: Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router with the default times whose endpoint never answers."""
    config = {"defaults": {"hedge": "off"}, "endpoints": [entry(alpha, {"frozen": "frozen"})]}
    with router(tmp_path_factory.mktemp("frozen"), config) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
def test_the_sdks_own_timeout_is_what_it_raises_and_stops_the_generation(
    frozen: Router, alpha: Fake, stream: bool
) -> None:
    """The router knows the SDK's timeout too, and ends the call a second later. 16 of 16 calls, one after the other."""
    for timeout in (0.2, 0.3, 0.5, openai.Timeout(5.0, read=0.3)) * 4:
        with frozen.sdk(timeout=timeout, max_retries=0) as sdk, pytest.raises(openai.APITimeoutError):
            sdk.chat.completions.create(model="frozen", messages=HI, stream=stream)
    await_that(lambda: alpha.live == 0, within=1)


@pytest.mark.parametrize("stream", [False, True])
def test_the_async_sdks_own_timeouts_are_what_it_raises(frozen: Router, alpha: Fake, stream: bool) -> None:
    """16 of 16 calls at once, of four timeouts; a retry of the SDK is a call of its own, with the same end."""

    async def flow() -> list[object]:
        async with frozen.async_sdk(max_retries=1) as sdk:
            calls = [
                sdk.with_options(timeout=timeout).chat.completions.create(model="frozen", messages=HI, stream=stream)
                for timeout in (0.5, 1, 1.5, 2) * 4
            ]
            return list(await asyncio.gather(*calls, return_exceptions=True))

    assert [type(result) for result in asyncio.run(flow())] == [openai.APITimeoutError] * 16
    await_that(lambda: alpha.live == 0, within=3)


@pytest.mark.parametrize("stream", [True, False])
def test_the_loser_of_a_race_stops_while_the_winner_goes_on(
    shared: Router, alpha: Fake, beta: Fake, stream: bool
) -> None:
    if stream:
        raw = Raw(shared.address, CHAT, {"model": "race", **STREAM})
        try:
            head = raw.read_until(b"Hello")
            await_that(lambda: (alpha.live, beta.live) == (0, 1), within=1)
            beta.go()
            raw.read_until(b"[DONE]")
        finally:
            raw.leave()
    else:
        raw = Raw(shared.address, CHAT, {"model": "race", "messages": HI})
        try:
            await_that(lambda: (alpha.live, beta.live) == (1, 1))
            beta.go()
            head = raw.read_until(b"\r\n\r\n")
            await_that(lambda: (alpha.live, beta.live) == (0, 0), within=1)
        finally:
            raw.leave()
    assert b"x-router-endpoint: beta\r\n" in head
    assert b"x-router-attempts: 2\r\n" in head
    await_that(lambda: beta.live == 0, within=1)


# ---- The Node SDK


@pytest.fixture(scope="module")
def node(shared: Router, alpha: Fake) -> Json:
    """The result of every flow in flows.mjs."""
    if NODE is None:
        pytest.skip("node is not installed")
    if not (HERE / "node/node_modules/openai").is_dir():
        pytest.skip("the Node SDK is not installed: npm --prefix tests/node ci")
    script = [NODE, str(HERE / "node/flows.mjs"), f"{shared.origin}/v1"]
    ended = subprocess.run(script, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    await_that(lambda: alpha.live == 0, within=1)  # the last flow leaves in the middle of a stream
    results: Json = json.loads(ended.stdout)
    return results


def test_node_streams_complete_answers(node: Json) -> None:
    assert node["stream"] == {"text": TEXT, "finish": "stop"}
    assert node["usage"] == {"text": TEXT, "choices": [], "usage": USAGE}
    assert node["tools"] == CALLS
    assert node["completion"] == {"streamed": TEXT, "text": TEXT}
    assert node["pings"] == TEXT


def test_node_gets_answers_that_do_not_stream(node: Json) -> None:
    assert (node["answer"]["text"], node["answer"]["usage"]) == (TEXT, USAGE)
    assert node["embeddings"] == [list(VECTOR)] * 2
    assert node["models"]["one"] == "quick"
    assert {"quick", "race"} <= set(node["models"]["listed"])


def test_node_sees_which_endpoint_answered(node: Json) -> None:
    assert node["answer"]["requestID"].startswith("req_")
    assert node["headers"]["requestID"] == node["headers"]["x-request-id"]
    assert (node["headers"]["x-router-endpoint"], node["headers"]["x-router-attempts"]) == ("alpha", "1")
    assert node["headers"]["server-timing"].startswith("first-token;dur=")
    assert node["failover"] == {"text": TEXT, "endpoint": "beta"}


def test_node_raises_the_right_errors(node: Json) -> None:
    unknown, refused = node["unknown"], node["refused"]
    assert (unknown["raised"], unknown["status"], unknown["code"]) == ("NotFoundError", 404, "model_not_found")
    assert (refused["raised"], refused["type"], refused["code"]) == ("BadRequestError", "fake", "c")
    assert "refused by the fake endpoint with 400" in refused["message"]


def test_node_does_not_multiply_our_attempts(node: Json, alpha: Fake, beta: Fake) -> None:
    down = node["down"]
    assert (down["raised"], down["status"], down["code"]) == ("InternalServerError", 502, "endpoints_failed")
    assert alpha.asked("refuse-502") + beta.asked("refuse-502") == int(down["attempts"])


@pytest.mark.parametrize("flow", ["cut", "unfinished", "breaks"])
def test_node_raises_when_a_stream_breaks(node: Json, flow: str) -> None:
    assert node[flow]["isAPIError"]
    assert node[flow]["text"] == "Hello from a"
    assert node[flow]["code"] == ("fake_failure" if flow == "breaks" else "stream_broken")


# ---- Starting


def test_the_shipped_file_streams_at_once_without_keys(tmp_path: Path) -> None:
    with router(tmp_path, None, "--example") as running:
        said = running.output
        assert "zhipu-flash: disabled: ZHIPU_API_KEY is not set" in said
        assert "fallback: disabled: FALLBACK_API_KEY is not set" in said
        assert "simulated-quick: simulated, calls no model" in said
        assert "simulated-slow: simulated, calls no model" in said
        body = {"model": "chat", "messages": HI, "stream": True}
        began = time.monotonic()
        with running.control.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            first = next(line for line in lines if "simulated by" in line or '"content":"[' in line)
            assert time.monotonic() - began < 5
            assert first.startswith("data: ")
            assert response.headers["x-router-endpoint"].startswith("simulated-")
            assert "data: [DONE]" in list(lines)


def test_the_sdks_understand_simulated_endpoints(tmp_path: Path) -> None:
    simulated = {
        "name": "pretender",
        "kind": "simulated",
        "models": ["chat"],
        "simulate": {"first_token": "1ms", "rate": 5000},
    }
    with router(tmp_path, {"endpoints": [simulated]}) as running, running.sdk() as sdk:
        options: Any = {"include_usage": True}
        chunks = list(sdk.chat.completions.create(model="chat", messages=HI, stream=True, stream_options=options))
        answer = sdk.chat.completions.create(model="chat", messages=HI)
        assert text_of(chunks) == answer.choices[0].message.content
        assert "simulated by pretender" in text_of(chunks)
        assert "You said: 'Hi'" in text_of(chunks)
        assert chunks[-1].usage == answer.usage is not None
        assert "simulated" in sdk.completions.create(model="chat", prompt="Hi").choices[0].text
        with pytest.raises(openai.NotFoundError, match="simulated"):
            sdk.embeddings.create(model="chat", input="Hi")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_public_address_needs_keys(tmp_path: Path, host: str) -> None:
    ended = run(tmp_path, "serve", "--example", "--host", host, "--port", "0")
    assert ended.returncode == 2
    assert f"{host} is not a loopback address" in ended.stderr
    assert "keys" in ended.stderr
    assert "--allow-open" in ended.stderr
    assert "Traceback" not in ended.stderr


BROKEN = """\
endpoints:
  - name: one
    base_url: http://127.0.0.1:1/v1
    api_key: a-secret-value
    models: [chat]
    tierr: 2
"""


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_broken_file_is_refused_with_file_line_and_key(tmp_path: Path, command: str) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    ended = run(tmp_path, command, "--config", "broken.yaml")
    assert ended.returncode == 2
    assert "broken.yaml:6: endpoints[0] (one).tierr: unknown key; did you mean 'tier'?" in ended.stderr
    assert "a-secret-value" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_check_describes_a_valid_file(tmp_path: Path) -> None:
    (tmp_path / "endpoints.yaml").write_text(BROKEN.replace("tierr", "tier"))
    ended = run(tmp_path, "check")
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert "one: openai at http://127.0.0.1:1/v1 (tier 2; serves chat)" in ended.stdout
    assert "a-secret-value" not in ended.stdout


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_missing_file_is_named(tmp_path: Path, command: str) -> None:
    ended = run(tmp_path, command, "--config", "nowhere.yaml")
    assert (ended.returncode, ended.stderr) == (2, "nowhere.yaml: cannot be read: No such file or directory\n")


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize("directory", [False, True], ids=["nothing", "a directory"])
def test_without_a_file_nothing_is_served_and_the_example_is_named(
    tmp_path: Path, command: str, directory: bool
) -> None:
    if directory:  # as Docker makes one for a file to mount that does not exist
        (tmp_path / "endpoints.yaml").mkdir()
    ended = run(tmp_path, command)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "endpoints.yaml" in ended.stderr
    assert "firsttoken serve --example" in ended.stderr
    assert ("a directory" in ended.stderr) is directory
    assert "Traceback" not in ended.stderr
    both = run(tmp_path, "serve", "--example", "--config", "some.yaml")
    assert (both.returncode, "exclude each other" in both.stderr) == (2, True)


SUSPICIOUS = """\
endpoints:
  - {name: one, base_url: "http://127.0.0.1:1/v1", models: chat, hedge: 500}
"""


@pytest.mark.parametrize("arguments", [["some.yaml"], ["-c", "some.yaml"], ["--config=some.yaml"]])
def test_check_takes_a_file_and_fails_of_warnings_only_if_strict(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "some.yaml").write_text(SUSPICIOUS)
    warning = "warning: some.yaml:2: endpoints[0] (one).hedge: is 500 seconds"
    ended = run(tmp_path, "check", *arguments)
    assert (ended.returncode, warning in ended.stdout) == (0, True)
    strict = run(tmp_path, "check", "--strict", *arguments)
    assert (strict.returncode, warning in strict.stdout) == (1, True)
    misspelt = run(tmp_path, "check", "--strict", *arguments, FIRSTTOKEN_PROT="1")
    assert "FIRSTTOKEN_PROT: no such setting; did you mean FIRSTTOKEN_PORT?" in misspelt.stdout
    (tmp_path / "some.yaml").write_text(SUSPICIOUS.replace("500", "500ms"))
    assert run(tmp_path, "check", "--strict", *arguments).returncode == 0


def test_the_start_warns_of_what_check_warns_of(tmp_path: Path) -> None:
    config = {
        "endpoints": [{"name": "far", "base_url": "https://api.test/v1", "models": "chat", "probe": {"kind": "off"}}]
    }
    with router(tmp_path, config, HTTPS_PROXY="http://u:hush@proxy.test", FIRSTTOKEN_PROT="1") as running:
        assert "warning: FIRSTTOKEN_PROT: no such setting; did you mean FIRSTTOKEN_PORT?" in running.output
        assert "warning: HTTPS_PROXY: ignored" in running.output
        assert "hush" not in running.output


@pytest.mark.parametrize("command", ["serve", "check"])
def test_ca_certificates_that_do_not_exist_are_an_error(tmp_path: Path, command: str) -> None:
    (tmp_path / "endpoints.yaml").write_text(SUSPICIOUS)
    ended = run(tmp_path, command, SSL_CERT_FILE="/no/where.pem")
    assert ended.returncode == 2
    assert ended.stderr == "SSL_CERT_FILE: /no/where.pem cannot be read: No such file or directory\n"
    (tmp_path / "empty.pem").write_text("")
    ended = run(tmp_path, command, SSL_CERT_FILE="empty.pem")
    assert (ended.returncode, ended.stderr) == (2, "SSL_CERT_FILE: empty.pem has no certificates in PEM form\n")


def test_the_help_of_serve_names_every_setting(tmp_path: Path) -> None:
    shown = run(tmp_path, "serve", "--help").stdout
    assert all(f"FIRSTTOKEN_{name.upper()} " in shown for name in Settings.model_fields)


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    ended = run(tmp_path, "serve", FIRSTTOKEN_MAX_CALLS="many")
    assert ended.returncode == 2
    assert "FIRSTTOKEN_MAX_CALLS" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_busy_port_ends_with_a_clear_message(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(tmp_path, "serve", "--example", "--port", str(port))
    assert ended.returncode == 3
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"127.0.0.1:{port}: address already in use: ")
    assert "--port" in line


def test_client_keys_are_required_and_not_passed_on(tmp_path: Path, alpha: Fake) -> None:
    config = {"endpoints": [entry(alpha, {"chat": "quick"})], "keys": ["${ROUTER_KEY}", "another"]}
    with router(tmp_path, config, ROUTER_KEY="the-right-key") as running:
        assert running.control.get("/healthz").status_code == 200
        assert running.control.get("/readyz").status_code == 200
        for path in ("/v1/models", "/metrics", "/admin/endpoints"):
            assert running.control.get(path).status_code == 401
        without = running.control.post("/v1/chat/completions", json={"model": "chat", "messages": HI})
        assert (without.status_code, without.json()["error"]["code"]) == (401, "missing_api_key")
        before = alpha.stats()["opened"]
        with running.sdk(api_key="the-wrong-key") as wrong, pytest.raises(openai.AuthenticationError):
            wrong.chat.completions.create(model="chat", messages=HI)
        assert alpha.stats()["opened"] == before
        with running.sdk(api_key="the-right-key") as sdk:
            assert sdk.chat.completions.create(model="chat", messages=HI).choices[0].message.content == TEXT
            assert [model.id for model in sdk.models.list()] == ["chat"]
        assert "the-right-key" not in json.dumps(alpha.stats()["last"])
        assert "the-right-key" not in running.output


# ---- Stopping


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["SIGTERM", "Ctrl+C", "SIGHUP"])
def test_a_stop_with_nothing_to_wait_for_is_quick_and_clean(tmp_path: Path, alpha: Fake, how: signal.Signals) -> None:
    with router(tmp_path, {"endpoints": [entry(alpha, {"chat": "quick"})]}) as running:
        running.process.send_signal(how)
        assert running.process.wait(timeout=5) == 0
        assert "Traceback" not in running.output


# ---- An endpoint dies


def test_all_calls_after_the_kill_of_an_endpoint_are_served(tmp_path: Path) -> None:
    ended: list[tuple[float, object]] = []  # when each call began, and its text or error
    some_ended = asyncio.Event()

    async def one(sdk: AsyncOpenAI) -> None:
        began = time.monotonic()
        try:
            stream = await sdk.chat.completions.create(model="chat", messages=HI, stream=True)
            ended.append((began, text_of([chunk async for chunk in stream])))
        except openai.APIError as error:
            ended.append((began, error))
        if len(ended) >= 40:
            some_ended.set()

    async def traffic(running: Router, killed: Fake) -> float:
        async with running.async_sdk(max_retries=0) as sdk:

            async def some(count: int) -> None:
                for _ in range(count):
                    await one(sdk)

            workers = [asyncio.create_task(some(40)) for _ in range(4)]
            await some_ended.wait()
            killed.process.send_signal(signal.SIGKILL)
            at = time.monotonic()
            await asyncio.gather(*workers)
            return at

    with fake("gamma") as gamma, fake("delta") as delta:
        config = {"endpoints": [entry(gamma, {"chat": "quick"}), entry(delta, {"chat": "quick"})]}
        with router(tmp_path, config) as running:
            killed_at = asyncio.run(asyncio.wait_for(traffic(running, gamma), 20))
            assert len(ended) == 160
            assert all(result == TEXT for began, result in ended if began > killed_at)
            assert all(result == TEXT or isinstance(result, openai.APIError) for _, result in ended)
            assert sum(began > killed_at for began, _ in ended) > 50
            assert delta.live == 0


def test_an_endpoint_that_was_restarted_serves_the_next_call(tmp_path: Path) -> None:
    with fake("only") as endpoint:
        config = {"endpoints": [entry(endpoint, {"chat": "quick"})]}
        with router(tmp_path, config) as running, running.sdk() as sdk:
            sdk.chat.completions.create(model="chat", messages=HI)  # leaves an open connection
            endpoint.stop()
            with fake("only", endpoint.port):
                assert sdk.chat.completions.create(model="chat", messages=HI).choices[0].message.content == TEXT


def test_an_endpoint_that_was_down_and_came_back_serves_the_next_call(tmp_path: Path) -> None:
    with fake("only") as endpoint:
        config = {"endpoints": [entry(endpoint, {"chat": "quick"})]}
        with router(tmp_path, config) as running, running.sdk() as sdk:
            endpoint.stop()
            with pytest.raises(openai.InternalServerError, match="no connection: Connection refused"):
                sdk.chat.completions.create(model="chat", messages=HI)
            with fake("only", endpoint.port):
                assert sdk.chat.completions.create(model="chat", messages=HI).choices[0].message.content == TEXT


# ---- After all other tests of this file


def test_nothing_is_left_running_open_or_counted(shared: Router, alpha: Fake, beta: Fake) -> None:
    assert (alpha.live, beta.live) == (0, 0)
    assert shared.metric("firsttoken_calls_in_flight") == {"": 0}
    for name in ("firsttoken_attempts_in_flight", "firsttoken_attempts_waiting"):
        assert set(shared.metric(name).values()) == {0}
    busy = {labels: value for labels, value in shared.metric("firsttoken_pool_connections").items() if "busy" in labels}
    assert set(busy.values()) == {0}
    assert "Traceback" not in shared.output
    assert "ERROR" not in shared.output
