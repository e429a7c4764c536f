"""`python -m loadtest`: the commands of faults/cli.py and latency/cli.py under one name."""

from __future__ import annotations

import click

from loadtest.faults import cli as faults
from loadtest.latency import cli as latency


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Test any router over HTTP: what it does when its endpoints misbehave, and how long its clients wait.

    See docs/faults.md and docs/latency.md.
    """


for command in (
    faults.run_faults,
    faults.show_beside,
    faults.run_fake,
    latency.run_scenarios,
    latency.compare_runs,
    latency.run_hammer,
):
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="python -m loadtest")
