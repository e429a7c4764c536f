"""endpoints.yaml as frozen models: first the structure of the file, then the reading of it.

- A configuration is complete and immutable; a reload builds another one.
- All problems are reported at once, by file, line and key. No problem and no repr contains a secret's value.
- An endpoint whose key is not in the environment is disabled, not an error: the shipped file works without any key.

`yamlfile.py` turns the text into values with line numbers; `values.py` defines the single values.
"""

import difflib
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from router.hints import hint
from router.values import (
    Affinity,
    BaseUrl,
    Duration,
    Headers,
    Hedge,
    Idle,
    ModelNames,
    Name,
    OneOrMore,
    Origins,
    Parameter,
    Parameters,
    PassedHeader,
    Positive,
    PositiveDuration,
    ReturnedHeader,
    Secret,
    Share,
    Signals,
    Tokens,
    ZeroOrMore,
    describe,
)
from router.yamlfile import ConfigError as ConfigError
from router.yamlfile import Document, KeyPath


class Section(BaseModel):
    """Base of all sections: frozen; unknown keys are errors; a key without a value counts as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _present(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}
        return {} if data is None else data


Resume = Literal["auto", "replay", "continue", "off"]


class PolicySettings(Section):
    """Time limits, and how much extra work a call may cost; every key has a value."""

    deadline: PositiveDuration = 120.0  # from the call's arrival to its first token, all attempts together
    hedge: Hedge = "auto"  # when to start a hedge because the first token is late
    abandon: PositiveDuration = 15.0  # give up an attempt without a first token, if another endpoint can take over
    stall: PositiveDuration = 30.0  # longest silence inside a committed stream
    hedge_budget: Share = 0.10  # extra attempts per call because of slowness
    retry_budget: Share = 0.20  # extra attempts per call because of failures
    patience: Duration = 0.0  # how long a call may wait for a better tier before it uses the next one
    resume: Resume = "auto"  # how a stream that breaks after its first token is rescued
    queue: ZeroOrMore = 1000  # calls that may be queued for a slot: a burst that is served within a few seconds
    queue_wait: Duration = 10.0  # how long a call may be queued
    affinity: Affinity = "off"  # how a conversation is recognised, so that it stays at one endpoint
    # How much longer a call may wait for that. The endpoint's cache saves the prefill: 2,000 tokens at 0.25 ms each.
    affinity_margin: Duration = 0.5


class Overrides(Section):
    """A model's or an endpoint's own policy settings; None is not set."""

    deadline: PositiveDuration | None = None
    hedge: Hedge | None = None
    abandon: PositiveDuration | None = None
    stall: PositiveDuration | None = None
    hedge_budget: Share | None = None
    retry_budget: Share | None = None
    patience: Duration | None = None
    resume: Resume | None = None
    queue: ZeroOrMore | None = None
    queue_wait: Duration | None = None
    affinity: Affinity | None = None
    affinity_margin: Duration | None = None


class Params(Section):
    """Changes to a request's parameters: defaults if the client sends none, forced ones, removed ones."""

    default: Parameters = {}
    force: Parameters = {}
    drop: tuple[Parameter, ...] = ()


class Probe(Section):
    """Kind, interval and timeout of the health probes of an endpoint."""

    kind: Literal["auto", "health", "models", "chat", "connect", "off"] = "auto"
    interval: PositiveDuration = 10.0
    timeout: PositiveDuration = 5.0


class PoolConfig(Section):
    """Connections to one endpoint."""

    min_idle: ZeroOrMore = 2  # idle connections that are kept open in advance
    max: OneOrMore = 200
    idle: Idle = "auto"  # how long a connection may stay unused; auto learns it from the server
    max_age: PositiveDuration = 600.0  # after which a connection is replaced, between two exchanges
    keepalive: PositiveDuration = 60.0  # between TCP keep-alive probes


class Simulate(Section):
    """The behaviour of a simulated endpoint."""

    first_token: Duration = 0.3
    rate: Positive = 40.0  # tokens per second


