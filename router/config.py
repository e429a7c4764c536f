"""endpoints.yaml, read into frozen models, or refused with every mistake named by file, line and key.

Rules of this file:
- What comes out is complete and cannot change; a reload builds another one.
- `${NAME}` is replaced in single scalars after YAML has been parsed, so a variable can never add structure.
- All problems are reported at once, in the file's words. A secret's value is in none of them, and in no repr.
- An endpoint whose key is not in the environment is disabled, not wrong: the shipped file works without any key.

Reading goes in three steps: `_Document` turns YAML nodes into plain values and remembers where each one stood;
the models check them; `_disagreements` finds what is only wrong in company (two endpoints of one name, say).
"""

import difflib
import ipaddress
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit, urlunsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError


class ConfigError(ValueError):
    """All that is wrong with a configuration, one problem a line: `FILE:LINE: key: what, and what instead`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> "Config":
    """Read a file; raises ConfigError when it cannot be read or is not right."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # -sig: some editors begin a file with a byte order mark
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror or error}"]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8 text"]) from None
    return parse(text, str(path), environ)


def parse(text: str, source: str = "<text>", environ: Mapping[str, str] = os.environ) -> "Config":
    """Read a text; `source` stands for the file's name in messages."""
    document = _Document(source, environ)
    document.read(text)
    config = _validated(document)
    _disagreements(document)
    if config is None or document.problems:
        raise ConfigError(document.report())
    return config


# ---- Values: each of these says what it expects; what was given is added by `_Document`, which knows the source


def _expected(what: str) -> PydanticCustomError:
    return PydanticCustomError("expected", "expected {what}", {"what": what})


def _wrong(why: str) -> PydanticCustomError:
    return PydanticCustomError("wrong", "{why}", {"why": why})


_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_DURATION = re.compile(rf"({_NUMBER})\s*(ms|s|m|h)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}
_DURATION_WORDS = "a duration such as 250ms, 5s, 2m or a number of seconds"


def _float(value: object) -> float | None:
    """A number, also one that came as text (from the environment); None for all else."""
    if isinstance(value, str) and re.fullmatch(rf"[-+]?{_NUMBER}", value.strip()):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else math.inf  # a long integer would overflow a float
    return None


def _seconds(value: object) -> float | None:
    if not isinstance(value, str):
        return _float(value)
    if not (match := _DURATION.fullmatch(value.strip())):
        return None
    number, unit = float(match[1]), match[2]
    return number / 1000 if unit == "ms" else number * _SECONDS[unit]  # by 1000, not times 0.001: rounded once


def _duration(value: object) -> float:
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds < math.inf:
        raise _expected(f"{_DURATION_WORDS}, 0 or more")
    return seconds


def _positive_duration(value: object) -> float:
    seconds = _seconds(value)
    if seconds is None or not 0 < seconds < math.inf:
        raise _expected(f"{_DURATION_WORDS}, more than 0")
    return seconds


def _hedge(value: object) -> "Hedge":
    if value == "auto" or value == "off":
        return "auto" if value == "auto" else "off"
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds < math.inf:
        raise _expected(f"auto, off or {_DURATION_WORDS}")
    return seconds


def _idle(value: object) -> 'float | Literal["auto"]':
    if value == "auto":
        return "auto"
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds < math.inf:
        raise _expected(f"auto or {_DURATION_WORDS}")
    return seconds


def _positive(value: object) -> float:
    number = _float(value)
    if number is None or not 0 < number < math.inf:
        raise _expected("a number, more than 0")
    return number


def _share(value: object) -> float:
    """Extra attempts per call. Ten is beyond any use, and catches a percentage written as 20."""
    number = _float(value)
    if number is None or not 0 <= number <= 10:
        raise _expected("a number from 0 to 10, in extra attempts per call (0.10 is one for every ten calls)")
    return number


def _at_least(minimum: int) -> PlainValidator:
    def whole(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]{1,18}", value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value < 2**63:
            raise _expected(f"a whole number, {minimum} or more")
        return value

    return PlainValidator(whole)


Hedge = float | Literal["auto", "off"]
Duration = Annotated[float, PlainValidator(_duration)]
PositiveDuration = Annotated[float, PlainValidator(_positive_duration)]
HedgeSetting = Annotated[Hedge, PlainValidator(_hedge)]
IdleSetting = Annotated[float | Literal["auto"], PlainValidator(_idle)]
Positive = Annotated[float, PlainValidator(_positive)]
Share = Annotated[float, PlainValidator(_share)]
OneOrMore = Annotated[int, _at_least(1)]
ZeroOrMore = Annotated[int, _at_least(0)]


# ---- Mappings that stay as they are


def _refuse(*args: object, **kwargs: object) -> NoReturn:
    raise TypeError("a configuration cannot be changed; load another one")


class Frozen(dict[str, Any]):
    """A dict that cannot be changed and can be hashed; a dict still, so that JSON encoders take it."""

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Frozen, (dict(self),))  # copying and unpickling would else fill it item by item


