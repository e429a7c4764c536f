"""The command line: `firsttoken serve`, `firsttoken check` and `firsttoken explain`."""

from __future__ import annotations

import gc
import ipaddress
import json
import resource
import signal
import sys
from importlib.resources import files
from math import ceil
from pathlib import Path
from typing import Any, NoReturn, cast

import click
import uvicorn
import uvloop
from pydantic import ValidationError

from router import __version__
from router.app import Router
from router.config import Config, ConfigError, load
from router.ops import logs
from router.server import Server
from router.settings import Settings

FILE = "endpoints.yaml"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="firsttoken")
def main() -> None:
    """A latency-aware router for language models: one OpenAI-compatible address in front of many endpoints.

    Every streaming request goes to the endpoint whose first token is expected soonest.
    """


_config = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    help="The endpoints file. [default: ./endpoints.yaml if it exists, else the one in the package]",
)


@main.command(short_help="Run the router.")
@_config
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
def serve(config: Path | None, host: str | None, port: int | None, allow_open: bool | None) -> None:
    """Run the router until SIGTERM or Ctrl+C. Open streams are finished first; a second signal ends them at once.

    Every setting can also come from the environment: FIRSTTOKEN_PORT=9000 (docs/endpoints.md).
    """
    options = {"config": config, "host": host, "port": port, "allow_open": allow_open}
    settings = _settings({name: value for name, value in options.items() if value is not None})
    logs.configure(settings.log_level)
    table = _load(settings.config)
    if not (table.keys or settings.allow_open or _loopback(settings.host)):
        _stop(
            f"{settings.host} is not a loopback address, and {table.source} has no client keys: anyone who can reach "
            "it could use your endpoints. Set `keys:` in the file, or pass --allow-open (FIRSTTOKEN_ALLOW_OPEN=1)."
        )
    _raise_open_files()
    for line in _summary(table):
        click.echo(line, err=True)
    if settings.speed != 1.0:
        click.echo(f"  FIRSTTOKEN_SPEED: time runs {settings.speed:g} times as fast, for load tests only.", err=True)
    uvloop.run(_serve(table, settings))


@main.command(short_help="Check the endpoints file.")
@_config
def check(config: Path | None) -> None:
    """Read the endpoints file and show what it defines, or every error in it."""
    table = _load(config or _settings({}).config)
    for line in _summary(table):
        click.echo(line)


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


async def _serve(config: Config, settings: Settings) -> None:
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
            backlog=4096,
            timeout_keep_alive=ceil(settings.keep_alive),
            timeout_graceful_shutdown=1,  # seconds; the drain has ended all calls by then
        ),
        router.drain,
        router.listening,
    )
    router.connections = server.server_state.connections
    gc.collect()
    gc.freeze()  # all objects so far live as long as the process: keep the collector from scanning them
    gc.set_threshold(20_000, 20, 20)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)  # before the server has started and after it has stopped
    await server.serve()
    if not server.started:
        sys.exit(3)


def _settings(options: dict[str, object]) -> Settings:
    try:
        return Settings(**options)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "\n".join(
            f"FIRSTTOKEN_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}" for problem in error.errors()
        )
        _stop(problems)


def _load(path: Path | None) -> Config:
    if path is None:
        path = Path(FILE) if Path(FILE).is_file() else Path(str(files("router") / FILE))
    try:
        return load(path)
    except ConfigError as error:
        _stop(str(error))


def _stop(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(2)


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


def _summary(config: Config) -> list[str]:
    """One line per endpoint with the models that it serves, and warnings for the operator."""
    lines = [f"firsttoken {__version__}: {config.source}"]
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
