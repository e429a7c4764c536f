"""What could be had: the calls of a run as four would have it that know nothing, one thing, the laws, or the draws.

random        asks anybody of the best tier
best fixed    always asks the same endpoint of the best tier first: the one with the lowest mean, in hindsight
informed      knows every law at every moment and who can take a call, but not the draws: asks the lowest mean of the
              best tier that can take it, and hedges with the delay and the rival that minimise

                  E[min(X, d + Y)] + price · P(X > d)

              with one price for the whole run, the lowest at which there are at most BUDGET hedges a call
clairvoyant   knows the draws: asks who will answer first, of all tiers; needs no hedge

Failures are tried elsewhere at once, by the same rule. None sees what its choice means for the calls that come later.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log
from random import Random
from statistics import fmean

import numpy as np

from loadtest.latency.arrivals import Call
from loadtest.latency.draws import chance
from loadtest.latency.laws import Data, Floats
from loadtest.latency.play import DEADLINE, Hedge, Play, Played
from loadtest.latency.scenarios import Scenario
from loadtest.latency.servers import Server

BUDGET = 0.1  # hedges a call
PRICES = (1e-3, 1e3)  # seconds a hedge, between which the informed one's is sought
HALVINGS = 12  # to 0.4 % of the price
TENTH = 0.1  # seconds: how exactly a line is known


@dataclass(frozen=True)
class Reference:
    """One of the four over all calls, the warm-up included; `note` is what it had to choose once."""

    name: str
    played: Sequence[Played]
    note: str = ""

    def mean(self, warmup: int) -> float:
        """Of the first-token times, with the deadline for calls that were never answered."""
        return fmean(min(played.first_token, DEADLINE) for played in self.played if played.k >= warmup)

    @property
    def extra(self) -> float:
        """Hedges a call."""
        return sum(played.rivals for played in self.played) / len(self.played)


def references(scenario: Scenario, seed: int, calls: Sequence[Call], data: Data | None = None) -> dict[str, Reference]:
    """All four, by name, for the same seed, calls and data as the run's."""
    four = (
        random(scenario, seed, calls, data),
        best_fixed(scenario, seed, calls, data),
        informed(scenario, seed, calls, data),
        clairvoyant(scenario, seed, calls, data),
    )
    return {reference.name: reference for reference in four}


def random(scenario: Scenario, seed: int, calls: Sequence[Call], data: Data | None = None) -> Reference:
    servers = scenario.servers(seed, data)
    return Reference("random", Play(servers, calls, Anybody(servers, chance(seed, "random"))).run())


def best_fixed(scenario: Scenario, seed: int, calls: Sequence[Call], data: Data | None = None) -> Reference:
    def with_first(name: str) -> Reference:
        order = [name, *(other for other in scenario.names if other != name)]
        return Reference("best fixed", Play(scenario.servers(seed, data), calls, Fixed(order)).run(), name)

    of_best_tier = [server.name for server in best_tier(scenario.servers(seed, data).values())]
    return min(map(with_first, of_best_tier), key=lambda reference: reference.mean(scenario.warmup))


def informed(
    scenario: Scenario, seed: int, calls: Sequence[Call], data: Data | None = None, budget: float = BUDGET
) -> Reference:
    memory = Memory()

    def at(price: float) -> Reference:
        servers = scenario.servers(seed, data)
        played = Play(servers, calls, Informed(servers, price, memory)).run()
        return Reference("informed", played, "no hedges" if price == inf else f"{price:.3g} s a hedge")

    best, (low, high) = at(inf), PRICES
    for _ in range(HALVINGS if budget else 0):
        price = exp((log(low) + log(high)) / 2)
        found = at(price)
        if found.extra <= budget:
            best, high = found, price
        else:
            low = price
    return best


def clairvoyant(scenario: Scenario, seed: int, calls: Sequence[Call], data: Data | None = None) -> Reference:
    servers = scenario.servers(seed, data)
    return Reference("clairvoyant", Play(servers, calls, Clairvoyant(servers)).run())


# ---- The four policies


class Blind:
    """Never hedges."""

    def hedge(self, call: Call, asked: str, now: float) -> Hedge | None:
        return None


@dataclass
class Anybody(Blind):
    servers: Mapping[str, Server]
    rng: Random

    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        left = best_tier(server for name, server in self.servers.items() if name not in tried)
        return self.rng.choice(left).name if left else None


