"""One table made ready to serve: for each endpoint what it is sent, over which pool, and how its answers are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from router.config import EndpointConfig
from router.core.call import Call, Fields, Operation
from router.core.endpoint import Endpoint
from router.core.table import Route, Table
from router.dialects import DIALECTS
from router.dialects.base import PATHS, Dialect
from router.proxy.headers import lines, without
from router.upstream.exchange import Exchange, Limits, Listener, Request

_FIXED = b"content-type: application/json\r\naccept-encoding: identity\r\n"


class Pool(Protocol):
    """What a target needs of a pool; the scripted ones of the tests are others."""

    def begin(self, request: Request, exchange: Exchange) -> None: ...


class Target:
    """One endpoint as dispatch asks it."""

    __slots__ = ("_adapt", "_changes", "_heads", "_limits", "_model", "_name", "_names", "dialect", "pool")

    def __init__(
        self, told: EndpointConfig, endpoint: Endpoint, pool: Pool, path: str, authority: str, limits: Limits
    ) -> None:
        self.dialect: Dialect = DIALECTS[told.kind]
        self.pool, self._limits = pool, limits
        self._name = endpoint.model
        self._model = msgspec.Raw(msgspec.json.encode(endpoint.model))
        self._adapt = self.dialect.adapt
        self._changes = _Changes.of(told)
        own = {name.lower().encode(): value.encode() for name, value in told.headers.items()}
        if told.api_key is not None:
            own.setdefault(b"authorization", b"Bearer " + told.api_key.get_secret_value().encode())
        # What the operator says of a header stands, whatever the client says; its authorization never comes here.
        self._names = frozenset(own) - {b"authorization"}
        self._heads: Mapping[Operation, bytes] = {
            operation: b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%b%b"
            % (path.encode(), suffix.encode(), authority.encode("idna"), _FIXED, lines(own.items()))
            for operation, suffix in self.dialect.paths.items()
        }

    def serves(self, operation: Operation) -> bool:
        return operation in self._heads

    def begin(self, call: Call, listener: Listener) -> Exchange:
        """Start an attempt; it never calls back before it returns."""
        exchange = Exchange(listener, self.dialect, call.choices, self._limits)
        self.pool.begin(self.request(call), exchange)
        return exchange

    def request(self, call: Call) -> Request:
        body = self._body(call)
        headers = call.headers if not self._names else without(call.headers, self._names)
        return Request(b"%b%bcontent-length: %d\r\n\r\n" % (self._heads[call.operation], headers, len(body)), body)

    def _body(self, call: Call) -> bytes:
        """The client's bytes, but for the values that differ here."""
        fields = call.fields
        if self._adapt is None and self._changes is None and call.model == self._name:
            return call.body
        fields = fields.copy()
        fields["model"] = self._model
        if self._changes is not None:
            self._changes.apply(fields)
        if self._adapt is not None:
            self._adapt(fields)
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

    def apply(self, fields: Fields) -> None:
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

    def route(self, operation: Operation, model: str) -> Route | None:
        """A model's route over those of its endpoints that know the operation; None where there are none."""
        return self._routes.get((operation, model))

    def _route(self, operation: Operation, model: str) -> Route | None:
        route = self.table.routes[model]
        tiers = [tuple(e for e in tier if self.targets[e].serves(operation)) for tier in route.tiers]
        return replace(route, tiers=tuple(tier for tier in tiers if tier)) if any(tiers) else None


class Tables:
    """The one holder of what is served now; replaced by one assignment."""

    __slots__ = ("current",)

    def __init__(self, current: Serving) -> None:
        self.current = current
