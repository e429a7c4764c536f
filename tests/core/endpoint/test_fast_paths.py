"""The fast paths of a decision agree with their plain definitions, after any history of an endpoint.

`Availability.allows`, `Forecast.cost` and `Latency.expected` run for every endpoint and every call, so that the router
spells them out. Here each is written once more, from the parts that define it, and compared after random histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.demand import KINDS, Demand, DemandKind
from router.core.endpoint.availability import Availability
from router.core.endpoint.breaker import IN_A_ROW, MAX_WAIT
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.endpoint.forecast import FIRST_MEASUREMENT, MAX_PENDING_EVIDENCE, PRIORS, STREAM_SHARE
from router.core.endpoint.histogram import SHORTEST_WAIT
from router.core.endpoint.latency import TROUBLE_FACTOR, Latency
from router.core.endpoint.server_load import ServerLoad
from router.core.endpoint.slots import Slots
from router.core.verdict import Cause, Outcome, Verdict
from tests.core.helpers import CHAT, T, properties

SIZES = (0.0, 10.0, 1000.0, 30_000.0)  # tokens of a recorded prompt
ASKED_SIZES = (*SIZES, 100_000.0)  # tokens of a prompt whose wait is asked for; the last is longer than any recorded
OPERATIONS = (CHAT, CHAT, "embeddings")
GAPS = (0.0, 0.0, 0.01, 0.1, 1.0, 10.0, 100.0)  # seconds between two events, at random
# Seconds after the last event at which the definitions are compared.
LATER = (0.0, 0.05, 1.0, 5.0, 60.0, 1000.0)
# Relative error of a few sums and products in another order.
ROUNDING = 1e-12


class History:
    """An endpoint after random events: attempts of all kinds and ends, probes, reports, limits and weights.

    `attempts` are all attempts ever begun, `running` those that have not ended. `others` is what the server's last
    report says beyond our own requests, until `report_until`.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.now = T
        slots = Slots(rng.choice((None, None, 1, 3, 8)))
        self.endpoint = Endpoint("a", weight=rng.choice((0.5, 1.0, 3.0)), slots=slots)
        self.neighbour = Endpoint("a", "another model", slots=slots)
        self.attempts: list[Attempt] = []
        self.running: list[Attempt] = []
        self.neighbours: list[Attempt] = []
        self.others, self.report_until = 0.0, 0.0
        self.median, self.seconds_per_token = exp(rng.uniform(-3.0, 2.0)), rng.choice((0.0, 1e-4, 1e-3))
        gap = rng.choice(GAPS)
        for _ in range(rng.choice((3, 10, 30, 100, 300))):
            self.now += gap * rng.expovariate(1.0)
            self.event()

    def event(self) -> None:
        rng = self.rng
        draw = rng.random()
        if draw < 0.35:
            self.begin()
        elif draw < 0.6:
            self.first_token()
        elif draw < 0.75:
            self.end()
        elif draw < 0.85:
            self.series()
        else:
            elsewhere = self.begin_elsewhere, self.end_elsewhere
            rng.choice((self.probe, self.report, self.configure, self.outage, self.outage, *elsewhere))()

    def begin(self) -> None:
        rng, endpoint = self.rng, self.endpoint
        if endpoint.availability.allows(self.now) or rng.random() < 0.1:  # else as the last resort
            demand = Demand(rng.choice((*KINDS, "first_token")), rng.choice(SIZES), rng.choice(OPERATIONS))
            attempt = endpoint.begin(self.now, demand, rng.choice(("first", "hedge", "retry", "rescue")))
            self.attempts.append(attempt)
            self.running.append(attempt)

    def first_token(self) -> None:
        if self.running:
            self.rng.choice(self.running).first_token(self.now)

    def end(self) -> None:
        rng = self.rng
        if not self.running:
            return
        attempt = self.running.pop(rng.randrange(len(self.running)))
        cause = rng.choice((None, None, *Cause))
        verdict = rng.choice((Verdict.SERVED, *Verdict)) if cause is None else cause.verdict
        attempt.end(Outcome(verdict, "", rng.choice((None, 0.5, 30.0)), cause), self.now)

    def series(self) -> None:
        """A series of calls, one after another: it makes a curve, and sometimes a change of the waits."""
        rng = self.rng
        self.median *= rng.choice((1.0, 1.0, 1.0, 0.2, 5.0))
        kind = rng.choice((*KINDS, "first_token"))
        for _ in range(rng.choice((1, 5, 40))):
            size = rng.choice(SIZES)
            wait = self.median * exp(rng.gauss(0.0, 0.4)) + self.seconds_per_token * size
            attempt = self.endpoint.begin(self.now, Demand(kind, size))
            self.attempts.append(attempt)
            self.now += wait
            if rng.random() < 0.9:
                attempt.first_token(self.now)
            attempt.end(Outcome(rng.choice((Verdict.SERVED, Verdict.SERVED, Verdict.ABANDONED))), self.now)
        self.endpoint.forecast.latency(kind).draw()

    def outage(self) -> None:
        """Failures in a row open the breaker; sometimes its trial begins."""
        for _ in range(IN_A_ROW):
            attempt = self.endpoint.begin(self.now)
            self.attempts.append(attempt)
            attempt.end(Outcome(Verdict.FAULT), self.now)
        if self.rng.random() < 0.3:
            self.now += MAX_WAIT
            self.begin()

    def probe(self) -> None:
        self.endpoint.availability.probed(self.rng.random() < 0.7, self.now)

    def report(self) -> None:
        rng = self.rng
        running, waiting = rng.choice((None, 0.0, 4.0, 40.0)), rng.choice((None, 0.0, 2.0))
        self.report_until = self.now + rng.choice((1.0, 100.0))
        self.others = max(0.0, (running or 0.0) - self.endpoint.availability.slots.used)
        self.endpoint.forecast.report(ServerLoad(running, waiting), self.now, self.report_until)

    def configure(self) -> None:
        """A reload: another concurrency, pool or weight, or other slots."""
        rng, availability = self.rng, self.endpoint.availability
        availability.slots.configure(rng.choice((None, 1, 3, 8)), rng.choice((2, 100)))
        self.endpoint.forecast.weight = rng.choice((0.5, 1.0, 3.0))
        if rng.random() < 0.3:
            availability.slots = Slots(rng.choice((None, 2)))

    def begin_elsewhere(self) -> None:
        self.neighbours.append(self.neighbour.begin(self.now))

    def end_elsewhere(self) -> None:
        if self.neighbours:
            self.neighbours.pop().end(Outcome(Verdict.SERVED), self.now)

    # What the plain definitions need.

    def times(self) -> Sequence[float]:
        """The present, later times, and the times at which a comparison with `now` changes its result."""
        availability, forecast = self.endpoint.availability, self.endpoint.forecast
        turns = [
            *(each.until for each in availability.cooldowns.values()),
            availability.breaker.retry_at or 0.0,
            self.report_until,
        ]
        turns += [
            a.began + forecast.latency(a.demand.kind).late_after for a in self.pending[: 2 * MAX_PENDING_EVIDENCE]
        ]
        return [self.now + later for later in LATER] + [turn for turn in turns if turn >= self.now]

    @property
    def pending(self) -> Sequence[Attempt]:
        """The attempts without a first token, oldest first."""
        return [attempt for attempt in self.running if attempt.first_token_at is None]

    def evidence(self, kind: DemandKind) -> Sequence[Attempt]:
        """The pending attempts of a kind before which no later one had its first token; the oldest ones count."""
        served = [a.began for a in self.attempts if a.demand.kind == kind and a.first_token_at is not None]
        latest = max(served, default=0.0)
        return [a for a in self.pending if a.demand.kind == kind and a.began >= latest][:MAX_PENDING_EVIDENCE]


