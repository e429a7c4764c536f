"""One table made ready to serve: for each endpoint what it is sent, over which pool, and how its answers are judged."""

from __future__ import annotations

from collections.abc import Mapping
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
from router.proxy.headers import lines, without
from router.upstream.exchange import Exchange, Habits, Limits, Listener, Request
from router.upstream.pool import Address

# What is sent where the operator says nothing of it, and what is sent in any case.
_DEFAULT = {b"content-type": b"application/json"}
_OURS = {b"accept-encoding": b"identity"}


class Pool(Protocol):
    """What a target needs of a pool; the scripted ones of the tests are others."""

    def begin(self, request: Request, exchange: Exchange) -> None: ...


class Target:
    """One endpoint as dispatch asks it."""

    __slots__ = (
        "_adapt",
        "_changes",
        "_habits",
        "_heads",
        "_limits",
        "_model",
        "_name",
        "_names",
        "_prefill",
        "dialect",
        "pool",
    )

    def __init__(
        self, told: EndpointConfig, endpoint: Endpoint, pool: Pool, path: str, authority: str, limits: Limits
    ) -> None:
        self.dialect: Dialect = DIALECTS[told.kind]
        self.pool, self._limits, self._habits = pool, limits, Habits()
        self._name = endpoint.model
        self._model = msgspec.Raw(msgspec.json.encode(endpoint.model))
        self._adapt = self.dialect.adapt
        self._changes = _Changes.of(told)
        self._prefill = self.dialect.prefill if told.prefill == "auto" else told.prefill
        said = {name.lower().encode(): value.encode() for name, value in told.headers.items()}
        # What the operator says of a header stands, whatever the client says; of some the client's never comes here.
        self._names = frozenset(said) - {b"authorization", *_DEFAULT, *_OURS}
        if told.api_key is not None:
            said.setdefault(b"authorization", b"Bearer " + told.api_key.get_secret_value().encode())
        own = _DEFAULT | said | _OURS
        self._heads: Mapping[Operation, bytes] = {
            operation: b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%b"
            % (path.encode(), suffix.encode(), authority.encode(), lines(own.items()))
            for operation, suffix in self.dialect.paths.items()
        }

    def serves(self, operation: Operation) -> bool:
        return operation in self._heads

    def begin(self, call: Call, listener: Listener) -> Exchange:
        """Start an attempt; it never calls back before it returns."""
        exchange = Exchange(listener, self.dialect, call.choices, self._limits, self._habits)
        self.pool.begin(self.request(call), exchange)
        return exchange

    def going_on(self, call: Call, text: str, tokens: int) -> Call | None:
        """The call that asks it for what follows a text; None where it can't go on from one."""
        return going_on(call, text, tokens, None if self._prefill == "off" else self._prefill)

    def request(self, call: Call) -> Request:
        body = self._body(call)
        headers = call.headers if not self._names else without(call.headers, self._names)
        return Request(b"%b%bcontent-length: %d\r\n\r\n" % (self._heads[call.operation], headers, len(body)), body)

    def _body(self, call: Call) -> bytes:
        """The client's bytes, but for the values that differ here; the operator has the last word."""
        fields = call.fields
        if self._adapt is None and self._changes is None and call.model == self._name:
            return call.body
        fields = fields.copy()
        fields["model"] = self._model
        if self._changes is not None:
            self._changes.withhold(fields)
        if self._adapt is not None:
            self._adapt(fields)
        if self._changes is not None:
            self._changes.apply(fields)
        return msgspec.json.encode(fields)


@dataclass(frozen=True, slots=True)
class _Changes:
    """An operator's `params`, as bytes."""

    default: Fields
    force: Fields
    drop: tuple[str, ...]

    @classmethod
    def of(cls, told: EndpointConfig) -> _Changes | None:
        default, force = (
            {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}
            for values in (told.params.default, told.params.force)
        )
        return cls(default, force, told.params.drop) if default or force or told.params.drop else None

    def withhold(self, fields: Fields) -> None:
        """What the client says in vain, in its own words: before an adaptation makes something else of it."""
        for name in (*self.drop, *self.force):
            fields.pop(name, None)

    def apply(self, fields: Fields) -> None:
        """In the endpoint's words: what is said here is sent as it is."""
        for name in self.drop:
            fields.pop(name, None)
        for name, value in self.default.items():
            fields.setdefault(name, value)
        fields.update(self.force)


class Serving:
    """A table and the targets of its endpoints: what one call keeps to its end."""

    __slots__ = ("_routes", "table", "targets")

    def __init__(self, table: Table, targets: Mapping[Endpoint, Target]) -> None:
        self.table, self.targets = table, targets
        self._routes = {
            (operation, model): self._route(operation, model) for operation in PATHS for model in table.routes
        }

    @classmethod
    def of(cls, table: Table, pools: Mapping[str, Pool], limits: Limits) -> Serving:
        """`pools` by the names of the file's endpoints."""
        targets = {}
        for endpoint, told in table.endpoints.items():
            address = Address.of(told.base_url or "http://simulated")
            targets[endpoint] = Target(told, endpoint, pools[told.name], address.path, address.authority, limits)
        return cls(table, targets)

    def route(self, operation: Operation, model: str) -> Route | None:
        """A model's route over those of its endpoints that know the operation; None where there are none."""
        return self._routes.get((operation, model))

    def _route(self, operation: Operation, model: str) -> Route | None:
        route = self.table.routes[model]
        return route.restricted(lambda endpoint: self.targets[endpoint].serves(operation))


class Tables:
    """The one holder of what is served now; replaced by one assignment."""

    __slots__ = ("current",)

    def __init__(self, current: Serving) -> None:
        self.current = current
