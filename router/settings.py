"""The process's settings from the environment: where to listen, and the limits that protect it; never routes.

Each is `FIRSTTOKEN_` and its name in capitals: `FIRSTTOKEN_PORT=9000`. Sizes are bytes, or `64KiB`, `32MiB`;
durations are seconds, or `250ms`, `5s`, `2m`, `1h`.
"""

import resource
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from router.values import Duration, PositiveDuration

_MIB = 1024 * 1024
MOST_CALLS = 20_000  # what one process is good for, with sockets to spare
SPARE_FILES = 500  # for connections that wait unused, rivals of late attempts, and all else that is open


def _port(value: object) -> object:
    """Kubernetes sets FIRSTTOKEN_PORT=tcp://10.0.0.1:8080 beside a service that is named firsttoken; not for us."""
    return 8080 if isinstance(value, str) and value.startswith("tcp://") else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Size = Annotated[ByteSize, Field(gt=0)]


class Settings(BaseSettings):
    """Read once, when the process starts."""

    model_config = SettingsConfigDict(
        env_prefix="FIRSTTOKEN_", env_ignore_empty=True, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, BeforeValidator(_port), Field(ge=0, le=65535)] = 8080
    """The port to listen on; 0 takes any that is free."""
    config: Path | None = None
    """The file of endpoints; without it ./endpoints.yaml, else the one in the package."""
    allow_open: bool = False
    """Serve an address that is not loopback although the file has no client keys."""

    max_body: Size = ByteSize(32 * _MIB)
    """The longest request body."""
    max_header: Size = ByteSize(64 * 1024)
    """The longest header block, of a request and of an upstream's answer."""
    max_event: Size = ByteSize(4 * _MIB)
    """The longest single event in a stream."""
    max_answer: Size = ByteSize(64 * _MIB)
    """The longest answer that does not stream."""
    max_calls: Annotated[int, Field(ge=1)] | None = None
    """Calls in flight; one more is refused. Without it 20000, or fewer where fewer files may be open."""

    request_timeout: PositiveDuration = 60.0
    """By then a client must have sent its whole request."""
    keep_alive: PositiveDuration = 75.0
    """How long a client's connection may wait for its next request."""
    ping_after: PositiveDuration = 10.0
    """A streaming client that waits longer for its first token gets comments, so that nothing in between hangs up."""
    ping_every: PositiveDuration = 15.0
    """The time between two such comments."""
    connect_timeout: PositiveDuration = 5.0
    """To open a connection to an endpoint, TLS included."""
    drain: Duration = 120.0
    """How long calls may go on after a signal to stop."""
    notice: Duration = 10.0
    """How long of that new ones are still served, where something asks /readyz."""
    speed: Annotated[float, Field(ge=0.1, le=100)] = 1.0
    """For load tests only: so many seconds of the router pass in one of the machine's."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """How much to log."""
    access_log: bool = False
    """Log one line per call."""

    @property
    def calls(self) -> int:
        """`max_calls`, or what the limit on open files allows now: a stream takes two sockets."""
        if self.max_calls is not None:
            return self.max_calls
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return MOST_CALLS if files == resource.RLIM_INFINITY else max(1, min(MOST_CALLS, (files - SPARE_FILES) // 2))