class EndpointConfig(Section):
    """One upstream behind one URL and one credential, as configured."""

    # `kind` precedes the fields that depend on it: a validator sees only the fields validated before its own.
    name: Name
    enabled: bool = True  # false takes the endpoint out, and keeps its entry
    kind: Literal["openai", "zhipu", "vllm", "sglang", "simulated"] = "openai"
    base_url: BaseUrl | None = None
    api_key: Annotated[Secret | None, AfterValidator(lambda key: key or None)] = None
    models: ModelNames
    tier: OneOrMore = 1
    weight: Positive = 1.0
    concurrency: OneOrMore | None = None
    context: Tokens | None = None  # most tokens of a prompt and its answer together
    prefill: Literal["auto", "off", "continue_final_message", "prefix", "partial", "trailing"] = "auto"
    params: Params = Field(default_factory=Params)
    headers: Headers = Field(default={}, repr=False)  # values may be secrets
    pass_headers: tuple[PassedHeader, ...] = ()  # headers of clients that it may see, besides the usual ones
    return_headers: tuple[ReturnedHeader, ...] = ()  # its headers that clients may see, besides the usual ones
    probe: Probe = Probe()
    signals: Signals = "auto"  # how often the load that its server reports is read
    pool: PoolConfig = PoolConfig()
    simulate: Simulate = Simulate()
    policy: Overrides = Overrides()  # in the file these keys stand directly in the endpoint
    disabled: str | None = None  # why the endpoint is not used; set by the loader, or by `enabled`

    @field_validator("base_url", "api_key", "headers", "pass_headers", "return_headers", "simulate")
    @classmethod
    def _matches_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind, key = info.data.get("kind"), info.field_name
        if value is None and key == "base_url" and kind not in (None, "simulated"):
            raise ValueError(f"missing; an endpoint of kind {kind} needs it, as in https://api.example.com/v1")
        if value and key != "simulate" and kind == "simulated":
            raise ValueError(f"a simulated endpoint has no {key}: it runs inside the router")
        if key == "simulate" and value != Simulate() and kind not in (None, "simulated"):
            raise ValueError("only endpoints of kind simulated have it")
        return value

    @field_validator("disabled")
    @classmethod
    def _switched_off(cls, value: str | None, info: ValidationInfo) -> str | None:
        return "enabled is false" if info.data.get("enabled") is False else value

    @field_validator("signals")
    @classmethod
    def _reported_by_kind(cls, value: float | str, info: ValidationInfo) -> float | str:
        if not isinstance(value, str) and info.data.get("kind") not in (None, "vllm", "sglang"):
            raise ValueError("only endpoints of kind vllm or sglang report their load")
        return value


class Config(Section):
    """The contents of endpoints.yaml."""

    defaults: PolicySettings = PolicySettings()
    endpoints: Annotated[tuple[EndpointConfig, ...], Field(min_length=1)]
    models: Annotated[Mapping[str, Overrides], AfterValidator(MappingProxyType)] = {}
    keys: Annotated[tuple[Secret, ...], AfterValidator(lambda keys: tuple(filter(None, keys)))] = ()
    cors: Origins = ()  # web pages that may read answers; ("*",) means all
    source: str = ""  # the file's name

    @property
    def enabled(self) -> tuple[EndpointConfig, ...]:
        return tuple(endpoint for endpoint in self.endpoints if endpoint.disabled is None)

    def policy(self, model: str, endpoint: EndpointConfig) -> PolicySettings:
        """The settings for a model at an endpoint: the endpoint's own, else the model's, else the defaults."""
        settings = dict(self.defaults)
        for layer in (self.models.get(model, Overrides()), endpoint.policy):
            settings |= {name: value for name, value in layer if value is not None}
        return PolicySettings.model_construct(**settings)


# ---- Reading the file


# Settings of a model, not of an endpoint: they concern the choice between its endpoints.
_MODEL_KEYS = {"affinity", "affinity_margin", "patience", "queue", "queue_wait", "resume"}
_POLICY_KEYS = PolicySettings.model_fields.keys() - _MODEL_KEYS
_TOP_KEYS = Config.model_fields.keys() - {"source"}
_ENDPOINT_KEYS = EndpointConfig.model_fields.keys() - {"policy", "disabled"} | _POLICY_KEYS


class Places(NamedTuple):
    """Facts about the text of a configuration that the models do not keep; for `advice.py`."""

    source: str = "<text>"
    prefixes: Mapping[KeyPath, str] = {}  # by path: `FILE:LINE: key: `, as in the messages of problems
    keys: Sequence[int] = ()  # the places in the list `keys` of those that are not empty
    literal: Sequence[KeyPath] = ()  # secrets that stand in the file itself
    variables: Collection[str] = ()  # names of the variables that the file refers to
    open_to_all: bool = False  # every user of this machine may read the file

    def prefix(self, *path: str | int) -> str:
        """The beginning of a message about a path, or about the nearest part of the file that has it."""
        while path and path not in self.prefixes:
            path = path[:-1]
        return self.prefixes.get(path) or f"{self.source}: "


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Read a file. Raises ConfigError if it cannot be read or is not valid."""
    return load_with_places(path, environ)[0]


def load_with_places(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> tuple[Config, Places]:
    """Read a file, with the places of its values. Raises ConfigError if it cannot be read or is not valid."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # -sig: some editors write a byte order mark
        mode = Path(path).stat().st_mode
    except IsADirectoryError:
        raise ConfigError(
            [f"{path}: a directory, not a file. Docker makes one where the file that it is to mount does not exist."]
        ) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror or error}"]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8 text"]) from None
    config, places = parse_with_places(text, str(path), environ)
    return config, places._replace(open_to_all=bool(mode & stat.S_IROTH))


