"""Warnings: what is valid in endpoints.yaml and in the environment, but most likely not meant.

`warnings` returns messages with file, line and key, for `firsttoken check` and for the start; `check --strict` fails
of them. `environment_notes` concerns the process alone. No message contains the value of a secret.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from router.config import Config, EndpointConfig, Places, PolicySettings
from router.settings import Settings
from router.yamlfile import KeyPath

MIN_CLIENT_KEY = 16  # characters; a key that can be guessed opens every endpoint
SUSPICIOUS_HEDGE = 100.0  # seconds: most likely meant as milliseconds
SUSPICIOUS_DURATION = 3600.0  # seconds: the same, for all other durations of a policy
OTHER_VARIABLES = frozenset(("FIRSTTOKEN_KEY", "FIRSTTOKEN_COMPILE"))  # of `firsttoken explain` and of the build

# Set by Kubernetes for services whose names begin with `firsttoken`, for example FIRSTTOKEN_PORT_8080_TCP_ADDR.
_KUBERNETES = re.compile(r"FIRSTTOKEN_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_PRIVATE_NAME = re.compile(
    r"[^.]+|.*\.(localhost|local|localdomain|internal|intranet|lan|home|corp|private|svc|test|home\.arpa|cluster\.local)"
)

# Texts that stand for a value and were not replaced by it.
_UNEXPANDED = re.compile(
    r"(?:bearer\s+)?(?:\$\(?[a-z_]\w*\)?|%[a-z_]\w*%|\{\{?\s*(?:env[.:])?\$?[a-z_]\w*\s*\}?\})", re.IGNORECASE
)
_OTHER_REFERENCE = re.compile(
    r"(?:bearer\s+)?(?:os\.environ[/.\[(]|process\.env\.|env[:.]|secret[:/]|!env\b)", re.IGNORECASE
)
_PLACEHOLDER = re.compile(
    r"<.*>|(sk-)?(x{3,}|\.{3,}|…|\*{3,})|(sk-)?(your|my|insert|replace|enter)[-_ ].*|change[-_ ]?(me|it|this)"
    r"|placeholder",
    re.IGNORECASE,
)


def warnings(config: Config, places: Places, settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """All warnings: those about the file in its order, then those about the environment."""
    found = [
        *_of_keys(config, places),
        *_of_cors(config, places),
        *_of_names(config, places),
        *_of_policies(config, places),
        *_of_duplicates(config, places),
        *_of_the_file(places),
    ]
    for index, endpoint in enumerate(config.endpoints):
        found += _of_endpoint(endpoint, ("endpoints", index), places, settings)
    unique = dict.fromkeys(places.prefix(*path) + text for path, text in sorted(found, key=_line_in(places)))
    return [*unique, *_of_variables(places, environ)]


def environment_notes(config: Config, environ: Mapping[str, str]) -> list[str]:
    """Facts about the environment that the operator should know at the start."""
    remote = any(each.base_url and not _is_loopback(_host(each)) for each in config.enabled)
    proxies = [name for name in _PROXIES if environ.get(name) or environ.get(name.lower())]
    if not (remote and proxies):
        return []
    return [f"{' and '.join(proxies)}: ignored; the router connects to its endpoints directly, without a proxy."]


Found = Iterator[tuple[KeyPath, str]]


def _line_in(places: Places) -> Any:
    def line(found: tuple[KeyPath, str]) -> int:
        match = re.match(re.escape(places.source) + r":(\d+):", places.prefix(*found[0]))
        return int(match[1]) if match else 0

    return line


# Keys and other values.


def _of_keys(config: Config, places: Places) -> Found:
    for index, secret in zip(places.keys, config.keys, strict=False):
        key, path = secret.get_secret_value(), ("keys", index)
        yield from ((path, text) for text in _of_secret(key, "the text itself opens the router"))
        if key[:7].lower() == "bearer ":
            yield path, "begins with 'Bearer ', which clients send before the key; leave it out"
        elif len(key) < MIN_CLIENT_KEY:
            yield (
                path,
                (
                    f"a client key of {len(key)} characters can be guessed; take {MIN_CLIENT_KEY} or more, as from "
                    "`openssl rand -hex 16`"
                ),
            )


def _of_endpoint(endpoint: EndpointConfig, path: KeyPath, places: Places, settings: Settings) -> Found:
    if endpoint.enabled is False:
        return
    yield from _of_credentials(endpoint, path, places)
    for name, model in endpoint.models.items():
        yield from _of_text(model, (*path, "models", name) if name != model else (*path, "models"))
    for section, values in (("default", endpoint.params.default), ("force", endpoint.params.force)):
        for name, value in values.items():
            if isinstance(value, str) and (_UNEXPANDED.fullmatch(value) or _OTHER_REFERENCE.match(value)):
                yield (*path, "params", section, name), "is sent as it stands; write ${NAME} for a variable"
    if endpoint.base_url:
        yield from _of_address(endpoint, (*path, "base_url"), settings)


def _of_credentials(endpoint: EndpointConfig, path: KeyPath, places: Places) -> Found:
    if endpoint.api_key is not None:
        key, place = endpoint.api_key.get_secret_value(), (*path, "api_key")
        yield from ((place, text) for text in _of_secret(key, "it is sent as it stands"))
        if key[:7].lower() == "bearer ":
            yield place, "begins with 'Bearer ', which the router adds; leave it out"
        elif re.search(r"\s", key):
            yield place, "contains blanks, which no API's key does"
    # Looked for only where there are headers: of a thousand endpoints that would be a million comparisons.
    prefixes = places.prefixes if endpoint.headers else ()
    written = {str(place[3]).lower(): place for place in prefixes if place[:3] == (*path, "headers") and place[3:]}
    for name, value in endpoint.headers.items():
        place = written.get(name, (*path, "headers"))
        yield from ((place, text) for text in _of_secret(value, "it is sent as it stands"))
        if name == "authorization" and endpoint.api_key is not None:
            yield place, "replaces the one that is made from api_key; remove one of the two"


def _of_secret(value: str, consequence: str) -> Iterator[str]:
    """Find what is suspicious about a text that should be a secret."""
    if _UNEXPANDED.fullmatch(value):
        yield f"looks like a variable, but {consequence}; write ${{NAME}}"
    elif _OTHER_REFERENCE.match(value):
        yield f"looks like another product's reference, but {consequence}; write ${{NAME}}"
    elif _PLACEHOLDER.fullmatch(value):
        yield "looks like a placeholder"
    elif _quoted(value):
        yield "has quotes around it that are part of the value, as `docker --env-file` keeps them; leave them out"


def _of_text(value: str, path: KeyPath) -> Found:
    if re.search(r"[\r\n\t]", value):
        yield path, "contains a line end or a tab"
    elif value != value.strip():
        yield path, "begins or ends with a blank"
    elif _quoted(value):
        yield path, "has quotes around it that are part of the value; leave them out"
    elif _UNEXPANDED.fullmatch(value) or _OTHER_REFERENCE.match(value):
        yield path, "looks like a variable, but is the name itself; write ${NAME}"


def _quoted(value: str) -> bool:
    return value[:1] in ("'", '"', "`") or value[-1:] in ("'", '"', "`")


# Addresses.


def _of_address(endpoint: EndpointConfig, path: KeyPath, settings: Settings) -> Found:
    parts = urlsplit(endpoint.base_url or "")
    host, port = _host(endpoint), parts.port or (443 if parts.scheme == "https" else 80)
    if not parts.path:
        api = "/api/paas/v4" if endpoint.kind == "zhipu" else "/v1"
        yield path, f"has no path; for most servers of kind {endpoint.kind} it ends in {api}: {endpoint.base_url}{api}"
    secret = endpoint.api_key is not None or any("auth" in name or "key" in name for name in endpoint.headers)
    if parts.scheme == "http" and secret and _is_public(host):
        yield path, f"sends the key unencrypted to {host}; write https://"
    if parts.scheme == "http" and port == settings.port and _is_this_router(host, settings.host):
        yield path, "is this router's own address: its calls would go round in a circle"


def _host(endpoint: EndpointConfig) -> str:
    return (urlsplit(endpoint.base_url or "").hostname or "").rstrip(".")


def _address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_loopback(host: str) -> bool:
    address = _address_of(host)
    return host == "localhost" or host.endswith(".localhost") if address is None else address.is_loopback


def _is_public(host: str) -> bool:
    address = _address_of(host)
    return not _PRIVATE_NAME.fullmatch(host) if address is None else address.is_global


def _is_this_router(host: str, listens_on: str) -> bool:
    """True if a connection to `host` reaches a socket that listens on `listens_on`, as far as the texts tell."""
    own = _address_of(listens_on)
    if host == listens_on:
        return True
    address = _address_of(host)
    unspecified = address is not None and address.is_unspecified  # a connection to 0.0.0.0 goes to this machine
    here = _is_loopback(host) or unspecified
    return here and (listens_on == "localhost" or (own is not None and (own.is_loopback or own.is_unspecified)))


def _of_duplicates(config: Config, places: Places) -> Found:
    first: dict[tuple[Any, ...], int] = {}
    for index, each in enumerate(config.endpoints):
        if each.disabled or not each.base_url:
            continue
        parts = urlsplit(each.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        key = each.api_key.get_secret_value() if each.api_key else ""
        for model in dict.fromkeys(each.models.values()):
            same = (parts.scheme, _host(each), port, parts.path, model, key, tuple(sorted(each.headers.items())))
            other = first.setdefault(same, index)
            if other != index:
                yield (
                    ("endpoints", index),
                    (
                        f"has the same address, model and key as endpoints[{other}] ({config.endpoints[other].name}): "
                        "a second attempt there is no help when the first is late"
                    ),
                )


# Policies.


def _of_policies(config: Config, places: Places) -> Found:
    layers: list[tuple[KeyPath, Any]] = [(("defaults",), config.defaults)]
    layers += [(("models", model), settings) for model, settings in config.models.items()]
    layers += [(("endpoints", index), each.policy) for index, each in enumerate(config.endpoints) if each.enabled]
    for path, settings in layers:
        for key in ("deadline", "hedge", "abandon", "stall", "patience", "queue_wait", "affinity_margin"):
            value = getattr(settings, key)
            most = SUSPICIOUS_HEDGE if key == "hedge" else SUSPICIOUS_DURATION
            if (*path, key) in places.prefixes and isinstance(value, float) and value >= most:
                yield (*path, key), f"is {value:g} seconds; for milliseconds write {value:g}ms"
    for index, each in enumerate(config.endpoints):
        for model in each.models if each.enabled else ():
            policy = config.policy(model, each)
            if isinstance(policy.hedge, float) and policy.hedge >= policy.deadline:
                place, key = _set_by(places, model, index)
                # A hedge that is suspicious by itself is known already.
                if key == "deadline" or policy.hedge < SUSPICIOUS_HEDGE:
                    yield (*place, key), _too_late(policy)


def _too_late(policy: PolicySettings) -> str:
    deadline, hedge = policy.deadline, policy.hedge
    return f"the deadline of {deadline:g} s is not later than the hedge at {hedge:g} s, which can never start"


def _set_by(places: Places, model: str, index: int) -> tuple[KeyPath, str]:
    """The most specific part of the file that sets hedge or deadline, and the key."""
    for place in (("endpoints", index), ("models", model), ("defaults",)):
        for key in ("hedge", "deadline"):
            if (*place, key) in places.prefixes:
                return place, key
    return ("defaults",), "deadline"


# The rest of the file.


def _of_cors(config: Config, places: Places) -> Found:
    if not config.keys and any(not _is_loopback(_origin_host(origin)) for origin in config.cors):
        yield ("cors",), "has no effect without `keys`: a router without client keys serves pages of this machine only"


def _origin_host(origin: str) -> str:
    return urlsplit(origin).hostname or ""


def _of_names(config: Config, places: Places) -> Found:
    names: dict[str, str] = {}
    models: dict[str, str] = {}
    for index, each in enumerate(config.endpoints):
        if names.setdefault(each.name.lower(), each.name) != each.name:
            yield ("endpoints", index, "name"), f"differs from '{names[each.name.lower()]}' only in case"
        for model in each.models:
            if models.setdefault(model.lower(), model) != model:
                yield (
                    ("endpoints", index, "models", model),
                    f"'{model}' differs from '{models[model.lower()]}' only in case; they are two models",
                )


def _of_the_file(places: Places) -> Found:
    if places.open_to_all and places.literal:
        yield (
            places.literal[0],
            "a key stands in a file that every user of this machine can read: chmod 600, or ${NAME}",
        )


# The environment.


def _of_variables(places: Places, environ: Mapping[str, str]) -> Iterator[str]:
    known = {f"FIRSTTOKEN_{name}".upper() for name in Settings.model_fields} | OTHER_VARIABLES
    for name in sorted(environ):
        upper = name.upper()
        if not upper.startswith("FIRSTTOKEN_") or upper in known or name in places.variables:
            continue
        if _KUBERNETES.fullmatch(upper) or (upper.endswith("_PORT") and "://" in environ[name]):
            continue
        words = [setting.removeprefix("FIRSTTOKEN_") for setting in known]
        nearest = difflib.get_close_matches(upper.removeprefix("FIRSTTOKEN_"), words, n=1)
        yield f"{name}: no such setting; " + (
            f"did you mean FIRSTTOKEN_{nearest[0]}?" if nearest else "`firsttoken serve --help` lists them all"
        )
