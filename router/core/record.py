"""The facts of one call, appended by whoever learns them and read by the sinks at its end."""

from __future__ import annotations

from typing import Protocol

import msgspec

from router.core.verdict import Outcome, Verdict


class _Endpoint(Protocol):
    name: str
    model: str


class AttemptRecord(Protocol):
    """What the sinks read of an attempt; times are of the scheduler's clock."""

    @property
    def endpoint(self) -> _Endpoint: ...
    @property
    def role(self) -> str: ...
    @property
    def began(self) -> float: ...
    @property
    def first_token_at(self) -> float | None: ...
    @property
    def ended(self) -> float | None: ...
    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def verdict(self) -> Verdict | None: ...


class CallRecord(msgspec.Struct, eq=False):
    """`arrived` is a time of the scheduler's clock, `first_token` and `ended` are seconds since then.

    `error` is the code of what its client was told, or what became of the client; `queued` are the seconds that it
    waited in line for a slot. `why` is the explanation of its first attempt, in JSON, where its client asked for it.
    """

    request_id: str
    operation: str
    arrived: float
    model: str = ""
    stream: bool = False
    status: int = 0
    error: str = ""
    endpoint: str = ""
    queued: float = 0.0
    first_token: float | None = None
    ended: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: list[AttemptRecord] = msgspec.field(default_factory=list)
    why: msgspec.Raw | None = None
