"""Types for the single values in endpoints.yaml: durations, shares, names, addresses, secrets.

Each type's error message states what is expected; `describe` phrases the errors of pydantic's own constraints.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, SecretStr, StringConstraints
from pydantic_core import ErrorDetails

# ---- Numbers and durations

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|h)?")
_THOUSANDS = {"": 1, "k": 1000, "m": 1_000_000}
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}


def seconds(value: object) -> float | None:
    """Seconds from `250ms`, `5s`, `2m`, `1h` or a number of seconds; None for anything else."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        number, unit = float(match[1]), match[2]
        # Divided by 1000, not multiplied by 0.001, which would round twice.
        return number / 1000 if unit == "ms" else number * _SECONDS[unit]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _duration(*words: str, zero: bool = True) -> PlainValidator:
    expected = f"{', '.join(words)} or " if words else ""
    expected += f"a duration such as 250ms, 5s, 2m or a number of seconds, {'0 or more' if zero else 'more than 0'}"

    def duration(value: object) -> Any:
        if value in words:
            return value
        found = seconds(value)
        if found is None or not 0 <= found < math.inf or not (found or zero):
            raise ValueError(f"expected {expected}")
        return found

    return PlainValidator(duration)


def _tokens(value: object) -> int:
    match = re.fullmatch(r"([0-9]+)\s*([kKmM]?)", value.strip()) if isinstance(value, str) else None
    found = int(match[1]) * _THOUSANDS[match[2].lower()] if match else value
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ValueError("expected a number of tokens, such as 32768, 128k or 1M")
    return found


def _not_a_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Duration = Annotated[float, _duration()]
PositiveDuration = Annotated[float, _duration(zero=False)]
Hedge = Annotated[float | Literal["auto", "off"], _duration("auto", "off")]
Signals = Annotated[float | Literal["auto", "off"], _duration("auto", "off", zero=False)]
Idle = Annotated[float | Literal["auto"], _duration("auto")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_not_a_boolean)]
# At most 10, so that a percentage written as 20 is an error.
Share = Annotated[float, Field(ge=0, le=10), BeforeValidator(_not_a_boolean)]
Tokens = Annotated[int, PlainValidator(_tokens)]
OneOrMore = Annotated[int, Field(ge=1), BeforeValidator(_not_a_boolean)]
ZeroOrMore = Annotated[int, Field(ge=0), BeforeValidator(_not_a_boolean)]


# ---- Texts


