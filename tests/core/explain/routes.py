"""Routes to explain, built from a configuration, and endpoints brought into the states that an explanation names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from router.config import parse
from router.core.choice.route import Route
from router.core.choice.table import rebuild
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.server_load import ServerLoad
from router.core.explain.explanation import explain
from tests.core.helpers import T, busy, fill, learn, trip

SOON = T + 1.0


def route(*names: str, second: Iterable[str] = (), limit: int | None = None, load: float = 0.0, **policy: Any) -> Route:
    """A route with endpoints of these names in its first and second tier."""
    tiers = [{"name": name, "tier": 1} for name in names] + [{"name": name, "tier": 2} for name in second]
    more = {"models": ["chat"]} | ({"concurrency": limit} if limit else {})
    entries = [more | {"base_url": f"http://{each['name']}/v1"} | each for each in tiers]
    return rebuild(parse(json.dumps({"defaults": policy, "endpoints": entries})), utilization=lambda: load).routes[
        "chat"
    ]


def named(of: Route, name: str) -> Endpoint:
    """The endpoint of this name."""
    return next(endpoint for endpoint in of.endpoints if endpoint.name == name)


def route_with(
    *names: str,
    second: Iterable[str] = (),
    limit: int | None = None,
    load: float = 0.0,
    hedge: Any = "auto",
    **seconds: float,
) -> Route:
    """A route with endpoints that have been measured: each wait was this many seconds."""
    of = route(*names, second=second, limit=limit, load=load, hedge=hedge)
    for name, value in seconds.items():
        learn(named(of, name), *[value] * 100)
    of.replan(T)
    return of


def why(of: Route, now: float = T) -> str:
    """The sentence that explains where a call would go."""
    return explain(of, "first_token", 0.0, now).why


STATES = [
    "fine",
    "newcomer",
    "being measured",
    "late",
    "busy",
    "tripped",
    "half open",
    "down",
    "full",
    "hot",
    "crowded",
]


def bring(endpoint: Endpoint, state: str, seconds: float) -> None:
    """Bring an endpoint into one of these states."""
    if state not in ("newcomer", "being measured"):
        learn(endpoint, *[seconds, 1.5 * seconds] * 20)
    if state in ("being measured", "late"):
        endpoint.begin(T - 5.0 * seconds)
    elif state == "busy":
        busy(endpoint, 5.0)
    elif state == "tripped":
        trip(endpoint)
    elif state == "half open":
        trip(endpoint, T - 10.0)
        endpoint.begin(T)
    elif state == "down":
        endpoint.availability.probed(False, T)
    elif state == "full":
        fill(endpoint)
    elif state == "hot":
        endpoint.forecast.report(ServerLoad(waiting=3.0), T, T + 5.0)
    elif state == "crowded":
        for _ in range(3):
            endpoint.begin(T)
