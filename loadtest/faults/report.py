"""The results of a run of the faults: as a table, and all observations as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.faults.ailments import FAULTS
from loadtest.faults.cases import Case
from loadtest.faults.fake import Entry
from loadtest.faults.judge import Outcome
from loadtest.faults.run import Plan, Result

COLOURS = {"pass": "green", "partial": "yellow", "safe": "cyan", "fail": "bold red"}


def print_results(results: Sequence[Result], console: Console, speed: float) -> None:
    table = Table(show_lines=True)
    for heading in ("", "the primary", "the client got", "the endpoints saw", "verdict"):
        table.add_column(heading)
    for result in results:
        word, why = result.verdict.word, result.verdict.why
        remarks = [why] * bool(why) + [f"noted: not {note}" for note in result.verdict.notes]
        table.add_row(
            result.case.name,
            fault_of(result.case, speed),
            escape(client_got(result)),
            escape(f"primary: {tries(result.seen.primary)}\nfallback: {tries(result.seen.fallback)}"),
            "\n".join([f"[{COLOURS[word]}]{word}[/]", *remarks]),
        )
    console.print(table)
    counts = {word: sum(result.verdict.word == word for result in results) for word in COLOURS}
    console.print(", ".join(f"{count} {word}" for word, count in counts.items()), highlight=False)
    if speed != 1:
        console.print(f"All waits were divided by {speed:g}; the seconds above are multiplied by {speed:g} again.")


def fault_of(case: Case, speed: float) -> str:
    requests, every = case.row(speed)
    row = f"; {requests} requests, one every {every:g} s" * (requests > 1)
    other = f"; the fallback {FAULTS[case.fallback].description}" * (case.fallback != "healthy")
    return FAULTS[case.fault].description + row + other


def client_got(result: Result) -> str:
    seen, outcome = result.seen, result.seen.outcome
    if len(seen.asked) > 1:
        whole = sum(map(seen.is_whole, seen.asked))
        longest = max(each.seconds for each in seen.asked)
        return f"{whole} of {len(seen.asked)} whole, each within {longest:.1f} s" + f"; {described(outcome)}" * (
            whole < len(seen.asked)
        )
    if seen.is_whole(outcome):
        pings = f", with {outcome.pings} pings" * (outcome.pings > 1) or ", with a ping" * outcome.pings
        return f"the whole answer in {outcome.seconds:.1f} s{pings}"
    return f"{described(outcome)}, after {outcome.seconds:.1f} s"


def described(outcome: Outcome) -> str:
    words = len(outcome.text.split())
    if outcome.kind == "answer":
        return f"{words} words as if whole"
    if outcome.kind == "hang":
        return "nothing"
    return f"{words} words, then an error: {outcome.error}" if words else f"an error: {outcome.error}"


def tries(entries: Sequence[Entry]) -> str:
    """The results of the tries, with the second at which each began; of equal results in a row, the first and last."""
    rows = []
    for became, row in groupby(entries, lambda entry: entry.became or "still waiting"):
        times = [f"{entry.at:.1f}" for entry in row]
        when = ", ".join(times) if len(times) < 3 else f"{times[0]} … {times[-1]}, {len(times)} times"
        rows.append(f"{became} ({when})")
    return "; ".join(rows) or "–"


def as_json(plan: Plan, results: Sequence[Result]) -> str:
    return json.dumps(
        {
            "client": plan.client,
            "router": plan.command or plan.target,
            "speed": plan.speed,
            "cases": [_as_dict(result, plan.speed) for result in results],
        },
        indent=1,
    )


def _as_dict(result: Result, speed: float) -> dict[str, Any]:
    seen = result.seen
    return {
        "case": result.case.name,
        "fault": fault_of(result.case, speed),
        "verdict": result.verdict.word,
        "why": result.verdict.why,
        "notes": result.verdict.notes,
        "client_got": client_got(result),
        "asked": [asdict(outcome) | {"whole": seen.is_whole(outcome)} for outcome in seen.asked],
        "primary": [asdict(entry) for entry in seen.primary],
        "fallback": [asdict(entry) for entry in seen.fallback],
    }
