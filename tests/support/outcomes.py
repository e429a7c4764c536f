"""The outcome of an exchange or an attempt that a test knows to have ended."""

from __future__ import annotations

from typing import Protocol

from router.core.verdict import Outcome


class Ending(Protocol):
    """An exchange or an attempt."""

    @property
    def outcome(self) -> Outcome | None: ...


def outcome_of(ended: Ending) -> Outcome:
    """The outcome; fails the test if there is none yet."""
    assert ended.outcome is not None, f"{ended} has not ended"
    return ended.outcome
