"""The keys of one endpoint in a scenario: its law, its capacity, and the times at which it misbehaves."""

from __future__ import annotations

from math import inf
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadtest.latency.laws import AnyLaw, Seconds, Share

LONGEST_NAME = 64  # characters
Whole = Annotated[int, Field(gt=0)]
Time = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Window(Strict):
    """A time window from `start` until `until` (default: the end), repeated every `every` seconds."""

    start: Time = 0.0
    until: Seconds = inf
    every: Seconds | None = None

    @model_validator(mode="after")
    def in_order(self) -> Window:
        if self.until <= self.start:
            raise ValueError(f"until ({self.until:g}) must be more than start ({self.start:g})")
        if self.every is not None and self.every < self.until - self.start:
            raise ValueError(f"every ({self.every:g}) is less than the window is long ({self.until - self.start:g})")
        return self

    def holds(self, now: float) -> bool:
        if now < self.start:
            return False
        since = now - self.start
        return (since % self.every if self.every else since) < self.until - self.start

    def spans(self, end: float) -> list[tuple[float, float]]:
        """All spans of the window up to `end`."""
        spans, start = [], self.start
        while start < end:
            spans.append((start, min(end, start + self.until - self.start)))
            start += self.every or inf
        return spans


class Errors(Window):
    """A window in which a share of the calls gets this status, optionally with a code and a Retry-After in seconds."""

    share: Share = 1.0
    status: Annotated[int, Field(ge=400, le=599)] = 503
    code: str | None = None
    retry_after: Seconds | None = None


class Cap(Strict):
    """A cap from this time on: at most `most` calls at once, further ones are refused."""

    at: Time
    most: Whole


class Cold(Strict):
    """An endpoint unloaded at first and after `after` seconds without a call; the next call loads it, and all wait."""

    after: Seconds
    load: Seconds


class Cuts(Strict):
    """A share of the answers breaks after `after` tokens."""

    share: Share
    after: Whole


class Endpoint(Strict):
    """One endpoint. Calls beyond `slots` queue, calls beyond `caps` are refused; by default both are unlimited."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=LONGEST_NAME)]
    copies: Whole | None = None  # so many endpoints, whose names end with a number from 0 on; None: this one alone
    kind: Literal["openai", "zhipu", "vllm"] = "openai"
    tier: Whole = 1
    concurrency: Whole | None = None  # as configured in the router; does not limit the endpoint
    law: AnyLaw
    rate: Seconds = 40.0  # tokens per second after the first
    slots: Whole | None = None
    caps: tuple[Cap, ...] = ()
    cold: Cold | None = None
    refuses_in: Seconds = 0.05  # seconds until a refusal is sent
    errors: tuple[Errors, ...] = ()
    cuts: Cuts | None = None
    silent: tuple[Window, ...] = ()  # windows in which the endpoint takes calls and never answers
    absent: tuple[Window, ...] = ()  # windows in which the endpoint does not listen

    @model_validator(mode="after")
    def caps_in_order(self) -> Endpoint:
        times = [cap.at for cap in self.caps]
        if times != sorted(set(times)):
            raise ValueError(f"the times of caps must rise, not {times}")
        return self

    @model_validator(mode="after")
    def names_of_copies_fit(self) -> Endpoint:
        if self.copies is not None and len(longest := f"{self.name}{self.copies - 1}") > LONGEST_NAME:
            raise ValueError(f"the name {longest} of the last copy has more than {LONGEST_NAME} characters")
        return self

    def each(self) -> tuple[Endpoint, ...]:
        """The endpoints that this entry stands for."""
        if self.copies is None:
            return (self,)
        names = (f"{self.name}{number}" for number in range(self.copies))
        return tuple(self.model_copy(update={"name": name, "copies": None}) for name in names)

    @property
    def steady(self) -> bool:
        """True if it takes every call at every time, and at once."""
        limits = self.slots, self.cold, self.caps, self.errors, self.silent, self.absent
        return not any(limits)

    def cap(self, now: float) -> float:
        return next((cap.most for cap in reversed(self.caps) if cap.at <= now), inf)

    def is_absent(self, now: float) -> bool:
        return any(window.holds(now) for window in self.absent)

    def is_silent(self, now: float) -> bool:
        return any(window.holds(now) for window in self.silent)

    def failing(self, now: float) -> Errors | None:
        return next((errors for errors in self.errors if errors.holds(now)), None)