def parse(text: str, source: str = "<text>", environ: Mapping[str, str] = os.environ) -> Config:
    """Read a text; `source` is the file's name in messages. Raises ConfigError if it is not valid."""
    return parse_with_places(text, source, environ)[0]


def parse_with_places(
    text: str, source: str = "<text>", environ: Mapping[str, str] = os.environ
) -> tuple[Config, Places]:
    """Read a text, with the places of its values. Raises ConfigError if it is not valid."""
    document = Document(text, source, environ)
    _cross_check(document)
    config = _validate(document)
    if config is None or document.problems:
        raise ConfigError(document.report())
    keys = document.value.get("keys") or ()
    filled = [index for index, key in enumerate(keys) if isinstance(key, str) and key.strip()]
    places = Places(source, document.prefixes(), filled, document.literal_secrets(), document.variables)
    return config, places


def _cross_check(document: Document) -> None:
    """Note values that are valid alone but not together. Uses the raw values, so that other problems do not matter."""
    top = document.value if isinstance(document.value, dict) else {}
    listed = top.get("endpoints")
    endpoints = [item if isinstance(item, dict) else {} for item in listed] if isinstance(listed, list) else []
    first: dict[str, int] = {}
    for index, endpoint in enumerate(endpoints):
        name = endpoint.get("name")
        if isinstance(name, str) and first.setdefault(name, index) != index:
            document.problem(("endpoints", index, "name"), f"already the name of endpoints[{first[name]}]")
    served = {name for endpoint in endpoints for name in _names(endpoint.get("models"))}
    for model in _names(top.get("models")):
        if served and model not in served:
            document.problem(("models", model), f"no endpoint serves this model{_nearest(model, served, 'served')}")


def _names(value: object) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, dict | list) else []


def _validate(document: Document) -> Config | None:
    value = document.value
    if isinstance(value, dict):
        value = _without(document, value, (), {"source"}) | {"source": document.source}
        if isinstance(endpoints := value.get("endpoints"), list):
            value["endpoints"] = [_endpoint(document, each, ("endpoints", i)) for i, each in enumerate(endpoints)]
    try:
        return Config.model_validate(value)
    except ValidationError as errors:
        for error in errors.errors(include_url=False, include_input=False):
            path, unknown = _in_the_file(error["loc"]), error["type"] == "extra_forbidden"
            written = "" if error["loc"][-1:] == ("[key]",) else document.written(path)
            document.problem(path, _unknown(path) if unknown else describe(error, written))
        return None


def _endpoint(document: Document, value: Any, path: KeyPath) -> Any:
    """Move the policy keys of an endpoint, which stand directly in it, to `policy`, and set `disabled`."""
    if not isinstance(value, dict):
        return value
    known = _without(document, value, path, {"policy", "disabled", *_MODEL_KEYS})
    policy = {key: known.pop(key) for key in _POLICY_KEYS & known.keys()}
    return known | {"policy": policy, "disabled": document.unset.get((*path, "api_key"))}


def _in_the_file(loc: KeyPath) -> KeyPath:
    """The path in the file for the location of a validation error: without `policy` and pydantic's marker for keys."""
    path = tuple(part for part in loc if part != "[key]")
    return path[:2] + path[3:] if path[:1] == ("endpoints",) and path[2:3] == ("policy",) else path


def _without(document: Document, value: dict[str, Any], path: KeyPath, keys: Collection[str]) -> dict[str, Any]:
    """Remove keys that the models have and the file may not have, each noted as unknown."""
    for key in value.keys() & keys:
        document.problem((*path, key), _unknown((*path, key)))
    return {key: item for key, item in value.items() if key not in keys}


def _unknown(path: KeyPath) -> str:
    word = str(path[-1])
    known: Collection[str] = PolicySettings.model_fields
    meant = ""
    match path[:-1]:
        case ():
            known, meant = _TOP_KEYS, hint(word, "top")
        case ("endpoints", _):
            known, meant = _ENDPOINT_KEYS, hint(word, "endpoint")
        case ("defaults",) | ("models", _):
            meant = hint(word, "policy")
        case ("endpoints", _, str(section)):
            known = getattr(EndpointConfig.model_fields[section].annotation, "model_fields", ())
    if word in PolicySettings.model_fields:
        return "unknown key here; it belongs in 'defaults' or to a model under 'models'"
    if word in _ENDPOINT_KEYS:
        return "unknown key here; it belongs to an endpoint, under 'endpoints'"
    return f"unknown key; {meant}" if meant else f"unknown key{_nearest(word, known, 'known here')}"


def _nearest(word: str, known: Collection[str], label: str) -> str:
    nearest = difflib.get_close_matches(word.lower(), known, n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else f"; {label}: {', '.join(sorted(known))}"
