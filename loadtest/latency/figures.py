"""The figures of a run and of what could be had, reckoned alike: over the calls that count, in seconds of the scenario.

A call without a first token has the driver's whole limit as its time, so that nothing gets better by failing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.latency.marks import hedges
from loadtest.latency.play import DEADLINE
from loadtest.latency.references import Reference
from loadtest.latency.results import Outcome, Run

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Figures:
    """First-token times; extra attempts and retries a call; calls without a whole answer; who answered how many.

    An extra attempt is one that no failure asked for, a retry one that did.
    """

    name: str
    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    extra: float
    retries: float
    failed: int
    shares: Mapping[str, float]

    @property
    def times(self) -> tuple[float, ...]:
        return self.p50, self.p90, self.p95, self.p99, self.mean


def figures(
    name: str, first_tokens: Sequence[float], extra: int, attempts: int, failed: int, endpoints: Sequence[str | None]
) -> Figures:
    times = np.minimum(first_tokens, DEADLINE)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, PERCENTILES))
    answered = Counter(endpoint for endpoint in endpoints if endpoint)
    return Figures(
        name,
        p50,
        p90,
        p95,
        p99,
        mean=float(np.mean(times)),
        extra=extra / len(first_tokens),
        retries=max(0, attempts - extra) / len(first_tokens) - 1,
        failed=failed,
        shares={endpoint: count / len(first_tokens) for endpoint, count in sorted(answered.items())},
    )


def counted(run: Run, warmup: int) -> list[Outcome]:
    return [call for call in run.calls if call.k >= warmup]


def first_tokens(calls: Sequence[Outcome]) -> list[float]:
    return [DEADLINE if call.first_token is None else call.first_token for call in calls]


def measured(run: Run, warmup: int) -> Figures:
    """As the client saw it, with the attempts as the endpoints counted them."""
    calls, asked = counted(run, warmup), run.by_call()
    extra = sum(hedges(asked[call.k]) for call in calls)
    attempts = sum(len(asked[call.k]) for call in calls)
    failed = sum(call.error is not None for call in calls)
    return figures("measured", first_tokens(calls), extra, attempts, failed, [call.endpoint for call in calls])


def referred(reference: Reference, warmup: int) -> Figures:
    played = [each for each in reference.played if each.k >= warmup]
    times = [each.first_token for each in played]
    extra = sum(each.rivals for each in played)
    attempts = sum(len(each.asked) for each in played)
    failed = sum(time >= DEADLINE for time in times)
    return figures(reference.name, times, extra, attempts, failed, [each.endpoint for each in played])


def overhead(run: Run, warmup: int) -> list[float]:
    """What router, driver, endpoints and machine took of each first token that was the call's only attempt.

    It is the time that was measured, less what the endpoint's law and line said; in it is also what a router makes
    a call wait in a line of its own before it asks.
    """
    alone = {k: each[0].first_token for k, each in run.by_call().items() if len(each) == 1}
    return [
        call.first_token - due
        for call in counted(run, warmup)
        if call.first_token is not None and (due := alone.get(call.k)) is not None
    ]