def _json(value: Any) -> Any:
    """A JSON value, frozen all the way down."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _expected("a finite number: JSON has no other")
    if isinstance(value, Mapping):
        return Frozen({key: _json(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_json(item) for item in value)
    return value


# ---- Texts: names, addresses, headers, secrets


_NOT_CONFIGURABLE = {  # headers that the router must own, and why
    "host": "it follows from base_url",
    "content-length": "it follows from the body",
    "transfer-encoding": "it follows from the body",
    "accept-encoding": "answers are read as they pass, so they must come uncompressed",
    "expect": "bodies are sent at once",
    **dict.fromkeys(
        ("connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"),
        "it is about one connection, and connections are the router's",
    ),
}
_NOT_PARAMS = {
    "model": "the router sets it from the endpoint's 'models'",
    "stream": "the client says how it wants its answer, and is served that way",
    "messages": "what is said is between the client and the model",
}


def _endpoint_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise _expected("1 to 64 letters, digits, dots, dashes or underscores (it goes into headers and metrics)")
    return name


def _model_name(name: str) -> str:
    if not name.strip() or not name.isprintable() or len(name) > 256:
        raise _expected("a model's name: printable text of 1 to 256 characters")
    return name


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        raise _wrong("not a header name; expected letters, digits and dashes")
    if reason := _NOT_CONFIGURABLE.get(name.lower()):
        raise _wrong(f"this header cannot be configured: {reason}")
    return name


def _header_value(value: str) -> str:
    value = value.strip(" \t")
    if not re.fullmatch(r"[\t\x20-\x7e]*", value):
        raise _expected("one line of printable ASCII, without line breaks or NUL")
    return value


def _headers(headers: Mapping[str, str]) -> Frozen:
    names = [name.lower() for name in headers]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _wrong(f"{twice} stands twice; header names are the same in upper and lower case")
    return Frozen(headers)


def _param_name(name: str) -> str:
    if reason := _NOT_PARAMS.get(name):
        raise _wrong(f"{name} cannot be changed by params: {reason}")
    if not name:
        raise _expected("a parameter's name")
    return name


def _secret(value: object) -> SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise PydanticCustomError("string_type", "expected text")
    if not re.fullmatch(r"(?:[!-~](?:[ -~]*[!-~])?)?", text):
        raise _expected("one line of printable ASCII, without line breaks or NUL, or spaces around it")
    return SecretStr(text)


def _api_key(value: object) -> SecretStr | None:
    return None if value is None else _secret(value) or None  # an empty SecretStr is false: no key


def _client_keys(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    return tuple(dict.fromkeys(key for key in keys if key))


def _same_names(models: object) -> object:
    """A list of names is short for a mapping of each to itself."""
    if isinstance(models, Mapping):
        return models
    if not isinstance(models, list | tuple) or not all(isinstance(name, str) for name in models):
        raise _expected("a mapping {the name that clients ask for: the name it has here}, or a list of names")
    if twice := next((name for name in models if models.count(name) > 1), None):
        raise _wrong(f"{twice!r} stands twice")
    return dict(zip(models, models, strict=True))


def _some_models(models: Mapping[str, str]) -> Frozen:
    if not models:
        raise _wrong("empty; expected at least one model, as {the name that clients ask for: the name it has here}")
    return Frozen(models)


def _base_url(url: str) -> str:
    """http or https, a host, maybe a port and a path, and nothing else; without its trailing slash."""
    if not re.fullmatch(r"[!-~]+", url):
        raise _expected("a URL in printable ASCII without spaces (an international host as xn--…)")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _expected("a URL with a valid host, and a port from 1 to 65535") from None
    if parts.scheme not in ("http", "https"):
        raise _expected("a URL that begins with http:// or https://")
    if "@" in parts.netloc:
        raise _wrong("a URL must not hold a user or password; use api_key, or headers")
    if "?" in url or "#" in url:
        raise _wrong("a URL must not hold a query or a fragment: paths are added at its end")
    if not host:
        raise _expected("a URL with a host")
    if port == 0 or parts.netloc.endswith(":") or not _is_host(host):
        raise _expected("a URL with a valid host, and a port from 1 to 65535")
    return urlunsplit(parts).rstrip("/")


def _is_host(host: str) -> bool:
    if ":" not in host:
        return re.fullmatch(r"[A-Za-z0-9._-]+", host) is not None
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


# ---- The models


class Section(BaseModel):
    """What all models share: frozen, no unknown keys; a key without a value is a key not said."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _said(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, value) for name, value in super().__repr_args__() if name in self.model_fields_set]


