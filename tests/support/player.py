"""The player: builds a router from a configuration, real but for the wires and clients, and plays calls on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from math import inf, isfinite
from random import Random
from typing import Any, NamedTuple

from router.config import EndpointConfig, parse
from router.core.choice.route import Route
from router.core.choice.table import Table, rebuild
from router.core.endpoint.endpoint import Endpoint
from router.core.record import CallRecord
from router.ops.changes import Changes
from router.ops.metrics import Metrics
from router.ops.planner import EVERY
from router.ops.telemetry import Telemetry
from router.proxy.admission import Admission
from router.proxy.client import Headers, Request
from router.proxy.context import Context
from router.proxy.handler import Handler
from router.proxy.serving import Serving, Tables
from router.upstream.exchange import LIMITS, Limits
from router.upstream.simulated import Simulated
from tests.support.client import ScriptedClient
from tests.support.clock import VirtualScheduler
from tests.support.endpoints import Plays, ScriptedPool

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


class EndpointSpec(NamedTuple):
    """An entry of endpoints.yaml, and the scripts that its endpoint plays."""

    settings: dict[str, Any]
    plays: tuple[Plays, ...]


def endpoint(name: str, *plays: Plays, **settings: Any) -> EndpointSpec:
    """An endpoint that serves `chat` at an address of its own, unless `settings` (keys of the entry) differ."""
    address = {} if settings.get("kind") == "simulated" else {"base_url": f"http://{name}/v1"}
    return EndpointSpec({"name": name, "kind": "openai", **address, "models": ["chat"]} | settings, plays)


class Player:
    """A router in virtual time. `policy` has the defaults of the configuration; `play["a"]` is the scripted pool of a.

    Endpoints of kind `simulated` are the real ones, in virtual time.
    """

    def __init__(
        self,
        *endpoints: EndpointSpec,
        models: Mapping[str, Any] | None = None,
        max_calls: int = 20_000,
        limits: Limits = LIMITS,
        seed: int = 1,
        start: float = 0.0,
        **policy: Any,
    ) -> None:
        text = {"defaults": policy, "endpoints": [e.settings for e in endpoints], "models": models or {}}
        config = parse(json.dumps(text))  # JSON is YAML
        self.scheduler = VirtualScheduler(start)
        plays = {e.settings["name"]: e.plays for e in endpoints}
        self.pools = {each.name: self._pool(each, plays[each.name], Random(seed)) for each in config.endpoints}
        admission = Admission((), max_calls)
        self.table = rebuild(config, utilization=admission.utilization)
        self.records: dict[str, list[CallRecord]] = {}
        self.calls: list[ScriptedClient] = []
        self._numbers = count(1)
        self._planned = -inf
        self._arrived: dict[str, ScriptedClient] = {}
        context = Context(self.scheduler, Random(seed), self._ended, new_id=self._new_id)
        self.handler = Handler(Tables(Serving.of(self.table, self.pools, limits)), admission, context)
        self.metrics = Metrics(lambda: self.table, lambda: self.pools, lambda: self.handler.calls, self.scheduler.now)
        self._telemetry = Telemetry([self._note, self.metrics.ended, Changes(self.scheduler.now).ended])

    def __getitem__(self, name: str) -> ScriptedPool:
        return self.scripted[name]

    @property
    def scripted(self) -> dict[str, ScriptedPool]:
        return {name: pool for name, pool in self.pools.items() if isinstance(pool, ScriptedPool)}

    def _pool(self, config: EndpointConfig, plays: tuple[Plays, ...], rng: Random) -> ScriptedPool | Simulated:
        if config.kind != "simulated":
            return ScriptedPool(config.name, self.scheduler, plays)
        simulate = config.simulate
        return Simulated(config.name, self.scheduler, rng, first_token=simulate.first_token, rate=simulate.rate)

    # Playing.

    def call(
        self,
        at: float | None = None,
        *,
        path: str = CHAT,
        body: bytes | None = None,
        headers: Headers | None = None,
        took: float = 0.0,
        leaves_at: float | None = None,
        stops_reading_at: float | None = None,
        reads_again_at: float | None = None,
        **fields: Any,
    ) -> ScriptedClient:
        """Schedule a call at `at`, or now: a streaming one for `chat`, unless `fields` or `body` differ.

        The request took `took` seconds to arrive, which count.
        """
        if body is None:
            body = json.dumps({"model": "chat", "stream": True} | fields).encode()
        client = ScriptedClient(self.scheduler)
        self.calls.append(client)
        self.at(at, lambda: self._arrive(client, path, headers or [], body, took))
        for when, what in (
            (leaves_at, client.leaves),
            (stops_reading_at, client.stops_reading),
            (reads_again_at, client.reads_again),
        ):
            if when is not None:
                self.at(when, what)
        return client

    def at(self, when: float | None, what: Callable[[], None]) -> None:
        self.scheduler.call_at(self.scheduler.now() if when is None else when, what)

    def run_until(self, when: float) -> None:
        self.scheduler.run_until(when)

    def run(self, at_most: float = 3600.0) -> None:
        """Play to the end, when nothing may be left."""
        self.scheduler.run(at_most)
        self.assert_nothing_is_left()

    def _arrive(self, client: ScriptedClient, path: str, headers: Headers, body: bytes, took: float) -> None:
        self._plan()
        client.arrived = self.scheduler.now() - took
        self._arriving = client
        self.handler.handle(Request(path.encode(), headers, body, client.arrived), client)

    def _plan(self) -> None:
        """Replan as the planner does, but only when a call arrives."""
        now = self.scheduler.now()
        if now >= self._planned + EVERY:
            self._planned = now
            for route in self.table.routes.values():
                route.replan(now)

    def _new_id(self) -> str:
        request_id = f"req-{next(self._numbers)}"
        self._arrived[request_id] = self._arriving
        return request_id

    def _ended(self, record: CallRecord) -> None:
        self._telemetry.ended(record)

    def _note(self, record: CallRecord) -> None:
        self._arrived[record.request_id].records.append(record)

    # Looking at the result.

    def endpoint(self, name: str) -> Endpoint:
        """The first endpoint of that name."""
        return next(endpoint for endpoint in self.table.endpoints if endpoint.name == name)

    def route(self, model: str = "chat") -> Route:
        return self.table.routes[model]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels, as Prometheus would scrape them."""
        samples = [s for family in self.metrics.collect() for s in family.samples if s.name == f"firsttoken_{name}"]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def assert_nothing_is_left(self) -> None:
        """Assert that nothing runs, nothing is open, and no counter is off."""
        assert not self.scheduler.pending
        assert self.handler.calls == 0
        for pool in self.pools.values():
            assert not pool.busy, pool
        for endpoint in self.table.endpoints:
            _assert_at_rest(endpoint)
        assert not any(route.queue.waiting for route in self.table.routes.values())
        assert not any(route.window.pending for route in self.table.routes.values())
        _assert_within_bounds(self.table, len(self.calls), self.scheduler.now())
        for call in self.calls:
            assert_answered_honestly(call)
        attempts = Counter(attempt.endpoint.name for call in self.calls for attempt in call.record.attempts)
        for name, pool in self.scripted.items():
            assert attempts[name] == len(pool.wires)


