"""Whether a model is served now: the one definition that /readyz and /metrics share."""

from __future__ import annotations

from router.core.choice.route import Route
from router.core.endpoint.endpoint import Endpoint
from router.core.verdict import OURS, Cause

# Cooldowns that last until an operator or a quota changes something. A busy endpoint still counts: a load balancer that
# took the router out then would only move the load.
_LASTING = OURS | {Cause.QUOTA}


def can_serve(endpoint: Endpoint, now: float) -> bool:
    """True unless a probe found the endpoint down, or it refuses the router's key, model or path, or has no quota.

    Refusals of chats count. Those of another operation may only show that the endpoint does not have it.
    """
    cooldown = endpoint.availability.cooldown()
    lasting = cooldown is not None and cooldown.until > now and cooldown.cause in _LASTING
    return endpoint.availability.health.up and not lasting


def served(route: Route, now: float) -> bool:
    """True if at least one endpoint of the model can serve calls."""
    return any(can_serve(endpoint, now) for endpoint in route.endpoints)
