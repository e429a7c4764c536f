"""What a run came to: every call as its client saw it, every attempt as its endpoint did; as JSON, and calls as CSV.

All times are seconds of the scenario: multiplied by the speed again, where the run was faster.
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
    """One call. `first_token` and `ended` count from the arrival as it was scheduled, so lateness is in them."""

    k: int
    at: float
    tokens: int  # of the prompt
    first_token: float | None
    ended: float
    status: int | None
    error: str | None  # None: the whole answer arrived
    endpoint: str | None  # whose first token it was
    late: float  # sent so much later than scheduled


@dataclass(frozen=True, slots=True)
class Asked:
    """One attempt, as its endpoint logged it: it came `at`, and its first token was due `first_token` later."""

    k: int
    endpoint: str
    at: float
    first_token: float | None  # None: refused, never answered, or left while it was in line
    became: str  # "served", "cancelled", "cut", "no connection", "waiting", or a status and a code, as in "429 1302"

    @property
    def failed(self) -> bool:
        """It was refused or broke; nobody had to be impatient."""
        return self.became not in ("served", "cancelled", "waiting")


@dataclass(frozen=True)
class Run:
    """One run; `calls` in order of their number, `attempts` by endpoint and in order of time."""

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
    def from_json(cls, said: dict[str, Any]) -> Run:
        calls = [Outcome(**each) for each in said["calls"]]
        return cls(**{**said, "calls": calls, "attempts": [Asked(**each) for each in said["attempts"]]})

    def write_csv(self, file: Path) -> None:
        """A row for every call, with the number of attempts that its endpoints counted."""
        attempts = Counter(asked.k for asked in self.attempts)
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, [*Outcome.__dataclass_fields__, "attempts"])
            writer.writeheader()
            writer.writerows({**asdict(call), "attempts": attempts[call.k]} for call in self.calls)
