"""What a single value in endpoints.yaml may be, as types for the models: durations, shares, names, addresses, secrets.

Each says what it expects, in words that go into the message; pydantic's own constraints are worded by `worded`.
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
    """`250ms`, `5s`, `2m`, `1h`, or a number of seconds; None for all else."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        number, unit = float(match[1]), match[2]
        return number / 1000 if unit == "ms" else number * _SECONDS[unit]  # by 1000, not times 0.001: rounded once
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


def _not_a_switch(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Duration = Annotated[float, _duration()]
PositiveDuration = Annotated[float, _duration(zero=False)]
Hedge = Annotated[float | Literal["auto", "off"], _duration("auto", "off")]
Signals = Annotated[float | Literal["auto", "off"], _duration("auto", "off", zero=False)]
Idle = Annotated[float | Literal["auto"], _duration("auto")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_not_a_switch)]
Share = Annotated[float, Field(ge=0, le=10), BeforeValidator(_not_a_switch)]  # 10 catches a percentage written as 20
Tokens = Annotated[int, PlainValidator(_tokens)]
OneOrMore = Annotated[int, Field(ge=1), BeforeValidator(_not_a_switch)]
ZeroOrMore = Annotated[int, Field(ge=0), BeforeValidator(_not_a_switch)]


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
        parts = urlsplit(url)  # raises where the brackets hold no address, as do the next two
        if match and parts.port != 0 and (parts.hostname or "").encode("idna"):  # no port; a label empty or too long
            return match[1].lower() + match[2].rstrip("/")
    except ValueError:
        pass
    raise ValueError(
        "expected http:// or https://, a host, maybe a port and a path, and nothing else: "
        "a key belongs into api_key or headers, and paths are added at its end"
    )


def _secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip(" ")
    if not re.fullmatch("[ -~]*", text):
        raise ValueError(f"expected {_ONE_LINE}")
    return SecretStr(text)


_ONE_LINE = "one line of printable ASCII"
_OUR_HEADERS = (
    "host, content-length, transfer-encoding, accept-encoding, expect, "
    "connection, keep-alive, proxy-connection, te, trailer, upgrade"
)
Name = Annotated[str, _matching(r"[A-Za-z0-9._-]{1,64}", "1 to 64 letters, digits, dots, dashes or underscores")]
BaseUrl = Annotated[str, AfterValidator(_address)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
HeaderName = Annotated[
    str,
    StringConstraints(to_lower=True),
    _matching(
        rf"(?!({_OUR_HEADERS.replace(', ', '|')})$)[a-z0-9!#$%&'*+.^_`|~-]+",
        f"a header's name, and none of {_OUR_HEADERS}: those are the router's",
    ),
]
Affinity = Annotated[
    str,
    StringConstraints(to_lower=True),
    _matching(r"prefix|off|header:[a-z0-9!#$%&'*+.^_`|~-]+", "prefix, off, or header: and a header's name"),
]
HeaderValue = Annotated[str, StringConstraints(strip_whitespace=True), _matching(r"[\t -~]*", _ONE_LINE)]
Parameter = Annotated[
    str,
    _matching(
        "(?!(model|stream|messages)$).+",
        "a parameter, and none of model, stream, messages: those are the endpoint's and the client's own",
    ),
]


# ---- Mappings, which can't be changed


def _same_names(models: object) -> object:
    """A list of names is short for a mapping of each to itself."""
    names = isinstance(models, list | tuple) and all(isinstance(name, str) for name in models)
    return {name: name for name in models} if names else models  # type: ignore[attr-defined]


ModelName = Annotated[str, Field(min_length=1, max_length=256)]
Headers = Annotated[Mapping[HeaderName, HeaderValue], AfterValidator(MappingProxyType)]
ModelNames = Annotated[
    Mapping[ModelName, ModelName], Field(min_length=1), BeforeValidator(_same_names), AfterValidator(MappingProxyType)
]
Parameters = Annotated[Mapping[Parameter, Any], AfterValidator(MappingProxyType)]


# ---- Words

_WORDS: Mapping[str, str] = {
    "missing": "missing",
    "string_type": "expected text (a number in quotes)",
    "string_too_short": "expected a text that is not empty",
    "too_short": "empty; expected at least one",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "expected a number"),
    "greater_than": "expected a number, more than {gt:g}",
    "greater_than_equal": "expected a number, {ge:g} or more",
    "less_than_equal": "expected a number, {le:g} or less",
    "literal_error": "expected {expected}",
    "value_error": "{error}",
    **dict.fromkeys(("model_type", "model_attributes_type", "mapping_type", "dict_type"), "expected a mapping"),
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list"),
}


def worded(error: ErrorDetails, given: str) -> str:
    """Our words for a validation error. Where a mapping belongs a single value tells nothing, and may be a secret."""
    kind = error["type"]
    message = _WORDS[kind].format(**error.get("ctx", {})) if kind in _WORDS else error["msg"]
    tells = given and message.startswith("expected") and message not in ("expected a mapping", "expected a list")
    return f"given {given}; {message}" if tells else message
