"""What scenarios.yaml may say, and the fleet and the calls that a scenario means for one seed."""

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
WARM_UP = 200  # calls that are not counted

Ratio = Annotated[float, Field(gt=0)]


class ScenarioError(ValueError):
    """Scenarios or data that cannot be used; the text names the file, the place in it, and what is wanted."""


# ---- What is to be reached. Each kind is reckoned in marks.py.


class Answered(Strict):
    """Every call that any endpoint could have answered within so many seconds is answered."""

    kind: Literal["answered"] = "answered"
    within: Seconds = 120.0


class Extra(Strict):
    """Attempts that no failure asked for, for each call."""

    kind: Literal["extra"] = "extra"
    at_most: Share = 0.1


class Within(Strict):
    """The share of calls with their first token within so many seconds."""

    kind: Literal["within"] = "within"
    seconds: Seconds
    at_least: Share


class Compared(Strict):
    """The mean, or the 99th percentile, as a multiple of the informed one's."""

    kind: Literal["mean", "p99"]
    at_most: Ratio


class Without(Strict):
    """The 99th percentile of the calls from `after` on as a multiple of what it is without an endpoint."""

    kind: Literal["p99-without"] = "p99-without"
    endpoint: str
    after: float
    at_most: Ratio


class Refused(Strict):
    """The share of attempts from `after` on that are answered 429."""

    kind: Literal["refused"] = "refused"
    after: float
    at_most: Share


class Leaves(Strict):
    """Most calls no longer first ask the endpoint that was the best, so many seconds after another became it."""

    kind: Literal["leaves"] = "leaves"
    within: Seconds


class Finds(Strict):
    """Most calls first ask the endpoint that is the best, so many seconds after it became it."""

    kind: Literal["finds"] = "finds"
    within: Seconds


class Soonest(Strict):
    """The share of calls that first ask the endpoint with the lowest mean for their size."""

    kind: Literal["soonest"] = "soonest"
    at_least: Share


class Goes(Strict):
    """The share of the calls from `after` to `until` that first ask an endpoint."""

    kind: Literal["goes"] = "goes"
    endpoint: str
    after: float = 0.0
    until: float | None = None
    at_most: Share