class Policy(Section):
    """How long to wait for what, and how much extra work that may cost; complete."""

    deadline: PositiveDuration = 120.0  # from accepting the call to its first token, all attempts together
    hedge: HedgeSetting = "auto"  # when to start a rival beside a late first token
    abandon: PositiveDuration = 15.0  # give up an attempt without first token, if another endpoint can take over
    stall: PositiveDuration = 30.0  # longest silence inside a committed stream
    hedge_budget: Share = 0.10  # extra attempts per call for slowness
    retry_budget: Share = 0.20  # and for failures
    patience: Duration = 0.0  # how much longer the cheaper tier may take before the next one is asked


class Overrides(Section):
    """The parts of a policy that a model or an endpoint says otherwise; None is not said."""

    deadline: PositiveDuration | None = None
    hedge: HedgeSetting | None = None
    abandon: PositiveDuration | None = None
    stall: PositiveDuration | None = None
    hedge_budget: Share | None = None
    retry_budget: Share | None = None
    patience: Duration | None = None


ParamName = Annotated[str, AfterValidator(_param_name)]
ParamValues = Annotated[Mapping[ParamName, Annotated[Any, AfterValidator(_json)]], AfterValidator(Frozen)]


class Params(Section):
    """Changes to a request's parameters: added where the client says nothing, forced, or removed."""

    default: ParamValues = Frozen()
    force: ParamValues = Frozen()
    drop: tuple[ParamName, ...] = ()


class Probe(Section):
    """How, and how often, to ask an endpoint whether it is well."""

    kind: Literal["auto", "health", "models", "chat", "connect", "off"] = "auto"
    interval: PositiveDuration = 10.0
    timeout: PositiveDuration = 5.0


class PoolConfig(Section):
    """Connections to one endpoint."""

    min_idle: ZeroOrMore = 2  # opened before they are needed
    max: OneOrMore = 200
    idle: IdleSetting = "auto"  # how long one may wait unused; auto learns it from the server
    keepalive: PositiveDuration = 60.0  # between TCP's own signs of life

    @model_validator(mode="after")
    def _fits(self) -> "PoolConfig":
        if self.min_idle > self.max:
            raise _wrong(f"min_idle is {self.min_idle}, more than max, which is {self.max}")
        return self


class Simulate(Section):
    """How a simulated endpoint behaves."""

    first_token: Duration = 0.3
    rate: Positive = 40.0  # tokens a second


Models = Annotated[
    Mapping[Annotated[str, AfterValidator(_model_name)], Annotated[str, AfterValidator(_model_name)]],
    BeforeValidator(_same_names),
    AfterValidator(_some_models),
]
Headers = Annotated[
    Mapping[Annotated[str, AfterValidator(_header_name)], Annotated[str, AfterValidator(_header_value)]],
    AfterValidator(_headers),
]


