"""The process's settings, from the environment: the address to listen on and the limits that protect the process.

A variable's name is `FIRSTTOKEN_` and the setting's name in capitals: `FIRSTTOKEN_PORT=9000`. Sizes are bytes, or
`64KiB`, `32MiB`; durations are seconds, or `250ms`, `5s`, `2m`, `1h`. Routes are never settings: see config.py.
"""

import ipaddress
import resource
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from router.memory import memory_limit
from router.values import Duration, PositiveDuration

_MIB = 1024 * 1024
MAX_CALLS = 20_000  # calls that one process can handle, with sockets to spare
BODY_SHARE = 4  # of the memory, request bodies may take one part in so many
SPARE_FILES = 500  # for idle connections, hedges, and all other open files


def _port(value: object) -> object:
    """Ignore the FIRSTTOKEN_PORT=tcp://10.0.0.1:8080 that Kubernetes sets for a service that is named firsttoken."""
    return 8080 if isinstance(value, str) and value.startswith("tcp://") else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _resolver(text: str) -> str:
    """Accept `dns`, `system`, or the address of a name server, with or without a port."""
    if text not in ("dns", "system"):
        try:
            _nameserver(text)
        except ValueError:
            raise ValueError(
                "expected dns, system, or a name server's address as in 10.0.0.2, 10.0.0.2:53 or [fd00::2]:53"
            ) from None
    return text


def _nameserver(text: str) -> tuple[str, int]:
    address, port = text, "53"
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or rest[:1] not in ("", ":"):
            raise ValueError
        port = rest[1:] or port
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    ipaddress.ip_address(address)
    if not 0 < int(port) < 65536:
        raise ValueError
    return address, int(port)


Size = Annotated[ByteSize, Field(gt=0)]


class Settings(BaseSettings):
    """The settings, read once at the start of the process."""

    model_config = SettingsConfigDict(
        env_prefix="FIRSTTOKEN_", env_ignore_empty=True, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, BeforeValidator(_port), Field(ge=0, le=65535)] = 8080
    """The port to listen on; 0 selects a free one."""
    config: Path | None = None
    """The endpoints file; by default ./endpoints.yaml."""
    allow_open: bool = False
    """Allow an address that is not loopback although no client keys are configured."""

    max_body: Size = ByteSize(32 * _MIB)
    """Maximum size of a request body."""
    body_budget: Size | None = None
    """Maximum size of all request bodies and incomplete events together that are held; further bodies wait, for at most
    5 s. By default a quarter of the memory."""
    max_header: Size = ByteSize(64 * 1024)
    """Maximum size of a header block, in a request and in an endpoint's answer."""
    max_event: Size = ByteSize(32 * _MIB)
    """Maximum size of a single event in a stream."""
    max_answer: Size = ByteSize(64 * _MIB)
    """Maximum size of an answer that is not streamed."""
    max_calls: Annotated[int, Field(ge=1)] | None = None
    """Maximum of calls in flight; one more is refused. By default 20000, or fewer if the limit on open files is low."""

    request_timeout: PositiveDuration = 60.0
    """Time in which a client must send its whole request."""
    keep_alive: PositiveDuration = 75.0
    """Time after which a client's idle connection is closed."""
    ping_after: PositiveDuration = 10.0
    """Time without a first token after which a streaming client gets comments, so that no proxy in between closes the
    connection."""
    ping_every: PositiveDuration = 15.0
    """Time between two of these comments."""
    connect_timeout: PositiveDuration = 5.0
    """Timeout for opening a connection to an endpoint, TLS included."""
    resolver: Annotated[str, BeforeValidator(_lower), AfterValidator(_resolver)] = "dns"
    """How endpoints' names become addresses: `dns`, `system` (getaddrinfo), or a name server's `ADDRESS[:PORT]`."""
    drain: Duration = 120.0
    """Time that calls in flight may take to end after a signal to stop."""
    notice: Duration = 10.0
    """Part of that time in which new calls are still served, if /readyz is being polled."""
    speed: Annotated[float, Field(ge=0.1, le=100)] = 1.0
    """Seconds of the router's clock in one second of the machine's; for load tests only."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """The least severe level of messages that are logged."""
    access_log: bool = False
    """Log one line per call."""

    @property
    def nameservers(self) -> tuple[tuple[str, ...], int]:
        """The name servers to ask and their port; none stands for those of the system."""
        if self.resolver in ("dns", "system"):
            return (), 53
        address, port = _nameserver(self.resolver)
        return (address,), port

    @property
    def bodies(self) -> int:
        """`body_budget`, or a quarter of the memory that the process may use."""
        return self.body_budget or memory_limit() // BODY_SHARE

    @property
    def calls(self) -> int:
        """`max_calls`, or as many as the current limit on open files allows: a stream takes two sockets."""
        if self.max_calls is not None:
            return self.max_calls
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return MAX_CALLS if files == resource.RLIM_INFINITY else max(1, min(MAX_CALLS, (files - SPARE_FILES) // 2))
