"""Graceful shutdown as operators and clients see it: processes, signals, sockets and the official SDK."""

from __future__ import annotations

import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fake_endpoint import TEXT
from tests.processes import HI, Fake, Json, Raw, Router, await_that, entry, router, text_of

pytestmark = pytest.mark.usefixtures("direct")
STOPPING = {"status": "stopping"}


def served_by(endpoint: Fake, *modes: str) -> Json:
    return {"endpoints": [entry(endpoint, {mode: mode for mode in modes})]}


def is_stopping(running: Router) -> bool:
    """True if /readyz says that the router stops. Asked on a new connection, as a load balancer does."""
    answer = httpx.get(f"{running.origin}/readyz", trust_env=False)
    return (answer.status_code, answer.json()) == (503, STOPPING)


def post(client: httpx.Client, model: str) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": model, "messages": HI})


def ends_cleanly(running: Router) -> bool:
    return running.process.wait(timeout=10) == 0 and "Traceback" not in running.output and "ERROR" not in running.output


def refuses_connections(running: Router) -> bool:
    try:
        socket.create_connection(running.address, timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_readiness_ends_at_once_and_an_open_stream_is_finished(tmp_path: Path, alpha: Fake) -> None:
    with router(tmp_path, served_by(alpha, "step")) as running, running.sdk(max_retries=0) as sdk:
        assert running.control.get("/readyz").json() == {"status": "ready"}
        stream = sdk.chat.completions.create(model="step", messages=HI, stream=True)
        first = [next(stream), next(stream)]
        running.process.send_signal(signal.SIGTERM)
        await_that(partial(is_stopping, running))
        assert running.control.get("/healthz").status_code == 200
        alpha.go()
        assert text_of(first + list(stream)) == TEXT
        assert "stopping: 1 calls open, up to 120 s" in running.output


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_the_process_ends_with_the_last_call(tmp_path: Path, alpha: Fake, how: signal.Signals) -> None:
    with router(tmp_path, served_by(alpha, "step")) as running, running.sdk(max_retries=0) as sdk:
        sdk.models.list()  # leaves an idle connection open
        idle = socket.create_connection(running.address, timeout=5)
        stream = sdk.chat.completions.create(model="step", messages=HI, stream=True)
        first = [next(stream), next(stream)]
        running.process.send_signal(how)
        assert idle.recv(1) == b""
        idle.close()
        await_that(partial(is_stopping, running))
        assert running.process.poll() is None
        alpha.go()
        assert text_of(first + list(stream)) == TEXT
        assert ends_cleanly(running)
        assert refuses_connections(running)
        assert "stopped: 0 calls were ended" in running.output


def test_a_new_call_gets_503_and_is_told_to_retry(tmp_path: Path, alpha: Fake) -> None:
    with router(tmp_path, served_by(alpha, "step", "quick")) as running, running.sdk(max_retries=0) as sdk:
        stream = sdk.chat.completions.create(model="step", messages=HI, stream=True)
        first = next(stream)
        running.process.send_signal(signal.SIGTERM)
        await_that(partial(is_stopping, running))
        with httpx.Client(base_url=running.origin, trust_env=False) as client:
            refused = post(client, "quick")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert refused.headers["x-should-retry"] == "true"
        assert int(refused.headers["retry-after-ms"]) > 0
        assert refused.headers["connection"] == "close"
        alpha.go()
        assert text_of([first, *stream]) == TEXT
        assert ends_cleanly(running)


def test_with_a_watcher_of_readiness_new_calls_are_served_during_the_notice(tmp_path: Path, alpha: Fake) -> None:
    with router(tmp_path, served_by(alpha, "quick"), FIRSTTOKEN_NOTICE="60s") as running:
        assert running.control.get("/readyz").status_code == 200  # from now on readiness has a watcher
        with httpx.Client(base_url=running.origin, trust_env=False) as client:
            assert post(client, "quick").headers.get("connection") is None
            running.process.send_signal(signal.SIGTERM)
            await_that(partial(is_stopping, running))
            served = post(client, "quick")  # on the kept connection; the next call opens a new one
            assert (served.status_code, served.headers["connection"]) == (200, "close")
            assert post(client, "quick").status_code == 200
        running.process.send_signal(signal.SIGTERM)
        assert ends_cleanly(running)


def test_the_notice_is_as_long_as_configured(tmp_path: Path, alpha: Fake) -> None:
    with router(tmp_path, served_by(alpha, "quick"), FIRSTTOKEN_NOTICE="200ms") as running:
        running.control.get("/readyz")
        running.process.send_signal(signal.SIGTERM)
        assert ends_cleanly(running)


def test_at_the_limit_each_client_gets_an_error(tmp_path: Path, alpha: Fake) -> None:
    """A stream that has begun gets an error event. All other calls get a 503, which SDKs retry."""
    errors: list[openai.APIError] = []
    with (
        router(tmp_path, served_by(alpha, "endless", "frozen"), FIRSTTOKEN_DRAIN="300ms") as running,
        running.sdk(max_retries=0) as sdk,
    ):
        body: dict[str, Any] = {"model": "frozen", "messages": HI}
        waiting = [Raw(running.address, "chat/completions", body | {"stream": streams}) for streams in (True, False)]
        stream = sdk.chat.completions.create(model="endless", messages=HI, stream=True)
        next(stream)
        await_that(lambda: alpha.live == 3)
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError) as raised:
            list(stream)
        errors.append(raised.value)
        for raw in waiting:
            answer = raw.read_until(b"}}").decode()
            assert answer.startswith("HTTP/1.1 503 ")
            assert "x-should-retry: true" in answer
            assert "connection: close" in answer
            assert '"code":"stopping"' in answer
            assert raw.socket.recv(1) == b""
            raw.leave()
        assert ends_cleanly(running)
        assert "stopped: 3 calls were ended" in running.output
        await_that(lambda: alpha.live == 0, within=1)
    assert [error.code for error in errors] == ["stopping"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["SIGTERM", "Ctrl+C", "SIGHUP"])