@dataclass
class Fixed(Blind):
    order: Sequence[str]

    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        return next((name for name in self.order if name not in tried), None)


@dataclass
class Clairvoyant(Blind):
    servers: Mapping[str, Server]

    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        foreseen = {name: server.foreseen(call, now) for name, server in self.servers.items() if name not in tried}
        soonest = min(foreseen, key=foreseen.__getitem__, default=None)
        return soonest if soonest is not None and foreseen[soonest] < inf else None


@dataclass
class Memory:
    """What the informed one has reckoned, for all prices."""

    times: dict[tuple[str, Hashable], Floats] = field(default_factory=dict)
    curves: dict[Hashable, Curve] = field(default_factory=dict)


@dataclass
class Informed:
    servers: Mapping[str, Server]
    price: float
    memory: Memory

    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        able = best_tier(s for name, s in self.servers.items() if name not in tried and s.takes(now))
        return min(able, key=lambda server: expected(server, call, now)).name if able else None

    def hedge(self, call: Call, asked: str, now: float) -> Hedge | None:
        if self.price == inf:
            return None
        server = self.servers[asked]
        rivals = [other for other in self.servers.values() if other is not server and other.takes(now)]
        found = [(*self.curve(server, rival, call, now).best(self.price), rival.name) for rival in rivals]
        _, delay, rival = min(found, default=(inf, inf, ""))
        return Hedge(delay, rival) if delay < inf else None

    def curve(self, server: Server, rival: Server, call: Call, now: float) -> Curve:
        ours, lines = self.law(server, call), self.line(server, call, now)
        theirs, others = self.law(rival, call), self.line(rival, call, now)
        key = *ours, lines, *theirs, others
        if key not in self.memory.curves:
            times = self.memory.times
            self.memory.curves[key] = Curve(times[ours] + lines, times[theirs] + others)
        return self.memory.curves[key]

    def law(self, server: Server, call: Call) -> tuple[str, Hashable]:
        """The key of its times, which are kept."""
        key = server.name, server.state(call.at, call.tokens)
        if key not in self.memory.times:
            self.memory.times[key] = server.known(call.at, call.tokens)
        return key

    def line(self, server: Server, call: Call, now: float) -> float:
        return round(server.wait(call.at, call.tokens, now) / TENTH) * TENTH


def best_tier(servers: Iterable[Server]) -> list[Server]:
    servers = list(servers)
    best = min((server.endpoint.tier for server in servers), default=0)
    return [server for server in servers if server.endpoint.tier == best]


def expected(server: Server, call: Call, now: float) -> float:
    """Seconds to the first token, where a refusal is followed by another try."""
    failing = server.endpoint.failing(now)
    share = failing.share if failing else 0.0
    wait = server.wait(call.at, call.tokens, now) + server.law.mean(call.at, call.tokens)
    return wait + server.endpoint.refuses_in * share / (1 - share)


class Curve:
    """E[min(X, d + Y)] and P(X > d) for each delay d that may be best; X and Y are equally likely times, in order."""

    def __init__(self, waits: Floats, rivals: Floats) -> None:
        # A hedge is best just after a time at which X may come: these times themselves, all of them in the last tenth.
        some, last = waits[:: max(1, len(waits) // 50)], waits[-(len(waits) // 10) :]
        candidates = np.unique(np.concatenate([[0.0], some, last]))
        sums = np.concatenate([[0.0], np.cumsum(rivals)])
        left = waits[None, :] - candidates[:, None]
        below = np.searchsorted(rivals, left.ravel(), side="right").reshape(left.shape)
        shorter = (sums[below] + left * (len(rivals) - below)) / len(rivals)  # E[min(left, Y)]
        late = left > 0
        self.delays = candidates
        self.means = np.where(late, candidates[:, None] + shorter, waits[None, :]).mean(axis=1)
        self.shares = late.mean(axis=1)
        self.alone = float(waits.mean())

    def best(self, price: float) -> tuple[float, float]:
        """The least of mean + price · share, and its delay; inf where nothing is better than no hedge."""
        costs = self.means + price * self.shares
        number = int(np.argmin(costs))
        return (float(costs[number]), float(self.delays[number])) if costs[number] < self.alone else (self.alone, inf)
