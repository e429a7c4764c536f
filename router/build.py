"""The build of the router that runs: plain Python, or with the modules that mypyc has compiled (docs/compiled.md)."""

from __future__ import annotations

from pathlib import Path

from router import scheduler

COMPILED = not scheduler.__file__.endswith(".py")
BUILD = "compiled" if COMPILED else "pure"


def description() -> str:
    """The build, and in a checkout how to get the faster one."""
    compiler = Path(__file__).parent.parent / "scripts" / "compile"
    return f"{BUILD} (scripts/compile builds a faster one)" if not COMPILED and compiler.exists() else BUILD
