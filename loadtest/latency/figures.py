"""The figures of a run and of its references, computed alike over the counted calls, in seconds of the scenario.

A call without a first token has the driver's whole limit as its time, so that failures never improve a figure.
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
    """First-token times, extra attempts and retries per call, failed calls, and each endpoint's share of the answers.

    A retry is an attempt made after a failure; any other attempt after the first is an extra attempt. A failed call
    has no whole answer.
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
    """The figures of a run: times as the client saw them, attempts as the endpoints counted them."""
    calls, asked = counted(run, warmup), run.by_call()
    extra = sum(hedges(asked[call.k]) for call in calls)
    attempts = sum(len(asked[call.k]) for call in calls)
    failed = sum(call.error is not None for call in calls)
    return figures("measured", first_tokens(calls), extra, attempts, failed, [call.endpoint for call in calls])


def referred(reference: Reference, warmup: int) -> Figures:
    played = [each for each in reference.played if each.k >= warmup]
    times = [each.first_token for each in played]
    extra = sum(each.hedges for each in played)
    attempts = sum(len(each.asked) for each in played)
    failed = sum(time >= DEADLINE for time in times)
    return figures(reference.name, times, extra, attempts, failed, [each.endpoint for each in played])


def overhead(run: Run, warmup: int) -> list[float]:
    """The time that router, driver, endpoints and machine added to each first token, for calls with one attempt.

    Computed as the measured time less the time given by the endpoint's law and queue. The time that a call spends in
    the router's own waiting queue is part of it.
    """
    alone = {k: each[0].first_token for k, each in run.by_call().items() if len(each) == 1}
    return [
        call.first_token - due
        for call in counted(run, warmup)
        if call.first_token is not None and (due := alone.get(call.k)) is not None
    ]
