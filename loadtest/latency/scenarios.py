"""The form of scenarios.yaml, and the fleet and calls of a scenario for one seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from loadtest.latency.arrivals import Arrivals, Call, Replay, Sizes, drawn, read_trace, replayed
from loadtest.latency.endpoints import Endpoint, Strict
from loadtest.latency.laws import Data, Seconds, Share
from loadtest.latency.servers import Server

SCENARIOS = Path(__file__).parent / "scenarios.yaml"
WARM_UP = 200  # calls at the start that are not counted

Ratio = Annotated[float, Field(gt=0)]


class ScenarioError(ValueError):
    """Scenarios or data that cannot be used; the text names the file, the place in it, and the expected form."""


# ---- Marks: the goals of a scenario. marks.py computes each kind.


class Answered(Strict):
    """Every call that any endpoint could have answered within `within` seconds is answered."""

    kind: Literal["answered"] = "answered"
    within: Seconds = 120.0


class Extra(Strict):
    """Extra attempts per call: those that do not follow a failure."""

    kind: Literal["extra"] = "extra"
    at_most: Share = 0.1


class Within(Strict):
    """The share of calls with their first token within `seconds`."""

    kind: Literal["within"] = "within"
    seconds: Seconds
    at_least: Share


class Compared(Strict):
    """The mean, or the 99th percentile, as a multiple of that of `informed`."""

    kind: Literal["mean", "p99"]
    at_most: Ratio


class Without(Strict):
    """The 99th percentile of the calls from `after` to `until`, as a multiple of that without an endpoint."""

    kind: Literal["p99-without"] = "p99-without"
    endpoint: str
    after: float
    until: float | None = None
    at_most: Ratio


class Refused(Strict):
    """The share of attempts from `after` on that are answered 429."""

    kind: Literal["refused"] = "refused"
    after: float
    at_most: Share


class Leaves(Strict):
    """Most calls no longer try the former best endpoint first, `within` seconds after another became the best."""

    kind: Literal["leaves"] = "leaves"
    within: Seconds


class Finds(Strict):
    """Most calls try the best endpoint first, `within` seconds after it became the best."""

    kind: Literal["finds"] = "finds"
    within: Seconds


class Soonest(Strict):
    """The share of calls that first try the endpoint with the lowest mean for their size."""

    kind: Literal["soonest"] = "soonest"
    at_least: Share


class Goes(Strict):
    """The share of the calls from `after` to `until` that first try an endpoint."""

    kind: Literal["goes"] = "goes"
    endpoint: str
    after: float = 0.0
    until: float | None = None
    at_most: Share


class Serves(Strict):
    """An endpoint's share of the answers from `after` to `until`, as a multiple of its share under `informed`."""

    kind: Literal["serves"] = "serves"
    endpoint: str
    after: float = 0.0
    until: float | None = None
    at_least: Ratio


Mark = Annotated[
    Answered | Extra | Within | Compared | Without | Refused | Leaves | Finds | Soonest | Goes | Serves,
    Field(discriminator="kind"),
]


# ---- A scenario


