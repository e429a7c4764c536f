"""A run of the sixteen faults against a router, or with a client alone, and the observations of all parties.

Two fake endpoints in this process, a primary and a fallback, serve one model per case. The router under test has them
as two tiers of the same models. This module only produces the observations; cases.py and judge.py have the rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.faults.answers import answer_to
from loadtest.faults.cases import ALIVE_LIMIT, CASES, FALLBACK, HEALTHY_MODEL, MODELS, PRIMARY, Case
from loadtest.faults.clients import Client, Json, client
from loadtest.faults.fake import Entry, Fake
from loadtest.faults.judge import Observed, Outcome, Verdict
from loadtest.processes import BenchError, Place, Processes, free_ports, router_command

MESSAGES: list[Json] = [{"role": "user", "content": "In sixty words: when does a router earn trust?"}]
# Seconds per try of a client without a router, as in FailoverBench; the SDKs' own two retries come on top.
TIMEOUT_ALONE = 30.0
MIN_PATIENCE = 1.0  # seconds: firsttoken's own pause before a retry is half a second at most
BACK_WITHIN = 60.0  # seconds to wait before a case until the router tries the primary again
CHECK_EVERY = 1.0  # seconds between two checks whether the router tries the primary
APART = 4.0  # seconds between the starts of cases that run at the same time, so that none disturbs another


@dataclass(frozen=True)
class Result:
    case: Case
    seen: Observed
    verdict: Verdict


@dataclass
class Stand:
    """The test stand: the two endpoints, and the client that calls them or the router."""

    primary: Fake
    fallback: Fake
    client: Client
    speed: float
    has_fallback: bool

    async def run(self, case: Case) -> Result:
        for endpoint, fault in ((self.primary, case.fault), (self.fallback, case.fallback)):
            endpoint.reset(case.model)
            endpoint.choose(case.model, fault)
        asked = await self._ask_in_turn(case)
        alive = await self.ask(HEALTHY_MODEL, ALIVE_LIMIT, stream=False) if case.alive_afterwards else None
        seen = Observed(
            asked=asked,
            primary=self._seen(self.primary, case),
            fallback=self._seen(self.fallback, case),
            whole=frozenset(answer_to(MESSAGES, endpoint.voice) for endpoint in (self.primary, self.fallback)),
            has_fallback=self.has_fallback,
            alive=alive,
        )
        return Result(case, seen, case.judge(seen))

    async def _ask_in_turn(self, case: Case) -> list[Outcome]:
        """Send one request at a time, at its scheduled time or when the previous one is over."""
        began, asked = time.monotonic(), []
        requests, every = case.row(self.speed)
        for number in range(requests):
            await asyncio.sleep(began + number * every / self.speed - time.monotonic())
            sent_at = (time.monotonic() - began) * self.speed
            asked.append(replace(await self.ask(case.model, case.limit), sent_at=sent_at))
        return asked

    async def ask(self, model: str, limit: float, *, stream: bool = True) -> Outcome:
        try:
            async with asyncio.timeout(limit / self.speed):
                outcome = await self.client.ask(model, MESSAGES, stream=stream)
        except TimeoutError:
            return Outcome("hang", limit)
        times = {name: getattr(outcome, name) for name in ("seconds", "first_token", "silence")}
        return replace(outcome, **{name: time and time * self.speed for name, time in times.items()})

    def _seen(self, endpoint: Fake, case: Case) -> list[Entry]:
        return [
            replace(entry, at=entry.at * self.speed, ended=entry.ended and entry.ended * self.speed)
            for entry in endpoint.seen(case.model)
        ]


@dataclass(frozen=True)
class Plan:
    """The options of a run. `target` is a running router, `command` starts one; with neither, the primary is tested."""

    client: str = "raw"
    target: str | None = None
    command: str | None = None
    speed: float = 1.0
    cases: Sequence[Case] = tuple(CASES)
    at_once: bool = False
    voices: tuple[str, str] = ("", "")  # voices of the two endpoints
    host: str = "127.0.0.1"
    ports: tuple[int, int] = (0, 0)

    @property
    def has_router(self) -> bool:
        return bool(self.target or self.command)


OnProgress = Callable[[str], None]  # called with the names of the running cases


async def run(plan: Plan, folder: Path, on_progress: OnProgress = lambda _: None) -> list[Result]:
    """Run all cases of a plan; a started router has its log and its endpoints.yaml in `folder`."""
    primary = Fake("primary", PRIMARY, plan.speed, plan.voices[0])
    fallback = Fake("fallback", FALLBACK, plan.speed, plan.voices[1])
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(primary.serving(plan.host, plan.ports[0]))
        await stack.enter_async_context(fallback.serving(plan.host, plan.ports[1]))
        base_url = plan.target or primary.base_url
        if plan.command:
            base_url = await stack.enter_async_context(started(plan.command, primary, fallback, plan.speed, folder))
        timeout = None if plan.has_router else TIMEOUT_ALONE / plan.speed
        asking = await stack.enter_async_context(client(plan.client, base_url, timeout))
        stand = Stand(primary, fallback, asking, plan.speed, plan.has_router)
        await must_be_healthy(stand, base_url)
        return await run_cases(stand, plan, on_progress)


async def run_cases(stand: Stand, plan: Plan, on_progress: OnProgress) -> list[Result]:
    running: list[str] = []

    async def one(case: Case, wait: float = 0.0) -> Result:
        await asyncio.sleep(wait / plan.speed)
        running.append(case.name)
        on_progress(", ".join(running))
        result = await stand.run(case)
        running.remove(case.name)
        on_progress(", ".join(running))
        return result

    if plan.at_once:
        longest_first = sorted(plan.cases, key=lambda case: -case.requests * case.every)
        starts = {case.name: APART * number for number, case in enumerate(longest_first)}
        return list(await asyncio.gather(*(one(case, starts[case.name]) for case in plan.cases)))
    results = []
    for case in plan.cases:
        deadline = time.monotonic() + BACK_WITHIN
        await until_the_primary_is_asked(stand, deadline)
        result = await one(case)
        # The router may avoid the primary for this model only, which the check above does not show.
        while not result.seen.primary and time.monotonic() < deadline:
            await asyncio.sleep(CHECK_EVERY)
            result = await one(case)
        results.append(result)
    return results


async def must_be_healthy(stand: Stand, base_url: str) -> None:
    """Raise a BenchError unless the healthy model is served: otherwise the router is not configured for this run."""
    outcome = await stand.ask(HEALTHY_MODEL, ALIVE_LIMIT * stand.speed, stream=False)
    if outcome.kind != "answer":
        raise BenchError(
            f"{base_url} does not serve the healthy model {HEALTHY_MODEL!r} ({outcome.error or 'no answer'}).\n"
            + what_to_configure(stand.primary.base_url, stand.fallback.base_url)
        )


async def until_the_primary_is_asked(stand: Stand, deadline: float) -> None:
    """Wait until the router tries the primary for the healthy model: after the last case it may avoid that server."""
    while time.monotonic() < deadline:
        stand.primary.reset(HEALTHY_MODEL)
        await stand.ask(HEALTHY_MODEL, ALIVE_LIMIT, stream=False)
        if stand.primary.seen(HEALTHY_MODEL):
            return
        await asyncio.sleep(CHECK_EVERY)


# ---- The router


@contextlib.asynccontextmanager
async def started(command: str, primary: Fake, fallback: Fake, speed: float, folder: Path) -> AsyncIterator[str]:
    """Start a router with this command and an endpoints.yaml for the run; yields its base URL."""
    (port,) = free_ports(1)
    config = folder / "endpoints.yaml"
    config.write_text(endpoints_yaml(primary.base_url, fallback.base_url, speed))
    with Processes(folder) as processes:
        facts = {"port": port, "config": config, "primary": primary.base_url, "fallback": fallback.base_url}
        words = [word.format(**facts) for word in shlex.split(command)]
        process = processes.start("router", words, Place.anywhere())
        await asyncio.to_thread(processes.wait_ready, "router", process, port)
        yield f"http://127.0.0.1:{port}/v1"


def firsttoken() -> str:
    return router_command()


def what_to_configure(primary: str, fallback: str) -> str:
    return (
        f"The router under test needs the models {', '.join(MODELS)}:\n"
        f"first from  {primary}\n"
        f"and, if that fails, under the same names from  {fallback}\n"
        "Any API key works. --print-config prints an endpoints.yaml with these models."
    )


def endpoints_yaml(primary: str, fallback: str, speed: float = 1.0) -> str:
    """An endpoints.yaml with two tiers and exactly two settings that differ from the defaults.

    At another speed all waits are divided by the speed. A retry budget also refills with time, of which there is less
    then, so each call deposits more in proportion.
    """
    patience = max(3.0 / speed, MIN_PATIENCE)
    waits = {"deadline": 120, "abandon": 15, "stall": 30, "hedge": 2} if speed != 1 else {}
    settings = [f"patience: {patience:g}s", "resume: replay", *(f"{key}: {s / speed:g}s" for key, s in waits.items())]
    settings += [f"retry_budget: {min(10.0, 0.2 * speed):g}"] if speed != 1 else []
    probe = f"\n    probe: {{interval: {10 / speed:g}s}}" if speed != 1 else ""
    models = ", ".join(MODELS)
    return f"""\
defaults: {{{", ".join(settings)}}}
endpoints:
  - name: primary
    base_url: {primary}
    models: [{models}]{probe}
  - name: fallback
    base_url: {fallback}
    models: [{models}]
    tier: 2{probe}
"""
