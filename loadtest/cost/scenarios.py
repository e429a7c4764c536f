"""The scenarios: each one drives all gateways in turn, round by round, and returns plain data.

Gateways take turns inside every round, in reverse order in every second round. Noise of other processes and the
machine's warming up then affect all gateways alike, and a ratio within a round is more reliable than a single figure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, TypeVar

from loadtest.cost import gateways
from loadtest.cost.gateways import Gateway, Running
from loadtest.cost.tools import Endpoints, run_client, start_endpoints
from loadtest.processes import BenchError, Places, Processes

EVENTS = 20
STREAMS = {"stream": 1, "events": EVENTS, "clients": 256}
PLAIN = {"stream": 0, "clients": 32}
# Held streams: one event per second, so that all are open together for about ten seconds after the ramp.
HOLD_EVENTS, HOLD_GAP_US, HOLD_RAMP = 20, 1_000_000, 8
DIRECT = "direct"
# Streams per second at which the added first-token time of all gateways is compared.
COMPARED_RATE = 600

Member = TypeVar("Member")


@dataclass
class Bench:
    """One run: the options, and the processes and places that it uses."""

    rounds: int
    seconds: float
    gateways: list[Gateway]
    streams: int
    files: int
    processes: Processes
    places: Places
    endpoints: Endpoints = field(init=False)
    running: list[Running] = field(default_factory=list)
    # The peers that could not be installed or started, each with the reason.
    left_out: dict[str, str] = field(default_factory=dict)

    def start_endpoints(self) -> None:
        self.endpoints = start_endpoints(self.processes, self.places.load, events=EVENTS, gap_us=1000)

    def start_gateways(self) -> None:
        self.running = [one for gateway in self.gateways if (one := self.start_gateway(gateway, self.endpoints))]

    @property
    def own(self) -> list[Running]:
        """The running gateways without the peers."""
        return [running for running in self.running if not running.gateway.peer]

    def favour(self, policy: int) -> None:
        """Set the scheduling policy of load and endpoints.

        SCHED_BATCH suits throughput: load and endpoints share cores and wake each other with every event, so otherwise
        most of the time would go into switching. SCHED_OTHER suits latency: a process that is woken may run at once.
        """
        self.places = replace(self.places, load=replace(self.places.load, policy=policy))
        self.endpoints.schedule(policy)

    def start_gateway(self, gateway: Gateway, endpoints: Endpoints) -> Running | None:
        """Start a gateway and wait for its first answer; a peer that fails is left out, any other ends the run."""
        try:
            return gateways.start(gateway, endpoints, self.processes, self.places.gateway, self.files)
        except BenchError as error:
            if not gateway.peer:
                raise
            self.left_out[gateway.name] = str(error)
            return None

    def turns(self, members: list[Member]) -> Iterator[Member]:
        for number in range(self.rounds):
            yield from members if number % 2 == 0 else reversed(members)

    def drive(self, target: Running, **load: Any) -> dict[str, Any]:
        return run_client(self.places.load, [target.port], target.pids, seconds=self.seconds, **load)

    def drive_direct(self, **load: Any) -> dict[str, Any]:
        return run_client(self.places.load, self.endpoints.ports, self.endpoints.pids, seconds=self.seconds, **load)


def progress(text: str) -> None:
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)


def calibrate(bench: Bench) -> dict[str, Any]:
    """Measure load and endpoints without a gateway: the most that they can do."""
    progress("calibration: directly to the endpoints")
    bench.favour(os.SCHED_BATCH)
    return {"streams": bench.drive_direct(**STREAMS), "plain": bench.drive_direct(**PLAIN)}


def cost(bench: Bench, what: str, load: dict[str, Any]) -> dict[str, Any]:
    """Measure processor time per request under full load: one result of the client per gateway and round."""
    bench.favour(os.SCHED_BATCH)
    rounds = take_turns(bench, bench.running, what, lambda _: load)
    return {"rounds": rounds, "ratios": ratios(rounds)}


def take_turns(
    bench: Bench, members: list[Running], what: str, load: Callable[[int], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Drive all members in turn, round by round; `load` gives the load of each round, from 1."""
    rounds: dict[str, list[dict[str, Any]]] = {running.name: [] for running in members}
    for running in bench.turns(members):
        number = len(rounds[running.name]) + 1
        progress(f"{what}: {running.name}, round {number} of {bench.rounds}")
        rounds[running.name].append(bench.drive(running, **load(number)))
    return rounds


def ratios(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, list[float]]:
    """The cost of each gateway divided by that of the first one, round by round."""
    yardstick, *others = rounds
    return {
        name: [
            us_per_request(one) / us_per_request(base)
            for one, base in zip(rounds[name], rounds[yardstick], strict=True)
        ]
        for name in others
        if all(map(us_per_request, rounds[yardstick]))
    }


