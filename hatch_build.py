"""Compiles the modules on the way of a request with mypyc; docs/compiled.md has the rules for what they may hold.

    python hatch_build.py FOLDER     scripts/compile: FOLDER gets a copy of the package with the compiled modules in it
    FIRSTTOKEN_COMPILE=1             for hatchling: build a wheel for this platform with the compiled modules in it

Never compiles in place: an outdated extension beside a changed source would be imported instead of it, silently.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
# Rooms that are compiled, but for the files below; and single files of others.
ROOMS = ("core", "proxy", "upstream")
FILES = (
    "scheduler.py", "turns.py", "memory.py", "dialects/base.py", "dialects/prefill.py",
    "ops/telemetry.py", "ops/metrics.py", "ops/changes.py",
)  # fmt: skip
# Structs that msgspec decodes into need their annotations at run time. The rest is not on the way of a request.
INTERPRETED = (
    "core/stream/events.py", "core/choice/affinity.py", "core/explain/explanation.py", "core/explain/rows.py",
    "core/explain/words.py", "proxy/application.py", "proxy/asgi.py", "proxy/models.py", "upstream/dial.py",
    "upstream/resolver.py", "upstream/simulated.py", "upstream/tls.py",
)  # fmt: skip
# Options of mypyc and of the C compiler: -O2, and no debug information, which makes the library three times as large.
# The tests of a change build with COMPILE_LEVEL=0: slower code that behaves the same, in a fraction of the time.
OPTIMIZATION = os.environ.get("COMPILE_LEVEL", "2")
# C files, extensions and mypy's cache: kept, so that a build of unchanged modules takes seconds.
WORK = ROOT / "build" / "compile" / f"{sys.implementation.cache_tag}-O{OPTIMIZATION}"


def modules(package: Path) -> list[str]:
    """The paths of the modules that are compiled, relative to the package."""
    rooms = [file for room in ROOMS for file in sorted((package / room).rglob("*.py")) if file.name != "__init__.py"]
    paths = [file.relative_to(package).as_posix() for file in rooms]
    return [path for path in (*paths, *FILES) if path not in INTERPRETED]


def compile_copy(into: Path) -> list[Path]:
    """Make `into` the folder of a package `router` with compiled modules in it; return the paths of the extensions."""
    try:
        from mypyc.build import mypycify
        from setuptools import Distribution  # type: ignore[import-untyped]
        from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]
    except ImportError as error:
        sys.exit(f"hatch_build.py: {error.name} is not installed; scripts/install --compile installs what it needs")
    WORK.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(WORK / "router", ignore_errors=True)
    for folder in (WORK, into):
        shutil.copytree(ROOT / "router", folder / "router", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    with contextlib.chdir(WORK):
        made = mypycify(
            ["--config-file=", *(f"router/{path}" for path in modules(Path("router")))],
            opt_level=OPTIMIZATION,
            debug_level="0",
            target_dir="c",
            group_name="firsttoken",
        )
        command = build_ext(Distribution({"name": "firsttoken", "ext_modules": made}))
        command.build_lib, command.build_temp = "lib", "objects"
        command.parallel = os.cpu_count()
        command.ensure_finalized()
        command.run()
    extensions = [Path(file).relative_to("lib") for file in command.get_outputs()]
    for extension in extensions:
        shutil.copy2(WORK / "lib" / extension, into / extension)
    return extensions


def get_build_hook() -> type[Any]:
    """The class that hatchling looks for; built here, so that scripts/compile needs no hatchling."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class Compile(BuildHookInterface):  # type: ignore[type-arg]
        """Adds the compiled modules to a wheel, which is then one for this platform and this Python."""

        def dependencies(self) -> list[str]:
            """What mypyc needs, and what the modules import: mypy reads its types."""
            if not asked():
                return []
            groups = self.metadata.config["dependency-groups"]
            return [*groups["compile"], *self.metadata.core.dependencies]

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if version == "editable" or not asked():
                return
            folder = WORK / "wheel"
            shutil.rmtree(folder, ignore_errors=True)
            made = compile_copy(folder)
            build_data["pure_python"], build_data["infer_tag"] = False, True
            build_data["force_include"].update({str(folder / file): file.as_posix() for file in made})

    return Compile


def asked() -> bool:
    return os.environ.get("FIRSTTOKEN_COMPILE") == "1"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python hatch_build.py FOLDER")
    made = compile_copy(Path(sys.argv[1]).resolve())
    print(f"hatch_build.py: compiled {len(made) - 1} modules into {sys.argv[1]}", file=sys.stderr)
