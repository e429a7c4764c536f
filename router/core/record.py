"""The facts of one call, appended by whoever learns them and read by the sinks at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.core.verdict import Verdict


@dataclass(slots=True)
class AttemptRecord:
    """Times are seconds since the call came."""

    endpoint: str
    model: str
    role: str
    began: float
    first_token: float | None = None
    ended: float | None = None
    verdict: Verdict | None = None
    reason: str = ""


@dataclass(slots=True)
class CallRecord:
    """`arrived` is a time of the monotonic clock; the others are seconds since. `error` is the code of what its client
    was told.
    """

    request_id: str
    operation: str
    arrived: float
    model: str = ""
    stream: bool = False
    status: int = 0
    error: str = ""
    endpoint: str = ""
    first_token: float | None = None
    ended: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: list[AttemptRecord] = field(default_factory=list)
