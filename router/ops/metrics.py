"""The page that Prometheus scrapes: counters over the records of ended calls, and the current state of the endpoints.

A call adds to plain integers, which become samples only at a scrape: prometheus_client's own counters take a lock each,
and at six of them per call the locks would cost more than the call's race.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from math import inf
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from router.core.choice.table import Table
from router.core.endpoint.breaker import State
from router.core.record import CallRecord
from router.ops.logs import lost_lines
from router.ops.readiness import served

# Seconds. Finer than OpenTelemetry's recommendation for first tokens, which is coarse exactly where chat models answer
# (0.25 to 1 s), and reaching further.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120)


MAX_TOKENS = 1 << 31  # of one call; a larger number is no count, and would spoil the sum for good
PART = 100  # samples that are rendered at a time

# Attributes of a pool: its current state, and counts since the start.
POOL_GAUGES, POOL_COUNTERS = ("idle", "busy", "opening", "waiting"), ("opened", "reused", "resent")
# Reasons for which a pool closes its connections; its attribute `retired` counts them.
RETIRED = ("age", "answers", "idle")
LOOKUPS = ("found", "not_found", "failed")


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
    @property
    def retired(self) -> Mapping[str, int]: ...


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


class _One(CollectorRegistry):
    """A registry with one family."""

    def __init__(self, family: Metric) -> None:
        super().__init__(auto_describe=False)
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


class Metrics:
    """`ended` is a sink; `render` returns the page."""

    def __init__(
        self,
        table: Callable[[], Table],
        pools: Callable[[], Mapping[str, PoolState]],
        calls: Callable[[], int],
        now: Callable[[], float],
        *,
        longest_turn: Callable[[], float] = lambda: 0.0,
        body_bytes: Callable[[], tuple[int, int]] = lambda: (0, 0),
        lost_lines: Callable[[], Mapping[str, int]] = lost_lines,
        lookups: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """`longest_turn` is in seconds; `body_bytes` are those held, and the most that may be; `lookups` by result."""
        self._lookups = lookups
        self._longest_turn, self._body_bytes, self._lost_lines = longest_turn, body_bytes, lost_lines
        self._table, self._pools, self._calls_in_flight, self._now = table, pools, calls, now
        self._calls: defaultdict[tuple[str, str, int, str], int] = defaultdict(int)
        self._attempts: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._causes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._hedges: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._first_token: defaultdict[tuple[str, str], _Histogram] = defaultdict(_Histogram)
        self._tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._dropped_headers: defaultdict[tuple[str], int] = defaultdict(int)
        self._malformed: defaultdict[tuple[str], int] = defaultdict(int)

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
        if record.prompt_tokens and record.prompt_tokens <= MAX_TOKENS:
            self._tokens[record.endpoint, "input"] += record.prompt_tokens
        if record.completion_tokens and record.completion_tokens <= MAX_TOKENS:
            self._tokens[record.endpoint, "output"] += record.completion_tokens
        if record.dropped_headers:
            self._dropped_headers[record.endpoint,] += record.dropped_headers
        if record.malformed is not None:
            for name, count in record.malformed.items():
                self._malformed[name,] += count

    def render(self) -> bytes:
        return b"".join(self.parts())

    def parts(self) -> Iterator[bytes]:
        """The page in parts, each made in about a millisecond: a table may have thousands of endpoints."""
        name = ""
        for family in self.collect():
            part = generate_latest(_One(family))
            if family.name == name:  # its help and type stand above already
                part = b"".join(line for line in part.splitlines(keepends=True) if line[:1] != b"#")
            name = family.name
            yield part

    def collect(self) -> Iterator[Metric]:
        yield from self._of_calls()
        yield from self._of_endpoints()
        yield from self._of_servers()
        yield from self._of_budgets()
        yield from self._of_pools()
        yield from self._of_process()

    def _of_process(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "firsttoken_longest_turn_seconds",
            "Processor time of the event loop's longest turn since the last scrape or in the last minute.",
            self._longest_turn(),
        )
        held, limit = self._body_bytes()
        kinds = ((("held",), held), (("limit",), limit))
        yield from _gauge("body_bytes", "Bytes of request bodies that are held, and the most.", ("kind",), kinds)
        lost = [((name,), count) for name, count in self._lost_lines().items()]
        yield from _counter("lost_log_lines", "Lines of a log that could not be written.", ("log",), lost)

    def _of_calls(self) -> Iterator[Metric]:
        yield from _counter(
            "calls", "Calls that have ended.", ("model", "operation", "status", "error"), [*self._calls.items()]
        )
        yield from _counter(
            "attempts", "Attempts that have ended.", ("endpoint", "role", "verdict"), [*self._attempts.items()]
        )
        yield from _counter(
            "causes",
            "Attempts that were not served, by the cause that the endpoint reported.",
            ("endpoint", "cause"),
            [*self._causes.items()],
        )
        yield from _counter(
            "hedges", "Hedges that have ended: won or lost.", ("endpoint", "outcome"), [*self._hedges.items()]
        )
        yield from _counter("tokens", "Tokens that endpoints reported.", ("endpoint", "kind"), [*self._tokens.items()])
        yield from _counter(
            "dropped_headers",
            "Headers of endpoints that were too long for the head of an answer.",
            ("endpoint",),
            [*self._dropped_headers.items()],
        )
        yield from _counter(
            "malformed_events",
            "Unreadable events of streams, which were skipped.",
            ("endpoint",),
            [*self._malformed.items()],
        )
        yield from self._of_first_tokens()
        yield GaugeMetricFamily("firsttoken_calls_in_flight", "Calls in flight.", self._calls_in_flight())
        waiting = (((route.model,), route.queue.waiting) for route in [*self._table().routes.values()])
        yield from _gauge("calls_waiting", "Calls in flight that are queued for a slot.", ("model",), waiting)
        now = self._now()
        up = (((route.model,), served(route, now)) for route in [*self._table().routes.values()])
        yield from _gauge("model_served", "1 if an endpoint of the model can serve calls.", ("model",), up)

    def _of_first_tokens(self) -> Iterator[Metric]:
        at_a_time = PART // len(BUCKETS)
        for histograms in _batches([*self._first_token.items()], at_a_time):
            family = HistogramMetricFamily(
                "firsttoken_first_token_seconds",
                "Time from a streaming call's arrival to its first token.",
                labels=("model", "endpoint"),
            )
            for labels, histogram in histograms:
                family.add_metric(labels, histogram.buckets(), histogram.total)
            yield family

    def _of_endpoints(self) -> Iterator[Metric]:
        now, endpoints = self._now(), self._table().endpoints
        named = [((endpoint.name, endpoint.model), endpoint) for endpoint in endpoints]
        labels = ("endpoint", "model")
        yield from _gauge(
            "attempts_in_flight", "Attempts in flight.", labels, ((n, e.availability.in_flight) for n, e in named)
        )
        limits = ((n, e.availability.max_attempts) for n, e in named if e.availability.max_attempts != inf)
        yield from _gauge("attempts_limit", "Current limit of attempts in flight, where there is one.", labels, limits)
        yield from _gauge(
            "attempts_waiting",
            "Attempts in flight without a first token.",
            labels,
            ((n, len(e.forecast.pending)) for n, e in named),
        )
        yield from _gauge(
            "endpoint_up",
            "1 if the endpoint is up, by probes and traffic.",
            labels,
            ((n, e.availability.health.up) for n, e in named),
        )
        yield from _gauge(
            "endpoint_available",
            "1 if the endpoint may be asked now.",
            labels,
            ((n, e.availability.allows(now)) for n, e in named),
        )
        states = (((*n, state.value), e.availability.breaker.state(now) is state) for n, e in named for state in State)
        yield from _gauge(
            "breaker_state", "1 for the current state of the breaker.", ("endpoint", "model", "state"), states
        )
        expected = ((n, e.forecast.latency("first_token").mean(now)) for n, e in named)
        yield from _gauge(
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
        yield from _gauge(
            "server_requests", "Requests at the server, as it reports them.", ("endpoint", "model", "state"), requests
        )
        use = [(named, load.kv) for named, load in reported if load.kv is not None]
        yield from _gauge(
            "server_kv_usage", "Share of the server's key-value cache in use, 0 to 1.", ("endpoint", "model"), use
        )
        hot = [(named, load.hot) for named, load in reported]
        yield from _gauge(
            "server_hot", "1 if the server has a queue or a nearly full cache.", ("endpoint", "model"), hot
        )

    def _of_budgets(self) -> Iterator[Metric]:
        now, table = self._now(), self._table()
        levels = ((("hedge",), table.hedges.level(now)), (("retry",), table.retries.level(now)))
        yield from _gauge("budget_attempts", "Extra attempts that the budget can pay for now.", ("kind",), levels)

    def _of_pools(self) -> Iterator[Metric]:
        pools = [*self._pools().items()]
        gauges = (((name, state), getattr(pool, state)) for name, pool in pools for state in POOL_GAUGES)
        counters = (((name, event), getattr(pool, event)) for name, pool in pools for event in POOL_COUNTERS)
        yield from _gauge(
            "pool_connections", "Connections by state, and requests waiting for one.", ("endpoint", "state"), gauges
        )
        retired = (((name, why), pool.retired.get(why, 0)) for name, pool in pools for why in RETIRED)
        yield from _counter(
            "connections_retired",
            "Connections that the router has closed, by the reason.",
            ("endpoint", "reason"),
            retired,
        )
        found = self._lookups()
        yield from _counter(
            "lookups",
            "Look-ups of host names, by their result.",
            ("result",),
            [((result,), found.get(result, 0)) for result in LOOKUPS],
        )
        yield from _counter(
            "pool_events", "Connections opened and reused, requests resent.", ("endpoint", "event"), counters
        )


_Item = TypeVar("_Item")
# A count is never made a float before `_add` does so: one that is too large may only cost itself.
Samples = Iterable[tuple[tuple[str | int, ...], int | float]]


def _counter(name: str, help_text: str, labels: tuple[str, ...], samples: Samples) -> Iterator[Metric]:
    for batch in _batches(samples, PART):
        family = CounterMetricFamily(f"firsttoken_{name}", help_text, labels=labels)
        _add(family, batch)
        yield family


def _gauge(name: str, help_text: str, labels: tuple[str, ...], samples: Samples) -> Iterator[Metric]:
    for batch in _batches(samples, PART):
        family = GaugeMetricFamily(f"firsttoken_{name}", help_text, labels=labels)
        _add(family, batch)
        yield family


def _add(family: CounterMetricFamily | GaugeMetricFamily, samples: Samples) -> None:
    """Add samples. One that cannot be rendered is left out, so that it does not take all others with it."""
    for values, value in samples:
        try:
            family.add_metric([str(label) for label in values], float(value))
        except (OverflowError, ValueError, TypeError):
            continue


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """The items in lists of up to `size`; one empty list if there are none, so that a metric's help is shown."""
    left = iter(items)
    yield list(islice(left, size))
    while batch := list(islice(left, size)):
        yield batch