class EndpointConfig(Section):
    """One upstream behind one URL and credential, as we were told about it."""

    # `kind` stands before those that depend on it: they see only what was validated before them.
    name: Annotated[str, AfterValidator(_endpoint_name)]
    kind: Literal["openai", "zhipu", "vllm", "simulated"] = "openai"
    base_url: str | None = Field(default=None, validate_default=True)
    api_key: Annotated[SecretStr | None, PlainValidator(_api_key)] = None
    models: Models
    tier: OneOrMore = 1
    weight: Positive = 1.0
    concurrency: OneOrMore | None = None
    params: Params = Params()
    headers: Headers = Field(default=Frozen(), repr=False)  # their values may be secrets
    probe: Probe = Probe()
    pool: PoolConfig = PoolConfig()
    simulate: Simulate = Simulate()
    policy: Overrides = Overrides()  # in the file its keys stand directly on the endpoint
    disabled: str | None = None  # why it is not used; set by the loader

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if url is None and kind not in ("simulated", None):
            raise _wrong(f"missing; an endpoint of kind {kind} needs it, as in https://api.example.com/v1")
        if url is not None and kind == "simulated":
            raise _wrong("a simulated endpoint has no base_url: it runs inside the router")
        return None if url is None else _base_url(url)

    @field_validator("api_key", "headers")
    @classmethod
    def _sent(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("kind") == "simulated":
            raise _wrong(f"a simulated endpoint has no {info.field_name}: it runs inside the router")
        return value

    @field_validator("simulate")
    @classmethod
    def _simulated(cls, value: Simulate, info: ValidationInfo) -> Simulate:
        if info.data.get("kind", "simulated") != "simulated":
            raise _wrong("only an endpoint of kind simulated has it")
        return value


def _some_endpoints(endpoints: tuple[EndpointConfig, ...]) -> tuple[EndpointConfig, ...]:
    if not endpoints:
        raise _wrong("empty; expected at least one endpoint")
    return endpoints


class Config(Section):
    """All that endpoints.yaml says."""

    defaults: Policy = Policy()
    endpoints: Annotated[tuple[EndpointConfig, ...], AfterValidator(_some_endpoints)]
    models: Annotated[Mapping[str, Overrides], AfterValidator(Frozen)] = Frozen()
    keys: Annotated[tuple[Annotated[SecretStr, PlainValidator(_secret)], ...], AfterValidator(_client_keys)] = ()
    source: str = ""

    @property
    def enabled(self) -> tuple[EndpointConfig, ...]:
        return tuple(endpoint for endpoint in self.endpoints if endpoint.disabled is None)

    def policy(self, model: str, endpoint: EndpointConfig) -> Policy:
        """What holds for a model at an endpoint: the endpoint's own word, else the model's, else the defaults."""
        said = self.models.get(model, Overrides())
        layers = (self.defaults, said, endpoint.policy)
        return Policy.model_construct(
            **{
                name: value
                for layer in layers
                for name in Policy.model_fields
                if (value := getattr(layer, name)) is not None
            }
        )


_POLICY_KEYS = frozenset(Policy.model_fields) - {"patience"}  # patience is between tiers, so no endpoint's own
_TOP_KEYS = frozenset(Config.model_fields) - {"source"}
_ENDPOINT_KEYS = frozenset(EndpointConfig.model_fields) - {"policy", "disabled"} | _POLICY_KEYS
_SECTIONS: Mapping[str, type[Section]] = {"params": Params, "probe": Probe, "pool": PoolConfig, "simulate": Simulate}


# ---- From the file to the models


KeyPath = tuple[str | int, ...]


def _validated(document: "_Document") -> Config | None:
    try:
        return Config.model_validate(_shaped(document) | {"source": document.source})
    except ValidationError as errors:
        for error in errors.errors(include_url=False, include_input=False):
            path = _in_the_file(error["loc"])
            if error["type"] == "extra_forbidden" or not document.is_unread(path):
                document.problem(path, _message(document, path, error["type"], error["msg"], error.get("ctx", {})))
        return None


def _shaped(document: "_Document") -> dict[str, Any]:
    """The file's values in the shape of the models."""
    top = document.value
    if top is not None and not isinstance(top, dict):
        document.problem((), f"given {_container(document.given(()))}; expected a mapping with 'endpoints'")
        top = None
    known = _without(document, top or {}, (), {"source"})
    if isinstance(endpoints := known.get("endpoints"), list):
        known["endpoints"] = [_endpoint(document, item, ("endpoints", i)) for i, item in enumerate(endpoints)]
    if isinstance(models := known.get("models"), dict):
        known["models"] = {name: {} if said is None else said for name, said in models.items()}
    return known


def _endpoint(document: "_Document", value: Any, path: KeyPath) -> Any:
    """In the file, the policy's keys stand on the endpoint itself."""
    if not isinstance(value, dict):
        return value
    known = _without(document, value, path, {"policy", "patience", "disabled"})
    policy = {key: known.pop(key) for key in _POLICY_KEYS & known.keys()}
    return known | {"policy": policy or None, "disabled": document.unset.get((*path, "api_key"))}


def _without(document: "_Document", value: dict[str, Any], path: KeyPath, keys: Collection[str]) -> dict[str, Any]:
    """Some keys are the models' and not the file's."""
    for key in value.keys() & keys:
        document.problem((*path, key), _unknown((*path, key)))
    return {key: item for key, item in value.items() if key not in keys}


def _in_the_file(loc: KeyPath) -> KeyPath:
    """Where a model's error stands in the file: policy is flat there, and a bad key is named by its own path."""
    path = tuple(part for part in loc if part != "[key]")
    return path[:2] + path[3:] if path[0] == "endpoints" and path[2:3] == ("policy",) else path


def _message(document: "_Document", path: KeyPath, kind: str, message: str, context: Mapping[str, Any]) -> str:
    """Our words for a validation error."""
    given = document.given(path)
    match kind:
        case "wrong":
            return str(context["why"])
        case "missing":
            return "missing"
        case "extra_forbidden":
            return _unknown(path)
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            expected = _listed(choices) + _did_you_mean(given.strip("'"), choices)
        case "expected":
            expected = str(context["what"])
        case "string_type":
            expected = "text; put it in quotes" if _container(given) == "a single value" else "text"
        case "model_type" | "dict_type" | "mapping_type" | "model_attributes_type":
            given, expected = _container(given), "a mapping"
        case "tuple_type" | "list_type":
            given, expected = _container(given), "a list"
        case _:
            expected = message
    return f"given {given}; expected {expected}"


def _container(given: str) -> str:
    """Where more than a single value belongs, the value tells nothing, and may be a secret that lost its key."""
    return given if given in ("nothing", "a mapping", "a list") else "a single value"


def _unknown(path: KeyPath) -> str:
    if path[0] == "endpoints" and path[2:] == ("patience",):
        return "unknown key; it may stand in 'defaults' and 'models' only"
    known = sorted(_keys_at(path[:-1]))
    return f"unknown key{_did_you_mean(str(path[-1]), known) or '; known here are ' + ', '.join(known)}"


def _keys_at(path: KeyPath) -> Collection[str]:
    match path:
        case ():
            return _TOP_KEYS
        case ("endpoints", _):
            return _ENDPOINT_KEYS
        case ("endpoints", _, str(section)):
            return _SECTIONS[section].model_fields
        case _:
            return Policy.model_fields


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _disagreements(document: "_Document") -> None:
    """What is right alone and wrong together; looked up in the file's values, so that it is found whatever else is."""
    top = document.value if isinstance(document.value, dict) else {}
    endpoints = [item if isinstance(item, dict) else {} for item in _list(top.get("endpoints"))]
    first: dict[str, int] = {}
    for index, endpoint in enumerate(endpoints):
        name = endpoint.get("name")
        if isinstance(name, str) and first.setdefault(name, index) != index:
            document.problem(("endpoints", index, "name"), f"already the name of endpoints[{first[name]}]")
    served = sorted({name for item in endpoints for name in _names(item.get("models"))})
    for model in _names(top.get("models")):
        if served and model not in served:
            hint = _did_you_mean(model, served) or f"; served: {', '.join(served)}"
            document.problem(("models", model), f"no endpoint serves this model{hint}")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, dict | list) else []


