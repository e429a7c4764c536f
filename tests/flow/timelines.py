"""Helpers of the timelines: two endpoints, a call's text, and the attempts that its record lists."""

from __future__ import annotations

from typing import Any

from router.core.verdict import Verdict
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import Script, streams


def verdicts(call: ScriptedClient) -> list[tuple[str, str, Verdict | None]]:
    """Endpoint, role and verdict of each attempt."""
    return [(line.endpoint.name, line.role, line.verdict) for line in call.record.attempts]


def quick_and_slow(*slow: Script, **settings: Any) -> tuple[Any, Any]:
    """Two endpoints: `a`, asked first, plays the given scripts; `b` in the second tier is quick."""
    return endpoint("a", *slow, **settings), endpoint("b", streams("quick"), tier=2)


def text_of_call(play: Player, **fields: Any) -> str:
    """Make one call, play it to its end, and return its text."""
    call = play.call(**fields)
    play.run()
    return call.text
