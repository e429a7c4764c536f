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
from typing import NoReturn

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
    """A latency-aware router for language models: one OpenAI-compatible address before many endpoints.

    Every streaming request goes to the endpoint whose first token will come soonest.
    """


_config = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    help="The file of endpoints. [default: ./endpoints.yaml, else the one in the package]",
)


@main.command(short_help="Run the router.")
@_config
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="The port to listen on; 0: any that is free. [default: 8080]"
)
@click.option(
    "--allow-open", is_flag=True, default=None, help="Serve an address that is not loopback without client keys."
)
def serve(config: Path | None, host: str | None, port: int | None, allow_open: bool | None) -> None:
    """Run the router until SIGTERM or Ctrl+C; open streams are finished first, but not after a second one.

    Every setting may also come from the environment: FIRSTTOKEN_PORT=9000 (docs/endpoints.md).
    """
    said = {"config": config, "host": host, "port": port, "allow_open": allow_open}
    settings = _settings({name: value for name, value in said.items() if value is not None})
    logs.configure(settings.log_level)
    table = _load(settings.config)
    if not (table.keys or settings.allow_open or _loopback(settings.host)):
        _stop(
            f"{settings.host} is not a loopback address, and {table.source} has no client keys: anyone who reaches it "
            "could use your endpoints. Set `keys:` there, or say --allow-open (FIRSTTOKEN_ALLOW_OPEN=1)."
        )
    _raise_open_files()
    for line in _summary(table):
        click.echo(line, err=True)
    if settings.speed != 1.0:
        click.echo(
            f"  Time runs {settings.speed:g} times as fast here, for load tests only: FIRSTTOKEN_SPEED.", err=True
        )
    uvloop.run(_serve(table, settings))


@main.command(short_help="Say what the file of endpoints means, or what is wrong.")
@_config
def check(config: Path | None) -> None:
    """Read the file of endpoints and say what it means, or what is wrong with it."""
    table = _load(config or _settings({}).config)
    for line in _summary(table):
        click.echo(line)


@main.command(short_help="Say where a running router would send a call now, and why.")
@click.argument("model")
@click.option("--size", type=click.IntRange(0, 10**9 - 1), help="Tokens of the prompt. [default: as many as usual]")
@click.option("--url", help="Where the router is. [default: the settings' host and port: http://127.0.0.1:8080]")
@click.option("--key", envvar="FIRSTTOKEN_KEY", show_envvar=True, help="A client key, where the router has some.")
@click.option("--json", "as_json", is_flag=True, help="Print what the router answers, as it is.")
def explain(model: str, size: int | None, url: str | None, key: str | None, as_json: bool) -> None:
    """Ask a running router where a streaming call for MODEL would go now, and why.

    A line for each endpoint, the chosen one (→) first, then tier by tier those about equal (≈), the others, and those
    that are out (×). Times are seconds; cost is what endpoints are compared by, hedge when a rival would be asked.
    """
    from router import explaining  # only here: rich takes its time to load, and the router has no use for it

    try:
        answer = explaining.ask(url or _here(_settings({})), model, size, key)
    except explaining.NoExplanation as error:
        _stop(str(error))
    if as_json:
        click.echo(answer.decode())
    else:
        explaining.show(json.loads(answer))


def _here(settings: Settings) -> str:
    """Where a router with these settings is to be found from this machine."""
    if settings.port == 0:
        _stop("FIRSTTOKEN_PORT is 0, which is any port: say --url where the router is.")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def _serve(config: Config, settings: Settings) -> None:
    router = Router(config, settings)
    server = Server(
        uvicorn.Config(
            router.asgi,
            host=settings.host,
            port=settings.port,
            http=router.protocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            log_level=settings.log_level,
            server_header=False,
            backlog=4096,
            timeout_keep_alive=ceil(settings.keep_alive),
            timeout_graceful_shutdown=1,  # for what the drain has left: nothing
        ),
        router.drain,
    )
    router.connections = server.server_state.connections
    gc.collect()
    gc.freeze()  # what is here now stays; looking at it again would only cost
    gc.set_threshold(20_000, 20, 20)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)  # before it serves and after it has stopped
    await server.serve()
    if not server.started:
        sys.exit(3)


def _settings(said: dict[str, object]) -> Settings:
    try:
        return Settings(**said)  # type: ignore[arg-type]
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
    """Each stream takes two sockets, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _summary(config: Config) -> list[str]:
    """What will be served by whom, one line an endpoint; and what would surprise."""
    lines = [f"firsttoken {__version__}: {config.source}"]
    for told in config.endpoints:
        models = ", ".join(told.models)
        if told.disabled:
            lines.append(f"  {told.name}: disabled: {told.disabled}")
        elif told.kind == "simulated":
            lines.append(f"  {told.name}: SIMULATED, asks no model (tier {told.tier}; serves {models})")
        else:
            lines.append(f"  {told.name}: {told.kind} at {told.base_url} (tier {told.tier}; serves {models})")
    kinds = {told.kind for told in config.enabled}
    if not kinds:
        lines.append("  Every endpoint is disabled, so no model is served.")
    elif "simulated" in kinds and len(kinds) > 1:
        lines.append("  Simulated endpoints also answer where the others are late or out: remove them for real use.")
    return lines
