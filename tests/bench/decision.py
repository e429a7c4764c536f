"""Benchmark of a decision: microseconds of one core per call and per renewal of a plan, with few and many endpoints.

A call is its race from beginning to end, with nothing around it: `Race()`, `next_attempt`, `wake_at`, `commit` and the
attempt's `end`. `pick` is the choice alone. All endpoints have evidence, the sizes of prompts matter, and a few other
calls are pending. Each figure is the best of some rounds, because other processes disturb the rest.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from math import exp
from random import Random
from time import perf_counter

from router.config import parse
from router.core.choice.pick import pick
from router.core.choice.race import Race
from router.core.choice.route import Route
from router.core.choice.table import rebuild
from router.core.demand import Demand
from router.core.endpoint.endpoint import Endpoint
from router.core.verdict import Outcome, Verdict

ENDPOINTS = (1, 2, 10, 100, 1000)
SEEN = 100  # recorded waits of each endpoint
PENDING = 3  # attempts of other calls
SIZE = 1000.0  # tokens of the prompt of each call
DEMAND = Demand("first_token", SIZE)
SECONDS_PER_TOKEN = 2e-5  # of the prompt
MAX_AGE = 0.3  # seconds that a pending attempt has waited for at most


class Decision:
    """Calls of one model with so many endpoints, one after another; `now` advances by the wait of each."""

    def __init__(self, endpoints: int, seed: int = 1) -> None:
        rng = self.rng = Random(seed)
        self.now, self.route = 1000.0, _route(endpoints)
        self.medians = {endpoint: exp(rng.uniform(-1.5, -0.5)) for endpoint in self.route.endpoints}
        self.noise = cycle([rng.lognormvariate(0.0, 0.3) for _ in range(997)])
        for endpoint in self.route.endpoints:
            for seen in range(SEEN):
                size = rng.choice((100.0, 1000.0, 8000.0))
                wait = self.wait(endpoint) + SECONDS_PER_TOKEN * (size - SIZE)
                endpoint.forecast.latency("first_token").observe(max(0.05, wait), self.now - 0.1 * (SEEN - seen), size)
        self.renew()
        self.pending = deque(endpoint.begin(self.now) for endpoint in islice(self.route.endpoints, PENDING))

    def wait(self, endpoint: Endpoint) -> float:
        """A random wait of a call at this endpoint, in seconds."""
        return self.medians[endpoint] * next(self.noise)

    def call(self) -> None:
        """One call from its first attempt to its end."""
        race = Race(self.route, DEMAND, self.now, self.rng)
        attempt = race.next_attempt(self.now)
        assert attempt is not None
        assert race.wake_at > self.now
        self.now += self.wait(attempt.endpoint)
        race.commit(attempt, self.now)
        attempt.end(Outcome(Verdict.SERVED), self.now)
        self.pending[0].began = self.now - MAX_AGE * self.rng.random()
        self.pending.rotate()

    def pick(self) -> None:
        """The choice of an endpoint alone."""
        assert pick(self.route.tiers[0].endpoints, DEMAND, self.now, self.rng)

    def learn(self) -> None:
        """Record a wait at each endpoint, so that the next renewal draws its curve anew."""
        for endpoint in self.route.endpoints:
            endpoint.forecast.latency("first_token").observe(self.wait(endpoint), self.now, SIZE)

    def renew(self) -> None:
        """Renew the plan of hedges."""
        self.route.replan(self.now)


def _route(endpoints: int) -> Route:
    entries = [
        {"name": f"e{i}", "kind": "openai", "base_url": f"http://e{i}/v1", "models": ["chat"]} for i in range(endpoints)
    ]
    return rebuild(parse(json.dumps({"endpoints": entries}))).routes["chat"]


def best(action: Callable[[], object], times: int, rounds: int) -> float:
    """Microseconds of one action, in the best of the rounds."""
    least = float("inf")
    for _ in range(rounds):
        began = perf_counter()
        for _ in range(times):
            action()
        least = min(least, perf_counter() - began)
    return 1e6 * least / times


def measure(endpoints: int, calls: int, rounds: int) -> Sequence[float]:
    """Microseconds of a call, of `pick`, and of a renewal of the plan."""
    decision, times = Decision(endpoints), max(1, calls // endpoints)
    renewals = []
    for _ in range(rounds):
        decision.learn()
        renewals.append(best(decision.renew, 1, 1))
    return best(decision.call, times, rounds), best(decision.pick, times, rounds), min(renewals)


def numbers(text: str) -> Sequence[int]:
    return [int(number) for number in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "bench --decision", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--endpoints", type=numbers, default=ENDPOINTS, metavar="N,N", help="numbers of endpoints (1,2,10,100,1000)"
    )
    parser.add_argument(
        "--calls", type=int, default=5_000, help="calls per round, divided by the number of endpoints (5000)"
    )
    parser.add_argument("--rounds", type=int, default=50, help="rounds, of which the best counts (50)")
    options = parser.parse_args(arguments)
    print("endpoints    a call, µs    pick, µs    a plan, µs")
    for endpoints in options.endpoints:
        call, choice, plan = measure(endpoints, options.calls, options.rounds)
        print(f"{endpoints:9,d} {call:13,.1f} {choice:11,.1f} {plan:13,.0f}", flush=True)


if __name__ == "__main__":
    main()
