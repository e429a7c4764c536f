"""The `explain` command: requests /admin/explain from a running router and prints the answer as a table.

Like any operator's tool it uses HTTP only, and knows nothing of the router but the JSON of that path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

TIMEOUT = 10.0  # seconds; a router in order answers at once
WIDTH = 200  # columns if the output is not a terminal, so that a file or a pipe gets the whole table
PICKED, NEVER, UNKNOWN = "→", "never", "–"
# Seconds. No real cost is as high: from here on it marks an endpoint that is asked only after all others.
ENDLESS = 1e5
HEADINGS = "", "endpoint", "tier", "cost", "expected", "p50", "p90", "p99", "evidence", "age", "running", "hedge"
OPTIONAL = "age", "p90", "expected", "p50", "evidence"  # columns to omit if the window is narrow, in this order
_PLAIN: Json = {"markup": False, "emoji": False, "soft_wrap": True}
_CHECK_ADDRESS = "Is that the address of firsttoken, and of this version?"


class NoExplanation(Exception):
    """No explanation is available; the message states why, and what to do."""


def ask(url: str, model: str, size: int | None, key: str | None) -> bytes:
    """Request the explanation and return the router's JSON. Raises NoExplanation."""
    query = {"model": model} | ({} if size is None else {"size": str(size)})
    if not (key or "").isascii() or not (key or "x").isprintable():
        raise NoExplanation("The client key has a character that no header can carry: pass another one with --key.")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(
            f"{url.rstrip('/')}/admin/explain", params=query, headers=headers, timeout=TIMEOUT, trust_env=False
        )
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise NoExplanation(f"{url} is not an address such as http://127.0.0.1:8080: {error}") from None
    except httpx.ConnectError as error:
        raise NoExplanation(
            f"No router answers at {url} ({error}). Start it, or pass its address with --url."
        ) from None
    except httpx.HTTPError as error:
        raise NoExplanation(f"{url} did not answer ({type(error).__name__}: {error}). {_CHECK_ADDRESS}") from None
    if answer.status_code != 200:
        raise NoExplanation(_refused(url, answer))
    if not isinstance(_object(answer).get("candidates"), list):
        raise NoExplanation(f"{url} answers, but not with an explanation. {_CHECK_ADDRESS}")
    return answer.content


def _refused(url: str, answer: httpx.Response) -> str:
    error = _object(answer).get("error")
    if not isinstance(error, dict) or "message" not in error:
        return f"{url} answers with status {answer.status_code} and no error message. {_CHECK_ADDRESS}"
    if answer.status_code == 401:
        return f"{url} answers: {error['message']} Pass one with --key or FIRSTTOKEN_KEY."
    if error.get("code") == "unknown_url":
        if url.rstrip("/").endswith("/v1"):
            return f"{url} has no /admin/explain: pass the router's address without /v1."
        return f"{url} has no /admin/explain. {_CHECK_ADDRESS}"
    return f"{url} answers: {error['message']}"


def _object(answer: httpx.Response) -> Json:
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def show(explanation: Json) -> None:
    """Print the question, a line for each candidate, the notes on them, the budgets and the reasons."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    notes = [f"{name}: {text}" for name, text in _notes(explanation["candidates"])]
    console.print(
        f"{explanation['model']}: a streaming call with a prompt of {explanation['size']:.0f} tokens, now", **_PLAIN
    )
    table = _fitting(explanation, console)
    console.width = max(console.width, _width(table, console))  # wrapped lines are better than truncated names
    console.print(table)
    for line in (*notes, _budgets(explanation), f"{explanation['why']}."):
        console.print(line, **_PLAIN)


def _fitting(explanation: Json, console: Console) -> Table:
    """The table with as many optional columns as fit."""
    for number in range(len(OPTIONAL) + 1):
        table = _table(explanation, OPTIONAL[:number])
        if _width(table, console) <= console.width:
            break
    return table


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=WIDTH), table).maximum


def _table(explanation: Json, omitted: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    rows = [_row(each, explanation["picked"]) for each in explanation["candidates"]]
    for name in (name for name in HEADINGS if name not in omitted):
        table.add_column(name, justify="left" if name in HEADINGS[:3] else "right", no_wrap=True)
    for row in rows:
        cells = (Text(cell) for name, cell in zip(HEADINGS, row, strict=True) if name not in omitted)
        table.add_row(*cells, style="bold" if row[0] == PICKED else "")
    return table


def _row(candidate: Json, picked: str | None) -> list[str]:
    mark = (
        PICKED
        if candidate["endpoint"] == picked
        else "≈"
        if candidate["near"]
        else ""
        if candidate["available"]
        else "×"
    )
    return [
        mark,
        candidate["endpoint"],
        str(candidate["tier"]),
        *(_seconds(candidate[name]) for name in ("cost", "expected", "p50", "p90", "p99")),
        f"{candidate['evidence']:.0f}",
        UNKNOWN if candidate["age"] is None else f"{candidate['age']:.0f}",
        str(candidate["in_flight"]) + (f" ({candidate['waiting']} wait)" if candidate["waiting"] else ""),
        NEVER if candidate["hedge_after"] is None else _seconds(candidate["hedge_after"]),
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.{3 if value < 10.0 else 1 if value < 1000.0 else 0}f}" if value < ENDLESS else "∞"


def _notes(candidates: list[Json]) -> list[tuple[str, str]]:
    """Name and notes of each candidate that has any."""
    notes = []
    for each in candidates:
        parts = [f"out: {each['out']}"] * bool(each["out"]) + each["notes"]
        if each["crowding"] > 1.0:
            parts.append(f"{each['crowding']:.2f} times as slow under its current load")
        if each["slope"]:
            parts.append(f"{each['slope'] * 1e3:.3g} s more for each 1,000 tokens of prompt")
        if each["slots"] is not None:
            parts.append(f"takes at most {each['slots']} attempts at once")
        if each["server"] is not None:
            parts.append(_server(each["server"]))
        if parts:
            notes.append((each["endpoint"], ", ".join(parts)))
    return notes


def _server(load: Json) -> str:
    reported = [f"{load[name]:g} {name}" for name in ("running", "waiting") if load[name] is not None]
    reported += [] if load["kv"] is None else [f"{load['kv']:.0%} of its cache in use"]
    return f"its server reports: {', '.join(reported) or 'nothing'}"


def _budgets(explanation: Json) -> str:
    budgets = explanation["budgets"]
    return (
        f"An extra attempt costs {explanation['price']:.2f} expected waits of the hedge target; the budgets can pay "
        f"for {budgets['hedge']:.1f} hedges and {budgets['retry']:.1f} retries now."
    )
