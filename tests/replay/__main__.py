"""`python -m tests.replay`: play calls in virtual time, and print all that the clients got and all records, as lines.

    python -m tests.replay --whole > FILE       replay with the build of the router that this Python imports
    python -m tests.replay --compare ONE OTHER  compare two such files, of the pure and of the compiled build

`scripts/test-compiled` does both. A comparison fails, and names the call, the field and both values, at the first
difference.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from router.build import BUILD
from tests.replay.difference import first_difference
from tests.replay.timelines import replay

CALLS = 2000


def compare(one: Path, other: Path) -> str:
    """Describe the first difference between two files of replays; an empty text if they are equal but for the build."""
    with one.open(encoding="utf-8") as mine, other.open(encoding="utf-8") as theirs:
        heads = [json.loads(next(lines, "{}")) for lines in (mine, theirs)]
        builds = [head.get("build") for head in heads]
        if sorted(map(str, builds)) != ["compiled", "pure"]:
            return f"replays of the pure and of the compiled build are compared, and these are of {builds}"
        return first_difference(mine, theirs)


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.replay", description=__doc__, formatter_class=form)
    parser.add_argument("--calls", type=int, default=CALLS, help="number of calls (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="print bodies in full, not their lengths and digests")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("ONE", "OTHER"), help="compare two files of replays")
    options = parser.parse_args()
    if options.compare:
        one, other = options.compare
        if wrong := compare(one, other):
            print(f"tests.replay: the builds differ (first: {one}, second: {other})\n{wrong}", file=sys.stderr)
            return 1
        with one.open(encoding="utf-8") as lines:
            calls = sum(line.startswith('{"call"') for line in lines)
        size = one.stat().st_size
        print(f"tests.replay: {calls} calls have equal answers and records in both builds ({size} bytes)")
        return 0
    print(json.dumps({"build": BUILD}))
    for line in replay(options.calls, whole=options.whole):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
