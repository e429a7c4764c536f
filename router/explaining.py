"""Asks a running router where it would send a call, and draws what it says as a table.

It knows HTTP only, as any operator's tool does: what it draws is the JSON of /admin/explain.
"""

from __future__ import annotations

from typing import Any

import httpx
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

TIMEOUT = 10.0  # seconds; it answers at once, or something is wrong
WIDTH = 200  # columns where nobody watches, so that a file or a pipe gets all of it
NEVER, UNKNOWN = "never", "–"
_AS_IT_IS: Json = {"markup": False, "emoji": False, "soft_wrap": True}
_MAY_BE_OTHERS = "Is that firsttoken's address, and of this version?"


class NoExplanation(Exception):
    """What was asked for is not to be had; the message says why, and what to do."""


def ask(url: str, model: str, size: int | None, key: str | None) -> bytes:
    """The router's explanation, in its own JSON. Raises NoExplanation."""
    said = {"model": model} | ({} if size is None else {"size": str(size)})
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
    console.print(_table(told))
    for line in (*said, _budgets(told), f"{told['why']}."):
        console.print(line, **_AS_IT_IS)


def _table(told: Json) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("", "endpoint", "tier"):
        table.add_column(name)
    for name in ("cost", "expected", "p50", "p90", "p99", "evidence", "age", "running", "hedge"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in told["candidates"]:
        table.add_row(
            *map(Text, _row(each, told["picked"])), style="bold" if each["endpoint"] == told["picked"] else ""
        )
    return table


def _row(of: Json, picked: str | None) -> list[str]:
    mark = "→" if of["endpoint"] == picked else "≈" if of["near"] else "" if of["available"] else "×"
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
    return UNKNOWN if value is None else f"{value:.{3 if value < 10.0 else 1 if value < 1000.0 else 0}f}"


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
    numbers = {"running": said["running"], "waiting": said["waiting"], "cache in use": said["kv"]}
    told = [f"{value:g} {name}" for name, value in numbers.items() if value is not None]
    return f"its server says: {', '.join(told) or 'nothing'}"


def _budgets(told: Json) -> str:
    budgets, price = told["budgets"], told["price"]
    costs = "cannot be paid for" if price is None else f"costs {price:.2f} expected waits of the rival"
    return (
        f"An extra attempt {costs}; {budgets['hedge']:.1f} hedges and {budgets['retry']:.1f} retries "
        "could be paid for now."
    )
