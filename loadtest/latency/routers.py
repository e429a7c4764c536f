"""The router under test: started with an endpoints.yaml made for the scenario, or one that runs already."""

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
    """How to come by it: a `target` that runs, a `command` to start, or, with neither, firsttoken."""

    target: str | None = None
    command: str | None = None

    @property
    def name(self) -> str:
        return self.target or self.command or OURS

    @property
    def lives_faster(self) -> bool:
        """Whether its own clock is told the speed; another router's waits stay as long as they are."""
        return not self.target and not self.command


@dataclass(frozen=True)
class Running:
    url: str
    process: subprocess.Popen | None = None

    def must_live(self, processes: Processes) -> None:
        if self.process is not None and self.process.poll() is not None:
            said = processes.log_of("router").read_text()[-2000:]
            raise BenchError(
                f"the router ended in the middle of the run, with {self.process.returncode}; it said:\n{said}"
            )


def endpoints_yaml(endpoints: Sequence[Endpoint], ports: Mapping[str, int], policy: Mapping[str, Any]) -> str:
    """As the scenario describes them to a router; what they will do is not in it."""
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
    """Ready to be asked."""
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
            f"--router {router.command}: {error}; it may have {{port}}, {{config}}, {{endpoints}}"
        ) from None


def environment(router: Router, speed: float) -> dict[str, str]:
    """Ours, without what would configure a firsttoken otherwise."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FIRSTTOKEN_")}
    return inherited | ({"FIRSTTOKEN_SPEED": f"{speed:g}"} if router.lives_faster else {})
