"""Measures what the router itself costs per plain answer, per stream and per decision, without sockets.

The router's own objects run between transports that do nothing. Nothing of the kernel is in the figures:
  plain     a plain answer, with 32 calls in flight
  stream    a stream of 20 events that arrive in 12 reads, with 64 streams in flight
  decision  the choice of an endpoint, and what is learned from a call (scripts/bench --decision has the details)
Instructions are counted by valgrind's callgrind. Neighbours on the machine do not change them: compare these.
Microseconds are thread time, the median of many rounds. With --against the rounds of both checkouts alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.drive import MODES

ROOT = Path(__file__).resolve().parent.parent.parent
WORKER = ROOT / "tests" / "bench" / "drive.py"
SIDES = ("this", "against")

Figures = dict[str, dict[str, float]]  # mode → side → figure


class Failure(Exception):
    """A measurement that did not come about; the message is for the operator."""


class Worker:
    """One process that makes rounds of one kind of call, with the router of one checkout."""

    def __init__(self, tree: Path, mode: str, endpoints: int) -> None:
        self.tree = tree
        self._process = subprocess.Popen(
            [*command(), "rounds", mode, str(endpoints)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(tree), cwd=ROOT,
        )  # fmt: skip

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ready(self) -> None:
        """Wait until the worker has warmed up."""
        router = Path(self._answer()["router"])
        if not router.is_relative_to(self.tree):
            raise Failure(f"The worker imported {router}, which is not in {self.tree}.")

    def round(self, calls: int) -> float:
        """Microseconds of thread time per call."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        return float(1e6 * self._answer()["seconds"] / calls)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failure(f"The worker for {self.tree} failed with status {self._process.wait()}; its error is above.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def command() -> list[str]:
    return [sys.executable, "-P", str(WORKER)]


def environment(tree: Path) -> dict[str, str]:
    """The tree's modules come first, and nothing of the operator's settings reaches the router."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FIRSTTOKEN_", "PYTHON"))}
    # Compiled modules are kept, because callgrind would take a minute to compile them; but not in the tree.
    pycache = str(ROOT / ".build" / "pycache")
    return {**kept, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0", "PYTHONPYCACHEPREFIX": pycache}


def times(trees: Mapping[str, Path], mode: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Microseconds per call of each round; every second round takes the checkouts in reverse order."""
    taken: dict[str, list[float]] = {side: [] for side in trees}
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(tree, mode, options.endpoints)) for side, tree in trees.items()}
        for worker in workers.values():
            worker.ready()
        for number in range(options.rounds):
            for side in list(workers)[:: -1 if number % 2 else 1]:
                taken[side].append(workers[side].round(options.calls))
    return taken


def instructions(tree: Path, options: argparse.Namespace) -> dict[str, float]:
    """Instructions per call of each mode.

    A process that is warmed up forks twice: once for some calls, once for twice as many. The difference is what these
    calls cost, without start and warm-up.
    """
    with tempfile.TemporaryDirectory() as folder:
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder}/%p"]
        counted = [*command(), "count", ",".join(options.only), str(options.endpoints), str(options.counted)]
        done = subprocess.run(
            [*valgrind, *counted], stdout=subprocess.PIPE, text=True, env=environment(tree), cwd=ROOT, check=False
        )
        if done.returncode:
            raise Failure(f"callgrind for {tree} failed with status {done.returncode}; its error is above.")
        figures = {}
        for line in done.stdout.splitlines():
            mode, pids = json.loads(line).values()
            once, twice = (total(Path(folder, str(pid))) for pid in pids)
            figures[mode] = (twice - once) / options.counted
        return figures


def total(profile: Path) -> int:
    """All instructions in a profile that callgrind has written."""
    for line in profile.read_text().splitlines():
        if line.startswith("totals:"):
            return int(line.split()[1])
    raise Failure(f"{profile} has no total: callgrind did not finish it.")


