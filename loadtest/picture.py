"""Draws docs/picture.svg: first-token times of calls sent directly to an endpoint and of calls through the router.

Both series of calls have the same rate, while the endpoint turns slow, freezes and recovers. The three endpoints are
fakes in this process and answer health checks all the time. The router is a process of its own, with only their
addresses in its endpoints.yaml. The script needs an installed router and only the standard library of Python.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from html import escape
from pathlib import Path
from random import Random
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ROUTER = ROOT / ".venv" / "bin" / "firsttoken"
PICTURE = ROOT / "docs" / "picture.svg"

ENDPOINTS = {"A": 0.15, "B": 0.25, "C": 0.4}  # median seconds to the first token of a healthy endpoint
SPREAD = 0.15  # sigma of the logarithm of those times
SLOWER = 12  # factor by which A is slower while it is slow
TOKENS, GAP = 8, 0.02  # tokens of an answer, and seconds between two tokens
PHASES = ("A is well", f"A is {SLOWER} times slower", "A is frozen", "A is well again")  # of equal length

MODELS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 27\r\n\r\n" + b'{"object":"list","data":[]}'
)
CHUNK = 'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{%s},"finish_reason":%s}]}\n\n'
BODY = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}).encode()
ASK = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    % len(BODY)
    + BODY
)


# ---- The endpoints


class Endpoint:
    """A fake OpenAI endpoint. While frozen it accepts requests, but neither begins nor continues an answer."""

    def __init__(self, median: float, rng: Random) -> None:
        self.median, self.rng, self.slower = median, rng, 1
        self.moving = asyncio.Event()
        self.moving.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                if head.startswith("get "):
                    writer.write(MODELS)
                    continue
                await reader.readexactly(int(head.partition("content-length:")[2].splitlines()[0]))
                await self.answer(writer)
        writer.close()

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        await self.pass_time(self.median * self.slower * self.rng.lognormvariate(0, SPREAD))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(TOKENS):
            await self.write(writer, CHUNK % ('"content":" word"', "null"))
            await self.pass_time(GAP)
        await self.write(writer, CHUNK % ("", '"stop"') + "data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    async def pass_time(self, seconds: float) -> None:
        await self.moving.wait()
        await asyncio.sleep(seconds)
        await self.moving.wait()

    async def write(self, writer: asyncio.StreamWriter, events: str) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(events), events.encode()))
        await writer.drain()


async def fall_ill(endpoint: Endpoint, phase: float) -> None:
    """Make A slow, then freeze it, then let it recover: one step at the end of each phase."""
    await asyncio.sleep(phase)
    endpoint.slower = SLOWER
    await asyncio.sleep(phase)
    endpoint.moving.clear()
    await asyncio.sleep(phase)
    endpoint.slower = 1
    endpoint.moving.set()


# ---- The router


@contextlib.asynccontextmanager
async def router(ports: dict[str, int]) -> AsyncIterator[int]:
    """Run a router in front of these endpoints; yields its port."""
    if not ROUTER.exists():
        raise SystemExit("The router is not installed here: run scripts/install.")
    with tempfile.TemporaryDirectory() as folder:
        port, config, log = free_port(), Path(folder) / "endpoints.yaml", Path(folder) / "log"
        listed = (
            f"- {{name: {name}, base_url: http://127.0.0.1:{at}/v1, models: [m]}}\n" for name, at in ports.items()
        )
        config.write_text("endpoints:\n" + "".join(listed))
        command = [str(ROUTER), "serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        try:
            if not await listens(port, process):
                raise SystemExit(f"The router does not listen; its output:\n{log.read_text()}")
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listens(port: int, process: asyncio.subprocess.Process) -> bool:
    until = time.monotonic() + 20
    while process.returncode is None and time.monotonic() < until:
        with contextlib.suppress(OSError):
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
            return True
        await asyncio.sleep(0.05)
    return False


# ---- The calls


class Call(NamedTuple):
    at: float  # seconds since the run began
    first_token: float  # seconds since `at`; math.inf if none arrived
    whole: bool
    endpoint: str


async def call(port: int, began: float) -> Call:
    asked = time.monotonic()
    first, done, endpoint = math.inf, False, ""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(ASK)
            async for line in reader:
                if first == math.inf and b'"content":" ' in line:
                    first = time.monotonic() - asked
                done = done or line == b"data: [DONE]\n"
                if line.startswith(b"x-router-endpoint: "):
                    endpoint = line.split()[1].decode()
                if line == b"0\r\n":
                    break
        finally:
            writer.close()
    return Call(asked - began, first, done, endpoint)


async def calls(port: int, seconds: float, rate: float) -> list[Call]:
    """Send calls at an even rate, independent of earlier answers."""
    began, asked = time.monotonic(), []
    for number in range(round(seconds * rate)):
        await asyncio.sleep(began + number / rate - time.monotonic())
        asked.append(asyncio.create_task(call(port, began)))
    return await asyncio.gather(*asked)


async def run(seconds: float, rate: float, seed: int) -> tuple[list[Call], list[Call]]:
    """The calls sent directly to A, and the calls sent through the router."""
    rng = Random(seed)
    endpoints = {name: Endpoint(median, rng) for name, median in ENDPOINTS.items()}
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        for name, endpoint in endpoints.items():
            server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
            stack.callback(server.close)
            ports[name] = server.sockets[0].getsockname()[1]
        through = await stack.enter_async_context(router(ports))
        direct, routed, _ = await asyncio.gather(
            calls(ports["A"], seconds, rate),
            calls(through, seconds, rate),
            fall_ill(endpoints["A"], seconds / len(PHASES)),
        )
    return direct, routed


def figures(asked: list[Call]) -> str:
    times = [call.first_token for call in asked]
    one, two = (sum(time > limit for time in times) for limit in (1, 2))
    failed = sum(not call.whole for call in asked) or "none"
    waited = f"{one} waited over 1 s, {two} over 2 s, the longest {max(times):.2f} s"
    return f"of {len(times)} calls {waited}; {failed} failed"


# ---- The picture

WIDTH, HEIGHT = 860, 470
LEFT, RIGHT, TOP, BOTTOM = 56, 844, 104, 372  # edges of the plot
LOWEST, HIGHEST = 0.08, 25.0  # range of the vertical axis, in seconds
LANES = BOTTOM + 44  # below the plot: the answering endpoint of each call

COLOURS = {  # by selector: the property, its colour on a light page, its colour on a dark page
    "text": ("fill", "#1f2328", "#e6edf3"),
    ".faint": ("fill", "#656d76", "#9198a1"),
    ".paper": ("fill", "#ffffff", "#0d1117"),
    ".slow": ("fill", "#fff3d0", "#33290f"),
    ".frozen": ("fill", "#dfecfb", "#13263d"),
    ".line": ("stroke", "#d0d7de", "#30363d"),
    "text.direct": ("fill", "#c2410c", "#fb923c"),
    "text.routed": ("fill", "#1d5fae", "#58a6ff"),
    "path.direct": ("stroke", "#c2410c", "#fb923c"),
    "path.routed": ("stroke", "#1d5fae", "#58a6ff"),
}
LIGHT, DARK = ("\n".join(f"{what} {{ {each[0]}: {each[page]} }}" for what, each in COLOURS.items()) for page in (1, 2))
STYLE = f"""
svg {{ font: 13px system-ui, sans-serif }} .end {{ text-anchor: end }} .middle {{ text-anchor: middle }}
.title {{ font-size: 15px; font-weight: 600 }} .line, .lane {{ stroke-width: 1.5 }}
.dots {{ stroke-width: 3.2; stroke-linecap: round; stroke-opacity: .75 }}
{LIGHT}
@media (prefers-color-scheme: dark) {{
{DARK}
}}
"""


def draw(direct: list[Call], routed: list[Call], seconds: float) -> str:
    """The picture as SVG, for a light and for a dark page."""
    title = "Seconds to the first token; each dot is one call"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{title}</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" class="paper"/>',
        text(16, 26, title, "title"),
        text(16, 49, f"● straight to A: {figures(direct)}", "direct"),
        text(16, 69, f"● through the router, to A, B or C: {figures(routed)}", "routed"),
        *phases(seconds),
        *scales(seconds),
        f'<path class="direct dots" d="{dots(direct, seconds)}"/>',
        f'<path class="routed dots" d="{dots(routed, seconds)}"/>',
        *lanes(routed, seconds),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def phases(seconds: float) -> Iterable[str]:
    width = (RIGHT - LEFT) / len(PHASES)
    for number, name in enumerate(PHASES):
        left = LEFT + number * width
        if number in (1, 2):
            kind = "slow" if number == 1 else "frozen"
            yield f'<rect x="{left}" y="{TOP - 18}" width="{width}" height="{BOTTOM - TOP + 18}" class="{kind}"/>'
        yield text(left + width / 2, TOP - 5, name, "middle faint")


def scales(seconds: float) -> Iterable[str]:
    for value in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20):
        yield f'<path class="line" d="M{LEFT} {y(value)}H{RIGHT}"/>'
        yield text(LEFT - 8, y(value) + 4, f"{value:g} s", "end faint")
    for step in range(len(PHASES) + 1):
        at = seconds * step / len(PHASES)
        yield text(x(at, seconds), BOTTOM + 18, f"{at:g} s", "middle faint")


def lanes(routed: list[Call], seconds: float) -> Iterable[str]:
    """One lane per endpoint, with a tick for each call that it answered through the router."""
    for number, name in enumerate(ENDPOINTS):
        top = LANES + 15 * number
        ticks = "".join(f"M{x(one.at, seconds)} {top - 5}v9" for one in routed if one.endpoint == name)
        yield text(LEFT - 8, top + 4, f"by {name}", "end faint")
        yield f'<path class="routed lane" d="{ticks}"/>'


def dots(asked: list[Call], seconds: float) -> str:
    return "".join(f"M{x(one.at, seconds)} {y(one.first_token)}h0" for one in asked if one.first_token < math.inf)


def x(at: float, seconds: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * at / seconds, 1)


def y(value: float) -> float:
    share = math.log(min(max(value, LOWEST), HIGHEST) / LOWEST) / math.log(HIGHEST / LOWEST)
    return round(BOTTOM - (BOTTOM - TOP) * share, 1)


def text(left: float, base: float, content: str, kind: str) -> str:
    return f'<text x="{left}" y="{base}" class="{kind}">{escape(content)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/picture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run in seconds (default: 60)")
    parser.add_argument("--rate", type=float, default=10.0, help="calls per second in each series (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the endpoints' times (default: 1)")
    parser.add_argument(
        "--output", type=Path, default=PICTURE, help=f"file to write (default: {os.path.relpath(PICTURE)})"
    )
    options = parser.parse_args()
    direct, routed = asyncio.run(run(options.seconds, options.rate, options.seed))
    options.output.write_text(draw(direct, routed, options.seconds), encoding="utf-8")
    print(f"straight to A:      {figures(direct)}\nthrough the router: {figures(routed)}\n{options.output}")


if __name__ == "__main__":
    main()
