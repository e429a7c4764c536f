"""One run of a scenario: its fake endpoints, the router and the driver as processes, and what all of them saw.

The router has the first core to itself; endpoints and driver, which are mostly idle, share the others. All of them
reckon from one `epoch` of the machine's monotonic clock.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from loadtest.latency import driver, routers
from loadtest.latency.arrivals import Call
from loadtest.latency.driver import Drive, Driven
from loadtest.latency.endpoints import Endpoint
from loadtest.latency.laws import Data
from loadtest.latency.results import Asked, Outcome, Run
from loadtest.latency.routers import Router
from loadtest.latency.scenarios import Scenario, Without
from loadtest.latency.stand import Stand
from loadtest.processes import BenchError, Places, Processes, free_ports, must_be_free, raise_file_limit

LEAD = 1.0  # seconds from telling everybody when it begins until it does
Told = Callable[[int], None]  # how many calls are over, for who watches


@dataclass(frozen=True)
class Order:
    """What is to be run: the calls of a scenario for one seed, against one router, so many times as fast."""

    scenario: Scenario
    calls: Sequence[Call]
    seed: int
    speed: float
    router: Router
    data: Data | None = None
    nice: int = 0
    port: int | None = None  # of the first fake endpoint, the others follow; None takes any
    left_out: frozenset[str] = frozenset()  # endpoints that keep their port, where nobody listens

    def ports(self) -> dict[str, int]:
        """Who is left out leaves a gap: a router that runs already was told the ports of all."""
        names = self.scenario.names
        first = self.port
        ports = free_ports(len(names)) if first is None else [first + number for number in range(len(names))]
        return {name: port for name, port in zip(names, ports, strict=True) if name not in self.left_out}

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(each for each in self.scenario.endpoints if each.name not in self.left_out)

    def without(self, name: str) -> Order:
        return replace(self, left_out=self.left_out | {name})

    @property
    def to_do_without(self) -> list[str]:
        """Endpoints that a mark compares the run with one without."""
        return sorted({mark.endpoint for mark in self.scenario.marks if isinstance(mark, Without)})

    def config(self, ports: Mapping[str, int]) -> str:
        return routers.endpoints_yaml(self.endpoints, ports, self.scenario.policy)


@dataclass(frozen=True)
class Fakes:
    """The process of the endpoints, by its control port."""

    control: int

    def start(self, epoch: float) -> None:
        self._say("POST", "start", {"epoch": epoch})

    def log(self) -> list[Asked]:
        return [Asked(**each) for each in self._say("GET", "log") if each["k"] is not None]

    def _say(self, method: str, path: str, body: object = None) -> Any:
        url = f"http://127.0.0.1:{self.control}/{path}"
        with httpx.Client(trust_env=False, timeout=30) as client:
            return client.request(method, url, json=body).raise_for_status().json()


def run(order: Order, folder: Path, tell: Told = lambda _: None) -> Run:
    """Everything that it started has ended when it returns or raises; their logs are in `folder`."""
    if order.nice < 0 and os.geteuid() != 0:
        raise BenchError("--nice below 0 is for root")
    raise_file_limit()
    places = Places.of_this_machine(order.nice)
    with Processes(folder) as processes:
        ports = order.ports()
        must_be_free(ports.values())
        fakes = start_fakes(order, processes, places, ports)
        config = order.config(ports)
        running = routers.start(order.router, processes, places.gateway, config, ports, order.speed)
        must_answer(order, running.url, config)
        epoch = time.monotonic() + LEAD
        fakes.start(epoch)
        driven = drive(order, running.url, epoch, processes, places, tell)
        running.must_live(processes)
        attempts = fakes.log()
    return Run(
        scenario=order.scenario.name,
        seed=order.seed,
        speed=order.speed,
        router=order.router.name,
        calls=[outcome(call, each) for call, each in zip(order.calls, driven, strict=True)],
        attempts=attempts,
    )


def start_fakes(order: Order, processes: Processes, places: Places, ports: Mapping[str, int]) -> Fakes:
    (control,) = free_ports(1)
    stand = Stand(
        endpoints=order.endpoints,
        seed=order.seed,
        speed=order.speed,
        calls=tuple(order.calls),
        ports=dict(ports),
        control=control,
        data=None if order.data is None else {name: list(times) for name, times in order.data.items()},
        model=routers.MODEL,
        told_faster=1.0 if order.router.lives_faster else order.speed,
    )
    command = [sys.executable, "-m", "loadtest.latency.endpoint"]
    process = processes.start("endpoints", command, places.load, told=stand.as_json())
    processes.wait_ready("endpoints", process, control)
    return Fakes(control)


def must_answer(order: Order, url: str, config: str) -> None:
    """Before it counts: who cannot answer now is not configured. Ours is, and should learn nothing from it."""
    if order.router.lives_faster:
        return
    body = {"model": routers.MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=30, trust_env=False)
        problem = None if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:300]}"
    except httpx.HTTPError as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise BenchError(
            f"{url} does not serve the model {routers.MODEL!r}: {problem}\nAs an endpoints.yaml it needs:\n{config}"
        )


def drive(order: Order, url: str, epoch: float, processes: Processes, places: Places, tell: Told) -> list[Driven]:
    rows = [(call.k, call.at, call.tokens, call.generated) for call in order.calls]
    plan = Drive(url=url, epoch=epoch, speed=order.speed, calls=rows, model=routers.MODEL)
    command = [sys.executable, "-m", "loadtest.latency.driver"]
    process = processes.start("driver", command, places.load, told=json.dumps(asdict(plan)), listen=True)
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            told = driver.said(line)
            if isinstance(told, list):
                return told
            tell(told)
    raise BenchError(f"the driver ended without a result; it said:\n{processes.log_of('driver').read_text()[-2000:]}")


def outcome(call: Call, driven: Driven) -> Outcome:
    """`driven` in the words of the results; the first token says whose it is."""
    return Outcome(
        k=call.k,
        at=call.at,
        tokens=call.tokens,
        first_token=driven.first_token,
        ended=driven.ended,
        status=driven.status,
        error=driven.error,
        endpoint=driven.text or None,
        late=driven.late,
    )
