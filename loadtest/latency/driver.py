"""Open-loop arrivals: every call is asked at its time, whatever became of those before it; and measured from that time.

`python -m loadtest.latency.driver` reads its `Drive` as JSON from standard input. Each half second it writes a line
with the number of calls that are over, and at the end one with a JSON list of what each came to. It is a process of
its own so that nothing else, such as a progress bar, makes it late; how late it was is in every call.
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

TOLD_EVERY = 0.5  # seconds
WORD = "word "  # of the padding: a token and a space, 5 bytes
BYTES = 4  # of a prompt for each of its tokens

Row = tuple[int, float, int, int]  # a call: its number, scenario time, tokens of its prompt and of its answer


@dataclass(frozen=True)
class Drive:
    """What to ask, and when: call k at `epoch` + at / `speed` of time.monotonic()."""

    url: str
    epoch: float
    speed: float
    calls: Sequence[Row]
    limit: float = 120.0  # scenario seconds for a whole answer
    model: str = "m"
    key: str = "any"


@dataclass(frozen=True, slots=True)
class Driven:
    """What one call came to; seconds of the scenario, `first_token` and `ended` since the scheduled arrival."""

    k: int
    late: float
    first_token: float | None
    ended: float
    status: int | None
    error: str | None
    text: str  # the first token, in which the endpoint says its name


def prompt(k: int, tokens: int) -> str:
    """The call's number, padded to about as many tokens, where four bytes are one."""
    said = f"call {k} "
    return said + WORD * ((tokens * BYTES - len(said)) // len(WORD))


class Driver:
    """Asks all calls of a drive; `answers` has those that are over."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.client = Client(Target.of(drive.url, drive.key))
        self.answers: list[Driven] = []
        self.all_over = asyncio.get_running_loop().create_future()
        self.coming = iter(drive.calls)

    async def run(self) -> list[Driven]:
        self.follow()
        telling = asyncio.create_task(self.tell())
        try:
            await self.all_over
        finally:
            telling.cancel()
            self.client.close()
        return sorted(self.answers, key=lambda answer: answer.k)

    def follow(self) -> None:
        """Prepare the next call ahead of its time, so that at its time it is only sent."""
        call = next(self.coming, None)
        if call is None:
            return
        k, at, tokens, generated = call
        message = {"role": "user", "content": prompt(k, tokens)}
        body = {"model": self.drive.model, "messages": [message], "stream": True, "max_tokens": generated}
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

    async def tell(self) -> None:
        while True:
            print(len(self.answers), flush=True)
            await asyncio.sleep(TOLD_EVERY)


async def drive(plan: Drive) -> list[Driven]:
    return await Driver(plan).run() if plan.calls else []


def said(line: str) -> int | list[Driven]:
    """A line of the driver's: calls that are over, or the end of it all."""
    told: Any = json.loads(line)
    return [Driven(**row) for row in told] if isinstance(told, list) else told


def main() -> None:
    plan = Drive(**json.load(sys.stdin))
    if plan.epoch < time.monotonic():
        print("the drive began late: its epoch is in the past", file=sys.stderr)
    print(json.dumps([asdict(answer) for answer in punctual.run(drive(plan))]), flush=True)


if __name__ == "__main__":
    main()
