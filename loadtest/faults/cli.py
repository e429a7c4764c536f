"""The subcommands of `python -m loadtest` on failing endpoints: faults, beside, fake."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from loadtest.faults import compare, report, run
from loadtest.faults.cases import CASES, FALLBACK, PRIMARY, Case
from loadtest.faults.clients import NAMES
from loadtest.faults.fake import Fake
from loadtest.processes import BenchError

PORTS = (9101, 9102)


class Ports(click.ParamType[tuple[int, int]]):
    name = "PRIMARY,FALLBACK"

    def convert(self, value: object, param: object, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        try:
            primary, fallback = map(int, str(value).split(","))
        except ValueError:
            self.fail(f"{value}: must be two ports, as in 9101,9102")
        return primary, fallback


class Cases(click.ParamType[list[Case]]):
    name = "S01,…"

    def convert(self, value: object, param: object, ctx: click.Context | None) -> list[Case]:
        if isinstance(value, list):
            return value
        wanted = {name.strip().upper() for name in str(value).split(",")}
        if unknown := wanted - {case.name for case in CASES}:
            self.fail(f"{', '.join(sorted(unknown))}: unknown, must be S01 to S16")
        return [case for case in CASES if case.name in wanted]


@click.command("faults")
@click.option("--target", metavar="URL", help="a running router, as in http://127.0.0.1:8080/v1")
@click.option("--serve", is_flag=True, help="start firsttoken, with an endpoints.yaml written for this run")
@click.option(
    "--router",
    metavar="CMD",
    help="start another router; {port}, {primary}, {fallback} (URLs) and {config} (an endpoints.yaml) are filled in",
)
@click.option("--alone", is_flag=True, help="no router: the client calls the primary directly and has no fallback")
@click.option("--client", type=click.Choice(NAMES), default="raw", show_default=True, help="the client that calls")
@click.option("--only", type=Cases(), default=CASES, help="run only these of the sixteen, separated by commas")
@click.option(
    "--speed", type=click.FloatRange(0.1, 100), default=1.0, show_default=True,
    help="divides all waits and limits; a running router must be configured with waits divided by the same factor",
)  # fmt: skip
@click.option(
    "--at-once", is_flag=True, help="run all cases at the same time: for a router that judges each model separately"
)
@click.option(
    "--differ", is_flag=True, help="the two endpoints answer with different texts, so no stream can be replayed"
)
@click.option("--ports", type=Ports(), help="ports of the fake endpoints (9101,9102; any with --serve or --alone)")
@click.option("--host", default="127.0.0.1", show_default=True, help="address on which the fake endpoints listen")
@click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="write all observations to a file"
)
@click.option("--print-config", is_flag=True, help="only print an endpoints.yaml for --target and --speed")
def run_faults(
    target: str | None, serve: bool, router: str | None, alone: bool, client: str, only: list[Case], speed: float,
    at_once: bool, differ: bool, ports: tuple[int, int] | None, host: str, file: Path | None, print_config: bool,
) -> None:  # fmt: skip
    """Run the sixteen faults; print what the client got, what the endpoints saw, and the verdicts.

    Choose what to test with --target, --serve, --router or --alone. The exit status is 0 if every verdict is "pass".
    """
    primary, fallback = (f"http://127.0.0.1:{port}/v1" for port in ports or PORTS)
    if print_config:
        click.echo(run.endpoints_yaml(primary, fallback, speed), nl=False)
        return
    if sum(map(bool, (target, serve, router, alone))) != 1:
        raise click.UsageError(
            "Choose what to test with one of --target, --serve, --router and --alone.\n"
            + run.what_to_configure(primary, fallback)
        )
    try:
        plan = run.Plan(
            client=client,
            target=target,
            command=run.firsttoken() if serve else router,
            speed=speed,
            cases=only,
            at_once=at_once,
            voices=("", "another") if differ else ("", ""),
            host=host,
            ports=ports or ((0, 0) if serve or alone else PORTS),
        )
        results = _watched(plan)
    except (BenchError, OSError) as error:
        raise click.ClickException(str(error)) from None
    report.print_results(results, Console(width=None if sys.stdout.isatty() else 150), speed)
    if file:
        file.write_text(report.as_json(plan, results) + "\n")
    sys.exit(any(result.verdict.word != "pass" for result in results))


def _watched(plan: run.Plan) -> list[run.Result]:
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        Console(stderr=True).status("starting") as status,
    ):
        return asyncio.run(run.run(plan, Path(folder), lambda now: status.update(f"running {now}")))


@click.command("beside")
@click.argument("runs", nargs=-1, required=True, metavar="NAME=FILE…")
def show_beside(runs: tuple[str, ...]) -> None:
    """Print runs side by side as a Markdown table, from the files that --json wrote."""
    named = {name: Path(file) for name, _, file in (each.partition("=") for each in runs)}
    if missing := [each for each, file in zip(runs, named.values(), strict=True) if not file.is_file()]:
        raise click.UsageError(f"{', '.join(missing)}: must be NAME=FILE with an existing file")
    click.echo(compare.table(named))


@click.command("fake")
@click.option("--port", type=int, default=PORTS[0], show_default=True, help="port to listen on; 0 takes any free one")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option(
    "--as-fallback", is_flag=True, help="be the fallback: healthy, except that s14 refuses an assistant prefill"
)
@click.option("--voice", default="", help="answer with other texts than an endpoint with another voice")
@click.option("--speed", type=click.FloatRange(0.1, 100), default=1.0, show_default=True, help="divides all waits")
def run_fake(port: int, host: str, as_fallback: bool, voice: str, speed: float) -> None:
    """Serve the fake endpoint: the name of the requested model selects the fault (s01 to s16, `cut`, `silent`, …)."""
    name, table = ("fallback", FALLBACK) if as_fallback else ("primary", PRIMARY)

    async def serve() -> None:
        async with Fake(name, table, speed, voice).serving(host, port) as fake:
            click.echo(f"{name} on http://{host}:{fake.port}/v1; its log: http://{host}:{fake.port}/control/log")
            await asyncio.Event().wait()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        pass
    except OSError as error:
        raise click.ClickException(str(error)) from None
