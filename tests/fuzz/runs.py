"""Many inputs for some targets, in several processes, and what was found, told so that it can be had again."""

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

BATCH = 500  # inputs a process is given at a time: a fifth of a second
TOO_LONG = 20  # seconds for one input, of which each takes less than a thousandth
SHOWN = 20  # kinds of findings


class Finding(NamedTuple):
    """Where something did not hold, and for which input."""

    place: str
    said: str
    target: str
    seed: int
    number: int
    size: int


def one(target: Target, name: str, seed: int, number: int) -> tuple[bytes, Random]:
    """The input with this number, and the chance that goes with it."""
    rng = Random(f"{name}:{seed}:{number}")
    inputs = target.inputs
    return mutate(rng.choice(inputs), rng, inputs), rng


def fuzz(name: str, seed: int, numbers: range) -> list[Finding]:
    """Give a target these inputs; what did not hold."""
    target, found = TARGETS[name], []
    for number in numbers:
        data, rng = one(target, name, seed, number)
        try:
            target.run(data, rng)
        except Exception as error:  # whatever it is: to find it is what this is for
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {os.path.relpath(place.filename)}:{place.lineno}"
            found.append(Finding(where, str(error)[:300], name, seed, number, len(data)))
    return found


def _watched(name: str, seed: int, numbers: range) -> tuple[list[Finding], int]:
    """In a process of its own: an input that does not end is a finding too; and the memory it came to, in KiB."""
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(TOO_LONG)
    found = fuzz(name, seed, numbers)
    signal.alarm(0)
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _hangs(number: int, frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"{BATCH} inputs took more than {TOO_LONG} s")


def batches(names: Sequence[str], inputs: int) -> Iterator[tuple[str, range]]:
    """All inputs, shared out evenly and by turns."""
    share = -(-inputs // len(names))
    for start in range(0, share, BATCH):
        for name in names:
            yield name, range(start, min(start + BATCH, share))


def many(names: Sequence[str], inputs: int, seed: int, processes: int) -> int:
    """Run them all, say what was found; the number of kinds of findings."""
    found: dict[str, Finding] = {}
    count, done, began, said, memory = Counter[str](), 0, time.monotonic(), time.monotonic(), 0
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
            if time.monotonic() - said > 15:
                said = time.monotonic()
                print(f"{done} of {inputs}, {done / (said - began):.0f}/s, {len(found)} kinds of findings", flush=True)
    seconds = time.monotonic() - began
    print(f"{done} inputs ({', '.join(names)}), seed {seed}: {seconds:.0f} s, {done / seconds:.0f}/s,", end=" ")
    print(f"at most {memory / 1024:.0f} MiB in a process; {sum(count.values())} findings of {len(found)} kinds")
    for place, times in count.most_common(SHOWN):
        finding = found[place]
        print(f"\n{times} times {place}: {finding.said}")
        print(f"  scripts/fuzz --again {finding.target}:{finding.seed}:{finding.number}")
    return len(found)
