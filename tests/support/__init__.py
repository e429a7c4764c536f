"""Whole calls in virtual time: a clock that jumps, endpoints that play scripts, clients that record what they get."""

from tests.support.client import ScriptedClient
from tests.support.clock import VirtualScheduler
from tests.support.endpoints import ScriptedPool, ScriptedWire
from tests.support.player import EndpointSpec, Player, endpoint

__all__ = [
    "EndpointSpec",
    "Player",
    "ScriptedClient",
    "ScriptedPool",
    "ScriptedWire",
    "VirtualScheduler",
    "endpoint",
]
