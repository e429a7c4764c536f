"""`python -m router` is `firsttoken`."""

from router.cli import main

main(prog_name="firsttoken")