class Serves(Strict):
    """An endpoint's share of the answers from `after` to `until`, as a multiple of what the informed one has of it."""

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
    """A fleet, the calls that come, and what is to be reached. Times are seconds since the start, at true speed."""

    name: str
    story: str
    arrivals: Arrivals
    calls: Annotated[int, Field(gt=WARM_UP)] = 2200
    warmup: Annotated[int, Field(ge=0)] = WARM_UP
    sizes: Sizes = Sizes()
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    policy: Mapping[str, Any] = {}  # of the router: keys of `defaults` in endpoints.yaml
    marks: Annotated[tuple[Mark, ...], Field(validate_default=True)] = ()

    @field_validator("marks")
    @classmethod
    def with_those_of_all(cls, marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
        """Whatever a scenario wants, every call is answered and the budget is kept."""
        kinds = {mark.kind for mark in marks}
        return tuple(mark for mark in (Answered(), Extra()) if mark.kind not in kinds) + marks

    @model_validator(mode="after")
    def names_fit(self) -> Scenario:
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError(f"two endpoints have the same name: {', '.join(names)}")
        for mark in self.marks:
            if isinstance(mark, Without | Goes | Serves) and mark.endpoint not in names:
                raise ValueError(f"a mark speaks of {mark.endpoint}, the endpoints are {', '.join(names)}")
        return self

    @property
    def names(self) -> list[str]:
        return [endpoint.name for endpoint in self.endpoints]

    @property
    def needs_a_trace(self) -> bool:
        return isinstance(self.arrivals, Replay)

    def without(self, name: str) -> Scenario:
        """The same calls for the other endpoints; the marks that speak of this one go with it."""
        if name not in self.names:
            raise ScenarioError(f"{self.name} has no endpoint {name}; it has {', '.join(self.names)}")
        left = tuple(endpoint for endpoint in self.endpoints if endpoint.name != name)
        if not left:
            raise ScenarioError(f"{self.name} has no endpoint but {name}")
        marks = tuple(mark for mark in self.marks if getattr(mark, "endpoint", None) != name)
        return self.model_copy(update={"endpoints": left, "marks": marks})

    def servers(self, seed: int, data: Data | None = None) -> dict[str, Server]:
        return {endpoint.name: Server(endpoint, seed, data) for endpoint in self.endpoints}

    def arriving(self, seed: int, trace: Path | None = None) -> list[Call]:
        """The calls in order. A trace takes the place of the arrivals and sizes, at about the same rate."""
        arrivals = self.arrivals
        if trace is None:
            if isinstance(arrivals, Replay):
                raise ScenarioError(f"{self.name} replays a trace: say which with --trace FILE")
            return drawn(arrivals, self.sizes, self.calls, seed)
        if not isinstance(arrivals, Replay):
            arrivals = Replay(rate=arrivals.mean_rate, most_generated=self.sizes.generated[1])
        return replayed(arrivals, read_trace(trace), self.calls)


# ---- Reading


def load(path: Path = SCENARIOS) -> dict[str, Scenario]:
    """All scenarios of a file, by name."""
    try:
        said = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ScenarioError(f"{path}: {error}") from None
    if not isinstance(said, dict) or not all(isinstance(each, dict) for each in said.values()):
        raise ScenarioError(f"{path}: must be a mapping from a scenario's name to its keys")
    scenarios, problems = {}, []
    for name, keys in said.items():
        try:
            scenarios[name] = Scenario.model_validate({"name": name, **keys})
        except ValidationError as error:
            problems += [f"{path}: {name}{place(each['loc'], keys)}: {told(each)}" for each in true_ones(error)]
    if problems:
        raise ScenarioError("\n".join(problems))
    return scenarios


def find(name: str, path: Path = SCENARIOS) -> Scenario:
    scenarios = load(path)
    if name not in scenarios:
        raise ScenarioError(f"{path}: no scenario {name}; there are {', '.join(scenarios)}")
    return scenarios[name]


def true_ones(error: ValidationError) -> list[Any]:
    """Not that a list is too short because what is in it is wrong."""
    errors = error.errors()
    inner = {each["loc"][:length] for each in errors for length in range(len(each["loc"]))}
    return [each for each in errors if not (each["type"] == "too_short" and each["loc"] in inner)]


def place(loc: Iterable[int | str], said: Any) -> str:
    """`.endpoints[0].law.median`; without the kinds that pydantic puts into the way."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            said = said[step] if isinstance(said, list) and step < len(said) else None
            text += f"[{step}]"
        elif not (isinstance(said, dict) and step == said.get("kind") and step not in said):
            said = said.get(step) if isinstance(said, dict) else None
            text += f".{step}"
    return text


def told(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    return str(error["msg"]).removeprefix("Value error, ").lower()


def read_data(path: Path) -> Data:
    """First-token times by endpoint, from a file {"endpoint": {"ttft_s": [seconds, …]}, …} or all such in a folder."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    data: dict[str, list[float]] = {}
    for file in files:
        try:
            said = json.loads(file.read_text())
            data |= {name: [a_time(time) for time in each["ttft_s"]] for name, each in said.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            form = '{"endpoint": {"ttft_s": [seconds, …]}, …}'
            raise ScenarioError(f"{file}: {error!r}; first-token times are given as {form}") from None
    if not any(data.values()):
        raise ScenarioError(f"{path}: no first-token times; wanted is a JSON file, or a folder with one")
    return data


def a_time(said: Any) -> float:
    time = float(said)
    if not 0 < time < inf:
        raise ValueError(f"{said} is no time to a first token")
    return time
