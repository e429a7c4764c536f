"""An endpoint's process is killed under 200 streams: each ends whole or with an error, every later call is served, and
the endpoint is used again soon after it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from loadtest.faults.answers import answer_to
from tests.processes import HI, Json, Router, router

pytestmark = pytest.mark.usefixtures("direct")
STREAMS = 200
WHOLE = answer_to(HI)
BEGUN_WITHIN = 60.0  # seconds; some are of a machine that is busy with other tests
BACK_WITHIN = 30.0


@contextlib.contextmanager
def endpoint(port: int = 0) -> Iterator[subprocess.Popen[str]]:
    """The fake endpoint of loadtest as a process; its `args` end with the port that it serves."""
    command = [sys.executable, "-m", "loadtest", "fake", "--port", str(port)]
    top = Path(__file__).parent.parent
    process = subprocess.Popen(command, cwd=top, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with process.stdout as printed:
            printed_port = re.search(r":(\d+)/v1", printed.readline())
        assert printed_port
        process.args = [*command, printed_port[1]]
        yield process
    finally:
        process.kill()
        process.wait()


def port_of(process: subprocess.Popen[str]) -> int:
    assert isinstance(process.args, list)
    return int(process.args[-1])


def two_tiers(first: int, second: int) -> Json:
    def entry(name: str, port: int, tier: int) -> Json:
        return {"name": name, "base_url": f"http://127.0.0.1:{port}/v1", "models": {"chat": "m"}, "tier": tier}

    return {
        "defaults": {"resume": "replay", "retry_budget": 1, "hedge": "off", "stall": "60s", "abandon": "60s"},
        "endpoints": [entry("first", first, 1), entry("second", second, 2)],
    }


async def stream(sdk: openai.AsyncOpenAI, begun: asyncio.Semaphore | None = None) -> str:
    """Read one stream with the SDK; return how it ended for the user."""
    text = ""
    try:
        async for event in await sdk.chat.completions.create(model="chat", messages=HI, stream=True):
            if not text and begun is not None:
                begun.release()
            text += (event.choices[0].delta.content or "") if event.choices else ""
    except openai.APIError as error:
        return "an error in the stream" if type(error) is openai.APIError else repr(error)
    return "whole" if text == WHOLE else f"SHORT: {text}"


async def answered_by(sdk: openai.AsyncOpenAI) -> str:
    """Make one call, which must be served; return the name of its endpoint."""
    raw = await sdk.chat.completions.with_raw_response.create(model="chat", messages=HI)
    assert raw.parse().choices[0].message.content == WHOLE
    return raw.headers["x-router-endpoint"]


async def kill_under_streams(running: Router, victim: subprocess.Popen[str]) -> None:
    begun = asyncio.Semaphore(0)
    async with running.async_sdk(max_retries=0, timeout=60) as sdk:
        streams = [asyncio.create_task(stream(sdk, begun)) for _ in range(STREAMS)]
        for _ in range(STREAMS):
            await asyncio.wait_for(begun.acquire(), BEGUN_WITHIN)  # all have their first token
        # The streams that the kill will cut: the endpoint stalls, so none of them ends before. Their number depends on
        # the machine: the slower it is, the more calls went to the second tier, since the first looked late.
        cut = running.metric("firsttoken_attempts_in_flight")['{endpoint="first",model="m"}']
        assert cut >= STREAMS / 20
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        later = [asyncio.create_task(answered_by(sdk)) for _ in range(20)]
        ends = Counter(await asyncio.gather(*streams))
        assert ends.keys() <= {"whole", "an error in the stream"}, ends
        attempts = running.metric("firsttoken_attempts_total")
        assert attempts['{endpoint="first",role="first",verdict="fault"}'] >= cut
        assert ends["whole"] >= STREAMS / 2, ends  # each call pays for one extra attempt here
        assert set(await asyncio.gather(*later)) == {"second"}
        for _ in range(10):
            assert await answered_by(sdk) == "second"


async def comes_back(running: Router) -> float:
    """Seconds until the first endpoint answers a call again; every call until then is served."""
    began = time.monotonic()
    async with running.async_sdk(max_retries=0, timeout=60) as sdk:
        while await answered_by(sdk) != "first":
            assert time.monotonic() < began + BACK_WITHIN
            await asyncio.sleep(0.1)
    return time.monotonic() - began


def test_an_endpoint_that_is_killed_under_200_streams_ends_none_of_them_silently(tmp_path: Path) -> None:
    with endpoint() as first, endpoint() as second:
        port = port_of(first)
        # The endpoint stalls after twenty tokens, so that all streams are incomplete when it is killed.
        httpx.post(f"http://127.0.0.1:{port}/control/fault", json={"model": "m", "fault": "stall"}).raise_for_status()
        with router(tmp_path, two_tiers(port, port_of(second))) as running:
            asyncio.run(kill_under_streams(running, first))
            with endpoint(port):
                asyncio.run(comes_back(running))
