"""Measures an attack: the router's memory, its longest turn as it reports it, and the time of /healthz beside."""

from __future__ import annotations

import asyncio
import http.client
import re
import time
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from tests.hostile.attacks import ATTACKS, Target

EVERY = 0.02  # seconds between two looks
MIB = 1 << 20


class Figures(NamedTuple):
    """Bytes of memory, and seconds."""

    name: str
    before: int
    most: int
    after: int
    turn: float
    healthz: float

    @property
    def stays(self) -> int:
        return self.after - self.before

    def row(self) -> str:
        memory = " ".join(f"{size / MIB:>8.0f}" for size in (self.before, self.most, self.after))
        return f"{self.name:<28} {memory} {self.turn * 1e3:>10.1f} {self.healthz * 1e3:>10.1f}"


TITLE = f"{'':<28} {'MiB':>8} {'most':>8} {'after':>8} {'turn ms':>10} {'healthz':>10}"


def resident(pid: int) -> int:
    (size,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(size) * 1024


class Beside:
    """A thread that asks /healthz all the time, and looks at the router's memory."""

    def __init__(self, port: int, pid: int) -> None:
        self._port, self._pid, self._over = port, pid, Event()
        self.slowest, self.most = 0.0, 0
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._over.wait(EVERY):
            began = time.monotonic()
            client.request("GET", "/healthz")
            client.getresponse().read()
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.most = max(self.most, resident(self._pid))
        client.close()


def longest_turn(port: int) -> float:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET", "/metrics")
    page = client.getresponse().read().decode()
    client.close()
    (turn,) = re.findall(r"^firsttoken_longest_turn_seconds (\S+)", page, re.MULTILINE)
    return float(turn)


def measure(name: str, port: int, pid: int, scale: float, rest: float) -> Figures:
    """Run one attack; look at the memory `rest` seconds later."""
    before = resident(pid)
    longest_turn(port)
    with Beside(port, pid) as beside:
        asyncio.run(_attack(name, Target(port, scale)))
        turn = longest_turn(port)
    until, after = time.monotonic() + rest, resident(pid)
    while time.monotonic() < until and after > before + MIB:
        time.sleep(0.5)
        after = resident(pid)
    return Figures(name, before, max(before, beside.most), after, turn, beside.slowest)


async def _attack(name: str, target: Target) -> None:
    await ATTACKS[name](target)
