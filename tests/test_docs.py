"""The documentation lists all keys, settings, metrics, commands, routes and errors, and its links are valid."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import router
from router import config, errors, values
from router.cli import main
from router.core.choice.table import rebuild
from router.ops.admin import Admin
from router.ops.metrics import Metrics
from router.proxy.admission import Admission
from router.proxy.handler import OPERATIONS
from router.proxy.models import Models
from router.proxy.serving import Serving, Tables
from router.settings import Settings

TOP = Path(__file__).resolve().parent.parent
PAGES = sorted([*TOP.glob("docs/*.md"), *TOP.glob("*.md"), TOP / "tests/README.md"])
ENDPOINTS, HTTP = ((TOP / "docs" / name).read_text() for name in ("endpoints.md", "http.md"))
TABLE = rebuild(config.load(TOP / "endpoints.yaml", {}))
METRICS = Metrics(lambda: TABLE, dict, lambda: 0, lambda: 0.0)


# ---- endpoints.yaml and the settings, with their defaults


def table(page: str, heading: str) -> dict[str, str]:
    """The first two columns under a heading: key and default."""
    (section,) = re.findall(rf"^##+ {heading}\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE)
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]", section, re.MULTILINE))


DOCUMENTED: dict[str, tuple[type[config.Section], set[str]]] = {
    "The file": (config.Config, {"source"}),
    "Policy": (config.PolicySettings, set()),
    "Endpoint": (config.EndpointConfig, {"policy", "disabled"}),
    "Params": (config.Params, set()),
    "Probe": (config.Probe, set()),
    "Pool": (config.PoolConfig, set()),
    "Simulate": (config.Simulate, set()),
}


@pytest.mark.parametrize("heading", DOCUMENTED)
def test_every_key_of_the_file_is_documented_with_its_default(heading: str) -> None:
    model, not_in_the_file = DOCUMENTED[heading]
    documented = table(ENDPOINTS, heading)
    assert documented.keys() == model.model_fields.keys() - not_in_the_file
    for key, written in documented.items():
        assert the_default(written) == plain(model, key), key


def the_default(written: str) -> Any:
    special: dict[str, Any] = {"required": "required", "none": None, "{}": {}, "[]": [], "true": True}
    value = special.get(written, values.seconds(written))
    return written if value is None and written != "none" else value


def plain(model: type[config.Section], key: str) -> Any:
    field = model.model_fields[key]
    value = field.get_default(call_default_factory=True)
    if field.is_required() or key == "base_url":
        return "required"
    if isinstance(value, config.Section):
        assert value == type(value)()
        return {}
    return [] if value == () else value


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {
        name.removeprefix("FIRSTTOKEN_").lower(): None if written == "none" else written
        for name, written in table(ENDPOINTS, "The process's settings").items()
    }
    assert documented.keys() == Settings.model_fields.keys()
    assert Settings(**documented) == Settings.model_construct()  # type: ignore[arg-type]


# ---- Commands, paths, metrics and errors


def options() -> Iterator[str]:
    for name, command in main.commands.items():
        yield f"firsttoken {name}"
        yield from (max(each.opts, key=len) for each in command.params)


@pytest.mark.parametrize("name", sorted(set(options())))
def test_every_command_and_option_is_documented(name: str) -> None:
    assert any(re.search(rf"`{name}[ `]", page.read_text()) for page in PAGES)


def routes() -> Iterator[str]:
    yield from (path.decode() for path in OPERATIONS)
    models = Models(Tables(Serving(replace(TABLE, routes={}), {})), Admission((), 1), 0)
    admin = Admin(lambda: TABLE, dict, METRICS, lambda: 0.0, lambda _: None)
    yield from (re.sub(r"{.*}", "{id}", route.path) for route in (*models.routes, *admin.routes))


@pytest.mark.parametrize("path", list(routes()))
def test_every_route_is_documented(path: str) -> None:
    assert f"| `{path}` |" in HTTP


def test_every_metric_is_documented_with_its_labels() -> None:
    documented = dict(re.findall(r"^\| `(firsttoken_\w+)` \|([^|]*)\|", HTTP, re.MULTILINE))
    families = {
        family.name + "_total" * (family.type == "counter"): family
        for family in text_string_to_metric_families(METRICS.render().decode())
    }
    assert documented.keys() == families.keys()
    for name, family in families.items():
        for sample in family.samples:
            assert set(re.findall(r"\w+", documented[name])) == sample.labels.keys(), name


def all_errors(error: type[errors.RouterError] = errors.RouterError) -> Iterator[type[errors.RouterError]]:
    for kind in error.__subclasses__():
        yield from (kind, *all_errors(kind))


@pytest.mark.parametrize("error", [error for error in all_errors() if error is not errors.BadRequest])
def test_every_error_is_documented_with_its_status(error: type[errors.RouterError]) -> None:
    status = "–" if error is errors.StreamBroken else error.status
    assert re.search(rf"^\| {status} \| {error.type} \| .*`{error.code}`", HTTP, re.MULTILINE)


# ---- The map in the package, the glossary, and the image's health check


def test_the_map_names_all_files_and_packages_and_nothing_else() -> None:
    package = TOP / "router"
    tops = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    rooms = {str(path.parent.relative_to(package)): path.parent for path in package.glob("*/**/__init__.py")}
    described = str(router.__doc__).split("Begin to read")[0]
    assert set(re.findall(r"\b\w+\.py\b", described)) == tops
    named = dict(re.findall(r"^    ([\w/]+)/ .*\n((?: {8,}.*\n)+)", described, re.MULTILINE))
    assert named.keys() == rooms.keys()
    for room, files in named.items():
        assert sorted(re.split(r"[,;]\s+", files.strip())) == sorted(
            path.stem for path in rooms[room].glob("*.py") if path.stem != "__init__"
        )


def glossary() -> dict[str, str]:
    """The terms of docs/architecture.md (in bold, several in a row), each with its meaning."""
    page = (TOP / "docs" / "architecture.md").read_text()
    (section,) = re.findall(r"^## (?:Words|Glossary)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| (\*\*[^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return {term: meaning for terms, meaning in rows for term in re.findall(r"\*\*(.+?)\*\*", terms)}


def test_every_term_of_the_glossary_is_a_word_of_the_code() -> None:
    code = "\n".join(path.read_text() for path in sorted((TOP / "router").rglob("*.py")))
    terms = glossary()
    assert len(terms) > 15
    missing = [term for term in terms if not re.search(rf"{term.replace(' ', '[ _-]?')}", code, re.IGNORECASE)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    folders = ("router", "loadtest", "tests")
    files = [f"/{path.relative_to(TOP)}" for folder in folders for path in (TOP / folder).rglob("*.py")]
    named = re.findall(r"`([\w/]+\.py)`", page.read_text())
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in files)] == []


def test_every_code_name_of_the_glossary_exists() -> None:
    code = "\n".join(path.read_text() for path in sorted((TOP / "router").rglob("*.py")))
    names = [name for row in glossary().items() for cell in row for name in re.findall(r"`([^`]+)`", cell)]
    wrong = [
        name
        for name in names
        if not ((TOP / "router" / name).exists() or re.search(rf"(?<!\w){re.escape(name)}(?!\w)", code))
    ]
    assert wrong == []


@pytest.mark.parametrize("unusable", ["", "tcp://10.0.0.1:9000"])
def test_the_images_health_check_uses_the_configured_port(unusable: str) -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*\n +CMD (\[.*\])$", (TOP / "Dockerfile").read_text(), re.MULTILINE)
    _, _, code = json.loads(check)
    asked: list[tuple[str, float]] = []
    opener = SimpleNamespace(open=lambda url, timeout: asked.append((url, timeout)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urllib.request.build_opener", lambda _: opener)
        for port in (unusable, "9000"):
            patch.setenv("FIRSTTOKEN_PORT", port)
            exec(code, {})
        patch.delenv("FIRSTTOKEN_PORT")
        exec(code, {})
    assert [url for url, _ in asked] == [f"http://127.0.0.1:{port}/healthz" for port in (8080, 9000, 8080)]


# ---- The README, the architecture, and all links


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert len((TOP / "README.md").read_text().split()) <= 900


def test_the_architecture_has_a_row_for_every_package() -> None:
    rows = set(re.findall(r"^\| `([\w/]+)/` \|", (TOP / "docs" / "architecture.md").read_text(), re.MULTILINE))
    package = TOP / "router"
    assert rows == {str(path.parent.relative_to(package)) for path in package.glob("*/**/__init__.py")}


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get: lower case, hyphens for spaces, no other punctuation."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_link_to_a_section_leads_to_its_heading(page: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)#([^)\s]+)\)", page.read_text())
    assert [f"{file}#{name}" for file, name in links if name not in anchors(page.parent / file if file else page)] == []
