"""Every model's endpoints and policy: an immutable snapshot, and how the next one inherits what this one has learned.

Endpoints are matched by what is measured (address, upstream model, credential), never by name, weight, tier or limits,
so that an operator who re-weights forgets nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from types import MappingProxyType
from typing import Literal

from router.config import Config, EndpointConfig, PolicySettings
from router.core.choice.budget import Budget, Utilization
from router.core.choice.hedge_plan import HedgePlan
from router.core.choice.hedge_window import HedgeWindow
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.slots import Slots
from router.core.endpoint.waiting_queue import QueueLimit

HEDGES_TO = 0.8  # of the calls that there is room for: with more of them no hedge is paid for
RETRIES_TO = 0.9  # and no retry


@dataclass(frozen=True, slots=True)
class Route:
    """How one client-facing model is served: its endpoints, the more welcome ones first, and what its calls may cost
    extra.
    """

    model: str
    tiers: tuple[tuple[Endpoint, ...], ...]
    numbers: tuple[int, ...]  # of the tiers, as configured
    policies: Mapping[Endpoint, PolicySettings]
    hedges: Budget
    retries: Budget
    deadline: float  # seconds, the longest that one of its endpoints has
    shortest_deadline: float
    patience: float
    resume: Literal["auto", "replay", "continue", "off"]
    affinity: str  # what holds a conversation together: prefix, header: and a name, or off
    affinity_margin: float
    queue: QueueLimit
    plan: HedgePlan
    window: HedgeWindow

    def replan(self, now: float) -> None:
        self.plan.renew(self.tiers, self.hedges, now)

    @property
    def endpoints(self) -> Iterable[Endpoint]:
        return self.policies.keys()


@dataclass(frozen=True, slots=True)
class Table:
    config: Config
    routes: Mapping[str, Route]
    endpoints: Mapping[Endpoint, EndpointConfig]
    hedges: Budget  # of the whole process
    retries: Budget

    def disabled(self, model: str) -> dict[str, str]:
        """The endpoints that would serve a model and are disabled, each with the reason."""
        return {told.name: told.disabled for told in self.config.endpoints if told.disabled and model in told.models}


def rebuild(config: Config, old: Table | None = None, load: Utilization = lambda: 0.0) -> Table:
    """The table for a configuration; endpoints, budgets and queues that are in `old` keep their state."""
    known = {endpoint.key: endpoint for endpoint in old.endpoints} if old else {}
    lines = {endpoint.slots.line for endpoint in known.values()}
    endpoints: dict[Endpoint, EndpointConfig] = {}
    offers: dict[str, list[tuple[EndpointConfig, Endpoint]]] = {}
    for told in config.enabled:
        for model, endpoint in _endpoints(told, known, endpoints.keys()).items():
            endpoints[endpoint] = told
            offers.setdefault(model, []).append((told, endpoint))
    hedges, retries = (
        (old.hedges, old.retries)
        if old
        else (Budget(utilization=load, max_utilization=HEDGES_TO), Budget(utilization=load, max_utilization=RETRIES_TO))
    )
    queues = {model: route.queue for model, route in old.routes.items()} if old else {}
    routes = {
        model: _route(config, model, offered, hedges, retries, queues.get(model) or QueueLimit())
        for model, offered in offers.items()
    }
    for line in lines:
        line.wake_all()
    return Table(config, MappingProxyType(routes), MappingProxyType(endpoints), hedges, retries)


def _endpoints(
    told: EndpointConfig, known: Mapping[Hashable, Endpoint], others: Collection[Endpoint]
) -> dict[str, Endpoint]:
    """The endpoints of one entry, by the name that clients use; two names of one upstream model share an endpoint."""
    upstream: dict[str, Endpoint] = {}
    taken, occupied = {other.key for other in others}, {other.slots for other in others}
    keys = {model: _key(told, model, taken) for model in dict.fromkeys(told.models.values())}
    before = (known[key].slots for key in keys.values() if key in known)
    slots = next((slots for slots in before if slots not in occupied), None) or Slots()
    slots.allow(told.concurrency, inf if told.kind == "simulated" else told.pool.max)
    for model, key in keys.items():
        endpoint = known.get(key) or Endpoint(told.name, model, key=key, slots=slots)
        endpoint.name, endpoint.weight, endpoint.slots = told.name, told.weight, slots
        endpoint.simulated, endpoint.context = told.kind == "simulated", told.context or 0
        upstream[model] = endpoint
    return {name: upstream[model] for name, model in told.models.items()}


def _key(told: EndpointConfig, model: str, taken: set[Hashable]) -> Hashable:
    secret = told.api_key.get_secret_value() if told.api_key else ""
    key: tuple[str, ...] = (told.base_url or told.name, model, sha256(secret.encode()).hexdigest())
    while key in taken:  # the same thing twice in one file
        key = (*key, told.name)
    return key


def _route(
    config: Config,
    model: str,
    offered: list[tuple[EndpointConfig, Endpoint]],
    hedges: Budget,
    retries: Budget,
    queue: QueueLimit,
) -> Route:
    tiers = sorted({told.tier for told, _ in offered})
    policies = {endpoint: config.policy(model, told) for told, endpoint in offered}
    anyone = next(iter(policies.values()))  # of what no endpoint says otherwise
    queue.most, queue.longest = anyone.queue, anyone.queue_wait
    return Route(
        model,
        tuple(tuple(endpoint for told, endpoint in offered if told.tier == tier) for tier in tiers),
        tuple(tiers),
        MappingProxyType(policies),
        hedges,
        retries,
        max(policy.deadline for policy in policies.values()),
        min(policy.deadline for policy in policies.values()),
        max(policy.patience for policy in policies.values()),
        anyone.resume,
        anyone.affinity,
        anyone.affinity_margin,
        queue,
        HedgePlan(),
        HedgeWindow(),
    )
