"""Runs `firsttoken` as `python -m router`."""

from router.cli import main

main(prog_name="firsttoken")
