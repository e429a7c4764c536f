"""Asks a running router where it would send a call, and draws what it says as a table.

It knows HTTP only, as any operator's tool does: what it draws is the JSON of /admin/explain.
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

TIMEOUT = 10.0  # seconds; it answers at once, or something is wrong
WIDTH = 200  # columns where nobody watches, so that a file or a pipe gets all of it
PICKED, NEVER, UNKNOWN = "→", "never", "–"
ENDLESS = 1e5  # seconds; nobody means a cost that is as high: it says that somebody else is to be asked
HEADINGS = "", "endpoint", "tier", "cost", "expected", "p50", "p90", "p99", "evidence", "age", "running", "hedge"
SPARED = "age", "p90", "expected", "p50", "evidence"  # where there is no room, in this order
_AS_IT_IS: Json = {"markup": False, "emoji": False, "soft_wrap": True}
_MAY_BE_OTHERS = "Is that firsttoken's address, and of this version?"


class NoExplanation(Exception):
    """What was asked for is not to be had; the message says why, and what to do."""


def ask(url: str, model: str, size: int | None, key: str | None) -> bytes:
    """The router's explanation, in its own JSON. Raises NoExplanation."""
    said = {"model": model} | ({} if size is None else {"size": str(size)})
    if not (key or "").isascii() or not (key or "x").isprintable():
        raise NoExplanation("The client key has a character that no header can carry: say another with --key.")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(
            f"{url.rstrip('/')}/admin/explain", params=said, headers=headers, timeout=TIMEOUT, trust_env=False
        )
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise NoExplanation(f"{url} is no address of a router, as http://127.0.0.1:8080 is one: {error}") from None
    except httpx.ConnectError as error:
        raise NoExplanation(f"No router answers at {url} ({error}). Start it, or say --url where it is.") from None
    except httpx.HTTPError as error:
        raise NoExplanation(f"{url} gave no answer ({type(error).__name__}: {error}). {_MAY_BE_OTHERS}") from None
    if answer.status_code != 200:
        raise NoExplanation(_refused(url, answer))
    if not isinstance(_object(answer).get("candidates"), list):
        raise NoExplanation(f"{url} answers, but explains nothing. {_MAY_BE_OTHERS}")
    return answer.content


def _refused(url: str, answer: httpx.Response) -> str:
    error = _object(answer).get("error")
    if not isinstance(error, dict) or "message" not in error:
        return f"{url} answers with status {answer.status_code} and no reason. {_MAY_BE_OTHERS}"
    if answer.status_code == 401:
        return f"{url} says: {error['message']} Say one with --key or FIRSTTOKEN_KEY."
    if error.get("code") == "unknown_url":
        if url.rstrip("/").endswith("/v1"):
            return f"{url} has no /admin/explain: say the router's address without its /v1."
        return f"{url} has no /admin/explain. {_MAY_BE_OTHERS}"
    return f"{url} says: {error['message']}"


def _object(answer: httpx.Response) -> Json:
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def show(told: Json) -> None:
    """Print it: what was asked, a line a candidate, what extra attempts may cost, and why."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    said = [f"{name}: {what}" for name, what in _notes(told["candidates"])]
    console.print(f"{told['model']}: a streaming call with a prompt of {told['size']:.0f} tokens, now", **_AS_IT_IS)
    table = _fitting(told, console)
    console.width = max(console.width, _width(table, console))  # lines that wrap are better than names that are cut
    console.print(table)
    for line in (*said, _budgets(told), f"{told['why']}."):
        console.print(line, **_AS_IT_IS)


def _fitting(told: Json, console: Console) -> Table:
    """Where there is no room for all columns, some are left out."""
    for number in range(len(SPARED) + 1):
        table = _table(told, SPARED[:number])
        if _width(table, console) <= console.width:
            break
    return table


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=WIDTH), table).maximum


def _table(told: Json, spared: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    rows = [_row(each, told["picked"]) for each in told["candidates"]]
    for name in (name for name in HEADINGS if name not in spared):
        table.add_column(name, justify="left" if name in HEADINGS[:3] else "right", no_wrap=True)
    for row in rows:
        cells = (Text(cell) for name, cell in zip(HEADINGS, row, strict=True) if name not in spared)
        table.add_row(*cells, style="bold" if row[0] == PICKED else "")
    return table


def _row(of: Json, picked: str | None) -> list[str]:
    mark = PICKED if of["endpoint"] == picked else "≈" if of["near"] else "" if of["available"] else "×"
    return [
        mark,
        of["endpoint"],
        str(of["tier"]),
        *(_seconds(of[name]) for name in ("cost", "expected", "p50", "p90", "p99")),
        f"{of['evidence']:.0f}",
        UNKNOWN if of["age"] is None else f"{of['age']:.0f}",
        str(of["in_flight"]) + (f" ({of['waiting']} wait)" if of["waiting"] else ""),
        NEVER if of["hedge_after"] is None else _seconds(of["hedge_after"]),
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.{3 if value < 10.0 else 1 if value < 1000.0 else 0}f}" if value < ENDLESS else "∞"


def _notes(candidates: list[Json]) -> list[tuple[str, str]]:
    """What numbers do not say."""
    notes = []
    for each in candidates:
        said = [f"out: {each['out']}"] * bool(each["out"]) + each["notes"]
        if each["crowding"] > 1.0:
            said.append(f"{each['crowding']:.2f} times as slow for what it has to do")
        if each["slope"]:
            said.append(f"{each['slope'] * 1e3:.3g} s more for each 1,000 tokens of prompt")
        if each["slots"] is not None:
            said.append(f"takes {each['slots']} at once")
        if each["server"] is not None:
            said.append(_server(each["server"]))
        if said:
            notes.append((each["endpoint"], ", ".join(said)))
    return notes


def _server(said: Json) -> str:
    told = [f"{said[name]:g} {name}" for name in ("running", "waiting") if said[name] is not None]
    told += [] if said["kv"] is None else [f"{said['kv']:.0%} of its cache in use"]
    return f"its server says: {', '.join(told) or 'nothing'}"


def _budgets(told: Json) -> str:
    budgets = told["budgets"]
    return (
        f"An extra attempt costs {told['price']:.2f} expected waits of the rival; {budgets['hedge']:.1f} hedges and "
        f"{budgets['retry']:.1f} retries could be paid for now."
    )
