"""The facts of one call, appended by whoever learns them and read by the sinks at its end."""

from __future__ import annotations

from typing import Protocol

from router.core.verdict import Verdict


class _Endpoint(Protocol):
    name: str
    model: str


class AttemptRecord(Protocol):
    """What the sinks read of an attempt; times are of the monotonic clock."""

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
    def verdict(self) -> Verdict | None: ...
    @property
    def reason(self) -> str: ...
    @property
    def retry_after(self) -> float | None: ...


class CallRecord:
    """`arrived` is a time of the monotonic clock, `first_token` and `ended` are seconds since then.

    `error` is the code of what its client was told, or what became of the client.
    """

    __slots__ = (
        "arrived",
        "attempts",
        "completion_tokens",
        "ended",
        "endpoint",
        "error",
        "first_token",
        "model",
        "operation",
        "prompt_tokens",
        "request_id",
        "status",
        "stream",
    )

    def __init__(self, request_id: str, operation: str, arrived: float) -> None:
        self.request_id, self.operation, self.arrived = request_id, operation, arrived
        self.model = self.error = self.endpoint = ""
        self.stream = False
        self.status = 0
        self.first_token: float | None = None
        self.ended: float | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.attempts: list[AttemptRecord] = []