def us_per_request(answer: dict[str, Any]) -> float:
    return float(answer["pids"]["us_per_request"])


def added_time(bench: Bench, saturated: float | None) -> list[dict[str, Any]]:
    """Measure first-token time under half load, less the first-token time directly at the endpoints.

    Half load is measured in two ways. An overloaded gateway finds many events in one read, and so handles many more
    streams per second than it could with one event per read. At half of that rate its core is far more than half busy.
    """
    most = (saturated or bench.drive(bench.own[-1], **STREAMS)["requests_per_second"]) / 2
    bench.favour(os.SCHED_OTHER)
    half_busy = min(most, rate_of_half_a_core(bench, most / 2))
    return [
        {"half": "its core", **added_at(bench, bench.own, half_busy)},
        {"half": "its highest rate of streams", **added_at(bench, bench.own, most)},
    ]


def added_time_at_one_rate(bench: Bench) -> dict[str, Any]:
    """Measure what `added_time` does, for all gateways and at a rate that does not depend on any of them."""
    bench.favour(os.SCHED_OTHER)
    return added_at(bench, bench.running, COMPARED_RATE)


def rate_of_half_a_core(bench: Bench, rate: float) -> float:
    """The rate of streams that keeps half a core busy, found in two steps: the cost of a stream depends on the load."""
    for _ in range(2):
        answer = bench.drive(bench.own[-1], **open_loop(rate, 1))
        rate *= 0.5 / max(0.05, answer["pids"]["busy"])
    return rate


def open_loop(rate: float, seed: int) -> dict[str, Any]:
    return {**STREAMS, "clients": 1024, "rate": f"{rate:.1f}", "seed": seed}


def added_at(bench: Bench, gateways: list[Running], rate: float) -> dict[str, Any]:
    members: list[Running | None] = [None, *gateways]
    rounds: dict[str, list[dict[str, Any]]] = {name_of(member): [] for member in members}
    for member in bench.turns(members):
        name = name_of(member)
        progress(f"added first-token time: {name}, round {len(rounds[name]) + 1} of {bench.rounds}")
        load = open_loop(rate, len(rounds[name]) + 1)
        rounds[name].append(bench.drive(member, **load) if member else bench.drive_direct(**load))
    return {
        "rate": rate,
        "rounds": rounds,
        "added_ms": {name: added(rounds, name) for name in rounds if name != DIRECT},
    }


def name_of(member: Running | None) -> str:
    return member.name if member else DIRECT


def added(rounds: dict[str, list[dict[str, Any]]], name: str) -> dict[str, list[float]]:
    return {
        quantile: [
            one["first_token_ms"][quantile] - base["first_token_ms"][quantile]
            for one, base in zip(rounds[name], rounds[DIRECT], strict=True)
        ]
        for quantile in ("p50", "p99")
    }


def hold(bench: Bench) -> dict[str, Any]:
    """Hold many streams open at once through one fresh process of each gateway; none may be lost."""
    slow = start_endpoints(bench.processes, bench.places.load, events=HOLD_EVENTS, gap_us=HOLD_GAP_US)
    answers = {}
    for gateway in bench.gateways:
        progress(f"{bench.streams} open streams: {gateway.name}")
        if gateway.name in bench.left_out or not (running := bench.start_gateway(gateway, slow)):
            continue
        # A few plain answers first: memory that a process allocates once is not counted as a stream's memory.
        run_client(bench.places.load, [running.port], [], stream=0, clients=8, requests=200, seconds=10)
        answers[gateway.name] = run_client(
            bench.places.load,
            [running.port],
            running.pids,
            hold=bench.streams,
            ramp=HOLD_RAMP,
            events=HOLD_EVENTS,
            seconds=60,
        )
        bench.processes.stop(running.process)
    return answers


def faults(results: Any) -> int:
    """The number of bad, broken and unsent requests anywhere in the results."""
    if isinstance(results, dict):
        own = int(sum(results.get(kind, 0) for kind in ("bad", "broken", "unsent")))
        return own + sum(map(faults, results.values()))
    return sum(map(faults, results)) if isinstance(results, list) else 0


def profile(bench: Bench, seconds: float, load: dict[str, Any]) -> dict[str, Any]:
    """Put load on the last gateway only, for as long as a profiler needs."""
    bench.favour(os.SCHED_BATCH)
    target = bench.running[-1]
    print(f"{target.name} listens on port {target.port}; pids {' '.join(map(str, target.pids))}", flush=True)
    return run_client(bench.places.load, [target.port], target.pids, seconds=seconds, **load)


def saturated_rate(costs: dict[str, Any] | None, name: str) -> float | None:
    return median(one["requests_per_second"] for one in costs["rounds"][name]) if costs else None