def test_a_second_signal_ends_the_process_at_once(tmp_path: Path, alpha: Fake, how: signal.Signals) -> None:
    with router(tmp_path, served_by(alpha, "endless")) as running, running.sdk(max_retries=0) as sdk:
        stream = sdk.chat.completions.create(model="endless", messages=HI, stream=True)
        next(stream)
        running.process.send_signal(how)
        await_that(partial(is_stopping, running))
        running.process.send_signal(how)
        with pytest.raises(openai.APIError, match="stopped before the answer was complete"):
            list(stream)
        assert ends_cleanly(running)


def test_a_client_that_reads_nothing_does_not_delay_the_end(tmp_path: Path, alpha: Fake) -> None:
    with router(tmp_path, served_by(alpha, "flood"), FIRSTTOKEN_DRAIN="0s") as running:
        raw = Raw(running.address, "chat/completions", {"model": "flood", "messages": HI, "stream": True})
        await_that(lambda: alpha.stats()["blocked"] == 1)
        running.process.send_signal(signal.SIGTERM)
        assert ends_cleanly(running)
        raw.leave()


def test_a_request_that_is_half_read_is_answered(tmp_path: Path, alpha: Fake) -> None:
    """A connection in the middle of a request is not idle, and must not be closed as such."""
    with router(tmp_path, served_by(alpha, "step", "quick")) as running, running.sdk(max_retries=0) as sdk:
        stream = sdk.chat.completions.create(model="step", messages=HI, stream=True)
        first = next(stream)
        half = socket.create_connection(running.address, timeout=5)
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n")
        half.sendall(b"content-length: 20\r\n\r\n")
        assert half.recv(100).startswith(b"HTTP/1.1 100")  # the head was read
        running.process.send_signal(signal.SIGTERM)
        await_that(partial(is_stopping, running))
        half.sendall(b'{"model":"quick"}   ')
        assert half.recv(100).startswith(b"HTTP/1.1 503 ")
        half.close()
        alpha.go()
        assert text_of([first, *stream]) == TEXT
        assert ends_cleanly(running)
