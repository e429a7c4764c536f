"""Hands the record of an ended call to every sink, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.core.record import CallRecord

Sink = Callable[[CallRecord], None]


class Telemetry:
    """Calls the sinks synchronously, at the end of the call: a sink may count or queue, but never wait."""

    __slots__ = ("_sinks",)

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def ended(self, record: CallRecord) -> None:
        for sink in self._sinks:
            sink(record)
