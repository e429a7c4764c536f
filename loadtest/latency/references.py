"""The references: the same calls, played by four policies that know more or less than a router can.

random        tries a random endpoint of the best tier
best fixed    always tries the same endpoint of the best tier first: the one with the lowest mean, in hindsight
informed      knows every law at every time and which endpoints can take a call, but not the draws; tries the lowest
              mean of the best tier that can take the call, and hedges with the delay d and the target that minimise

                  E[min(X, d + Y)] + price · P(X > d)

              with one price for the whole run, the lowest at which there are at most BUDGET hedges per call
clairvoyant   knows the draws: tries the endpoint that will answer first, of all tiers; needs no hedge

A failed attempt is retried elsewhere at once, by the same rule. No policy considers later calls in its choice.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
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

BUDGET = 0.1  # hedges per call
PRICES = (1e-3, 1e3)  # bounds of the price of a hedge, in seconds
HALVINGS = 12  # steps of the search for the price, which give it to 0.4 %
TENTH = 0.1  # seconds to which the wait in a queue is rounded


@dataclass(frozen=True)
class Reference:
    """The result of one policy over all calls, including the warm-up; `note` names its one choice for the whole run."""

    name: str
    played: Sequence[Played]
    note: str = ""

    def mean(self, warmup: int) -> float:
        """The mean first-token time, with the deadline for calls that were never answered."""
        return fmean(min(played.first_token, DEADLINE) for played in self.played if played.k >= warmup)

    @property
    def extra(self) -> float:
        """Hedges per call."""
        return sum(played.hedges for played in self.played) / len(self.played)


def references(scenario: Scenario, seed: int, calls: Sequence[Call], data: Data | None = None) -> dict[str, Reference]:
    """All four references by name, for the seed, calls and data of a run."""
    four = (
        random(scenario, seed, calls, data),
        best_fixed(scenario, seed, calls, data),
        informed(scenario, seed, calls, data),
        clairvoyant(scenario, seed, calls, data),
    )
    return {reference.name: reference for reference in four}


def random(scenario: Scenario, seed: int, calls: Sequence[Call], data: Data | None = None) -> Reference:
    servers = scenario.servers(seed, data)
    return Reference("random", Play(servers, calls, RandomChoice(servers, chance(seed, "random"))).run())


def best_fixed(scenario: Scenario, seed: int, calls: Sequence[Call], data: Data | None = None) -> Reference:
    def with_first(name: str) -> Reference:
        order = [name, *(other for other in scenario.names if other != name)]
        return Reference("best fixed", Play(scenario.servers(seed, data), calls, Fixed(order)).run(), name)

    of_best_tier = [server.name for server in best_tier(scenario.servers(seed, data).values())]
    return min(map(with_first, of_best_tier), key=lambda reference: reference.mean(scenario.warmup))


def informed(
    scenario: Scenario,
    seed: int,
    calls: Sequence[Call],
    data: Data | None = None,
    budget: float = BUDGET,
    price: float | None = None,
) -> Reference:
    """The informed policy; a `price` in seconds per hedge replaces the search for one that keeps to the budget."""
    memory = Memory()

    def at(price: float) -> Reference:
        servers = scenario.servers(seed, data)
        played = Play(servers, calls, Informed(servers, price, memory)).run()
        return Reference("informed", played, "no hedges" if price == inf else f"{price:.3g} s per hedge")

    if price is not None:
        return at(price)
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


class Unhedged:
    """The base of the policies that never hedge."""

    def hedge(self, call: Call, asked: str, now: float) -> Hedge | None:
        return None


@dataclass
class RandomChoice(Unhedged):
    servers: Mapping[str, Server]
    rng: Random

    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        left = best_tier(server for name, server in self.servers.items() if name not in tried)
        return self.rng.choice(left).name if left else None


@dataclass
class Fixed(Unhedged):
    order: Sequence[str]

    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        return next((name for name in self.order if name not in tried), None)


@dataclass
class Clairvoyant(Unhedged):
    servers: Mapping[str, Server]

    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        foreseen = {name: server.foreseen(call, now) for name, server in self.servers.items() if name not in tried}
        soonest = min(foreseen, key=foreseen.__getitem__, default=None)
        return soonest if soonest is not None and foreseen[soonest] < inf else None


@dataclass
class Memory:
    """Results that the informed policy has computed, shared by all prices."""

    times: dict[tuple[int, Hashable], Floats] = field(default_factory=dict)
    curves: dict[Hashable, Curve] = field(default_factory=dict)


class Informed:
    """Looks at one server of each group, since its expectations of all of them are the same."""

    def __init__(self, servers: Mapping[str, Server], price: float, memory: Memory) -> None:
        self.servers, self.price, self.memory = servers, price, memory
        self.groups = alike(servers.values())
        self.group_of = {server.name: number for number, group in enumerate(self.groups) for server in group}

    def first(self, call: Call, tried: Collection[str], now: float) -> str | None:
        able = best_tier(s for s in self.one_of_each(tried) if s.takes(now))
        if not able:
            return None
        waits = [expected(server, call, now) for server in able]
        least = min(waits)
        best = [self.groups[self.group_of[s.name]] for s, wait in zip(able, waits, strict=True) if wait == least]
        equal = [server for group in best for server in group if server.name not in tried]
        return equal[call.k % len(equal)].name  # equal ones take turns

    def hedge(self, call: Call, asked: str, now: float) -> Hedge | None:
        if self.price == inf:
            return None
        server = self.servers[asked]
        targets = [other for other in self.one_of_each([asked]) if other.takes(now)]
        found = [(*self.curve(server, target, call, now).best(self.price), target.name) for target in targets]
        _, delay, name = min(found, default=(inf, inf, ""))
        return Hedge(delay, name) if delay < inf else None

    def curve(self, server: Server, target: Server, call: Call, now: float) -> Curve:
        law, queueing = self.law(server, call), self.queueing(server, call, now)
        target_law, target_queueing = self.law(target, call), self.queueing(target, call, now)
        key = *law, queueing, *target_law, target_queueing
        if key not in self.memory.curves:
            times = self.memory.times
            self.memory.curves[key] = Curve(times[law] + queueing, times[target_law] + target_queueing)
        return self.memory.curves[key]

    def one_of_each(self, tried: Collection[str]) -> Iterator[Server]:
        """The first untried server of each group."""
        for group in self.groups:
            untried = next((server for server in group if server.name not in tried), None)
            if untried is not None:
                yield untried

    def law(self, server: Server, call: Call) -> tuple[int, Hashable]:
        """The key of the server's times in `memory`, where they are computed once for a group."""
        key = self.group_of[server.name], server.state(call.at, call.tokens)
        if key not in self.memory.times:
            self.memory.times[key] = server.known(call.at, call.tokens)
        return key

    def queueing(self, server: Server, call: Call, now: float) -> float:
        return round(server.wait(call.at, call.tokens, now) / TENTH) * TENTH


