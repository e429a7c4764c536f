"""The processes of one run: starts them on their cores, waits until they are ready, and always stops them."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROUTER = ROOT / ".venv" / "bin" / "firsttoken"
PR_SET_PDEATHSIG = 1
READY_WITHIN = 20.0
STOPS_WITHIN = 5.0
# Below the range that Linux uses for outgoing connections: 9,000 streams must not occupy a port to listen on.
PORTS = range(20_000, 32_000)

libc = ctypes.CDLL(None)


class BenchError(Exception):
    """A problem that the user can fix; the text says how."""


@dataclass(frozen=True)
class Place:
    """The cores on which a process runs, and its priority."""

    cores: list[int]
    nice: int = 0
    policy: int = os.SCHED_OTHER

    @classmethod
    def anywhere(cls) -> Place:
        return cls(sorted(os.sched_getaffinity(0)))

    def take(self) -> None:
        """Apply cores and priority in the child, before exec; the child ends with its parent, even a killed one."""
        os.sched_setaffinity(0, self.cores)
        os.sched_setscheduler(0, self.policy, os.sched_param(0))
        set_nice(self.nice)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True)
class Places:
    """Two places: the gateway alone on one core, load and endpoints on the others."""

    gateway: Place
    load: Place
    shared: bool

    @classmethod
    def of_this_machine(cls, nice: int) -> Places:
        first, *others = sorted(os.sched_getaffinity(0))
        return cls(Place([first], nice), Place(others or [first], nice), shared=not others)


class Processes:
    """The owner of all processes of a run. `with Processes(folder) as processes:` stops all of them on exit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*self.running)

    def start(
        self,
        name: str,
        command: list[str],
        place: Place,
        *,
        stdin: str = "",
        listen: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[Any]:
        """Start a process with `stdin` as its input; its output goes to its log, or with `listen` to its `stdout`."""
        given = self.folder / f"{name}.in"
        given.write_text(stdin)
        with self.log_of(name).open("ab") as log, given.open("rb") as read:
            process = subprocess.Popen(
                command,
                stdin=read,
                stdout=subprocess.PIPE if listen else log,
                stderr=log,
                start_new_session=True,
                preexec_fn=place.take,
                env=env,
                text=listen or None,
            )
        self.running.append(process)
        return process

    def stop(self, *processes: subprocess.Popen[Any]) -> None:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + STOPS_WITHIN
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            kill_group(process)
        self.running = [process for process in self.running if process not in processes]

    def log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def wait_ready(self, name: str, process: subprocess.Popen[Any], port: int) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while process.poll() is None and time.monotonic() < deadline:
            if accepts(port):
                return
            time.sleep(0.05)
        raise BenchError(f"{name} does not listen on port {port}; its log:\n{self.log_of(name).read_text()[-2000:]}")


def router_command() -> str:
    """The command that starts firsttoken, with {config} and {port} still to be filled in."""
    if not ROUTER.exists():
        raise BenchError("the router is not installed here: run scripts/install, or name another router")
    return f"{shlex.quote(str(ROUTER))} serve --config {{config}} --host 127.0.0.1 --port {{port}}"


def set_nice(nice: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    # If the kernel groups processes by session, only the niceness of the group counts against other sessions.
    group = Path("/proc/self/autogroup")
    if nice and group.exists():
        group.write_text(str(nice))


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all its children: each started process leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def family(pid: int) -> list[int]:
    """The process and all its descendants: a gateway may work in child processes."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, []))
    return found


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def must_be_free(ports: Iterable[int]) -> None:
    """Raise a BenchError unless all these ports, which the user chose, can be listened on."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise BenchError(f"cannot listen on port {port}: {error.strerror}; choose others with --port") from None


def free_ports(count: int) -> list[int]:
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise BenchError("no free ports between 20000 and 32000")


def raise_file_limit() -> int:
    """Raise the limit of open files to the hard limit, which children inherit; return the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
