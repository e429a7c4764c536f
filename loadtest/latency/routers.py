"""The router under test: started with an endpoints.yaml for the scenario, or already running."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtest.latency.client import Target
from loadtest.latency.endpoints import Endpoint
from loadtest.processes import ROUTER, BenchError, Place, Processes, free_ports

MODEL = "m"
OURS = "firsttoken"
KEY = "a-key"


@dataclass(frozen=True)
class Router:
    """The choice of a router: a running `target`, a `command` to start one, or, with neither, firsttoken."""

    target: str | None = None
    command: str | None = None

    @property
    def name(self) -> str:
        return self.target or self.command or OURS

    @property
    def follows_speed(self) -> bool:
        """True if the router's own clock runs at the scenario's speed; the waits of other routers do not change."""
        return not self.target and not self.command


@dataclass(frozen=True)
class Running:
    url: str
    process: subprocess.Popen[Any] | None = None

    def must_live(self, processes: Processes) -> None:
        if self.process is not None and self.process.poll() is not None:
            log = processes.log_of("router").read_text()[-2000:]
            raise BenchError(f"the router ended during the run, with status {self.process.returncode}; its log:\n{log}")


def endpoints_yaml(endpoints: Sequence[Endpoint], ports: Mapping[str, int], policy: Mapping[str, Any]) -> str:
    """The endpoints as the scenario describes them to a router, without their behaviour."""
    listed = [
        {
            "name": endpoint.name,
            "kind": endpoint.kind,
            "base_url": url_of(ports[endpoint.name]),
            "api_key": KEY,
            "models": [MODEL],
            "tier": endpoint.tier,
            **({"concurrency": endpoint.concurrency} if endpoint.concurrency else {}),
        }
        for endpoint in endpoints
    ]
    return yaml.safe_dump({"defaults": dict(policy), "endpoints": listed}, sort_keys=False)


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def start(
    router: Router, processes: Processes, place: Place, config: str, ports: Mapping[str, int], speed: float
) -> Running:
    """Start the router, unless it is already running; returns when it accepts connections."""
    if router.target:
        return Running(Target.of(router.target).url)
    (port,) = free_ports(1)
    file = processes.folder / "endpoints.yaml"
    file.write_text(config)
    process = processes.start("router", words(router, port, file, ports), place, env=environment(router, speed))
    processes.wait_ready("router", process, port)
    return Running(url_of(port), process)


def words(router: Router, port: int, file: Path, ports: Mapping[str, int]) -> list[str]:
    if router.command is None:
        if not ROUTER.exists():
            raise BenchError("firsttoken is not installed here: run scripts/install, or name a --target or --router")
        return [str(ROUTER), "serve", "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    facts = {"port": port, "config": file, "endpoints": ",".join(map(url_of, ports.values()))}
    try:
        return [word.format(**facts) for word in shlex.split(router.command)]
    except (KeyError, ValueError, IndexError) as error:
        raise BenchError(
            f"--router {router.command}: {error}; the allowed fields are {{port}}, {{config}}, {{endpoints}}"
        ) from None


def environment(router: Router, speed: float) -> dict[str, str]:
    """The environment of the router: this process's own, without variables that would configure firsttoken."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FIRSTTOKEN_")}
    return inherited | ({"FIRSTTOKEN_SPEED": f"{speed:g}"} if router.follows_speed else {})
