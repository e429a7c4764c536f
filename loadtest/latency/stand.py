"""What the process of the fake endpoints is told: the endpoints, their chance, the calls, and the ports."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict

from loadtest.latency.arrivals import Call
from loadtest.latency.endpoints import Endpoint


class Stand(BaseModel):
    """Travels as JSON; `data` are measured times by endpoint, where the user gave some."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoints: tuple[Endpoint, ...]
    seed: int
    speed: float
    calls: tuple[Call, ...]
    ports: dict[str, int]
    control: int
    data: dict[str, list[float]] | None = None
    model: str = "m"
    told_faster: float = 1.0  # what a Retry-After is divided by: the speed, for a router whose own clock is not faster

    def as_json(self) -> str:
        """Not pydantic's own: that has no infinity, which windows without an end have."""
        return json.dumps(self.model_dump())

    @classmethod
    def from_json(cls, said: str) -> Stand:
        return cls.model_validate(json.loads(said))
