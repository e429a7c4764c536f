"""The command line: `firsttoken serve`, `firsttoken check` and `firsttoken explain`."""

from __future__ import annotations

import gc
import ipaddress
import json
import os
import resource
import signal
import socket
import sys
from importlib.resources import files
from math import ceil
from pathlib import Path
from typing import Any, NoReturn, cast

import click
import uvicorn
import uvloop
from pydantic import ValidationError

from router import __version__, advice, build
from router.app import Router
from router.config import Config, ConfigError, Places, load_with_places
from router.ops import logs
from router.server import BACKLOG, CannotListenError, Server, listen
from router.settings import Settings
from router.upstream.tls import unusable_roots

FILE = "endpoints.yaml"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(f"{__version__} ({build.BUILD})", prog_name="firsttoken")
def main() -> None:
    """A latency-aware router for language models: one OpenAI-compatible address in front of many endpoints.

    Every streaming request goes to the endpoint whose first token is expected soonest.
    """


class Serve(click.Command):
    """The command `serve`. Its help ends with the settings of the environment; its messages wait for no reader."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        logs.take_over()  # before the options are read: these may be wrong
        return super().make_context(*args, **kwargs)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Settings in the environment (docs/endpoints.md has their defaults)"):
            fields = Settings.model_fields.items()
            formatter.write_dl([(f"FIRSTTOKEN_{name.upper()}", field.description or "") for name, field in fields])


_config = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    help="The endpoints file. [default: ./endpoints.yaml]",
)


@main.command(short_help="Run the router.", cls=Serve)
@_config
@click.option("--example", is_flag=True, help="Use the example in the package, which answers by simulated endpoints.")
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="The port to listen on; 0 selects a free one. [default: 8080]"
)
@click.option(
    "--allow-open",
    is_flag=True,
    default=None,
    help="Allow a non-loopback address without client keys.",
)
def serve(config: Path | None, example: bool, host: str | None, port: int | None, allow_open: bool | None) -> None:
    """Run the router until SIGTERM or Ctrl+C. Open streams are finished first; a second signal ends them at once.

    Every setting can also come from the environment: FIRSTTOKEN_PORT=9000.
    """
    if example and config is not None:
        raise click.UsageError("--example and --config exclude each other.")
    if example:
        config = Path(str(files("router") / FILE))
    options = {"config": config, "host": host, "port": port, "allow_open": allow_open}
    settings = _settings({name: value for name, value in options.items() if value is not None})
    logs.configure(settings.log_level)
    table, places = _load(settings.config)
    if not (table.keys or settings.allow_open or _loopback(settings.host)):
        _stop(
            f"{settings.host} is not a loopback address, and {table.source} has no client keys: anyone who can reach "
            "it could use your endpoints. Set `keys:` in the file, or pass --allow-open (FIRSTTOKEN_ALLOW_OPEN=1)."
        )
    try:
        sockets = listen(settings.host, settings.port)
    except CannotListenError as error:
        _stop(str(error), 3)
    _raise_open_files()
    for line in _summary(table, build.description()):
        click.echo(line, err=True)
    warnings = advice.warnings(table, places, settings, os.environ)
    for warning in (*warnings, *advice.environment_notes(table, os.environ)):
        click.echo(f"warning: {warning}", err=True)
    if settings.speed != 1.0:
        click.echo(f"  FIRSTTOKEN_SPEED: time runs {settings.speed:g} times as fast, for load tests only.", err=True)
    uvloop.run(_serve(table, settings, sockets))


@main.command(short_help="Check the endpoints file.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_config
@click.option("--strict", is_flag=True, help="Fail if there are warnings, with status 1.")
def check(file: Path | None, config: Path | None, strict: bool) -> None:
    """Read the endpoints file and show what it defines, and warnings; or every error in it, with status 2.

    FILE is the same as --config FILE.
    """
    if file is not None and config is not None:
        raise click.UsageError("FILE and --config FILE are the same: give one of them.")
    settings = _settings({})
    table, places = _load(file or config or settings.config)
    for line in _summary(table):
        click.echo(line)
    warnings = advice.warnings(table, places, settings, os.environ)
    for warning in warnings:
        click.echo(f"warning: {warning}")
    if strict and warnings:
        sys.exit(1)


@main.command(short_help="Show where a running router would send a call now, and why.")
@click.argument("model")
@click.option("--size", type=click.IntRange(0, 10**9 - 1), help="Prompt size in tokens. [default: the recent mean]")
@click.option("--url", help="The router's address. [default: host and port of the settings: http://127.0.0.1:8080]")
@click.option("--key", envvar="FIRSTTOKEN_KEY", show_envvar=True, help="A client key, if the router has keys.")
@click.option("--json", "as_json", is_flag=True, help="Print the router's JSON answer unchanged.")
def explain(model: str, size: int | None, url: str | None, key: str | None, as_json: bool) -> None:
    """Ask a running router where a streaming call for MODEL would go now, and why.

    One line per endpoint: the chosen one (→) first, then by tier those of about equal cost (≈), the others, and those
    that may not be asked (×). Times are in seconds. Endpoints are compared by cost; hedge is when a hedge would start.
    """
    from router import explaining  # imported here: rich loads slowly, and `serve` does not need it

    try:
        answer = explaining.ask(url or _here(_settings({})), model, size, key)
    except explaining.NoExplanation as error:
        _stop(str(error))
    if as_json:
        click.echo(answer.decode())
    else:
        explaining.show(json.loads(answer))


def _here(settings: Settings) -> str:
    """The URL under which this machine reaches a router with these settings."""
    if settings.port == 0:
        _stop("FIRSTTOKEN_PORT is 0, which selects any free port: pass the router's address with --url.")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def _serve(config: Config, settings: Settings, sockets: list[socket.socket]) -> None:
    router = Router(config, settings)
    server = Server(
        uvicorn.Config(
            router.asgi,
            host=settings.host,
            port=settings.port,
            http=cast(Any, router.protocol),  # which makes a protocol; uvicorn asks for a class
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            log_level=settings.log_level,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=ceil(settings.keep_alive),
            timeout_graceful_shutdown=1,  # seconds; the drain has ended all calls by then
        ),
        router.drain,
        router.listening,
    )
    router.connections = server.server_state.connections
    gc.collect()
    gc.freeze()  # all objects so far live as long as the process: keep the collector from scanning them
    gc.set_threshold(5_000, 40, 40)
    hang_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)  # before the server has started and after it has stopped
    for stop in hang_up:
        signal.signal(stop, _ignore)  # not SIG_IGN, by which the server knows nohup
    await server.serve(sockets)
    if not server.started:
        sys.exit(3)


def _ignore(*_: object) -> None:
    """Handle a signal by doing nothing."""


def _settings(options: dict[str, object]) -> Settings:
    try:
        return Settings(**options)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "\n".join(
            f"FIRSTTOKEN_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}" for problem in error.errors()
        )
        _stop(problems)


def _load(path: Path | None) -> tuple[Config, Places]:
    """Read the endpoints file, by default the one in this directory. Nothing is served that was not chosen."""
    problem = unusable_roots()
    if problem is not None:
        _stop(problem)
    if path is None:
        path = Path(FILE)
        if not path.exists():
            _stop(f"There is no {FILE} in {Path.cwd()}. {_CHOOSE}")
    try:
        return load_with_places(path)
    except ConfigError as error:
        _stop(f"{error}\n{_CHOOSE}" if path.is_dir() else str(error))


_CHOOSE = "Name a file with --config FILE (FIRSTTOKEN_CONFIG), or start with the example: firsttoken serve --example"


def _stop(message: str, status: int = 2) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(status)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _raise_open_files() -> None:
    """Raise the soft limit on open files, usually 1,024, to the hard one: each stream takes two sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _summary(config: Config, how: str = "") -> list[str]:
    """One line per endpoint with the models that it serves, and warnings for the operator."""
    lines = [f"firsttoken {__version__}{how and f', {how}'}: {config.source}"]
    for each in config.endpoints:
        models = ", ".join(each.models)
        if each.disabled:
            lines.append(f"  {each.name}: disabled: {each.disabled}")
        elif each.kind == "simulated":
            lines.append(f"  {each.name}: simulated, calls no model (tier {each.tier}; serves {models})")
        else:
            lines.append(f"  {each.name}: {each.kind} at {each.base_url} (tier {each.tier}; serves {models})")
    kinds = {each.kind for each in config.enabled}
    if not kinds:
        lines.append("  Every endpoint is disabled, so no model is served.")
    elif "simulated" in kinds and len(kinds) > 1:
        lines.append("  Simulated endpoints also answer when the others are late or out: remove them for real use.")
    return lines
