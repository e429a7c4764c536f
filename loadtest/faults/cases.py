"""The sixteen cases: for each, the fault of the endpoint, the behaviour of a correct router, and the rules.

Faults, rules and limits are those of FailoverBench's catalogue 0.1; limits are in seconds at speed 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadtest.faults.ailments import FAULTS
from loadtest.faults.judge import (
    Observed,
    Rule,
    Verdict,
    alive_afterwards,
    back_within,
    each_try_smaller,
    ends_within,
    fallback_named,
    fallback_spared,
    few_tries_while_down,
    gap_of,
    judge,
    prefill_not_masking,
    reason_given,
    served_while_down,
    tries,
    tries_within,
    usage_reported,
    whole_answer,
)

HEALTHY_MODEL = "ok"  # both endpoints always serve this model; a call for it shows whether the router is alive
ALIVE_LIMIT = 10.0
DOWN = FAULTS["down"].lasts or 0.0


@dataclass(frozen=True)
class Case:
    name: str
    fault: str  # the primary's fault
    correct: str
    limit: float  # seconds after which a request without a result counts as a hang
    rules: Sequence[Rule] = ()
    fallback: str = "healthy"  # the fallback's fault
    ideal: Literal["answer", "error"] = "answer"
    requests: int = 1
    every: float = 0.0  # seconds between two requests
    # `requests` and `every` at another speed than 1: a breaker's own waits do not get shorter with the speed.
    sped_up: tuple[int, float] | None = None
    alive_afterwards: bool = False  # request a healthy answer at the end

    @property
    def model(self) -> str:
        return self.name.lower()

    def row(self, speed: float) -> tuple[int, float]:
        """The number of requests, and the seconds between two of them."""
        return (self.requests, self.every) if speed == 1 or self.sped_up is None else self.sped_up

    def judge(self, seen: Observed) -> Verdict:
        rules = [*self.rules, alive_afterwards()] if self.alive_afterwards else self.rules
        return judge(rules, self.ideal, seen)


CASES = [
    Case(
        "S01",
        "busy-once",
        "retries after the two seconds, or fails over; no tight loop",
        20,
        [tries(2, weight="advice"), gap_of(1.8, weight="advice"), tries_within(1.5, 2)],
    ),
    Case(
        "S02",
        "busy",
        "backs off, fails over; never more than 4 tries in 3 s, nor 6 in all",
        40,
        [tries_within(3, 4), tries(most=6)],
    ),
    Case("S03", "error-once", "retries once at the primary, or fails over", 20, [tries(2, weight="advice")]),
    Case("S04", "overloaded", "fails over within its budget", 40, [tries(most=6)]),
    Case("S05", "reset-once", "retries", 20),
    Case(
        "S06",
        "silent",
        "fails over, and does not try the silent endpoint again",
        130,
        [ends_within(100), tries(most=1, weight="advice")],
    ),
    Case(
        "S07",
        "late",
        "has a limit for the first token: an answer within 15 s",
        60,
        [ends_within(15, weight="advice", needs_fallback=True)],
    ),
    Case("S08", "cut", "the whole answer, or a clear error; never a short answer as if it were whole", 40),
    Case(
        "S09",
        "stall",
        "detects the stall in time; the whole answer or a clear error; healthy afterwards",
        70,
        [ends_within(45)],
        alive_afterwards=True,
    ),
    Case(
        "S10",
        "garbage",
        "skips the event; the rest arrives whole",
        30,
        [whole_answer(weight="advice")],
        alive_afterwards=True,
    ),
    Case("S11", "no-done", "finishes promptly, with the usage", 30, [ends_within(8), usage_reported(weight="advice")]),
    Case(
        "S12",
        "too-long",
        "tries that endpoint only once; fails over to one with a larger context if there is one",
        20,
        [each_try_smaller(), tries(most=2)],
    ),
    Case(
        "S13",
        "policy",
        "tries once; passes the reason on to the client",
        20,
        [
            tries(most=1),
            reason_given("content_policy_violation", weight="advice"),
            fallback_spared(weight="note"),
        ],
        ideal="error",
    ),
    Case(
        "S14",
        "cut",
        "as in S08, and the fallback's 400 never hides the real failure",
        40,
        [prefill_not_masking()],
        fallback="no-prefill",
    ),
    Case(
        "S15",
        "down",
        "serves every request; uses the primary again within 30 s; tries it rarely while it is down",
        30,
        [
            served_while_down(DOWN, needs_fallback=True),
            back_within(30, DOWN, needs_fallback=True),
            few_tries_while_down(DOWN, weight="note"),
        ],
        requests=20,
        every=4.0,
        sped_up=(6, 20.0),
    ),
    Case(
        "S16",
        "overloaded",
        "reports the model and usage of the endpoint that answered",
        40,
        [
            fallback_named(needs_fallback=True),
            usage_reported(weight="advice", needs_fallback=True),
            tries(most=6),
        ],
    ),
]

MODELS = [*(case.model for case in CASES), HEALTHY_MODEL]
PRIMARY = {HEALTHY_MODEL: "healthy"} | {case.model: case.fault for case in CASES}
FALLBACK = {HEALTHY_MODEL: "healthy"} | {case.model: case.fallback for case in CASES}
