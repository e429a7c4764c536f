"""`scripts/fuzz`: run many mutated inputs in several processes, or one of them again."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.runs import many, one
from tests.fuzz.targets import TARGETS


def again(which: str) -> None:
    """Run one input once more, with its bytes and its traceback."""
    name, seed, number = which.split(":")
    target = TARGETS[name]
    data, rng = one(target, name, int(seed), int(number))
    print(data, flush=True)
    target.run(data, rng)
    print("no finding")


def main() -> int:
    parser = argparse.ArgumentParser("scripts/fuzz", description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=100_000, help="number of inputs over all targets (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="each seed gives other inputs (default: %(default)s)")
    parser.add_argument(
        "--targets", default=",".join(TARGETS), help="names, separated by commas (default: %(default)s)"
    )
    parser.add_argument("--processes", type=int, default=2, help="number of processes at a time (default: %(default)s)")
    parser.add_argument("--again", metavar="TARGET:SEED:NUMBER", help="run one input of an earlier run again")
    parser.add_argument(
        "--atheris",
        type=int,
        metavar="SECONDS",
        help="let coverage guide the mutations, for so long for each of --targets (default: sse,http1)",
    )
    options = parser.parse_args()
    names = options.targets.split(",")
    if unknown := set(names) - set(TARGETS):
        parser.error(f"unknown target: {', '.join(sorted(unknown))}; the targets are {', '.join(TARGETS)}")
    if options.again:
        again(options.again)
        return 0
    return min(1, many(names, options.inputs, options.seed, options.processes))


if __name__ == "__main__":
    sys.exit(main())