def _matching(pattern: str, expected: str) -> AfterValidator:
    def matching(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(matching)


def _address(url: str) -> str:
    match = re.fullmatch(r"(https?)(://(?:[\w.-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?(?:/[!$-;=A-~]*)?)", url, re.ASCII | re.I)
    try:
        parts = urlsplit(url)  # raises if the brackets hold no address
        # `port` raises if it is not a port, `encode` if a label is empty or too long.
        if match and parts.port != 0 and (parts.hostname or "").encode("idna"):
            return match[1].lower() + match[2].rstrip("/")
    except ValueError:
        pass
    raise ValueError(
        "expected http:// or https://, a host, optionally a port and a path, and nothing else: "
        "a key belongs in api_key or headers, and the router appends the API's paths"
    )


def _without_operation(url: str) -> str:
    """Refuse an address that ends in a path of the API: the router would append it once more."""
    path = urlsplit(url).path.lower()
    found = next((ending for ending in OPERATION_PATHS if path.endswith(ending)), None)
    if found is not None:
        raise ValueError(
            f"ends in '{found}', which the router appends; write the address up to there, as in "
            "https://api.example.com/v1"
        )
    return url


def _secret(secret: SecretStr) -> SecretStr:
    # Secrets from files often end with a line feed: `kubectl create secret --from-file`, `echo … | base64`.
    text = secret.get_secret_value().strip(" \t\r\n")
    if not re.fullmatch("[ -~]*", text):
        raise ValueError(f"expected {_ONE_LINE}")
    return SecretStr(text)


def _origin(origin: str) -> str:
    """An origin as browsers send it: in lower case, without a path and without the scheme's own port."""
    match = re.fullmatch(
        r"([a-z][a-z0-9+.-]*)://([\w.-]+|\[[0-9a-f:.]+\])(:[0-9]+)?/?", origin.strip().lower(), re.ASCII
    )
    if not match:
        raise ValueError('expected an origin, such as https://app.example.com or http://localhost:3000, or "*" for all')
    scheme, host, port = match[1], match[2], match[3] or ""
    return f"{scheme}://{host}" + ("" if port == _OWN_PORTS.get(scheme) else port)


def _origins(value: object) -> object:
    """A single text is a list of one; with `*` in the list all others are superfluous."""
    listed = [value] if isinstance(value, str) else value
    return ["*"] if isinstance(listed, list | tuple) and "*" in listed else listed


_OWN_PORTS = {"http": ":80", "https": ":443"}
# What people copy behind an API's base URL: the paths of OpenAI's, Anthropic's and Ollama's operations.
# The longer before those that they end in. Not `/models` alone: at Azure's model inference that is the base.
OPERATION_PATHS = (
    "/chat/completions", "/completions", "/embeddings", "/v1/models", "/responses", "/messages/count_tokens",
    "/messages", "/rerank", "/moderations", "/audio/transcriptions", "/audio/translations", "/audio/speech",
    "/images/generations", "/images/edits", "/api/chat", "/api/generate", "/api/tags", "/api/embed",
)  # fmt: skip
_ONE_LINE = "one line of printable ASCII"
_OUR_HEADERS = (
    "host, content-length, transfer-encoding, accept-encoding, expect, "
    "connection, keep-alive, proxy-connection, te, trailer, upgrade"
)
# Headers of one connection or of one message's framing (RFC 9110 §7.6.1): written anew for each hop.
_HOP_BY_HOP = f"{_OUR_HEADERS}, proxy-authenticate, proxy-authorization, proxy-authentication-info"
_CLIENT_KEYS = "authorization, api-key, x-api-key"
_SET_FOR_CLIENTS = (
    "x-request-id, x-upstream-request-id, date, server, retry-after, retry-after-ms, x-should-retry, allow, "
    "www-authenticate, x-accel-buffering, x-content-type-options"
)
_PASS_ANYWAY = "content-type, content-encoding, server-timing, cache-control"
# With these a server speaks for its whole host, which for a client is the router's; so it does with access-control-*.
_OF_THE_HOST = (
    "set-cookie, set-cookie2, strict-transport-security, alt-svc, clear-site-data, service-worker-allowed, refresh, "
    "content-security-policy, content-security-policy-report-only, report-to, reporting-endpoints, nel, vary"
)


def _among(name: str, names: str) -> bool:
    return name in names.split(", ")


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9!#$%&'+.^_`|~-]+", name):
        raise ValueError("must be the name of a header, such as x-tenant, without a value or a wildcard")
    if _among(name, _HOP_BY_HOP):
        raise ValueError(f"'{name}' belongs to one connection: the router sets its own; remove it")
    if name.startswith("x-router-"):
        raise ValueError(f"'{name}' is between the client and this router; remove it")
    return name


def _passed_header(name: str) -> str:
    if _among(_header_name(name), _CLIENT_KEYS):
        raise ValueError(
            f"'{name}' holds a client's key, which no endpoint may see; set the endpoint's own in api_key or headers"
        )
    if name == "cdn-loop":
        raise ValueError("'cdn-loop' is how routers notice a circle: the router sets its own; remove it")
    if name == "cookie":
        raise ValueError("'cookie' holds what clients keep for the router's host, which no endpoint may see; remove it")
    if _among(name, "content-type, content-encoding"):
        raise ValueError(f"'{name}' describes the body that the router sends: the router sets its own; remove it")
    return name


def _returned_header(name: str) -> str:
    if _among(_header_name(name), _SET_FOR_CLIENTS):
        raise ValueError(f"'{name}' is set by the router itself where a client needs it; remove it")
    if _among(name, _PASS_ANYWAY):
        raise ValueError(f"'{name}' reaches clients in any case where it may; remove it")
    if _among(name, _OF_THE_HOST) or name.startswith("access-control-"):
        raise ValueError(f"'{name}' speaks for a whole host, which for a client is the router's; remove it")
    if _among(name, _CLIENT_KEYS):
        raise ValueError(f"'{name}' may hold the endpoint's key, which no client may see; remove it")
    return name


Name = Annotated[str, _matching(r"[A-Za-z0-9._-]{1,64}", "1 to 64 letters, digits, dots, dashes or underscores")]
BaseUrl = Annotated[str, AfterValidator(_address), AfterValidator(_without_operation)]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(lambda text: text if text == "*" else _origin(text))], ...],
    BeforeValidator(_origins),
]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
HeaderName = Annotated[
    str,
    StringConstraints(to_lower=True),
    _matching(
        rf"(?!({_OUR_HEADERS.replace(', ', '|')})$)[a-z0-9!#$%&'*+.^_`|~-]+",
        f"a header name other than {_OUR_HEADERS}: the router sets those",
    ),
]
PassedHeader = Annotated[str, StringConstraints(to_lower=True), AfterValidator(_passed_header)]
ReturnedHeader = Annotated[str, StringConstraints(to_lower=True), AfterValidator(_returned_header)]
Affinity = Annotated[
    str,
    StringConstraints(to_lower=True),
    _matching(r"prefix|off|header:[a-z0-9!#$%&'*+.^_`|~-]+", "prefix, off or header:NAME, with the name of a header"),
]
HeaderValue = Annotated[str, StringConstraints(strip_whitespace=True), _matching(r"[\t -~]*", _ONE_LINE)]
Parameter = Annotated[
    str,
    _matching(
        "(?!(model|stream|messages)$).+",
        "a parameter other than model, stream, messages: the endpoint or the client sets those",
    ),
]


