"""A client that records what it is sent, and when; it can leave, and read slowly."""

from __future__ import annotations

import json
from typing import Any

from router.core.record import CallRecord
from router.proxy.client import Owner
from router.scheduler import Scheduler

HIGH_WATER = 64 << 10  # unread bytes above which a connection is full: the default of uvicorn


class ScriptedClient:
    """A `Client` of the router. Its player adds the `record` when the call has ended."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.owner: Owner | None = None
        self.arrived = 0.0
        self.status: int | None = None
        self.length: int | None = None
        self.writes: list[tuple[float, bytes]] = []
        self.ended_at: float | None = None
        self.aborted_at: float | None = None
        self.left_at: float | None = None
        self.records: list[CallRecord] = []
        self._headers = b""
        self._now = scheduler.now
        self._reads, self._unread, self._full = True, 0, False

    def __repr__(self) -> str:
        return f"<ScriptedClient {self.status} {len(self.body)} bytes, ended {self.ended_at}, left {self.left_at}>"

    # Called by the router.

    def start(self, status: int, headers: bytes, length: int | None = None) -> None:
        if self.over:
            return
        assert self.status is None, "a second answer"
        self.status, self._headers, self.length = status, headers, length

    def write(self, data: bytes) -> None:
        if self.over or not data:
            return
        assert self.status is not None, "a body before its head"
        self.writes.append((self._now(), data))
        self._unread += 0 if self._reads else len(data)
        if self._unread > HIGH_WATER and not self._full:
            self._full = True
            if self.owner is not None:
                self.owner.full()

    def end(self, data: bytes = b"") -> None:
        assert self.ended_at is None, "a second end"
        assert self.status is not None, "an end before the head"
        self.owner = None
        self.write(data)
        if not self.over:
            self.ended_at = self._now()

    def abort(self) -> None:
        self.owner = None
        if not self.over:
            self.aborted_at = self._now()

    # Called by the player.

    def leaves(self) -> None:
        if self.over:
            return
        self.left_at = self._now()
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.gone()

    def stops_reading(self) -> None:
        self._reads = False

    def reads_again(self) -> None:
        self._reads, self._unread = True, 0
        if self._full:
            self._full = False
            if self.owner is not None:
                self.owner.drained()

    # What the client has received.

    @property
    def over(self) -> bool:
        return self.ended_at is not None or self.aborted_at is not None or self.left_at is not None

    @property
    def record(self) -> CallRecord:
        (record,) = self.records
        return record

    @property
    def headers(self) -> dict[str, str]:
        return dict(line.split(": ", 1) for line in self._headers.decode().splitlines())

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.writes)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error that was sent, as the body or as the last event; empty if there was none."""
        shape = self.events[-1] if self.events else self.json
        return dict(shape.get("error") or {}) if isinstance(shape, dict) else {}

    @property
    def events(self) -> list[Any]:
        """The JSON of a stream's events."""
        datas = [line[6:] for line in self.body.splitlines() if line.startswith(b"data: ")]
        return [json.loads(data) for data in datas if data != b"[DONE]"]

    @property
    def choices(self) -> list[dict[str, Any]]:
        """The choices of all events."""
        return [choice for shape in self.events if isinstance(shape, dict) for choice in shape.get("choices") or ()]

    @property
    def text(self) -> str:
        """The text of a chat stream."""
        return "".join(choice.get("delta", {}).get("content") or "" for choice in self.choices)

    @property
    def whole(self) -> bool:
        """True if the stream ends as a complete one: with [DONE], or at least with a finish reason."""
        return self.done or any(choice.get("finish_reason") for choice in self.choices)

    @property
    def done(self) -> bool:
        return self.body.rstrip().endswith(b"data: [DONE]")

    @property
    def first_token_at(self) -> float | None:
        """The time of the first bytes that are more than comments."""
        return next((at for at, data in self.writes if not data.startswith(b":")), None)

    @property
    def pinged_at(self) -> list[float]:
        return [at for at, data in self.writes if data.startswith(b":")]
