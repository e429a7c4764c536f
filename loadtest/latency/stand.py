"""The input of the process of the fake endpoints: the endpoints, the seed, the calls, and the ports."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict

from loadtest.latency.arrivals import Call
from loadtest.latency.endpoints import Endpoint


class Stand(BaseModel):
    """The input as an object, sent as JSON; `data` has the measured times by endpoint that the user gave."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoints: tuple[Endpoint, ...]
    seed: int
    speed: float
    calls: tuple[Call, ...]
    ports: dict[str, int]
    control: int
    data: dict[str, list[float]] | None = None
    model: str = "m"
    retry_after_divisor: float = 1.0  # the speed, for a router whose own clock does not follow it

    def as_json(self) -> str:
        """The stand as JSON with infinities, which windows without an end have and pydantic's own JSON lacks."""
        return json.dumps(self.model_dump())

    @classmethod
    def from_json(cls, text: str) -> Stand:
        return cls.model_validate(json.loads(text))