def _assert_at_rest(endpoint: Endpoint) -> None:
    assert endpoint.availability.in_flight == 0, endpoint
    assert not endpoint.forecast.pending, endpoint
    assert endpoint.availability.slots.used == 0, endpoint
    assert not endpoint.availability.slots.queue.entries, endpoint
    assert endpoint.availability.breaker.allows(inf), f"{endpoint}: its trial never ended"


def _assert_within_bounds(table: Table, calls: int, now: float) -> None:
    """Assert that each call paid in at most once, and that no budget was overdrawn."""
    policies = [policy for route in table.routes.values() for policy in route.policies.values()]
    for budget, share in (
        (table.hedges, max(policy.hedge_budget for policy in policies)),
        (table.retries, max(policy.retry_budget for policy in policies)),
    ):
        level = budget.level(now)
        assert isfinite(level)
        assert 0 <= level <= budget.reserve + share * calls + 1e-9


def assert_answered_honestly(call: ScriptedClient) -> None:
    """Assert a complete record and one answer, which is whole or reports its failure, unless the client has left."""
    record = call.record
    assert record.ended is not None
    for line in record.attempts:
        assert line.verdict is not None, line
        assert line.ended is not None, line
        assert call.arrived <= line.began <= line.ended, line
    assert call.owner is None
    if call.left_at is not None or call.aborted_at is not None:
        return
    assert call.ended_at is not None
    assert abs(call.ended_at - call.arrived - record.ended) < 1e-6  # a clock far from zero rounds
    assert call.status == record.status
    assert {"x-request-id", "x-router-endpoint", "x-router-attempts", "server-timing"} <= call.headers.keys()
    if call.length is not None:
        assert len(call.body) == call.length
    elif "json" in call.headers["content-type"]:
        assert call.json  # a long answer of unknown length
    else:
        assert call.whole or call.error
    if record.error:
        assert call.error, "the client was not told what went wrong"
