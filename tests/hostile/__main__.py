"""`scripts/hostile`: run the attacks against a router of this checkout, and print what each costs it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.hostile.attacks import ATTACKS, endpoint, table
from tests.hostile.figures import MIB, TITLE, measure
from tests.processes import router


def main() -> int:
    parser = argparse.ArgumentParser("scripts/hostile", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number and size (default: 1)")
    parser.add_argument("--rest", type=float, default=60.0, help="seconds until memory is compared (default: 60)")
    parser.add_argument("--models", type=int, default=1000, help="further models and endpoints (default: 1000)")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="names, separated by commas (default: all)")
    options = parser.parse_args()
    names = options.attacks.split(",")
    if unknown := set(names) - set(ATTACKS):
        parser.error(f"unknown attack: {', '.join(sorted(unknown))}; the attacks are {', '.join(ATTACKS)}")
    found = []
    with tempfile.TemporaryDirectory() as top, endpoint(options.scale) as there:
        print(TITLE)
        for name in names:
            # A fresh router each time, as the longest turn is remembered for a minute.
            with router(Path(top), table(there.port, options.models)) as running:
                figures = measure(name, running.address[1], running.process.pid, options.scale, options.rest)
            found.append(figures)
            print(figures.row(), flush=True)
    longest, most = max(each.turn for each in found), max(each.stays for each in found)
    print(f"longest turn {longest * 1e3:.1f} ms; at most {most / MIB:.0f} MiB more after an attack than before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
