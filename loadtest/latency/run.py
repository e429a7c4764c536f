"""One run of a scenario: starts its fake endpoints, the router and the driver as processes, and collects the results.

The router has the first core to itself; endpoints and driver, which are mostly idle, share the others. All of them
count time from one `epoch` of the machine's monotonic clock.
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

LEAD = 1.0  # seconds between announcing the epoch to all processes and the epoch
OnProgress = Callable[[int], None]  # called with the number of finished calls


@dataclass(frozen=True)
class Order:
    """The options of a run: the calls of a scenario for one seed, the router, and the speed."""

    scenario: Scenario
    calls: Sequence[Call]
    seed: int
    speed: float
    router: Router
    data: Data | None = None
    nice: int = 0
    port: int | None = None  # port of the first fake endpoint, the others follow; None takes any free ones
    omitted: frozenset[str] = frozenset()  # endpoints that are not started; their ports stay unused

    def ports(self) -> dict[str, int]:
        """Ports by endpoint. Omitted endpoints leave gaps, because a running router is configured with all ports."""
        names = self.scenario.names
        first = self.port
        ports = free_ports(len(names)) if first is None else [first + number for number in range(len(names))]
        return {name: port for name, port in zip(names, ports, strict=True) if name not in self.omitted}

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(each for each in self.scenario.endpoints if each.name not in self.omitted)

    def without(self, name: str) -> Order:
        return replace(self, omitted=self.omitted | {name})

    @property
    def compared_without(self) -> list[str]:
        """The endpoints without which the run is repeated, because a mark compares the two."""
        return sorted({mark.endpoint for mark in self.scenario.marks if isinstance(mark, Without)})

    def config(self, ports: Mapping[str, int]) -> str:
        return routers.endpoints_yaml(self.endpoints, ports, self.scenario.policy)


@dataclass(frozen=True)
class Fakes:
    """The process of the fake endpoints, reached over its control port."""

    control: int

    def start(self, epoch: float) -> None:
        self._request("POST", "start", {"epoch": epoch})

    def log(self) -> list[Asked]:
        return [Asked(**each) for each in self._request("GET", "log") if each["k"] is not None]

    def _request(self, method: str, path: str, body: object = None) -> Any:
        url = f"http://127.0.0.1:{self.control}/{path}"
        with httpx.Client(trust_env=False, timeout=30) as client:
            return client.request(method, url, json=body).raise_for_status().json()


def run(order: Order, folder: Path, on_progress: OnProgress = lambda _: None) -> Run:
    """Run an order. All processes have ended when this returns or raises; their logs are in `folder`."""
    if order.nice < 0 and os.geteuid() != 0:
        raise BenchError("--nice below 0 needs root")
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
        driven = drive(order, running.url, epoch, processes, places, on_progress)
        running.must_live(processes)
        attempts = fakes.log()
    return Run(
        scenario=order.scenario.name,
        seed=order.seed,
        speed=order.speed,
        router=order.router.name,
        calls=[outcome(order, call, each) for call, each in zip(order.calls, driven, strict=True)],
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
        retry_after_divisor=1.0 if order.router.follows_speed else order.speed,
    )
    command = [sys.executable, "-m", "loadtest.latency.endpoint"]
    process = processes.start("endpoints", command, places.load, stdin=stand.as_json())
    processes.wait_ready("endpoints", process, control)
    return Fakes(control)


def must_answer(order: Order, url: str, config: str) -> None:
    """Raise a BenchError unless the router answers one call before the run.

    firsttoken is not called: its configuration is known to fit, and it should learn nothing before the run.
    """
    if order.router.follows_speed:
        return
    body = {"model": routers.MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=30, trust_env=False)
        problem = None if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:300]}"
    except httpx.HTTPError as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise BenchError(
            f"{url} does not serve the model {routers.MODEL!r}: {problem}\nIt needs this endpoints.yaml:\n{config}"
        )


def drive(
    order: Order, url: str, epoch: float, processes: Processes, places: Places, on_progress: OnProgress
) -> list[Driven]:
    rows = [(call.k, call.at, call.tokens, call.generated, call.plain) for call in order.calls]
    plan = Drive(url=url, epoch=epoch, speed=order.speed, calls=rows, model=routers.MODEL)
    command = [sys.executable, "-m", "loadtest.latency.driver"]
    process = processes.start("driver", command, places.load, stdin=json.dumps(asdict(plan)), listen=True)
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            parsed = driver.parsed(line)
            if isinstance(parsed, list):
                return parsed
            on_progress(parsed)
    raise BenchError(f"the driver ended without a result; its log:\n{processes.log_of('driver').read_text()[-2000:]}")


def outcome(order: Order, call: Call, driven: Driven) -> Outcome:
    """The outcome of a call from the driver's result; the text of the first token is the endpoint's name.

    Of a plain answer the time of its first token is reported too: its tokens take as long as their rate says.
    """
    name, first_token = driven.text.split(" ")[0], driven.first_token
    if call.plain and first_token is not None:
        first_token -= sum(call.generated / each.rate for each in order.endpoints if each.name == name)
    return Outcome(
        k=call.k,
        at=call.at,
        tokens=call.tokens,
        first_token=first_token,
        ended=driven.ended,
        status=driven.status,
        error=driven.error,
        endpoint=name or None,
        late=driven.late,
    )