def alike(servers: Iterable[Server]) -> list[list[Server]]:
    """The servers in groups: steady ones of one tier and law are always expected to be equal, others stand alone."""
    groups: dict[Hashable, list[Server]] = {}
    for server in servers:
        same = (server.endpoint.tier, server.law) if server.endpoint.steady else server.name
        groups.setdefault(same, []).append(server)
    return list(groups.values())


def best_tier(servers: Iterable[Server]) -> list[Server]:
    servers = list(servers)
    best = min((server.endpoint.tier for server in servers), default=0)
    return [server for server in servers if server.endpoint.tier == best]


def expected(server: Server, call: Call, now: float) -> float:
    """Expected seconds to the first token, if refused attempts are repeated."""
    failing = server.endpoint.failing(now)
    share = failing.share if failing else 0.0
    wait = server.wait(call.at, call.tokens, now) + server.law.mean(call.at, call.tokens)
    return wait + server.endpoint.refuses_in * share / (1 - share)


class Curve:
    """E[min(X, d + Y)] and P(X > d) for each delay d that may be best.

    X is the wait at the first endpoint and Y the wait at the hedge target; both are equally likely times in ascending
    order.
    """

    def __init__(self, waits: Floats, hedge_waits: Floats) -> None:
        # The best delay is just after a possible time of X. The candidates are some 50 such times, and every time of
        # the last tenth.
        some, last = waits[:: max(1, len(waits) // 50)], waits[-(len(waits) // 10) :]
        candidates = np.unique(np.concatenate([[0.0], some, last]))
        sums = np.concatenate([[0.0], np.cumsum(hedge_waits)])
        left = waits[None, :] - candidates[:, None]
        below = np.searchsorted(hedge_waits, left.ravel(), side="right").reshape(left.shape)
        shorter = (sums[below] + left * (len(hedge_waits) - below)) / len(hedge_waits)  # E[min(left, Y)]
        late = left > 0
        self.delays = candidates
        self.means = np.where(late, candidates[:, None] + shorter, waits[None, :]).mean(axis=1)
        self.shares = late.mean(axis=1)
        self.alone = float(waits.mean())

    def best(self, price: float) -> tuple[float, float]:
        """The least mean + price · share, and its delay; a delay of inf if no hedge is best."""
        costs = self.means + price * self.shares
        number = int(np.argmin(costs))
        return (float(costs[number]), float(self.delays[number])) if costs[number] < self.alone else (self.alone, inf)
