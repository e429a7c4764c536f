"""The page that Prometheus scrapes: counters over the records of ended calls, and the current state of the endpoints.

A call adds to plain integers, which become samples only at a scrape: prometheus_client's own counters take a lock each,
and at six of them per call the locks would cost more than the call's race.
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
from router.ops.readiness import served

# Seconds. Finer than OpenTelemetry's recommendation for first tokens, which is coarse exactly where chat models answer
# (0.25 to 1 s), and reaching further.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120)


# Attributes of a pool: its current state, and counts since the start.
POOL_GAUGES, POOL_COUNTERS = ("idle", "busy", "opening", "waiting"), ("opened", "reused", "resent")


class PoolState(Protocol):
    """A pool with the attributes of POOL_GAUGES and POOL_COUNTERS."""

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
        """Upper bounds and cumulative counts, as Prometheus defines them."""
        seen, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            seen += count
            buckets.append((bound, float(seen)))
        return buckets


class Metrics(Collector):
    """`ended` is a sink; `render` returns the page."""

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
        self._dropped_headers: defaultdict[tuple[str], int] = defaultdict(int)
        self._malformed: defaultdict[tuple[str], int] = defaultdict(int)
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
            first = next(by, record.endpoint)  # a rescue has not sent the answer's first token
            self._first_token[record.model, first].observe(record.first_token)
        if record.prompt_tokens:
            self._tokens[record.endpoint, "input"] += record.prompt_tokens
        if record.completion_tokens:
            self._tokens[record.endpoint, "output"] += record.completion_tokens
        if record.dropped_headers:
            self._dropped_headers[record.endpoint,] += record.dropped_headers
        if record.malformed is not None:
            for name, count in record.malformed.items():
                self._malformed[name,] += count

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
            "Attempts that were not served, by the cause that the endpoint reported.",
            ("endpoint", "cause"),
            self._causes.items(),
        )
        yield _counter("hedges", "Hedges that have ended: won or lost.", ("endpoint", "outcome"), self._hedges.items())
        yield _counter("tokens", "Tokens that endpoints reported.", ("endpoint", "kind"), self._tokens.items())
        yield _counter(
            "dropped_headers",
            "Headers of endpoints that were too long for the head of an answer.",
            ("endpoint",),
            self._dropped_headers.items(),
        )
        yield _counter(
            "malformed_events",
            "Events of streams that were skipped because nobody can read them.",
            ("endpoint",),
            self._malformed.items(),
        )
        first_token = HistogramMetricFamily(
            "firsttoken_first_token_seconds",
            "Time from a streaming call's arrival to its first token.",
            labels=("model", "endpoint"),
        )
        for labels, histogram in self._first_token.items():
            first_token.add_metric(labels, histogram.buckets(), histogram.total)
        yield first_token
        yield GaugeMetricFamily("firsttoken_calls_in_flight", "Calls in flight.", self._calls_in_flight())
        waiting = (((route.model,), route.queue.waiting) for route in self._table().routes.values())
        yield _gauge("calls_waiting", "Calls in flight that are queued for a slot.", ("model",), waiting)
        now = self._now()
        up = (((route.model,), served(route, now)) for route in self._table().routes.values())
        yield _gauge("model_served", "1 if an endpoint of the model can serve calls.", ("model",), up)

    def _of_endpoints(self) -> Iterator[Metric]:
        now, endpoints = self._now(), self._table().endpoints
        named = [((endpoint.name, endpoint.model), endpoint) for endpoint in endpoints]
        labels = ("endpoint", "model")
        yield _gauge(
            "attempts_in_flight", "Attempts in flight.", labels, ((n, e.availability.in_flight) for n, e in named)
        )
        limits = ((n, e.availability.max_attempts) for n, e in named if e.availability.max_attempts != inf)
        yield _gauge("attempts_limit", "Current limit of attempts in flight, where there is one.", labels, limits)
        yield _gauge(
            "attempts_waiting",
            "Attempts in flight without a first token.",
            labels,
            ((n, len(e.forecast.pending)) for n, e in named),
        )
        yield _gauge(
            "endpoint_up",
            "1 if the endpoint is up, by probes and traffic.",
            labels,
            ((n, e.availability.health.up) for n, e in named),
        )
        yield _gauge(
            "endpoint_available",
            "1 if the endpoint may be asked now.",
            labels,
            ((n, e.availability.allows(now)) for n, e in named),
        )
        states = (((*n, state.value), e.availability.breaker.state(now) is state) for n, e in named for state in State)
        yield _gauge("breaker_state", "1 for the current state of the breaker.", ("endpoint", "model", "state"), states)
        expected = ((n, e.forecast.latency("first_token").mean(now)) for n, e in named)
        yield _gauge(
            "expected_first_token_seconds",
            "Mean time to the first token, without the effects of prompt, trouble and load.",
            labels,
            expected,
        )

    def _of_servers(self) -> Iterator[Metric]:
        """The load that servers report; no sample where it is unknown."""
        now = self._now()
        reported = [
            ((e.name, e.model), load)
            for e in self._table().endpoints
            if (load := e.forecast.server_load(now)) is not None
        ]
        requests = [
            ((*named, state), value)
            for named, load in reported
            for state, value in (("running", load.running), ("waiting", load.waiting))
            if value is not None
        ]
        yield _gauge(
            "server_requests", "Requests at the server, as it reports them.", ("endpoint", "model", "state"), requests
        )
        use = [(named, load.kv) for named, load in reported if load.kv is not None]
        yield _gauge(
            "server_kv_usage", "Share of the server's key-value cache in use, 0 to 1.", ("endpoint", "model"), use
        )
        hot = [(named, load.hot) for named, load in reported]
        yield _gauge("server_hot", "1 if the server has a queue or a nearly full cache.", ("endpoint", "model"), hot)

    def _of_budgets(self) -> Iterator[Metric]:
        now, table = self._now(), self._table()
        levels = ((("hedge",), table.hedges.level(now)), (("retry",), table.retries.level(now)))
        yield _gauge("budget_attempts", "Extra attempts that the budget can pay for now.", ("kind",), levels)

    def _of_pools(self) -> Iterator[Metric]:
        pools = self._pools()
        gauges = [((name, state), getattr(pool, state)) for name, pool in pools.items() for state in POOL_GAUGES]
        counters = [((name, event), getattr(pool, event)) for name, pool in pools.items() for event in POOL_COUNTERS]
        yield _gauge(
            "pool_connections", "Connections by state, and requests waiting for one.", ("endpoint", "state"), gauges
        )
        yield _counter(
            "pool_events", "Connections opened and reused, requests resent.", ("endpoint", "event"), counters
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
