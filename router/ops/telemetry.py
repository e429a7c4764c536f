"""Where a call's record goes at its end: to every sink, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.core.record import CallRecord

Sink = Callable[[CallRecord], None]


class Telemetry:
    """Sinks are called in the request's own turn, so they count or queue, and never wait."""

    __slots__ = ("_sinks",)

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def ended(self, record: CallRecord) -> None:
        for sink in self._sinks:
            sink(record)
