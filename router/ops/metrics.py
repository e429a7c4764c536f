"""What Prometheus scrapes: sums of the records of ended calls, and the state of the endpoints as it is when asked.

A call adds to plain counters, and samples are made of them only when somebody scrapes: prometheus_client's own
counters take a lock each, which at six a call would cost more than its race.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from router.core.choice.table import Table
from router.core.endpoint.breaker import State
from router.core.record import CallRecord

# Finer than the OpenTelemetry advice for first tokens, which is coarse just where chat models answer, 0.25 to 1 s; and
# longer.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120)


# What is told of a pool: how much there is of it now, and what happened to it since the start.
NOW, EVER = ("idle", "busy", "opening", "waiting"), ("opened", "reused", "resent")


class PoolState(Protocol):
    """NOW and EVER, as attributes."""

    @property
    def idle(self) -> int: ...
    @property
    def busy(self) -> int: ...
    @property
    def opening(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def opened(self) -> int: ...
    @property
    def reused(self) -> int: ...
    @property
    def resent(self) -> int: ...


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts, self.total = [0] * (len(BUCKETS) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        seen, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            seen += count
            buckets.append((bound, float(seen)))
        return buckets


class Metrics(Collector):
    """`ended` is a sink; `render` is the page."""

    def __init__(
        self,
        table: Callable[[], Table],
        pools: Callable[[], Mapping[str, PoolState]],
        calls: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        self._table, self._pools, self._calls_in_flight, self._now = table, pools, calls, now
        self._calls: defaultdict[tuple[str, str, int, str], int] = defaultdict(int)
        self._attempts: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._causes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._hedges: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._first_token: defaultdict[tuple[str, str], _Histogram] = defaultdict(_Histogram)
        self._tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def ended(self, record: CallRecord) -> None:
        self._calls[record.model, record.operation, record.status, record.error] += 1
        for attempt in record.attempts:
            outcome = attempt.outcome
            verdict = "" if outcome is None else outcome.verdict._value_
            self._attempts[attempt.endpoint.name, attempt.role, verdict] += 1
            if outcome is not None and outcome.cause is not None:
                self._causes[attempt.endpoint.name, outcome.cause.value] += 1
            if attempt.role == "hedge":
                self._hedges[attempt.endpoint.name, "lost" if attempt.first_token_at is None else "won"] += 1
        if record.first_token is not None and record.stream:
            by = (attempt.endpoint.name for attempt in record.attempts if attempt.first_token_at is not None)
            first = next(by, record.endpoint)  # the one that rescues an answer has not begun it
            self._first_token[record.model, first].observe(record.first_token)
        if record.prompt_tokens:
            self._tokens[record.endpoint, "input"] += record.prompt_tokens
        if record.completion_tokens:
            self._tokens[record.endpoint, "output"] += record.completion_tokens

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._of_calls()
        yield from self._of_endpoints()
        yield from self._of_servers()
        yield from self._of_budgets()
        yield from self._of_pools()

    def _of_calls(self) -> Iterator[Metric]:
        yield _counter(
            "calls", "Calls that have ended.", ("model", "operation", "status", "error"), self._calls.items()
        )
        yield _counter("attempts", "Attempts that have ended.", ("endpoint", "role", "verdict"), self._attempts.items())
        yield _counter(
            "causes",
            "Why attempts were not served, as their endpoints say.",
            ("endpoint", "cause"),
            self._causes.items(),
        )
        yield _counter("hedges", "Attempts started beside a late one.", ("endpoint", "outcome"), self._hedges.items())
        yield _counter("tokens", "Tokens, where an endpoint reports them.", ("endpoint", "kind"), self._tokens.items())
        first_token = HistogramMetricFamily(
            "firsttoken_first_token_seconds",
            "From a streaming call's arrival to its first token.",
            labels=("model", "endpoint"),
        )
        for labels, histogram in self._first_token.items():
            first_token.add_metric(labels, histogram.buckets(), histogram.total)
        yield first_token
        yield GaugeMetricFamily("firsttoken_calls_in_flight", "Calls begun and not ended.", self._calls_in_flight())
        waiting = (((route.model,), route.queue.waiting) for route in self._table().routes.values())
        yield _gauge("calls_waiting", "Calls that wait in line for a slot.", ("model",), waiting)

    def _of_endpoints(self) -> Iterator[Metric]:
        now, endpoints = self._now(), self._table().endpoints
        named = [((endpoint.name, endpoint.model), endpoint) for endpoint in endpoints]
        labels = ("endpoint", "model")
        yield _gauge(
            "attempts_in_flight", "Attempts running.", labels, ((n, e.availability.in_flight) for n, e in named)
        )
        limits = ((n, e.availability.max_attempts) for n, e in named if e.availability.max_attempts != inf)
        yield _gauge("attempts_limit", "Attempts at once that it takes now, where there is a limit.", labels, limits)
        yield _gauge(
            "attempts_waiting",
            "Attempts without a first token yet.",
            labels,
            ((n, len(e.forecast.pending)) for n, e in named),
        )
        yield _gauge(
            "endpoint_up", "What probes and traffic say.", labels, ((n, e.availability.health.up) for n, e in named)
        )
        yield _gauge(
            "endpoint_available",
            "Whether it may be asked now.",
            labels,
            ((n, e.availability.allows(now)) for n, e in named),
        )
        states = (((*n, state.value), e.availability.breaker.state(now) is state) for n, e in named for state in State)
        yield _gauge("breaker_state", "1 for the state it is in.", ("endpoint", "model", "state"), states)
        expected = ((n, e.forecast.latency("first_token").mean(now)) for n, e in named)
        yield _gauge("expected_first_token_seconds", "The mean, without prompt, trouble and load.", labels, expected)

    def _of_servers(self) -> Iterator[Metric]:
        """What they say of themselves; nothing where that is unknown."""
        now = self._now()
        said = [
            ((e.name, e.model), load)
            for e in self._table().endpoints
            if (load := e.forecast.server_load(now)) is not None
        ]
        requests = [
            ((*named, state), value)
            for named, load in said
            for state, value in (("running", load.running), ("waiting", load.waiting))
            if value is not None
        ]
        yield _gauge(
            "server_requests", "What an endpoint's server says it has.", ("endpoint", "model", "state"), requests
        )
        use = [(named, load.kv) for named, load in said if load.kv is not None]
        yield _gauge("server_kv_usage", "And the share of its cache in use, 0 to 1.", ("endpoint", "model"), use)
        hot = [(named, load.hot) for named, load in said]
        yield _gauge("server_hot", "And whether it has too much to do.", ("endpoint", "model"), hot)

    def _of_budgets(self) -> Iterator[Metric]:
        now, table = self._now(), self._table()
        levels = ((("hedge",), table.hedges.level(now)), (("retry",), table.retries.level(now)))
        yield _gauge("budget_attempts", "Extra attempts that could be paid for now.", ("kind",), levels)

    def _of_pools(self) -> Iterator[Metric]:
        pools = self._pools()
        now = [((name, state), getattr(pool, state)) for name, pool in pools.items() for state in NOW]
        ever = [((name, event), getattr(pool, event)) for name, pool in pools.items() for event in EVER]
        yield _gauge("pool_connections", "Connections, and requests that wait for one.", ("endpoint", "state"), now)
        yield _counter(
            "pool_events", "Connections opened and reused, requests sent again.", ("endpoint", "event"), ever
        )


Samples = Iterable[tuple[tuple[str | int, ...], float]]


def _counter(name: str, help_text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = CounterMetricFamily(f"firsttoken_{name}", help_text, labels=labels)
    for values, value in samples:
        family.add_metric([str(label) for label in values], value)
    return family


def _gauge(name: str, help_text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = GaugeMetricFamily(f"firsttoken_{name}", help_text, labels=labels)
    for values, value in samples:
        family.add_metric([str(label) for label in values], float(value))
    return family
