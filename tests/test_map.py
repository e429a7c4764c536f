"""The map of the packages, checked against the imports of the code: what each part may import, and what it must not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent

# What the upper layers may import.
_BELOW = {
    "router.core",
    "router.dialects",
    "router.config",
    "router.scheduler",
    "router.turns",
}

# What all of core may import.
_FACTS = {
    "router.core.body",
    "router.core.call",
    "router.core.demand",
    "router.core.elements",
    "router.core.record",
    "router.core.verdict",
}

# The modules of this project that each part may import. A package stands for all its modules; the longest row applies.
MAY: dict[str, set[str]] = {
    "router": set(),  # its __init__: the version and the map
    "router.__main__": {"router.cli"},
    "router.cli": {
        "router",
        "router.app",
        "router.build",
        "router.config",
        "router.ops.logs",
        "router.server",
        "router.settings",
    }
    | {"router.advice", "router.explaining", "router.upstream.tls"},
    "router.advice": {"router.config", "router.settings", "router.yamlfile"},
    "router.explaining": set(),  # it knows HTTP only
    "router.server": {"router.proxy.drain"},
    "router.app": {f"router.{part}" for part in ("core", "dialects", "upstream", "proxy", "ops")}
    | {"router.config", "router.scheduler", "router.settings", "router.turns"},  # builds them all
    "router.settings": {"router.memory", "router.values"},
    "router.memory": set(),
    "router.build": {"router.scheduler"},  # one that is compiled, if any is
    "router.turns": set(),  # as the scheduler, at the bottom
    "router.errors": set(),
    "router.scheduler": set(),  # the seam of time, at the bottom
    "router.values": set(),  # with yamlfile, how config reads; settings have durations too
    "router.yamlfile": set(),
    "router.hints": set(),
    "router.config": {"router.hints", "router.values", "router.yamlfile"},
    "router.core": _FACTS,
    "router.core.stream": {"router.core.stream"},
    "router.core.endpoint": {"router.core.endpoint"} | _FACTS,
    "router.core.choice": {"router.core.choice", "router.core.endpoint", "router.config"} | _FACTS,
    "router.core.explain": {"router.core.explain", "router.core.choice", "router.core.endpoint"} | _FACTS,
    "router.dialects": {"router.dialects", "router.core.stream"} | _FACTS,
    "router.upstream": {"router.upstream", "router.core", "router.dialects", "router.scheduler", "router.turns"},
    "router.proxy": {"router.proxy", "router.upstream", "router.errors"} | _BELOW,
    "router.ops": {"router.ops", "router.upstream", "router.errors", "router"} | _BELOW,
    # The load tools know HTTP only, so that they can drive any router; and the three know nothing of each other.
    "loadtest": set(),
    "loadtest.__main__": {"loadtest.faults.cli", "loadtest.latency.cli"},
    "loadtest.cost": {"loadtest.cost", "loadtest.processes"},
    "loadtest.faults": {"loadtest.faults", "loadtest.processes"},
    "loadtest.latency": {"loadtest.latency", "loadtest.processes"},
    "loadtest.processes": set(),
}
# Exceptions from what MAY allows.
NEVER: dict[str, set[str]] = {"router.upstream": {"router.core.choice", "router.core.explain"}}

# The only parts that may import these third-party packages. Packages that are not listed may be imported anywhere.
ONLY: dict[str, set[str]] = {
    "asyncio": {f"router.{part}" for part in ("app", "ops", "proxy.asgi", "scheduler", "server", "turns", "upstream")}
    | {"loadtest"},
    "dns": {"router.upstream.resolver"},
    "httptools": {"router.proxy.front", "router.upstream", "loadtest.latency.client", "loadtest.latency.http"},
    "httpx": {
        "router.explaining",
        "router.upstream.httpx_exchange",
        "loadtest.faults.clients",
    }
    | {"loadtest.latency.hammer", "loadtest.latency.run"},
    "prometheus_client": {"router.ops.metrics", "router.ops.signals"},
    "pydantic": {"router.cli", "router.config", "router.settings", "router.values"}
    | {f"loadtest.latency.{part}" for part in ("arrivals", "endpoints", "laws", "scenarios", "stand")},
    "pydantic_settings": {"router.settings"},
    "rich": {"router.explaining", "loadtest"},
    "starlette": {"router.ops.admin", "router.proxy.application", "router.proxy.models"},
    "tenacity": {"router.ops.keep"},
    "uvicorn": {"router.cli", "router.proxy.front", "router.server"},
    "yaml": {"router.yamlfile", "loadtest.latency.routers", "loadtest.latency.scenarios"},
}

# All that core may import from outside: no clock, no randomness but what is passed in, no I/O.
CORE_USES = {
    "__future__", "bisect", "codecs", "collections", "collections.abc", "dataclasses", "enum", "functools", "hashlib",
    "itertools", "json", "math", "msgspec", "random.Random", "re", "types", "typing",
}  # fmt: skip


def module_of(path: Path) -> str:
    parts = path.relative_to(TOP).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(path): path for part in ("router", "loadtest") for path in sorted((TOP / part).rglob("*.py"))}


@cache
def imports(module: str) -> frozenset[str]:
    """All imports of a module, also those inside functions."""
    return frozenset(_imports(module))


def _imports(module: str) -> Iterator[str]:
    """Imports from router and loadtest as modules; those of other packages with the imported name."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import hides its target"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in SOURCES or not node.module.startswith(("router", "loadtest")) else node.module


