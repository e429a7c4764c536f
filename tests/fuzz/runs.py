"""Run many inputs for some targets in several processes, and print every finding so that it can be repeated."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from random import Random
from types import FrameType
from typing import NamedTuple, NoReturn

from tests.fuzz.mutations import mutate
from tests.fuzz.targets import TARGETS, Target

BATCH = 500  # inputs that a process gets at a time: a fifth of a second
TOO_LONG = 20  # seconds for one batch; an input takes less than a millisecond
SHOWN = 20  # kinds of findings that are printed


class Finding(NamedTuple):
    """A check that failed: where, and for which input."""

    place: str
    message: str
    target: str
    seed: int
    number: int
    size: int


def one(target: Target, name: str, seed: int, number: int) -> tuple[bytes, Random]:
    """The input with this number, and its random numbers."""
    rng = Random(f"{name}:{seed}:{number}")
    inputs = target.inputs
    return mutate(rng.choice(inputs), rng, inputs), rng


def fuzz(name: str, seed: int, numbers: range) -> list[Finding]:
    """Run a target on these inputs; return the findings."""
    target, found = TARGETS[name], []
    for number in numbers:
        data, rng = one(target, name, seed, number)
        try:
            target.run(data, rng)
        except Exception as error:  # any exception is a finding
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {os.path.relpath(place.filename)}:{place.lineno}"
            found.append(Finding(where, str(error)[:300], name, seed, number, len(data)))
    return found


def _watched(name: str, seed: int, numbers: range) -> tuple[list[Finding], int]:
    """Run a batch in a worker process; return the findings and the peak memory in KiB.

    An input that does not end is a finding too.
    """
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(TOO_LONG)
    found = fuzz(name, seed, numbers)
    signal.alarm(0)
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _hangs(number: int, frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"{BATCH} inputs took more than {TOO_LONG} s")


def batches(names: Sequence[str], inputs: int) -> Iterator[tuple[str, range]]:
    """Batches of all inputs, evenly over the targets and in turns."""
    share = -(-inputs // len(names))
    for start in range(0, share, BATCH):
        for name in names:
            yield name, range(start, min(start + BATCH, share))


def many(names: Sequence[str], inputs: int, seed: int, processes: int) -> int:
    """Run all inputs and print the findings; return the number of kinds."""
    found: dict[str, Finding] = {}
    count, done, began, printed, memory = Counter[str](), 0, time.monotonic(), time.monotonic(), 0
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        todo = batches(names, inputs)
        running: dict[Future[tuple[list[Finding], int]], range] = {}
        while True:
            while len(running) < 2 * processes and (batch := next(todo, None)) is not None:
                running[pool.submit(_watched, batch[0], seed, batch[1])] = batch[1]
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done += len(running.pop(future))
                findings, peak = future.result()
                memory = max(memory, peak)
                for finding in findings:
                    count[finding.place] += 1
                    if finding.place not in found or finding.size < found[finding.place].size:
                        found[finding.place] = finding
            if time.monotonic() - printed > 15:
                printed = time.monotonic()
                print(
                    f"{done} of {inputs}, {done / (printed - began):.0f}/s, {len(found)} kinds of findings", flush=True
                )
    seconds = time.monotonic() - began
    print(f"{done} inputs ({', '.join(names)}), seed {seed}: {seconds:.0f} s, {done / seconds:.0f}/s,", end=" ")
    print(f"at most {memory / 1024:.0f} MiB in a process; {sum(count.values())} findings of {len(found)} kinds")
    for place, times in count.most_common(SHOWN):
        finding = found[place]
        print(f"\n{times} times {place}: {finding.message}")
        print(f"  scripts/fuzz --again {finding.target}:{finding.seed}:{finding.number}")
    return len(found)