# ---- Immutable mappings


def _same_names(models: object) -> object:
    """Expand a name or a list of names, short for a mapping of each name to itself."""
    if isinstance(models, str):
        models = [models]
    names = isinstance(models, list | tuple) and all(isinstance(name, str) for name in models)
    if not (names or isinstance(models, dict | Mapping)):
        raise ValueError("expected a name, a list of names, or a mapping {name for clients: name at the endpoint}")
    return {name: name for name in models} if names else models  # type: ignore[attr-defined]


ModelName = Annotated[str, Field(min_length=1, max_length=256)]
Headers = Annotated[Mapping[HeaderName, HeaderValue], AfterValidator(MappingProxyType)]
ModelNames = Annotated[
    Mapping[ModelName, ModelName], Field(min_length=1), BeforeValidator(_same_names), AfterValidator(MappingProxyType)
]
Parameters = Annotated[Mapping[Parameter, Any], AfterValidator(MappingProxyType)]


# ---- Messages

_MESSAGES: Mapping[str, str] = {
    "missing": "missing",
    "string_type": "expected text (put a number in quotes)",
    "string_too_short": "expected text that is not empty",
    "too_short": "empty; expected at least one",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "expected a number"),
    "greater_than": "expected a number, more than {gt:g}",
    "greater_than_equal": "expected a number, {ge:g} or more",
    "less_than_equal": "expected a number, {le:g} or less",
    "literal_error": "expected {expected}",
    "value_error": "{error}",
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type", "mapping_type", "dict_type"), "expected a mapping"),
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list"),
}


def describe(error: ErrorDetails, written: str) -> str:
    """The message for a validation error, with the value as `written` in the file if that helps.

    A single value in place of a mapping or list is not shown: it does not help, and may be a secret.
    """
    kind = error["type"]
    message = _MESSAGES[kind].format(**error.get("ctx", {})) if kind in _MESSAGES else error["msg"]
    helps = written and message.startswith("expected") and message not in ("expected a mapping", "expected a list")
    return f"given {written}; {message}" if helps else message