def measure(trees: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    rounds: dict[str, dict[str, list[float]]] = {}
    for mode in options.only:
        note(f"thread time: {mode}")
        rounds[mode] = times(trees, mode, options)
    counts: Figures = {mode: {} for mode in options.only}
    if options.callgrind:
        note("instructions (some minutes)")
        # The checkouts are counted at the same time: one process does not change the instructions of another.
        with ThreadPoolExecutor() as pool:
            counted = {side: pool.submit(instructions, tree, options) for side, tree in trees.items()}
        for side, figures in counted.items():
            for mode, figure in figures.result().items():
                counts[mode][side] = figure
    return {
        "trees": {side: str(tree) for side, tree in trees.items()},
        "instructions": counts,
        "microseconds": {mode: {side: median(taken) for side, taken in of.items()} for mode, of in rounds.items()},
        "microseconds_ratio": {mode: ratio_of(of) for mode, of in rounds.items() if len(of) == 2},
        "rounds": rounds,
    }


def ratio_of(rounds: Mapping[str, Sequence[float]]) -> float:
    """The ratio of this checkout to the other, taken within each round; then the median."""
    this, against = (rounds[side] for side in SIDES)
    return median(mine / other for mine, other in zip(this, against, strict=True))


def note(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def table(results: Mapping[str, Any]) -> str:
    """The results as text. A dash is what was not measured."""
    compared = "against" in results["trees"]
    columns = (*SIDES, "ratio") if compared else ("this",)
    width = 12 * len(columns)
    lines = [
        f"{'':10}{'instructions':>{width}}   {'µs of thread time':>{max(width, 20)}}",
        f"{'':10}{titles(columns, 12)}   {titles(columns, 12):>{max(width, 20)}}",
    ]
    for mode, taken in results["microseconds"].items():
        counts = results["instructions"][mode]
        counted = [f"{counts[side]:,.0f}" if side in counts else "–" for side in SIDES[: len(taken)]]
        timed = [f"{figure:.1f}" for figure in taken.values()]
        if compared:
            counted.append(f"{counts['this'] / counts['against']:.4f}" if len(counts) == 2 else "–")
            timed.append(f"{results['microseconds_ratio'][mode]:.3f}")
        lines.append(f"{mode:10}{titles(counted, 12)}   {titles(timed, 12):>{max(width, 20)}}")
    return "\n".join(line.rstrip() for line in lines)


def titles(cells: Sequence[str], width: int) -> str:
    return "".join(f"{cell:>{width}}" for cell in cells)


def checkout(text: str) -> Path:
    tree = Path(text).resolve()
    if not (tree / "router" / "app.py").is_file():
        raise argparse.ArgumentTypeError(f"{tree} is not a checkout of firsttoken: it has no router/app.py")
    return tree


def modes(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := sorted(set(asked) - set(MODES)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(MODES)}")
    return [mode for mode in MODES if mode in asked]


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench --in-process", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--against", type=checkout, metavar="TREE",
        help="another checkout to compare with; it runs with this checkout's interpreter and packages",
    )  # fmt: skip
    parser.add_argument("--only", type=modes, default=list(MODES), help="what to measure: plain,stream,decision (all)")
    parser.add_argument("--endpoints", type=positive, default=3, help="endpoints that serve the model (3)")
    parser.add_argument("--rounds", type=positive, default=30, help="timed rounds of each checkout (30)")
    parser.add_argument("--calls", type=positive, default=1000, help="calls in a timed round (1000)")
    parser.add_argument("--counted", type=positive, default=500, help="calls that callgrind counts (500)")
    parser.add_argument(
        "--no-callgrind", dest="callgrind", action="store_false", help="measure thread time only: half a minute"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, also those of each round")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    trees = {"this": ROOT}
    if options.against is not None:
        trees["against"] = options.against
    if options.callgrind and not shutil.which("valgrind"):
        note("valgrind is not installed, so instructions are not counted (Debian: apt-get install valgrind)")
        options.callgrind = False
    try:
        results = measure(trees, options)
    except Failure as failure:
        note(str(failure))
        return 1
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
