"""How the router's Python was built: version, compiler, optimizations and library, which change the router's cost."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.processes import ROOT

PYTHON = ROOT / ".venv" / "bin" / "python"


def build(configured: Mapping[str, Any], mapped: str) -> dict[str, Any]:
    """The build as plain data, from sysconfig's variables and the text of /proc/self/maps.

    Debian configures with --enable-shared and still links its python3.11 statically, so the mapped files decide.
    """
    options = set(shlex.split(configured.get("CONFIG_ARGS") or ""))
    return {
        "version": platform.python_version(),
        "compiler": platform.python_compiler(),
        "optimizations": "--enable-optimizations" in options,
        "lto": any(
            option == "--with-lto" or option.startswith(("--with-lto=full", "--with-lto=thin")) for option in options
        ),
        "shared_library": "/libpython" in mapped,
    }


def of_the_router() -> dict[str, Any] | None:
    """The build of the interpreter that runs the router; None if the router is not installed here."""
    if not PYTHON.exists():
        return None
    done = subprocess.run(
        [str(PYTHON), "-m", __name__], stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=60, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sentence(build: Mapping[str, Any]) -> str:
    return (
        f"Python {build['version']} ({build['compiler']}), "
        f"{'with' if build['optimizations'] else 'without'} --enable-optimizations, "
        f"{'with' if build['lto'] else 'without'} LTO, "
        f"{'as a shared library' if build['shared_library'] else 'linked statically'}"
    )


if __name__ == "__main__":
    print(json.dumps(build(sysconfig.get_config_vars(), Path("/proc/self/maps").read_text())))
