"""Measures what many endpoints cost a router that serves nothing: its processor time, its memory, and its start.

A router with its default settings runs as a process of its own; this process holds the endpoints, which answer every
request at once. All of them listen on one port, each under a path of its own.
  all up     seconds from when clients can connect until every endpoint has answered a probe and counts as up
  starting   seconds of processor time until then
  idle       milliseconds of processor time per second from then on
  resident   MiB of memory at the end
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.bench.in_process import ROOT, Failure, checkout, environment, note, positive

ENDPOINT = """
  - name: e{number}
    kind: {kind}
    base_url: http://127.0.0.1:{port}/{number}/v1
    models: {{m: m}}
"""
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 120.0  # seconds in which all endpoints have to be up
SETTLING = 10.0  # seconds after that until the measurement: warm connections are opened
UP = re.compile(rb"^firsttoken_endpoint_up\{[^}]*\} 1\.0$", re.MULTILINE)


class Fleet(asyncio.Protocol):
    """One connection to an endpoint: each request is a GET, which is answered at once."""

    def __init__(self, asked: set[bytes]) -> None:
        self._asked, self._read = asked, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._read = (self._read + data).split(b"\r\n\r\n")
        for head in heads:
            self._asked.add(head.split(b"/", 2)[1])
            self._transport.write(ANSWER)


def used(pid: int) -> float:
    """Seconds of processor time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """Resident memory of a process, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def page(port: int, path: str) -> bytes:
    """The answer to a GET, headers included; empty if nothing listens there."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return b""
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
        return await reader.read(-1)
    finally:
        writer.close()


async def measure(tree: Path, endpoints: int, kind: str, seconds: float) -> dict[str, float]:
    """The figures of one router."""
    asked: set[bytes] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Fleet(asked), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "endpoints.yaml")
        entries = (ENDPOINT.format(number=number, kind=kind, port=port) for number in range(endpoints))
        file.write_text("endpoints:" + "".join(entries))  # noqa: ASYNC240 (nothing else runs yet)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "router", "serve", "--config", str(file), "--port", "0",
            env=environment(tree), cwd=folder, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            return await _figures(process, asked, endpoints, seconds)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
            server.close()


async def _figures(
    process: asyncio.subprocess.Process, asked: set[bytes], endpoints: int, seconds: float
) -> dict[str, float]:
    port = await asyncio.wait_for(_port(process), PATIENCE)
    began, pid = time.monotonic(), process.pid
    logs = asyncio.create_task(_drain(process))
    # Each look costs the router a page of metrics, so the first one waits for the last endpoint's first probe.
    while len(asked) < endpoints or len(UP.findall(await page(port, "/metrics"))) < endpoints:
        if time.monotonic() > began + PATIENCE:
            raise Failure(f"Not all of {endpoints} endpoints are up after {PATIENCE:g} s; {len(asked)} were asked.")
        await asyncio.sleep(0.1 if len(asked) < endpoints else 1.0)
    up, starting = time.monotonic() - began, used(pid)
    await asyncio.sleep(SETTLING)
    before, since = used(pid), time.monotonic()
    await asyncio.sleep(seconds)
    idle = 1e3 * (used(pid) - before) / (time.monotonic() - since)
    figures = {"up": up, "starting": starting, "idle": idle, "resident": resident(pid)}
    logs.cancel()
    return figures


async def _port(process: asyncio.subprocess.Process) -> int:
    """The port that the router listens on, from its log."""
    assert process.stderr is not None
    seen = b""
    while line := await process.stderr.readline():
        seen += line
        if found := re.search(rb"running on http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise Failure(f"The router did not start: {seen.decode(errors='replace')}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read the router's log, so that it never waits for its reader."""
    assert process.stderr is not None
    while await process.stderr.read(1 << 16):
        pass


def table(figures: dict[str, dict[str, float]], endpoints: int) -> str:
    """The figures as text."""
    lines = [f"{endpoints:,} endpoints".ljust(18) + "all up, s   starting, s   idle, ms/s   resident, MiB"]
    for side, of in figures.items():
        lines.append(f"{side:18}{of['up']:9.1f}{of['starting']:14.2f}{of['idle']:13.1f}{of['resident']:16.0f}")
    return "\n".join(lines)


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench --idle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("endpoints", type=positive, nargs="?", default=1000, help="number of endpoints (1000)")
    parser.add_argument("--kind", default="openai", choices=("openai", "vllm", "sglang"), help="of server (openai)")
    parser.add_argument("--seconds", type=float, default=30.0, help="that are measured (30)")
    parser.add_argument(
        "--against", type=checkout, metavar="TREE",
        help="another checkout to compare with; it runs with this checkout's interpreter and packages",
    )  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    trees = {"this": ROOT} | ({"against": options.against} if options.against is not None else {})
    figures = {}
    try:
        for side, tree in trees.items():
            note(f"{options.endpoints} idle endpoints: {tree}")
            figures[side] = asyncio.run(measure(tree, options.endpoints, options.kind, options.seconds))
    except Failure as failure:
        note(str(failure))
        return 1
    print(table(figures, options.endpoints))
    return 0


if __name__ == "__main__":
    sys.exit(main())
