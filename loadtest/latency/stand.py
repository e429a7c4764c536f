"""What the process of the fake endpoints is told: the endpoints, their chance, the calls, and the ports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from loadtest.latency.arrivals import Call
from loadtest.latency.endpoints import Endpoint


class Stand(BaseModel):
    """Travels as JSON; `data` are measured times by endpoint, where the user gave some."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    endpoints: tuple[Endpoint, ...]
    seed: int
    speed: float
    calls: tuple[Call, ...]
    ports: dict[str, int]
    control: int
    data: dict[str, list[float]] | None = None
    model: str = "m"
    told_faster: float = 1.0  # what a Retry-After is divided by: the speed, for a router whose own clock is not faster
