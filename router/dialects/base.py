"""What a dialect says of its kind of server, with what all OpenAI-compatible ones share as the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from router.core.call import Fields, Operation
from router.core.verdict import OUR_FAULT, Verdict, of_status
from router.dialects.prefill import Prefill

HOSTED_IDLE = 90.0  # seconds; what hosted front ends keep an unused connection for is rarely told, and rarely less

PATHS: Mapping[Operation, str] = {
    "chat/completions": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
}

# What OpenAI-compatible servers put into an error's `code` or `type`, also inside a 200 stream where the status says
# nothing.
CODES: Mapping[str, Verdict] = {
    "context_length_exceeded": Verdict.REFUSED,
    "content_policy_violation": Verdict.REFUSED,
    "content_filter": Verdict.REFUSED,
    "invalid_request_error": Verdict.REFUSED,
    "BadRequestError": Verdict.REFUSED,
    "400": Verdict.REFUSED,
    "rate_limit_exceeded": Verdict.BUSY,
    "rate_limit_error": Verdict.BUSY,
    "overloaded_error": Verdict.BUSY,
    "429": Verdict.BUSY,
    "529": Verdict.BUSY,
}


@dataclass(frozen=True)
class Dialect:
    """`adapt` changes a request's fields in place to what the kind knows."""

    idle: float = HOSTED_IDLE  # seconds that its servers keep an unused connection, before we have learned better
    probe: Literal["health", "models", "connect", "off"] = "models"  # what `kind: auto` means for it
    paths: Mapping[Operation, str] = field(default_factory=lambda: PATHS)
    codes: Mapping[str, Verdict] = field(default_factory=lambda: CODES)
    adapt: Callable[[Fields], None] | None = None
    prefill: Prefill | None = None  # how it is asked to go on from a text

    def judge(self, status: int, error: Any, retry_after: float | None) -> Verdict:
        """The verdict on a refusal or failure: the vendor's code where it is known, else the status.

        `error` is the error object of the body or of a stream's event, or whatever stood in its place.
        """
        for code in _codes(error):
            if code in self.codes and not (status in OUR_FAULT and self.codes[code] is Verdict.REFUSED):
                return self.codes[code]
        verdict = of_status(status, retry_after=retry_after is not None)
        return Verdict.FAULT if verdict is Verdict.SERVED else verdict


def _codes(error: Any) -> list[str]:
    if not isinstance(error, dict):
        return []
    return [str(error[key]) for key in ("code", "type") if error.get(key) is not None]
