"""Every model's route: an immutable snapshot, and how the next one inherits the learned state.

Endpoints are matched by what is measured (address, upstream model, credential), never by name, weight, tier or limits,
so that an operator who changes a weight loses nothing that was learned.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from types import MappingProxyType

from router.config import Config, EndpointConfig, PolicySettings
from router.core.choice.budget import Budget, Utilization
from router.core.choice.hedge_plan import HedgePlan
from router.core.choice.hedge_window import HedgeWindow
from router.core.choice.route import Policy, Route, Tier
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.slots import Slots
from router.core.endpoint.waiting_queue import QueueLimit

# Utilization of the router above which no hedge is paid for: extra work stops before calls are refused.
MAX_UTILIZATION_FOR_HEDGES = 0.8
MAX_UTILIZATION_FOR_RETRIES = 0.9


@dataclass(frozen=True, slots=True)
class Table:
    """A configuration's routes by model and endpoints; the two budgets are the whole process's."""

    config: Config
    routes: Mapping[str, Route]
    endpoints: Mapping[Endpoint, EndpointConfig]
    hedges: Budget
    retries: Budget

    def by_config(self) -> Iterable[tuple[EndpointConfig, list[Endpoint]]]:
        """Each enabled entry of the configuration, with its endpoints."""
        endpoints: dict[str, list[Endpoint]] = {configured.name: [] for configured in self.config.enabled}
        for endpoint, configured in self.endpoints.items():
            endpoints[configured.name].append(endpoint)
        return [(configured, endpoints[configured.name]) for configured in self.config.enabled]

    def disabled(self, model: str) -> dict[str, str]:
        """The disabled endpoints that would serve a model, each with the reason."""
        return {each.name: each.disabled for each in self.config.endpoints if each.disabled and model in each.models}


def rebuild(config: Config, old: Table | None = None, utilization: Utilization = lambda: 0.0) -> Table:
    """The table for a configuration; endpoints, budgets and queues that are in `old` keep their state."""
    known = {endpoint.key: endpoint for endpoint in old.endpoints} if old else {}
    waiting = {endpoint.availability.slots.queue for endpoint in known.values()}
    endpoints: dict[Endpoint, EndpointConfig] = {}
    taken: set[Hashable] = set()
    occupied: set[Slots] = set()
    offers: dict[str, list[tuple[EndpointConfig, Endpoint]]] = {}
    for configured in config.enabled:
        for model, endpoint in _endpoints(configured, known, taken, occupied).items():
            endpoints[endpoint] = configured
            taken.add(endpoint.key)
            occupied.add(endpoint.availability.slots)
            offers.setdefault(model, []).append((configured, endpoint))
    hedges, retries = (old.hedges, old.retries) if old else _budgets(utilization)
    queues = {model: route.queue for model, route in old.routes.items()} if old else {}
    routes = {
        model: _route(config, model, offered, hedges, retries, queues.get(model) or QueueLimit())
        for model, offered in offers.items()
    }
    for queue in waiting:
        queue.wake_all()
    return Table(config, MappingProxyType(routes), MappingProxyType(endpoints), hedges, retries)


def _budgets(utilization: Utilization) -> tuple[Budget, Budget]:
    """The budgets of hedges and of retries."""
    return (
        Budget(utilization=utilization, max_utilization=MAX_UTILIZATION_FOR_HEDGES),
        Budget(utilization=utilization, max_utilization=MAX_UTILIZATION_FOR_RETRIES),
    )


def _endpoints(
    configured: EndpointConfig, known: Mapping[Hashable, Endpoint], taken: set[Hashable], occupied: set[Slots]
) -> dict[str, Endpoint]:
    """The endpoints of one entry by client-facing model; two names of one upstream model share an endpoint.

    `taken` and `occupied` are the keys and the slots of other entries.
    """
    upstream: dict[str, Endpoint] = {}
    keys = {model: _key(configured, model, taken) for model in dict.fromkeys(configured.models.values())}
    before = (known[key].availability.slots for key in keys.values() if key in known)
    slots = next((slots for slots in before if slots not in occupied), None) or Slots()
    slots.configure(configured.concurrency, inf if configured.kind == "simulated" else configured.pool.max)
    for model, key in keys.items():
        endpoint = known.get(key) or Endpoint(configured.name, model, key=key, slots=slots)
        endpoint.name, endpoint.availability.slots = configured.name, slots
        endpoint.forecast.weight = configured.weight
        endpoint.simulated, endpoint.context = configured.kind == "simulated", configured.context or 0
        upstream[model] = endpoint
    return {name: upstream[model] for name, model in configured.models.items()}


def _key(configured: EndpointConfig, model: str, taken: set[Hashable]) -> Hashable:
    secret = configured.api_key.get_secret_value() if configured.api_key else ""
    key: tuple[str, ...] = (configured.base_url or configured.name, model, sha256(secret.encode()).hexdigest())
    while key in taken:  # the same address, model and credential twice in one file
        key = (*key, configured.name)
    return key


def _route(
    config: Config,
    model: str,
    offered: list[tuple[EndpointConfig, Endpoint]],
    hedges: Budget,
    retries: Budget,
    queue: QueueLimit,
) -> Route:
    settings = {endpoint: config.policy(model, configured) for configured, endpoint in offered}
    shared = next(iter(settings.values()))  # for keys that no endpoint may override
    queue.most, queue.longest = shared.queue, shared.queue_wait
    numbers = sorted({configured.tier for configured, _ in offered})
    deadlines = [each.deadline for each in settings.values()]
    return Route(
        model=model,
        tiers=tuple(Tier.of(number, (e for each, e in offered if each.tier == number)) for number in numbers),
        policies=MappingProxyType({endpoint: _policy(each) for endpoint, each in settings.items()}),
        hedges=hedges,
        retries=retries,
        deadline=max(deadlines),
        shortest_deadline=min(deadlines),
        patience=max(each.patience for each in settings.values()),
        resume=shared.resume,
        affinity=shared.affinity,
        affinity_margin=shared.affinity_margin,
        queue=queue,
        plan=HedgePlan(),
        window=HedgeWindow(),
    )


def _policy(settings: PolicySettings) -> Policy:
    return Policy(
        deadline=settings.deadline,
        hedge=settings.hedge,
        abandon=settings.abandon,
        stall=settings.stall,
        hedge_budget=settings.hedge_budget,
        retry_budget=settings.retry_budget,
    )
