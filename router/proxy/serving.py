"""A table made ready to serve: for each endpoint its prepared request head, its pool, and how its answers are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from router.config import EndpointConfig
from router.core.call import Call, Fields, Operation
from router.core.choice.route import Route
from router.core.choice.table import Table
from router.core.endpoint.endpoint import Endpoint
from router.dialects import DIALECTS
from router.dialects.base import PATHS, Dialect
from router.dialects.prefill import going_on
from router.proxy.headers import NO_NAMES, Names, lines, without
from router.proxy.parameters import takes
from router.upstream.exchange import Exchange, Habits, Limits, Listener, Request
from router.upstream.masking import Mask
from router.upstream.pool import Address
from router.upstream.spliced import Spliced

# Headers of every request: the first unless the operator configures another value, the second in any case.
_DEFAULT = {b"content-type": b"application/json"}
_FIXED = {b"accept-encoding": b"identity"}

MAX_CONTINUED = 1 << 20  # bytes of a body that is decoded to be continued: some milliseconds


class Pool(Protocol):
    """The part of a pool that a target uses; tests replace it by a scripted one."""

    def begin(self, request: Request, exchange: Exchange) -> None: ...


class Target:
    """One endpoint, as a dispatch sends requests to it."""

    __slots__ = (
        "_adapt",
        "_changes",
        "_configured",
        "_habits",
        "_heads",
        "_limits",
        "_mask",
        "_model",
        "_name",
        "_prefill",
        "dialect",
        "passed",
        "pool",
        "returned",
    )

    def __init__(
        self,
        config: EndpointConfig,
        endpoint: Endpoint,
        pool: Pool,
        path: str,
        authority: str,
        limits: Limits,
        mark: bytes,
    ) -> None:
        """`path` and `authority` are those of the endpoint's base URL, `mark` is the line of the `LoopGuard`.

        `passed` and `returned` are the names of its `pass_headers` and `return_headers`.
        """
        self.dialect: Dialect = DIALECTS[config.kind]
        self.pool, self._limits, self._habits = pool, limits, Habits()
        self._name = endpoint.model
        self._model = msgspec.Raw(msgspec.json.encode(endpoint.model))
        self._adapt = self.dialect.adapt
        self._changes = {
            operation: changes
            for operation in self.dialect.paths
            if (changes := _Changes.of(config, operation)) is not None
        }
        self._prefill = self.dialect.prefill if config.prefill == "auto" else config.prefill
        configured = {name.lower().encode(): value.encode() for name, value in config.headers.items()}
        # A configured header replaces the client's. The client's authorization and content-type, and its
        # accept-encoding, are never passed on, so these need no removal.
        self._configured = frozenset(configured) - {b"authorization", *_DEFAULT, *_FIXED}
        self.passed = _names(config.pass_headers) - frozenset(configured)
        self.returned = _names(config.return_headers)
        if config.api_key is not None:
            configured.setdefault(b"authorization", b"Bearer " + config.api_key.get_secret_value().encode())
        self._mask = Mask(_secrets(config))
        own = _DEFAULT | configured | _FIXED
        self._heads: Mapping[Operation, bytes] = {
            operation: b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%b"
            % (path.encode(), suffix.encode(), authority.encode(), lines(own.items()) + mark)
            for operation, suffix in self.dialect.paths.items()
        }

    def serves(self, operation: Operation) -> bool:
        return operation in self._heads

    def begin(self, call: Call, listener: Listener) -> Exchange:
        """Start an exchange; the listener is never called before this returns."""
        exchange = Exchange(
            listener, self.dialect, call.choices, self._limits, self._habits, self._mask, call.operation
        )
        self.pool.begin(self.request(call), exchange)
        return exchange

    def going_on(self, call: Call, text: str, tokens: int) -> Call | None:
        """The call that asks this endpoint to continue a text of so many tokens; None where it can't.

        A body that is large can't be continued: its messages would all have to be decoded.
        """
        if len(call.body) > MAX_CONTINUED:
            return None
        return going_on(call, text, tokens, None if self._prefill == "off" else self._prefill)

    def request(self, call: Call) -> Request:
        body = self._body(call)
        headers = call.headers if not self._configured else without(call.headers, self._configured)
        if call.optional_headers:
            headers += lines([header for header in call.optional_headers if header[0] in self.passed])
        return Request(b"%b%bcontent-length: %d\r\n\r\n" % (self._heads[call.operation], headers, len(body)), body)

    def _body(self, call: Call) -> bytes | bytearray | Spliced:
        """The client's bytes, with the values that this endpoint needs changed; configured values come last."""
        fields, changes = call.fields, self._changes.get(call.operation)
        if self._adapt is None and changes is None and call.model == self._name:
            return call.body
        fields = fields.copy()
        fields["model"] = self._model
        if changes is not None:
            changes.withhold(fields)
        if self._adapt is not None:
            self._adapt(fields)
        if changes is not None:
            changes.apply(fields)
        return msgspec.json.encode(fields) if call.attached is None else Spliced(fields)


