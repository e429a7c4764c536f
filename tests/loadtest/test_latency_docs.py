"""docs/latency.md has every command and option of `loadtest.latency`, and everything that a run prints or writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.latency import cli, tables
from loadtest.latency.report import PICTURES

PAGE = (Path(__file__).parents[2] / "docs" / "latency.md").read_text()
COMMANDS = {"run": cli.run_scenarios, "compare": cli.compare_runs, "hammer": cli.run_hammer}


def options() -> Iterator[tuple[str, str]]:
    for name, command in COMMANDS.items():
        for option in command.params:
            yield from ((name, each) for each in (*option.opts, *option.secondary_opts) if each.startswith("--"))


@pytest.mark.parametrize(("command", "option"), list(options()))
def test_every_option_is_documented_under_its_command(command: str, option: str) -> None:
    heading = "Options of run" if command == "run" else command
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert re.search(rf"`{option}[ `]", section)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert f"python -m loadtest {command} " in PAGE


@pytest.mark.parametrize("text", [*tables.TIMES, *tables.COUNTS, "router and machine", "to reach"])
def test_every_heading_that_a_run_prints_is_documented(text: str) -> None:
    assert text in PAGE


@pytest.mark.parametrize("file", ["run.json", "calls.csv", *PICTURES])
def test_every_file_that_a_run_writes_is_documented(file: str) -> None:
    assert f"`{file}`" in PAGE
