"""Several runs of the faults, each read from its file, side by side as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

Json = dict[str, Any]

MAX_GOT_CHARS = 90  # longest description of what the client got, in characters


def table(runs: Mapping[str, Path]) -> str:
    """The table: one row per case, one column per run. A run may lack cases."""
    cases = {
        name: {case["case"]: case for case in json.loads(file.read_text())["cases"]} for name, file in runs.items()
    }
    faults = {case["case"]: case["fault"] for run in cases.values() for case in run.values()}
    rows = [["", "the primary", *cases], ["---"] * (2 + len(cases))]
    rows += [[name, faults[name], *(cell(run.get(name)) for run in cases.values())] for name in sorted(faults)]
    rows += [["", "pass, partial, safe, fail", *map(counts, cases.values())]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(case: Json | None) -> str:
    if case is None:
        return "–"
    tries = f"{len(case['primary'])} + {len(case['fallback'])} tries"
    why = f" ({case['why']})" if case["verdict"] in ("partial", "fail") else ""
    got = shorten(case["client_got"].replace("|", "/"), MAX_GOT_CHARS, placeholder=" …")
    return f"**{case['verdict']}**{why}: {got}; {tries}"


def counts(run: Mapping[str, Json]) -> str:
    words = [case["verdict"] for case in run.values()]
    return ", ".join(f"**{words.count(word)}**" for word in ("pass", "partial", "safe", "fail"))
