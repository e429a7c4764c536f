"""The judge: from what the client got and what the endpoints saw, a verdict of pass, partial, safe or fail.

    fail      nothing within the limit, a short answer as if it were whole, a required rule broken, or the primary
              never tried
    pass      the result of a correct router (the whole answer; for a refusal, a clean error), and every rule kept
    partial   the same result, but advice was not followed; or a refusal was bypassed
    safe      another result: a clean error in time, and every required rule kept

The rules are those of FailoverBench's methodology 0.1. All times are seconds at speed 1, whatever the speed of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from loadtest.faults.fake import Entry

Word = Literal["pass", "partial", "safe", "fail"]


@dataclass(frozen=True)
class Outcome:
    """The result of one request, as its client saw it."""

    kind: Literal["answer", "error", "hang"]
    seconds: float
    text: str = ""  # including the text received before an error
    error: str = ""
    code: str | None = None
    status: int | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    first_token: float | None = None
    silence: float = 0.0  # the longest silence; only the raw client sees this, pings and [DONE]
    pings: int = 0
    done: bool = False
    sent_at: float = 0.0


@dataclass(frozen=True)
class Observed:
    """All observations of one case."""

    asked: Sequence[Outcome]
    primary: Sequence[Entry]
    fallback: Sequence[Entry]
    whole: frozenset[str]  # the texts that count as a whole answer
    has_fallback: bool = True
    alive: Outcome | None = None  # the outcome of a healthy request afterwards

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of the requests; from worst to best: a hang, a short answer, an error, a whole answer."""
        return max(self.asked, key=self._badness)

    def _badness(self, outcome: Outcome) -> int:
        if outcome.kind == "answer":
            return 0 if self.is_whole(outcome) else 2
        return 1 if outcome.kind == "error" else 3

    def is_whole(self, outcome: Outcome) -> bool:
        return outcome.kind == "answer" and " ".join(outcome.text.split()) in self.whole


@dataclass(frozen=True)
class Rule:
    """One rule; `holds` returns None if the observations do not show whether the rule was kept."""

    name: str
    holds: Callable[[Observed], bool | None]
    weight: Literal["required", "advice", "note"] = "required"  # a note never changes the verdict
    needs_fallback: bool = False


@dataclass(frozen=True)
class Verdict:
    word: Word
    why: str
    notes: list[str] = field(default_factory=list)  # names of the broken rules that are notes


def judge(rules: Sequence[Rule], ideal: Literal["answer", "error"], seen: Observed) -> Verdict:
    outcome = seen.outcome
    if not seen.primary:
        return Verdict("fail", "the primary was never tried, so the case shows nothing")
    if outcome.kind == "hang":
        return Verdict("fail", f"nothing after {outcome.seconds:.0f} s")
    if ideal == "answer" and outcome.kind == "answer" and not seen.is_whole(outcome):
        return Verdict("fail", f"a short or changed answer as if whole ({len(outcome.text.split())} words)")
    broken = [rule for rule in rules if (seen.has_fallback or not rule.needs_fallback) and rule.holds(seen) is False]
    notes = [rule.name for rule in broken if rule.weight == "note"]
    if required := [rule.name for rule in broken if rule.weight == "required"]:
        return Verdict("fail", "not " + ", not ".join(required), notes)
    if ideal == "error" and outcome.kind == "answer":
        return Verdict("partial", "the refusal was bypassed", notes)
    if outcome.kind != ideal:
        return Verdict("safe", "a clean error", notes)
    if advice := [rule.name for rule in broken if rule.weight == "advice"]:
        return Verdict("partial", "not " + ", not ".join(advice), notes)
    return Verdict("pass", "", notes)


# ---- Rules on what the primary saw


def tries(least: int = 1, most: int | None = None, **more: Any) -> Rule:
    if most is None:
        name = f"at least {least} tries at the primary"
    else:
        name = f"at most {most} {'try' if most == 1 else 'tries'} at the primary"
    return Rule(name, lambda seen: least <= len(seen.primary) and (most is None or len(seen.primary) <= most), **more)


def tries_within(seconds: float, most: int) -> Rule:
    def holds(seen: Observed) -> bool:
        return sum(entry.at - seen.primary[0].at < seconds for entry in seen.primary) <= most

    return Rule(f"at most {most} tries in {seconds:g} s", holds)


def gap_of(seconds: float, **more: Any) -> Rule:
    def holds(seen: Observed) -> bool:
        return len(seen.primary) > 1 and seen.primary[1].at - seen.primary[0].at >= seconds

    return Rule(f"{seconds:g} s between the first two tries", holds, **more)


def each_try_smaller() -> Rule:
    """The rule that a prompt which was too long is never sent again unchanged."""

    def holds(seen: Observed) -> bool:
        sizes = [entry.prompt_tokens for entry in seen.primary]
        return all(later < earlier for earlier, later in pairwise(sizes))

    return Rule("the long prompt sent only once", holds)


# ---- Rules on what the client got


def ends_within(seconds: float, **more: Any) -> Rule:
    return Rule(f"over within {seconds:g} s", lambda seen: seen.outcome.seconds <= seconds, **more)


def whole_answer(**more: Any) -> Rule:
    return Rule("a whole answer", lambda seen: seen.is_whole(seen.outcome), **more)


def usage_reported(**more: Any) -> Rule:
    return Rule("usage reported", lambda seen: bool(seen.outcome.usage), **more)


def reason_given(code: str, **more: Any) -> Rule:
    def holds(seen: Observed) -> bool:
        return code in (seen.outcome.code or "") or code in seen.outcome.error

    return Rule("the reason passed on", holds, **more)


def alive_afterwards() -> Rule:
    return Rule("healthy afterwards", lambda seen: seen.alive is not None and seen.is_whole(seen.alive))


# ---- Rules on the fallback


def fallback_named(**more: Any) -> Rule:
    """The rule that an answer of the fallback names the fallback's model."""

    def holds(seen: Observed) -> bool | None:
        return "fallback" in (seen.outcome.model or "") if seen.fallback else None

    return Rule("the answering model named", holds, **more)


def prefill_not_masking() -> Rule:
    """The rule that the fallback's refusal of an assistant prefill must not end the call."""

    def holds(seen: Observed) -> bool:
        return seen.outcome.kind != "error" or not any("prefill" in entry.became for entry in seen.fallback)

    return Rule("the real failure reported", holds)


def fallback_spared(**more: Any) -> Rule:
    return Rule("the fallback spared", lambda seen: not seen.fallback, **more)


# ---- Rules on a series of requests, while the primary is down and afterwards


def served_while_down(down: float, **more: Any) -> Rule:
    def holds(seen: Observed) -> bool:
        meanwhile = [each for each in seen.asked if each.sent_at < down]
        return bool(meanwhile) and all(map(seen.is_whole, meanwhile))

    return Rule("every request served while it was down", holds, **more)


def back_within(seconds: float, down: float, **more: Any) -> Rule:
    def holds(seen: Observed) -> bool:
        return any(entry.became.startswith("200") and entry.at <= down + seconds for entry in seen.primary)

    return Rule(f"back on the primary within {seconds:g} s", holds, **more)


def few_tries_while_down(down: float, **more: Any) -> Rule:
    def holds(seen: Observed) -> bool:
        tried = sum(entry.at < down for entry in seen.primary)
        return tried <= sum(each.sent_at < down for each in seen.asked)

    return Rule("as many tries as requests, at most, while it was down", holds, **more)