class Scenario(Strict):
    """A scenario: a fleet, its calls, and its marks. Times are seconds since the start, at true speed."""

    name: str
    story: str
    arrivals: Arrivals
    calls: Annotated[int, Field(gt=WARM_UP)] = 2200
    warmup: Annotated[int, Field(ge=0)] = WARM_UP
    sizes: Sizes = Sizes()
    plain: Share = 0.0  # of the calls, which ask for plain answers instead of streams
    speed: Ratio | None = None  # the highest at which two cores can play it over the wire; None: 10 or more
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    policy: Mapping[str, Any] = {}  # the router's policy: keys of `defaults` in endpoints.yaml
    marks: Annotated[tuple[Mark, ...], Field(validate_default=True)] = ()

    @field_validator("endpoints")
    @classmethod
    def with_copies(cls, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        return tuple(copy for endpoint in endpoints for copy in endpoint.each())

    @field_validator("marks")
    @classmethod
    def with_those_of_all(cls, marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
        """Add the marks of all scenarios: every call is answered, and extra attempts stay within the budget."""
        kinds = {mark.kind for mark in marks}
        return tuple(mark for mark in (Answered(), Extra()) if mark.kind not in kinds) + marks

    @model_validator(mode="after")
    def names_fit(self) -> Scenario:
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError(f"two endpoints have the same name: {', '.join(names)}")
        for mark in self.marks:
            if isinstance(mark, Without | Goes | Serves) and mark.endpoint not in names:
                raise ValueError(f"a mark names {mark.endpoint}, but the endpoints are {', '.join(names)}")
        return self

    @property
    def names(self) -> list[str]:
        return [endpoint.name for endpoint in self.endpoints]

    @property
    def needs_a_trace(self) -> bool:
        return isinstance(self.arrivals, Replay)

    def without(self, name: str) -> Scenario:
        """The scenario without an endpoint and without the marks that name it; the calls stay the same."""
        if name not in self.names:
            raise ScenarioError(f"{self.name} has no endpoint {name}; its endpoints are {', '.join(self.names)}")
        left = tuple(endpoint for endpoint in self.endpoints if endpoint.name != name)
        if not left:
            raise ScenarioError(f"{self.name} has no endpoint other than {name}")
        marks = tuple(mark for mark in self.marks if getattr(mark, "endpoint", None) != name)
        return self.model_copy(update={"endpoints": left, "marks": marks})

    def servers(self, seed: int, data: Data | None = None) -> dict[str, Server]:
        return {endpoint.name: Server(endpoint, seed, data) for endpoint in self.endpoints}

    def arriving(self, seed: int, trace: Path | None = None) -> list[Call]:
        """The calls in order. A trace replaces the arrivals and sizes, at about the same rate."""
        arrivals = self.arrivals
        if trace is None:
            if isinstance(arrivals, Replay):
                raise ScenarioError(f"{self.name} replays a trace: name one with --trace FILE")
            return drawn(arrivals, self.sizes, self.calls, seed, self.plain)
        if not isinstance(arrivals, Replay):
            arrivals = Replay(rate=arrivals.mean_rate, most_generated=self.sizes.generated[1])
        return replayed(arrivals, read_trace(trace), self.calls)


# ---- Reading


def load(path: Path = SCENARIOS) -> dict[str, Scenario]:
    """All scenarios of a file, by name."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ScenarioError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(each, dict) for each in content.values()):
        raise ScenarioError(f"{path}: must be a mapping from a scenario's name to its keys")
    scenarios, problems = {}, []
    for name, keys in content.items():
        try:
            scenarios[name] = Scenario.model_validate({"name": name, **keys})
        except ValidationError as error:
            problems += [f"{path}: {name}{place(each['loc'], keys)}: {message(each)}" for each in true_ones(error)]
    if problems:
        raise ScenarioError("\n".join(problems))
    return scenarios


def find(name: str, path: Path = SCENARIOS) -> Scenario:
    scenarios = load(path)
    if name not in scenarios:
        raise ScenarioError(f"{path}: no scenario {name}; the scenarios are {', '.join(scenarios)}")
    return scenarios[name]


def true_ones(error: ValidationError) -> list[Any]:
    """The errors without those of lists that are too short only because their items are wrong."""
    errors = error.errors()
    inner = {each["loc"][:length] for each in errors for length in range(len(each["loc"]))}
    return [each for each in errors if not (each["type"] == "too_short" and each["loc"] in inner)]


def place(loc: Iterable[int | str], value: Any) -> str:
    """The place of an error, as in `.endpoints[0].law.median`, without the kinds that pydantic inserts."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
            text += f"[{step}]"
        elif not (isinstance(value, dict) and step == value.get("kind") and step not in value):
            value = value.get(step) if isinstance(value, dict) else None
            text += f".{step}"
    return text


def message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    return str(error["msg"]).removeprefix("Value error, ").lower()


def read_data(path: Path) -> Data:
    """First-token times by endpoint, from a file {"endpoint": {"ttft_s": [seconds, …]}, …} or a folder of such."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    data: dict[str, list[float]] = {}
    for file in files:
        try:
            content = json.loads(file.read_text())
            data |= {name: [a_time(time) for time in each["ttft_s"]] for name, each in content.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            form = '{"endpoint": {"ttft_s": [seconds, …]}, …}'
            raise ScenarioError(f"{file}: {error!r}; first-token times have the form {form}") from None
    if not any(data.values()):
        raise ScenarioError(f"{path}: no first-token times; give a JSON file, or a folder that contains one")
    return data


def a_time(value: Any) -> float:
    time = float(value)
    if not 0 < time < inf:
        raise ValueError(f"{value} is not a first-token time")
    return time