def inside(name: str, parts: set[str]) -> bool:
    """True if a module is one of these, or in one of these packages; "router" means only its __init__."""
    return any(name == part or (part != "router" and name.startswith(f"{part}.")) for part in parts)


def home(module: str) -> str:
    """The row of MAY that applies to a module: the longest prefix."""
    return max((row for row in MAY if module == row or (row != "router" and module.startswith(f"{row}."))), key=len)


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] in ("router", "loadtest")}


@pytest.mark.parametrize("module", SOURCES)
def test_every_import_is_allowed_by_the_map(module: str) -> None:
    row = home(module)
    wrong = {name for name in ours(module) if not inside(name, MAY[row]) or inside(name, NEVER.get(row, set()))}
    assert not wrong, f"{module} must not import {sorted(wrong)}"


def test_only_cli_imports_app_and_only_the_entry_imports_cli() -> None:
    importers = {name: {module for module in SOURCES if name in ours(module)} for name in ("router.app", "router.cli")}
    assert importers == {"router.app": {"router.cli"}, "router.cli": {"router.__main__"}}


def test_the_parts_do_not_import_each_other_in_a_circle() -> None:
    """The imports between the rows of MAY form no circle."""
    arrows = {row: {home(name) for module in SOURCES if home(module) == row for name in ours(module)} for row in MAY}
    TopologicalSorter({row: others - {row} for row, others in arrows.items()}).prepare()


def test_the_modules_form_no_circle() -> None:
    """No module imports itself by way of others; imports under `if TYPE_CHECKING` count."""
    TopologicalSorter({module: ours(module) - {module} for module in SOURCES}).prepare()


@pytest.mark.parametrize("module", [module for module in SOURCES if module.startswith("router.core")])
def test_core_uses_no_event_loop_no_clock_no_io_and_no_global_randomness(module: str) -> None:
    outside = imports(module) - ours(module)
    wrong = {name for name in outside if not inside(name, CORE_USES)}
    assert not wrong, f"{module} must not import {sorted(wrong)}"


@pytest.mark.parametrize("package", ONLY)
def test_third_party_packages_are_imported_only_where_they_belong(package: str) -> None:
    users = {module for module in SOURCES if any(inside(name, {package}) for name in imports(module))}
    wrong = {module for module in users if not inside(module, ONLY[package])}
    assert not wrong, f"{package} is imported by {sorted(wrong)}"


def test_dialects_are_data_and_pure_functions() -> None:
    modules = [module for module in SOURCES if module.startswith("router.dialects")]
    used = {name.split(".")[0] for module in modules for name in imports(module) - ours(module)}
    assert used <= {"__future__", "collections", "dataclasses", "datetime", "re", "typing", "msgspec"}
    text = "".join(SOURCES[module].read_text() for module in modules)
    assert ".now(" not in text  # datetime is there to read a vendor's times


def test_the_map_names_only_modules_that_exist() -> None:
    """Every module of the map exists, except those that are planned."""
    planned = {"router.upstream.httpx_exchange"}
    named = set(MAY).union(*MAY.values(), *NEVER.values(), *ONLY.values())
    assert named - planned <= set(SOURCES)
