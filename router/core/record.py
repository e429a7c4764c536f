"""The facts of one call, appended while it runs and read by the telemetry sinks when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from router.core.verdict import Outcome, Verdict


class _Endpoint(Protocol):
    name: str
    model: str


class AttemptRecord(Protocol):
    """The part of an attempt that the sinks read; times are of the scheduler's clock."""

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


# In the order of the access log's line.
RECORD_FIELDS = (
    "request_id",
    "operation",
    "arrived",
    "model",
    "stream",
    "status",
    "error",
    "endpoint",
    "queued",
    "first_token",
    "ended",
    "prompt_tokens",
    "completion_tokens",
    "attempts",
    "why",
)


class CallRecord:
    """The facts of one call. `arrived` is a time of the scheduler's clock; `first_token` and `ended` are seconds since.

    `error` is the error code sent to the client, or says how the client left. `queued` is how many seconds the call
    waited for a slot. `why` explains the choice of the first attempt, in JSON; None unless the client asked for it.
    `dropped_headers` counts the endpoint's headers for which the answer's head had no room; it is for the metrics only.
    `malformed` counts the unreadable events of streams by endpoint; None if there were none, as nearly always.
    """

    __slots__ = (*RECORD_FIELDS, "dropped_headers", "malformed")

    def __init__(
        self,
        request_id: str,
        operation: str,
        arrived: float,
        model: str = "",
        stream: bool = False,
        status: int = 0,
        error: str = "",
        endpoint: str = "",
        queued: float = 0.0,
        first_token: float | None = None,
        ended: float | None = None,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        attempts: list[AttemptRecord] | None = None,
        why: msgspec.Raw | None = None,
    ) -> None:
        self.request_id = request_id
        self.operation = operation
        self.arrived = arrived
        self.model = model
        self.stream = stream
        self.status = status
        self.error = error
        self.endpoint = endpoint
        self.queued = queued
        self.first_token = first_token
        self.ended = ended
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.attempts: list[AttemptRecord] = [] if attempts is None else attempts
        self.why = why
        self.dropped_headers = 0
        self.malformed: Mapping[str, int] | None = None

    def __repr__(self) -> str:
        return f"<CallRecord {self.request_id} {self.model or '-'} {self.status or 'open'}>"

    def end(self, now: float) -> None:
        """Record when the call ended."""
        self.ended = now - self.arrived
