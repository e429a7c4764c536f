"""The results of a run: every call as its client saw it, every attempt as its endpoint saw it; as JSON, calls as CSV.

All times are seconds of the scenario: measured times are multiplied by the speed.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call. `first_token` and `ended` count from the scheduled arrival, so they include `late`."""

    k: int
    at: float
    tokens: int  # tokens of the prompt
    first_token: float | None
    ended: float
    status: int | None
    error: str | None  # None: the whole answer arrived
    endpoint: str | None  # the endpoint of the first token
    late: float  # seconds from the scheduled time until the call was sent


@dataclass(frozen=True, slots=True)
class Asked:
    """One attempt, as its endpoint logged it: it arrived `at`, and its first token was due `first_token` later."""

    k: int
    endpoint: str
    at: float
    first_token: float | None  # None: refused, never answered, or cancelled while queued
    became: str  # "served", "cancelled", "cut", "no connection", "waiting", or a status and a code, as in "429 1302"

    @property
    def failed(self) -> bool:
        """True if the attempt was refused or broke; a cancelled attempt did not fail."""
        return self.became not in ("served", "cancelled", "waiting")


@dataclass(frozen=True)
class Run:
    """One run; `calls` are in order of their number, `attempts` by endpoint and then in order of time."""

    scenario: str
    seed: int
    speed: float
    router: str
    calls: Sequence[Outcome]
    attempts: Sequence[Asked]

    def by_call(self) -> dict[int, list[Asked]]:
        """The attempts of each call in the order in which they were made."""
        asked: dict[int, list[Asked]] = {call.k: [] for call in self.calls}
        for attempt in sorted(self.attempts, key=lambda attempt: attempt.at):
            asked[attempt.k].append(attempt)
        return asked

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Run:
        calls = [Outcome(**each) for each in data["calls"]]
        return cls(**{**data, "calls": calls, "attempts": [Asked(**each) for each in data["attempts"]]})

    def write_csv(self, file: Path) -> None:
        """Write a row for every call, with the number of attempts that the endpoints counted."""
        attempts = Counter(asked.k for asked in self.attempts)
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, [*Outcome.__dataclass_fields__, "attempts"])
            writer.writeheader()
            writer.writerows({**asdict(call), "attempts": attempts[call.k]} for call in self.calls)
