"""What a dialect says of its kind of server, with what all OpenAI-compatible ones share as the default."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from router.core.call import Fields, Operation
from router.core.stream.error_body import error_of
from router.core.verdict import OUR_FAULT, Cause, Verdict, of_status
from router.dialects.prefill import Prefill

HOSTED_IDLE = 90.0  # seconds; what hosted front ends keep an unused connection for is rarely told, and rarely less
QUOTA_WAIT = 900.0  # seconds until a used-up quota is asked again, where nobody can read until when
MAX_QUOTA_WAIT = 86_400.0  # a day: what is out for longer is worth one attempt a day

PATHS: Mapping[Operation, str] = {
    "chat/completions": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
}

# What OpenAI-compatible servers put into an error's `code` or `type`, also inside a 200 stream where the status says
# nothing.
CODES: Mapping[str, Cause] = {
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "slow_down"), Cause.THROTTLED),
    **dict.fromkeys(("overloaded_error", "server_overloaded", "model_overloaded", "overloaded"), Cause.OVERLOADED),
    **dict.fromkeys(("invalid_api_key", "authentication_error", "account_deactivated"), Cause.DENIED),
    **dict.fromkeys(("insufficient_quota", "insufficient_balance", "billing_error"), Cause.DENIED),
    **dict.fromkeys(("billing_not_active", "billing_hard_limit_reached"), Cause.DENIED),
    **dict.fromkeys(("model_not_found", "NotFoundError", "not_found_error", "permission_error"), Cause.MISCONFIGURED),
    **dict.fromkeys(("context_length_exceeded", "exceed_context_size_error"), Cause.TOO_LONG),
    **dict.fromkeys(("content_policy_violation", "content_filter", "content_policy"), Cause.POLICY),
    **dict.fromkeys(("invalid_request_error", "BadRequestError", "validation"), Cause.INVALID),
    **dict.fromkeys(("generation", "incomplete_generation"), Cause.TRANSIENT),  # Text Generation Inference
}

# Words that say "too long" where no code does: OpenAI, vLLM, SGLang and Mistral; SGLang and Together; llama.cpp;
# Anthropic; xAI; Text Generation Inference (two).
_TOO_LONG = re.compile(
    r"maximum context length|longer than the model's context|exceeds? the (?:available|model's) context"
    r"|prompt is too long|maximum prompt length|tokens \+ `max_new_tokens` must be <="
    r"|`inputs` must have less than \d+ tokens",
    re.IGNORECASE,
)
READ = 2000  # characters of a message: some repeat the whole prompt


class Judgement(NamedTuple):
    """`retry_after`: seconds to stay away, where the answer says so."""

    cause: Cause
    retry_after: float | None = None

    @property
    def verdict(self) -> Verdict:
        return self.cause.verdict


class Gauges(NamedTuple):
    """What a server's page of metrics calls the requests that run and that wait there and the share of its key-value
    cache in use, each by its names, the newest first; and the label that tells engines apart, whose requests add up.
    """

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    kv: tuple[str, ...]
    engine: str


def no_reset(code: str, message: str, now: float) -> float | None:
    """For kinds that name no time in their messages."""
    return None


@dataclass(frozen=True)
class Dialect:
    """`adapt` changes a request's fields in place to what the kind knows. `resets_in` reads from a quota's code and
    message the seconds until it is there again; `now` is the wall's clock. `finishes` are the kind's own reasons to
    finish, and what OpenAI's clients know them as.
    """

    idle: float = HOSTED_IDLE  # seconds that its servers keep an unused connection, before we have learned better
    probe: Literal["health", "models", "connect", "off"] = "models"  # what `kind: auto` means for it
    paths: Mapping[Operation, str] = field(default_factory=lambda: PATHS)
    codes: Mapping[str, Cause] = field(default_factory=lambda: CODES)
    adapt: Callable[[Fields], None] | None = None
    resets_in: Callable[[str, str, float], float | None] = no_reset
    finishes: Mapping[str, str] = field(default_factory=dict)
    prefill: Prefill | None = None  # how it is asked to go on from a text
    gauges: Gauges | None = None  # how it tells its load, at GET /metrics beside the API

    def judge(self, status: int, said: Any, retry_after: float | None, now: float) -> Judgement:
        """What a refusal or failure means: the vendor's code where it is known, else the status, else the words.

        `said` is the body, an event, or the error object in one; a status of 200 says nothing.
        """
        error = error_of(said) or {}
        codes = [str(error[key]) for key in ("code", "type") if error.get(key) is not None]
        code = next((code for code in codes if self._tells(status, code)), "")
        cause = self.codes[code] if code else _of_status(status, codes, retry_after) or Cause.TRANSIENT
        message = str(error.get("message") or "")[:READ]
        if cause in (Cause.INVALID, Cause.TRANSIENT) and _TOO_LONG.search(message):
            return Judgement(Cause.TOO_LONG)
        if cause is Cause.QUOTA:
            wait = self.resets_in(code, message, now)
            wait = QUOTA_WAIT if wait is None else wait
            retry_after = min(max(wait, retry_after or 0.0), MAX_QUOTA_WAIT)
        return Judgement(cause, retry_after)

    def _tells(self, status: int, code: str) -> bool:
        """Our own fault is called an `invalid_request_error` too: there the status says more."""
        cause = self.codes.get(code)
        return cause is not None and not (cause is Cause.INVALID and status in OUR_FAULT)


def _of_status(status: int, codes: list[str], retry_after: float | None) -> Cause | None:
    """Inside a stream, and behind another gateway, an error's code is the status that it would have had."""
    if status == 500 or status < 300:
        status = next((int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)), status)
    return of_status(status, retry_after=retry_after is not None)
