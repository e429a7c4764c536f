"""`scripts/fuzz`: many changed inputs for what reads them, in several processes; or one of them again."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.runs import many, one
from tests.fuzz.targets import TARGETS


def again(which: str) -> None:
    """One input once more, with its bytes and its traceback."""
    name, seed, number = which.split(":")
    target = TARGETS[name]
    data, rng = one(target, name, int(seed), int(number))
    print(data, flush=True)
    target.run(data, rng)
    print("all that must hold holds")


def main() -> int:
    parser = argparse.ArgumentParser("scripts/fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many, over all targets (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other inputs (%(default)s)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="who is given them (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="at a time (%(default)s)")
    parser.add_argument("--again", metavar="TARGET:SEED:NUMBER", help="one input of an earlier run")
    parser.add_argument(
        "--atheris",
        type=int,
        metavar="SECONDS",
        help="guided by coverage instead, each of --targets (sse and http1) so long",
    )
    told = parser.parse_args()
    names = told.targets.split(",")
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if told.again:
        again(told.again)
        return 0
    return min(1, many(names, told.inputs, told.seed, told.processes))


if __name__ == "__main__":
    sys.exit(main())
