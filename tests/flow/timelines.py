"""Helpers that several files of timelines share."""

from __future__ import annotations

from typing import Any

from router.core.verdict import Verdict
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import Script, streams


def verdicts(call: ScriptedClient) -> list[tuple[str, str, Verdict | None]]:
    """Who was asked, as what, and how it ended."""
    return [(line.endpoint.name, line.role, line.verdict) for line in call.record.attempts]


def quick_and_slow(*slow: Script, **told: Any) -> tuple[Any, Any]:
    """`a`, which is asked first and plays what is given, and a quick `b` behind it."""
    return endpoint("a", *slow, **told), endpoint("b", streams("quick"), tier=2)


def told(play: Player, **fields: Any) -> str:
    call = play.call(**fields)
    play.run()
    return call.text
