"""The open-loop driver: sends every call at its time, independent of earlier answers, and measures from that time.

`python -m loadtest.latency.driver` reads its `Drive` as JSON from standard input. Every half second it writes a line
with the number of finished calls, and at the end a JSON list of all results. The driver is a process of its own, so
that nothing else, such as a progress bar, makes it late; every result contains its lateness.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.latency import punctual
from loadtest.latency.client import Answer, Client, Target

REPORT_EVERY = 0.5  # seconds between two lines of progress
WORD = "word "  # padding of prompts: a token and a space, 5 bytes
BYTES = 4  # bytes of a prompt per token

# A call: number, scenario time, tokens of the prompt, tokens of the answer, and whether it asks for a plain answer.
Row = tuple[int, float, int, int, bool]


@dataclass(frozen=True)
class Drive:
    """The calls to send and their times: call k is sent at `epoch` + at / `speed` of time.monotonic()."""

    url: str
    epoch: float
    speed: float
    calls: Sequence[Row]
    limit: float = 120.0  # scenario seconds for a whole answer
    model: str = "m"
    key: str = "any"


@dataclass(frozen=True, slots=True)
class Driven:
    """The result of one call; seconds of the scenario, `first_token` and `ended` since the scheduled arrival."""

    k: int
    late: float
    first_token: float | None
    ended: float
    status: int | None
    error: str | None
    text: str  # the first token, which is the endpoint's name; of a plain answer the whole text, which begins with it


def prompt(k: int, tokens: int) -> str:
    """A prompt with the call's number, padded to about this many tokens of four bytes."""
    number = f"call {k} "
    return number + WORD * ((tokens * BYTES - len(number)) // len(WORD))


class Driver:
    """Sends all calls of a drive; `answers` has the results of the finished ones."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.client = Client(Target.of(drive.url, drive.key))
        self.answers: list[Driven] = []
        self.all_over = asyncio.get_running_loop().create_future()
        self.coming = iter(drive.calls)

    async def run(self) -> list[Driven]:
        self.follow()
        reporting = asyncio.create_task(self.report_progress())
        try:
            await self.all_over
        finally:
            reporting.cancel()
            self.client.close()
        return sorted(self.answers, key=lambda answer: answer.k)

    def follow(self) -> None:
        """Prepare the next call ahead of its time, so that only sending is left at its time."""
        call = next(self.coming, None)
        if call is None:
            return
        k, at, tokens, generated, plain = call
        message = {"role": "user", "content": prompt(k, tokens)}
        body = {"model": self.drive.model, "messages": [message], "stream": not plain, "max_tokens": generated}
        scheduled = self.drive.epoch + at / self.drive.speed
        request = self.client.target.request(body)
        asyncio.get_running_loop().call_at(scheduled, self.ask, k, scheduled, request)

    def ask(self, k: int, scheduled: float, request: bytes) -> None:
        self.client.ask(request, self.drive.limit / self.drive.speed, lambda answer: self.over(k, scheduled, answer))
        self.follow()

    def over(self, k: int, scheduled: float, answer: Answer) -> None:
        def since(when: float) -> float:
            return (when - scheduled) * self.drive.speed

        assert answer.ended is not None
        first = None if answer.first is None else since(answer.first)
        driven = Driven(k, since(answer.sent), first, since(answer.ended), answer.status, answer.error, answer.text)
        self.answers.append(driven)
        if len(self.answers) == len(self.drive.calls):
            self.all_over.set_result(None)

    async def report_progress(self) -> None:
        while True:
            print(len(self.answers), flush=True)
            await asyncio.sleep(REPORT_EVERY)


async def drive(plan: Drive) -> list[Driven]:
    return await Driver(plan).run() if plan.calls else []


def parsed(line: str) -> int | list[Driven]:
    """Parse a line of the driver's output: the number of finished calls, or at the end all results."""
    value: Any = json.loads(line)
    if isinstance(value, list):
        return [Driven(**row) for row in value]
    return int(value)


def main() -> None:
    plan = Drive(**json.load(sys.stdin))
    if plan.epoch < time.monotonic():
        print("the drive began late: its epoch is in the past", file=sys.stderr)
    print(json.dumps([asdict(answer) for answer in punctual.run(drive(plan))]), flush=True)


if __name__ == "__main__":
    main()