# ---- From YAML to values


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values. In 1.1, which PyYAML follows, `off` is false, `1:30` is 90 and a date is an object."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own way)


_TAG = "tag:yaml.org,2002:"
for _kind, _pattern, _begins in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", rf"[-+]?{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _begins)

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\$\{")
_MOST_NODES = 100_000  # aliases of aliases can stand for billions


class _UnsetError(ValueError):
    """A variable that has no value; says so as a sentence."""

    def __init__(self, name: str, found: str | None, default: str) -> None:
        super().__init__(f"{name} is {'not set' if found is None else 'empty'}")
        self.remedy = f"set it, or write ${{{name}:-{default}}}"


@dataclass(frozen=True, slots=True)
class _Place:
    line: int
    given: str  # the value as messages may show it


class _Document:
    """One file: its value, where everything stood, and all that is wrong with it."""

    def __init__(self, source: str, environ: Mapping[str, str]) -> None:
        self.source = source
        self.value: Any = None
        self.unset: dict[KeyPath, str] = {}  # api keys that the environment does not have: why
        self.problems: list[tuple[int, KeyPath, str]] = []
        self._environ = environ
        self._places: dict[KeyPath, _Place] = {(): _Place(1, "nothing")}
        self._unread: set[KeyPath] = set()  # what could not be read
        self._open: list[yaml.Node] = []  # from the root to where we are
        self._nodes = 0

    def read(self, text: str) -> None:
        """Fill in the value. A text that is not YAML has one problem and no value, and ends the reading."""
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            if root is not None:
                self._places[()] = _Place(_line(root), self._given(root, ()))
                self.value = self._read(root, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = " ".join(part for part in (error.problem, error.context) if part)
            self._not_yaml(mark.line + 1 if mark else 1, re.sub(r" '[^'<>]{2,}'", "", words))  # might be secrets
        except yaml.reader.ReaderError as error:
            self._not_yaml(text.count("\n", 0, error.position) + 1, "a control character")
        except RecursionError:
            self._not_yaml(1, "nested too deeply")

    def _not_yaml(self, line: int, why: str) -> NoReturn:
        # from None: PyYAML's own error quotes the line, secrets and all.
        raise ConfigError([f"{self.source}:{line}: not valid YAML: {why}"]) from None

    # -- problems, and how they are shown

    def problem(self, path: KeyPath, message: str, line: int | None = None) -> None:
        self.problems.append((line or self._line_of(path), path, message))

    def is_unread(self, path: KeyPath) -> bool:
        """Whether a value, or a part of it, could not be read; that was noted, and what follows from it is no news."""
        return any(unread[: len(path)] == path for unread in self._unread)

    def report(self) -> list[str]:
        """The problems in the order of the file."""
        return [
            f"{self.source}:{line}: {self._spelled(path)}{message}"
            for line, path, message in sorted(self.problems, key=lambda problem: problem[0])
        ]

    def given(self, path: KeyPath) -> str:
        place = self._places.get(path)
        return place.given if place else "nothing"

    def _line_of(self, path: KeyPath) -> int:
        while path not in self._places:
            path = path[:-1]
        return self._places[path].line

    def _spelled(self, path: KeyPath) -> str:
        """`endpoints[0] (zhipu-flash).probe.interval`"""
        words = ""
        for depth, part in enumerate(path):
            if isinstance(part, int):
                words += f"[{part}]{self._name_of(path[: depth + 1])}"
            else:
                words += f"{'.' if words else ''}{_shown_key(part, path[:depth])}"
        return words and f"{words}: "

    def _name_of(self, path: KeyPath) -> str:
        if len(path) != 2 or path[0] != "endpoints":
            return ""
        endpoint = self.value["endpoints"][path[1]] if isinstance(self.value, dict) else None
        name = endpoint.get("name") if isinstance(endpoint, dict) else None
        return f" ({name})" if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) else ""

    def _given(self, node: yaml.Node, path: KeyPath) -> str:
        if isinstance(node, yaml.MappingNode):
            return "a mapping"
        if isinstance(node, yaml.SequenceNode):
            return "a list"
        text = str(node.value)
        if node.tag == f"{_TAG}null":
            return "nothing"
        if _is_secret(path):
            return "a value that is not shown here"
        text = _shown_url(text) if path[-1:] == ("base_url",) else text
        text = text if len(text) <= 60 else f"{text[:60]}…"
        # A reference is shown itself, not what it stands for: that may be a secret in the wrong place.
        if "${" in text:
            return f"{text} (its value is not shown)"
        return repr(text) if node.tag == f"{_TAG}str" else text

    # -- nodes

    def _read(self, node: yaml.Node, path: KeyPath) -> Any:
        self._count(node)
        if node in self._open:
            return self._unreadable(path, "contains itself")
        self._open.append(node)
        try:
            match node:
                case yaml.MappingNode(tag=tag) if tag == f"{_TAG}map":
                    return self._mapping(node, path)
                case yaml.SequenceNode(tag=tag) if tag == f"{_TAG}seq":
                    return self._sequence(node, path)
                case yaml.ScalarNode():
                    return self._scalar(node, path)
            return self._unreadable(path, "has a YAML tag that is not understood here")
        finally:
            self._open.pop()

    def _count(self, node: yaml.Node) -> None:
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            self._not_yaml(_line(node), "too large, with its aliases followed")

    def _unreadable(self, path: KeyPath, why: str, line: int | None = None) -> None:
        self.problem(path, why, line)
        self._unread.add(path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        entries = self._entries(node, path)
        for key, (line, value) in entries.items():
            self._places[*path, key] = _Place(line, self._given(value, (*path, key)))
        return {key: self._read(value, (*path, key)) for key, (_, value) in entries.items()}

    def _entries(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, tuple[int, yaml.Node]]:
        """Keys with their lines and values; those merged in with `<<` come after its own, which win."""
        entries: dict[str, tuple[int, yaml.Node]] = {}
        bases: list[yaml.Node] = []
        for key_node, value in node.value:
            self._count(key_node)
            if key_node.tag == f"{_TAG}merge":
                bases += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif (key := self._key(key_node, path)) is None:
                continue
            elif key in entries:
                self.problem((*path, key), f"stands twice; first on line {entries[key][0]}", _line(key_node))
            else:
                entries[key] = (_line(key_node), value)
        for base in bases:
            if isinstance(base, yaml.MappingNode):
                entries = self._entries(base, path) | entries
            else:
                self.problem(path, "<< takes a mapping, or a list of them", _line(base))
        return entries

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        if node.tag != f"{_TAG}str":
            self._unreadable(path, "has a key that is not text; put it in quotes", _line(node))
            return None
        try:
            return self._expand(node.value, path)
        except ValueError as error:
            self._unreadable(path, f"has a key that cannot be read: {error}", _line(node))
            return None

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        for index, item in enumerate(node.value):
            self._places[*path, index] = _Place(_line(item), self._given(item, (*path, index)))
        return [self._read(item, (*path, index)) for index, item in enumerate(node.value)]

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            if node.tag != f"{_TAG}str":
                return _scalar_value(node.tag, node.value)
            text = self._expand(node.value, path)
        except _UnsetError as error:
            if _is_api_key(path):
                self.unset[path] = str(error)
                return None
            return self._unreadable(path, f"{error}; {error.remedy}")
        except ValueError as error:
            return self._unreadable(path, str(error))
        if path[2:3] == ("params",) and node.style is None and _REFERENCE.fullmatch(node.value):
            return self._plain(text)  # a parameter may be of any type: read as if it stood there
        return text

    def _plain(self, text: str) -> Any:
        return _scalar_value(_Loader("").resolve(yaml.ScalarNode, text, (True, False)), text)  # type: ignore[no-untyped-call]

    def _expand(self, text: str, path: KeyPath) -> str:
        """With the environment's values; raises ValueError, of which _UnsetError is one."""
        must_have = _is_secret(path)  # an empty secret is a mistake, and an empty client key would open the door

        def value(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if match[0] == "$${":
                return "${"
            if name is None:
                raise ValueError("a ${ that is neither ${NAME} nor ${NAME:-default}; write $${ for a plain ${")
            found = self._environ.get(name)
            if default is not None:
                return found or default
            if found is None or (must_have and not found.strip()):
                raise _UnsetError(name, found, "" if must_have else "default")
            return found

        return _REFERENCE.sub(value, text)


def _scalar_value(tag: str, text: str) -> Any:
    match tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if len(text) < 400:
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case "str" | "merge":
            return text
        case "int":
            raise ValueError("too long a number")
    raise ValueError("has a YAML tag that is not understood here")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_api_key(path: KeyPath) -> bool:
    return path[:1] == ("endpoints",) and path[2:] == ("api_key",)


def _is_secret(path: KeyPath) -> bool:
    return path[:1] == ("keys",) or (path[:1] == ("endpoints",) and path[2:3] in (("api_key",), ("headers",)))


def _shown_key(key: str, parent: KeyPath) -> str:
    """As it is, but for a value that slipped into it, as in `{api_key:sk-…}` (no space: all of it is the key)."""
    if parent[2:3] == ("headers",):
        return re.sub(r"[\s:=].*", "…", key, flags=re.DOTALL)
    return re.sub(r"(?is)((?:key|token|secret|password)s?\s*[:=]).*", r"\1…", key)


def _shown_url(url: str) -> str:
    """Without a user, a password or a query."""
    return re.sub(r"[?#].*", "…", re.sub(r"^(\w+:/*)?.*@", r"\1…@", url), flags=re.DOTALL)