def plainly_allows(availability: Availability, now: float, demand: Demand) -> bool:
    """Up, not cooling down, breaker permitting, not full."""
    cooldown = availability.cooldowns.get(demand.operation)
    cooling_down = cooldown is not None and cooldown.concerns(demand) and now < cooldown.until
    return availability.health.up and not cooling_down and availability.breaker.allows(now) and not availability.full


def plainly_expected(latency: Latency, size: float, now: float, surprise: float, age: float) -> float:
    """The mean and what the size adds to it; with the likelihood of trouble, the multiple that trouble costs."""
    usual = max(SHORTEST_WAIT, latency.mean(now) + latency.shift(size, now))
    in_trouble = max(TROUBLE_FACTOR * usual, age)
    return usual + latency.trouble(now, surprise) * (in_trouble - usual)


def plain_cost(of: History, demand: Demand, now: float) -> float:
    """The expected wait, given the late pending attempts, times the crowding; much more while it is being measured."""
    forecast = of.endpoint.forecast
    latency = forecast.latency(demand.kind)
    if forecast.being_measured(demand.kind):
        return latency.expected(demand.size, now) * FIRST_MEASUREMENT
    late = [attempt for attempt in of.evidence(demand.kind) if now - attempt.began >= latency.late_after]
    age = max((now - attempt.began for attempt in late), default=0.0)
    surprise = sum(latency.pending_surprise(now - attempt.began, attempt.demand.size, now) for attempt in late)
    expected = latency.expected(demand.size, now, surprise, age)
    if latency.curve is None:
        expected = max(expected, age)
    return expected * forecast.crowding(demand.kind, now)


