"""The two builds: what is compiled, and that a router says which build it is."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
from pathlib import Path

import pytest

import router
from hatch_build import FILES, INTERPRETED, ROOMS, modules
from router import __version__, build
from tests.processes import FIRSTTOKEN, environment

PACKAGE = Path(router.__file__).parent
TESTED = os.environ.get("TESTED_BUILD", "pure")  # set by scripts/test --compiled


@pytest.mark.parametrize("path", modules(PACKAGE))
def test_a_module_is_an_extension_in_the_compiled_build_and_a_source_in_the_pure_one(path: str) -> None:
    """No test of one build passes by accident with the modules of the other."""
    module = importlib.import_module("router." + path.removesuffix(".py").replace("/", "."))
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(PACKAGE)
    assert module.__file__.endswith(".py") is (TESTED == "pure")


def test_the_lists_of_the_build_name_files_that_exist() -> None:
    assert all((PACKAGE / path).is_file() for path in (*FILES, *INTERPRETED))
    assert all(path.startswith(ROOMS) for path in INTERPRETED)


def test_the_structs_that_are_decoded_are_interpreted() -> None:
    """A compiled class has no annotations, which msgspec reads."""
    for path in modules(PACKAGE):
        text = (PACKAGE / path).read_text()
        structs = {line.split("class ")[1].split("(")[0] for line in text.splitlines() if "(msgspec.Struct" in line}
        assert not [name for name in structs if f"Decoder({name})" in text], path


def test_no_name_is_bound_to_two_kinds_of_exceptions_in_a_compiled_function() -> None:
    """mypyc keeps the type of the first, and the second is a TypeError where it is caught."""
    for path in modules(PACKAGE):
        for function in ast.walk(ast.parse((PACKAGE / path).read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                caught = [each for each in ast.walk(function) if isinstance(each, ast.ExceptHandler) and each.name]
                kinds = {(each.name, ast.dump(each.type)) for each in caught if each.type is not None}
                assert len(kinds) == len({name for name, _ in kinds}), f"{path}: {function.name}"


def test_the_version_names_the_build() -> None:
    done = subprocess.run(
        [FIRSTTOKEN, "--version"], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"firsttoken, version {__version__} ({TESTED})\n"
    assert build.BUILD == TESTED


def test_the_first_line_of_a_router_names_the_build_and_in_a_checkout_the_way_to_the_faster_one() -> None:
    description = build.description()
    assert description.startswith(TESTED)
    assert ("scripts/compile" in description) is (TESTED == "pure")


def test_a_copy_that_does_not_fit_the_sources_is_not_used(tmp_path: Path) -> None:
    """The check of scripts/compile fails where there is no copy, and where a source has changed since."""
    for name in ("scripts", "router", ".venv/compiled"):
        (tmp_path / name).mkdir(parents=True)
    script = tmp_path / "scripts" / "compile"
    script.write_text((PACKAGE.parent / "scripts" / "compile").read_text())
    for name in ("hatch_build.py", "requirements-compile.lock", ".venv/pyvenv.cfg", "router/some.py"):
        (tmp_path / name).write_text("something\n")

    def run(option: str) -> str:
        command = ["bash", str(script), option]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout

    assert run("--check") == ""
    (tmp_path / ".venv/compiled/.stamp").write_text(run("--stamp"))
    assert run("--check") == f"{tmp_path}/.venv/compiled\n"
    (tmp_path / "router/some.py").write_text("something else\n")
    assert run("--check") == ""
    (tmp_path / "router/some.py").write_text("something\n")
    assert run("--check") == f"{tmp_path}/.venv/compiled\n"
    (tmp_path / "router/some.py").rename(tmp_path / "router/other.py")
    assert run("--check") == ""
