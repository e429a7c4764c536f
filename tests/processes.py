"""The router and fake endpoints as processes, for tests of the whole program. Each is stopped on every path.

Everything listens on loopback, and every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAI

Json = dict[str, Any]

HERE = Path(__file__).parent
FIRSTTOKEN = Path(sys.executable).parent / "firsttoken"
HI: list[Any] = [{"role": "user", "content": "Hi"}]


def await_that(condition: Callable[[], object], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s"
        time.sleep(0.005)


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def environment(**more: str) -> dict[str, str]:
    """The test process's environment, without variables that configure a router or the shipped file's endpoints."""
    ours = ("FIRSTTOKEN_", "ZHIPU_", "FALLBACK_", "VLLM_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


class Fake:
    """A fake endpoint as a process, with access to its counters and its control paths."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        command = [sys.executable, str(HERE / "fake_endpoint.py"), str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            self.port = int(printed.readline())
        self.origin = f"http://127.0.0.1:{self.port}"
        self.control = httpx.Client(base_url=self.origin, trust_env=False, timeout=5)

    def stats(self) -> Json:
        stats: Json = self.control.get("/stats").json()
        return stats

    @property
    def live(self) -> int:
        live: int = self.stats()["live"]
        return live

    def asked(self, model: str) -> int:
        asked: int = self.stats()["asked"].get(model, 0)
        return asked

    def go(self) -> None:
        self.control.post("/go")

    def behave(self, mode: str | None) -> None:
        self.control.post("/behave", json={"mode": mode})

    def stop(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def fake(name: str, port: int = 0) -> Iterator[Fake]:
    endpoint = Fake(name, port)
    try:
        yield endpoint
    finally:
        endpoint.stop()


class Router:
    """`firsttoken serve` on a free port."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.log = folder / "router.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [FIRSTTOKEN, "serve", "--host", "127.0.0.1", "--port", "0", *arguments],
                cwd=folder,
                env=environment(**settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.control = httpx.Client(trust_env=False, timeout=5)

    def wait_until_it_serves(self) -> None:
        await_that(lambda: self.process.poll() is not None or "running on" in self.output, within=60)
        running = re.search(r"running on (http://127\.0\.0\.1:\d+)", self.output)
        assert running, f"it did not start:\n{self.output}"
        self.origin = running[1]
        self.control.base_url = httpx.URL(self.origin)

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.origin)
        return url.host, url.port or 80

    def metric(self, name: str) -> dict[str, float]:
        """The samples of one metric, by their labels."""
        lines = self.control.get("/metrics").text.splitlines()
        samples = (line.removeprefix(name).rpartition(" ") for line in lines if re.match(rf"{name}[{{ ]", line))
        return {labels: float(value) for labels, _, value in samples}

    def sdk(self, **more: Any) -> OpenAI:
        return OpenAI(**{"base_url": f"{self.origin}/v1", "api_key": "a-client-key", "timeout": 10, **more})

    def async_sdk(self, **more: Any) -> AsyncOpenAI:
        return AsyncOpenAI(**{"base_url": f"{self.origin}/v1", "api_key": "a-client-key", "timeout": 10, **more})

    def stop(self) -> int:
        """Stop the process by SIGTERM, as a container runtime does, and return its exit status."""
        self.process.terminate()
        return self.process.wait(timeout=10)

    def kill(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def router(folder: Path, config: Json | None = None, *options: str, **settings: str) -> Iterator[Router]:
    arguments = list(options)
    if config is not None:
        file = folder / "some.yaml"
        file.write_text(json.dumps(config))  # all JSON is YAML
        arguments += ["--config", str(file)]
    running = Router(folder, *arguments, **settings)
    try:
        running.wait_until_it_serves()
        yield running
    finally:
        running.kill()


def run(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself, within 20 seconds."""
    return subprocess.run(
        [FIRSTTOKEN, *arguments],
        cwd=folder,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


class Raw:
    """A client on a bare socket that sends one request, and may read or leave at any time."""

    def __init__(self, address: tuple[str, int], path: str, body: Json, headers: str = "") -> None:
        text = json.dumps(body).encode()
        head = f"POST /v1/{path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}"
        self.request = f"{head}content-length: {len(text)}\r\n\r\n".encode() + text
        self.socket = socket.create_connection(address, timeout=5)
        self.send()

    def send(self) -> None:
        self.socket.sendall(self.request)

    def read_until(self, end: bytes) -> bytes:
        received, deadline = bytearray(), time.monotonic() + 5
        while received.find(end, -len(end) - 65536) < 0:
            data = self.socket.recv(65536)
            assert data, f"the answer ended without {end!r}: {received!r}"
            assert time.monotonic() < deadline, f"no {end!r} within 5 s, but {received[-200:]!r}"
            received += data
        return bytes(received)

    def leave(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def entry(endpoint: Fake, models: Mapping[str, str], **more: Any) -> Json:
    key = f"the-key-of-{endpoint.name}"
    return {"name": endpoint.name, "base_url": f"{endpoint.origin}/v1", "api_key": key, "models": models, **more}


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