def size_terms(latency: Latency, size: float, now: float) -> float:
    """The sum of the terms that `expected` adds and subtracts: rounding is relative to these, not to their sum."""
    return latency.mean(now) + latency.slope * (size + 2.0 * latency.mean_size(now))


seeds = st.integers(0, 10**9)


@properties
@given(seed=seeds)
def test_an_endpoint_allows_an_attempt_exactly_if_it_is_up_not_cooling_down_not_full_and_its_breaker_allows_it(
    seed: int,
) -> None:
    history = History(seed)
    availability = history.endpoint.availability
    for now in history.times():
        for demand in (Demand("first_token"), Demand("embedding", 0.0, "embeddings")):
            assert availability.allows(now, demand) is plainly_allows(availability, now, demand)


@properties
@given(seed=seeds)
def test_the_cost_is_the_expected_wait_given_the_pending_attempts_times_the_crowding(seed: int) -> None:
    history = History(seed)
    for now in history.times():
        for kind in KINDS:
            for size in ASKED_SIZES:
                demand = Demand(kind, size)
                cost = history.endpoint.forecast.cost(demand, now)
                assert cost == pytest.approx(plain_cost(history, demand, now), rel=ROUNDING)


@properties
@given(seed=seeds, surprise=st.sampled_from([0.0, 0.5, 3.0, 9.0]), age=st.sampled_from([0.0, 1.0, 100.0]))
def test_the_expected_wait_is_the_mean_the_effect_of_the_size_and_the_likely_cost_of_trouble(
    seed: int, surprise: float, age: float
) -> None:
    history = History(seed)
    for now in history.times():
        for kind in KINDS:
            latency = history.endpoint.forecast.latency(kind)
            for size in ASKED_SIZES:
                expected = plainly_expected(latency, size, now, surprise, age)
                rounding = TROUBLE_FACTOR * ROUNDING * size_terms(latency, size, now)
                assert latency.expected(size, now, surprise, age) == pytest.approx(expected, rel=ROUNDING, abs=rounding)


@properties
@given(seed=seeds)
def test_the_load_is_that_of_our_requests_and_of_others_for_the_weight(seed: int) -> None:
    history = History(seed)
    forecast, pending = history.endpoint.forecast, len(history.pending)
    assert list(forecast.pending) == history.pending
    for now in history.times():
        streams = len(history.running) - pending + (history.others if now < history.report_until else 0.0)
        load = (pending + STREAM_SHARE * streams) / forecast.weight
        assert forecast.load(now) == pytest.approx(load, rel=ROUNDING)


@properties
@given(seed=seeds)
def test_an_unmeasured_endpoint_costs_its_prior_at_least(seed: int) -> None:
    """`near_ties` looks for unmeasured endpoints among those alone that cost as much."""
    history = History(seed)
    for forecast in (history.endpoint.forecast, history.neighbour.forecast, Endpoint("new").forecast):
        for now in history.times():
            for kind in KINDS:
                if forecast.unmeasured(kind):
                    assert min(forecast.cost(Demand(kind, size), now) for size in ASKED_SIZES) >= PRIORS[kind]


@properties
@given(seed=seeds)
def test_an_endpoint_whose_breaker_is_not_closed_or_has_a_slow_start_knows_that_it_has_opened(seed: int) -> None:
    history = History(seed)
    availability = history.endpoint.availability
    for now in history.times():
        if not availability.closed(now) or availability.ramp(now) < 1.0:
            assert availability.has_opened
