"""The two programs in C: compiles them if they are older than their sources, and runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.processes import ROOT, BenchError, Place, Processes, free_ports

SOURCES = Path(__file__).resolve().parent
BUILD = ROOT / ".build"
FLAGS = ["-O2", "-Wall", "-Wextra", "-Wconversion"]
ENDPOINTS = 3


def build(name: str) -> Path:
    source, program = SOURCES / f"{name}.c", BUILD / name
    newest = max(path.stat().st_mtime for path in (source, *SOURCES.glob("*.h")))
    if not program.exists() or program.stat().st_mtime < newest:
        compile_program(source, program)
    return program


def compile_program(source: Path, program: Path) -> None:
    if not shutil.which("gcc"):
        raise BenchError("gcc is missing: install it (Debian: apt-get install gcc libc6-dev)")
    BUILD.mkdir(exist_ok=True)
    # Two runs may build at the same time: each writes its own file, and the last rename wins.
    fresh = program.with_name(f"{program.name}.{os.getpid()}")
    subprocess.run(["gcc", *FLAGS, "-o", str(fresh), str(source), "-lm"], check=True)
    fresh.rename(program)


def words(options: dict[str, Any]) -> list[str]:
    """Options as command-line words: first_ms=5 becomes --first-ms 5."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def join(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


def run_client(
    place: Place, ports: list[int], pids: list[int], patience: float = 120.0, **options: Any
) -> dict[str, Any]:
    given = {"port": join(ports), "pids": join(pids), **options}
    done = subprocess.run(
        [str(build("client")), *words(given)],
        stdout=subprocess.PIPE,
        timeout=options.get("seconds", 0) + patience,
        check=True,
        start_new_session=True,
        preexec_fn=place.take,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@dataclass(frozen=True)
class Endpoints:
    """The fake endpoints of a run, which all behave alike."""

    ports: list[int]
    pids: list[int]

    def schedule(self, policy: int) -> None:
        for pid in self.pids:
            os.sched_setscheduler(pid, policy, os.sched_param(0))


def start_endpoints(processes: Processes, place: Place, **options: Any) -> Endpoints:
    ports, pids = free_ports(ENDPOINTS), []
    for port in ports:
        name = f"endpoint-{port}"
        process = processes.start(name, [str(build("endpoint")), *words({"port": port, **options})], place)
        processes.wait_ready(name, process, port)
        pids.append(process.pid)
    return Endpoints(ports, pids)
