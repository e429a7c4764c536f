"""Streams at one fixed rate for all gateways: a closed loop flatters a slow gateway, which gathers events while late.

The rate is the highest of RATES at which every gateway has spare time. A short survey finds it, from the lowest rate
up. A gateway without spare time at the lowest rate is left out: otherwise no rate would suit the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.cost.scenarios import Bench, open_loop, progress, ratios, take_turns
from loadtest.cost.tools import run_client

# Streams per second.
RATES = (500, 1_000, 1_500, 2_000)
# A busier gateway gathers several events in one read, and so looks cheaper per stream.
BUSIEST = 0.7
# A turn of 2 s at 500 streams/s has 1,000 ± 32 requests: 10 % less than the rate (3 deviations) is no chance.
HELD = 0.9
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Look:
    """A gateway's short turn at one rate: the share of its core in use, and the streams answered per second."""

    busy: float
    reached: float

    def suits(self, rate: int) -> bool:
        return self.busy < BUSIEST and self.reached >= HELD * rate


@dataclass
class Survey:
    """The outcome of the looks at all gateways: the rate, None if none suits; `limit` says why it is not higher."""

    rate: int | None = None
    limit: str = ""
    left_out: dict[str, float] = field(default_factory=dict)
    looks: dict[int, dict[str, Look]] = field(default_factory=dict)


def survey(names: Iterable[str], look: Callable[[str, int], Look], load_holds: Callable[[int], bool]) -> Survey:
    """Choose the rate: look at each gateway at each rate, from the lowest up, until one or the load is too slow."""
    found, members = Survey(), list(names)
    for rate in RATES:
        if not (load_holds(rate) or load_holds(rate)):
            found.limit = f"load and endpoints alone do not hold {rate:,} streams/s"
            return found
        looks = found.looks[rate] = {name: confirmed(look, name, rate) for name in members}
        full = {name: one.busy for name, one in looks.items() if one.busy >= BUSIEST}
        late = [name for name, one in looks.items() if name not in full and not one.suits(rate)]
        if late:
            found.limit = (
                f"{rate:,} streams/s were not reached at {', '.join(late)}, which had spare time: "
                "load and endpoints, or other processes, were the bottleneck"
            )
            return found
        if rate == RATES[0]:
            found.left_out, members = full, [name for name in members if name not in full]
        elif full:
            found.limit = f"at {rate:,} streams/s: " + shares(full)
            return found
        if not members:
            found.limit = f"no gateway is below {BUSIEST:.0%} busy at {rate:,} streams/s"
            return found
        found.rate = rate
    return found


def confirmed(look: Callable[[str, int], Look], name: str, rate: int) -> Look:
    """A look at a gateway; one that tells against the rate is repeated, since another process may have disturbed it."""
    first = look(name, rate)
    return first if first.suits(rate) else look(name, rate)


def shares(busy: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%} busy" for name, share in busy.items())


def measure(bench: Bench) -> dict[str, Any]:
    """Find the rate, then measure processor time per stream at it: one result of the client per gateway and round."""
    bench.favour(os.SCHED_OTHER)
    running = {one.name: one for one in bench.running}
    seconds = min(bench.seconds, LOOK_SECONDS)

    def look(name: str, rate: int) -> Look:
        progress(f"streams at {rate:,}/s: how busy is {name}")
        one = running[name]
        answer = run_client(bench.places.load, [one.port], one.pids, seconds=seconds, **open_loop(rate, 1))
        return Look(answer["pids"]["busy"], answer["requests_per_second"])

    def load_holds(rate: int) -> bool:
        progress(f"streams at {rate:,}/s: directly to the endpoints")
        answer = run_client(bench.places.load, bench.endpoints.ports, [], seconds=seconds, **open_loop(rate, 1))
        return bool(answer["requests_per_second"] >= HELD * rate)

    found = survey(running, look, load_holds)
    rounds: dict[str, list[dict[str, Any]]] = {}
    if found.rate is not None:
        rate, members = found.rate, [one for one in bench.running if one.name not in found.left_out]
        rounds = take_turns(bench, members, f"streams at {rate:,}/s", lambda seed: open_loop(rate, seed))
    return {**asdict(found), "rounds": rounds, "ratios": ratios(rounds) if rounds else {}}