def _secrets(config: EndpointConfig) -> Iterator[str]:
    """The endpoint's key, and the words of its configured headers that look like one, or whose header's name does."""
    if config.api_key is not None:
        yield config.api_key.get_secret_value()
    for name, value in config.headers.items():
        telling = re.search("auth|key|token|secret|password|credential|cookie", name)
        yield from (word for word in value.split() if telling or (len(word) >= 16 and re.search("[0-9]", word)))


def _names(configured: Iterable[str]) -> Names:
    return frozenset(name.encode() for name in configured)


@dataclass(frozen=True, slots=True)
class _Changes:
    """An endpoint's configured `params` for one operation, as JSON bytes."""

    default: Fields
    force: Fields
    drop: tuple[str, ...]

    @classmethod
    def of(cls, config: EndpointConfig, operation: Operation) -> _Changes | None:
        default, force = (
            {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items() if takes(operation, name)}
            for values in (config.params.default, config.params.force)
        )
        return cls(default, force, config.params.drop) if default or force or config.params.drop else None

    def withhold(self, fields: Fields) -> None:
        """Remove the client's values that would be dropped or overridden, before an adaptation renames them."""
        for name in (*self.drop, *self.force):
            fields.pop(name, None)

    def apply(self, fields: Fields) -> None:
        """Apply the configured values, under the endpoint's own parameter names, after any adaptation."""
        for name in self.drop:
            fields.pop(name, None)
        for name, value in self.default.items():
            fields.setdefault(name, value)
        fields.update(self.force)


class Serving:
    """A table and the targets of its endpoints: the snapshot that a call keeps to its end."""

    __slots__ = ("_routes", "optional_headers", "table", "targets")

    def __init__(self, table: Table, targets: Mapping[Endpoint, Target]) -> None:
        """`optional_headers` are the names of the client's headers that some of the endpoints may see."""
        self.table, self.targets = table, targets
        self.optional_headers = NO_NAMES.union(*(target.passed for target in targets.values()))
        self._routes = {
            (operation, model): self._route(operation, model) for operation in PATHS for model in table.routes
        }

    @classmethod
    def of(cls, table: Table, pools: Mapping[str, Pool], limits: Limits, mark: bytes = b"") -> Serving:
        """Make targets for a table; `pools` are keyed by the endpoints' configured names.

        `mark` is a header line of every request.
        """
        targets = {}
        for endpoint, config in table.endpoints.items():
            address = Address.of(config.base_url or "http://simulated")
            pool, path = pools[config.name], address.path
            targets[endpoint] = Target(config, endpoint, pool, path, address.authority, limits, mark)
        return cls(table, targets)

    def route(self, operation: Operation, model: str) -> Route | None:
        """The model's route over the endpoints that serve the operation; None if no endpoint does."""
        return self._routes.get((operation, model))

    def _route(self, operation: Operation, model: str) -> Route | None:
        route = self.table.routes[model]
        return route.restricted(lambda endpoint: self.targets[endpoint].serves(operation))


class Tables:
    """The holder of the current snapshot; a reload replaces it by one assignment."""

    __slots__ = ("current",)

    def __init__(self, current: Serving) -> None:
        self.current = current
