"""The fake endpoints over real sockets follow their servers' decisions, and log every attempt."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from prometheus_client.parser import text_string_to_metric_families

from loadtest.latency.endpoint import Fakes
from loadtest.latency.stand import Stand
from tests.loadtest.stands import endpoint, run_story, standing, url

Json = dict[str, Any]


def asking(k: int | None = 0, **more: Any) -> Json:
    text = "Hello" if k is None else f"call {k} word word"
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


async def ask(fakes: Fakes, k: int | None = 0, name: str = "alpha", **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        return await http.post(f"{url(fakes, name)}/chat/completions", json=asking(k, **more))


def log(fakes: Fakes) -> list[tuple[Any, ...]]:
    return [(each["k"], each["endpoint"], each["first_token"], each["became"]) for each in fakes.log()]


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # the fake's state has no event to wait for
        await asyncio.sleep(0.001)


def test_the_sdk_reads_a_stream_as_whole() -> None:
    async def story() -> None:
        async with standing(endpoint()) as fakes:
            sdk = AsyncOpenAI(base_url=url(fakes), api_key="any", http_client=DefaultAsyncHttpxClient(trust_env=False))
            async with sdk:
                stream: Any = await sdk.chat.completions.create(
                    **asking(3, stream=True, stream_options={"include_usage": True})
                )
                chunks = [chunk async for chunk in stream]
            texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
            assert texts[0] == "alpha"
            assert "".join(texts).count(" word") == 5
            assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
            assert chunks[-1].usage.total_tokens == 46
            assert log(fakes) == [(3, "alpha", 0.5, "served")]

    run_story(story)


def test_a_plain_answer_arrives_at_the_time_of_its_last_token() -> None:
    async def story() -> None:
        async with standing(endpoint(rate=40)) as fakes:
            before = fakes.clock.now()
            answer = (await ask(fakes, 3)).json()
            assert answer["choices"][0]["message"]["content"] == "alpha" + " word" * 5
            assert answer["usage"]["prompt_tokens"] == 40
            assert fakes.clock.now() - before >= 0.5 + 6 / 40

    run_story(story)


def test_models_and_health_are_served() -> None:
    async def story() -> None:
        async with standing(endpoint()) as fakes, httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{url(fakes)}/models")).json()["data"][0]["id"] == "m"
            assert (await http.get(f"{url(fakes).removesuffix('/v1')}/health")).status_code == 200
            assert (await http.get(f"{url(fakes)}/else")).status_code == 404
            assert fakes.log() == []

    run_story(story)


@pytest.mark.parametrize(("kind", "code"), [("openai", "rate_limit_exceeded"), ("zhipu", "1302")])
def test_a_call_over_the_cap_is_refused_with_the_error_of_the_kind(kind: str, code: str) -> None:
    async def story() -> None:
        async with standing(endpoint(kind=kind, first_token=50, caps=[{"at": 0, "most": 1}])) as fakes:
            first = asyncio.create_task(ask(fakes, 0))
            await until(fakes.log)
            refused = await ask(fakes, 1)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, code)
            assert log(fakes)[1][3].startswith("429")
            assert (await first).status_code == 200

    run_story(story)


def test_a_retry_after_is_in_the_seconds_of_the_client() -> None:
    async def story(retry_after_divisor: float, expected: str) -> None:
        errors = [{"status": 503, "retry_after": 5}]
        async with standing(endpoint(errors=errors), retry_after_divisor=retry_after_divisor) as fakes:
            refused = await ask(fakes)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, expected)

    run_story(lambda: story(1, "5"))
    run_story(lambda: story(50, "0.1"))


def test_a_silent_endpoint_never_answers_and_logs_that_the_client_left() -> None:
    async def story() -> None:
        async with standing(endpoint(silent=[{}])) as fakes:
            with pytest.raises(httpx.ReadTimeout):
                async with httpx.AsyncClient(trust_env=False, timeout=0.1) as http:
                    await http.post(f"{url(fakes)}/chat/completions", json=asking(2, stream=True))
            await until(lambda: log(fakes) == [(2, "alpha", None, "cancelled")])

    run_story(story)


def test_an_absent_endpoint_does_not_listen() -> None:
    async def story() -> None:
        async with (
            standing(endpoint(absent=[{"start": 200, "until": 400}])) as fakes,
            httpx.AsyncClient(trust_env=False) as http,
        ):
            (fake,) = fakes.fakes
            assert (await http.get(f"{url(fakes)}/models")).status_code == 200
            fakes.start(fakes.clock.loop.time() - 300 / fakes.clock.speed)
            await until(lambda: not fake.listens)
            with pytest.raises(httpx.TransportError):
                await http.get(f"{url(fakes)}/models")
            fakes.start(fakes.clock.loop.time() - 500 / fakes.clock.speed)
            await until(lambda: fake.listens)
            assert (await http.get(f"{url(fakes)}/models")).status_code == 200

    run_story(story)


def test_a_queued_call_gets_the_slot_of_a_client_that_left() -> None:
    async def story() -> None:
        async with standing(endpoint(slots=1, first_token=20)) as fakes:
            first = asyncio.create_task(ask(fakes, 0, stream=True))
            await until(lambda: len(fakes.log()) == 1)
            second = asyncio.create_task(ask(fakes, 1, stream=True))
            await until(lambda: len(fakes.log()) == 2)
            first.cancel()
            assert (await second).text.endswith("data: [DONE]\n\n")
            (_, _, _, left), (_, _, waited, served) = log(fakes)
            assert (left, served) == ("cancelled", "served")
            assert waited >= 20

    run_story(story)


def test_only_a_vllm_reports_its_load() -> None:
    async def story() -> None:
        fleet = endpoint(kind="vllm", slots=1, first_token=20), endpoint("beta")
        async with standing(*fleet) as fakes, httpx.AsyncClient(trust_env=False) as http:
            both = [asyncio.create_task(ask(fakes, k)) for k in range(2)]
            await until(lambda: len(fakes.log()) == 2)
            page = (await http.get(f"{url(fakes).removesuffix('/v1')}/metrics")).text
            loads = [
                (sample.name, sample.labels["model_name"], sample.value)
                for family in text_string_to_metric_families(page)
                for sample in family.samples
            ]
            assert loads == [("vllm:num_requests_running", "m", 1.0), ("vllm:num_requests_waiting", "m", 1.0)]
            assert (await http.get(f"{url(fakes, 'beta').removesuffix('/v1')}/metrics")).status_code == 404
            await asyncio.gather(*both)

    run_story(story)


def test_a_stream_that_is_cut_breaks_after_its_tokens() -> None:
    async def story() -> None:
        async with standing(endpoint(cuts={"share": 1, "after": 3})) as fakes:
            received = b""
            async with (
                httpx.AsyncClient(trust_env=False) as http,
                http.stream("POST", f"{url(fakes)}/chat/completions", json=asking(0, stream=True)) as answer,
            ):
                with contextlib.suppress(httpx.TransportError):
                    async for data in answer.aiter_bytes():
                        received += data
                    pytest.fail("it ended as if it were whole")
            assert received.count(b" word") == 2
            assert b"[DONE]" not in received
            assert log(fakes)[0][3] == "cut"

    run_story(story)


def test_before_the_start_all_calls_are_answered_at_once_and_not_counted() -> None:
    async def story() -> None:
        async with (
            standing(endpoint(first_token=1000), begun=None) as fakes,
            httpx.AsyncClient(trust_env=False) as http,
        ):
            assert (await ask(fakes, None, stream=True)).text.endswith("data: [DONE]\n\n")
            control = f"http://127.0.0.1:{fakes.stand.control}"
            assert (await http.post(f"{control}/start", json={"epoch": fakes.clock.loop.time()})).status_code == 200
            assert fakes.clock.epoch is not None
            assert (await http.get(f"{control}/log")).json() == []

    run_story(story)


def test_a_request_that_is_not_one_of_the_calls_gets_a_time_and_no_number() -> None:
    async def story() -> None:
        async with standing(endpoint()) as fakes:
            assert (await ask(fakes, None)).status_code == 200
            assert log(fakes) == [(None, "alpha", 0.5, "served")]

    run_story(story)


def test_a_stand_is_the_same_after_a_round_trip_through_json() -> None:
    async def story() -> None:
        async with standing(endpoint(silent=[{}], absent=[{"start": 5, "until": 6}])) as fakes:
            assert Stand.from_json(fakes.stand.as_json()) == fakes.stand

    run_story(story)
