"""What an attempt's end says about its endpoint: one word, felt everywhere the same way; and beside it the cause.

verdict     first-token estimate    breaker        another attempt?   the client sees
SERVED      the first token's time  success        no                 the answer
REFUSED     untouched               untouched      no                 the upstream's own refusal
BUSY        untouched               out a while    yes, now           nothing, or 429 with Retry-After
FAULT       penalised               failure        yes, until commit  nothing, or 502
ABANDONED   at least its time       inconclusive   -                  -, or 504

A cause has one verdict, and some have an effect of their own:

BUSY     THROTTLED       too many at once, or too often     its limit of attempts at once shrinks
         OVERLOADED      its load, not ours
         QUOTA           used up until a time               out until then, and not asked even as the last one
FAULT    DENIED          our key, our account, our plan     out for long, and said loudly
         MISCONFIGURED   our model's name, path or rights   the same, unless it served others just now
         TRANSIENT       all else
REFUSED  TOO_LONG        more than its context holds        one with a larger context is asked
         POLICY          what was asked for
         INVALID         all else
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    SERVED = "served"
    REFUSED = "refused"
    BUSY = "busy"
    FAULT = "fault"
    ABANDONED = "abandoned"


class Cause(Enum):
    THROTTLED = "throttled"
    OVERLOADED = "overloaded"
    QUOTA = "quota"
    DENIED = "denied"
    MISCONFIGURED = "misconfigured"
    TRANSIENT = "transient"
    TOO_LONG = "too_long"
    POLICY = "policy"
    INVALID = "invalid"

    @property
    def verdict(self) -> Verdict:
        return _VERDICTS[self]


_VERDICTS = {
    **dict.fromkeys((Cause.THROTTLED, Cause.OVERLOADED, Cause.QUOTA), Verdict.BUSY),
    **dict.fromkeys((Cause.DENIED, Cause.MISCONFIGURED, Cause.TRANSIENT), Verdict.FAULT),
    **dict.fromkeys((Cause.TOO_LONG, Cause.POLICY, Cause.INVALID), Verdict.REFUSED),
}

OURS = frozenset({Cause.DENIED, Cause.MISCONFIGURED})  # for its operator to put right, not for time

# Statuses that are not the client's fault, though they are a 4xx. 403 and 404 are also said of one request (to a model
# that can't do what was asked of it, say), so these are no certain word about the key.
_DENIED = frozenset({401, 402})
_MISCONFIGURED = frozenset({403, 404, 405, 407, 410, 426})  # a path, a model, a proxy's key, another protocol
# It gave up reading, wants another connection or a later try; Text Generation Inference calls a failure so.
_TRANSIENT = frozenset({408, 421, 424, 425})
OUR_FAULT = _DENIED | _MISCONFIGURED | _TRANSIENT


def of_status(status: int, *, retry_after: bool = False) -> Cause | None:
    """What an answer's status alone says; None where it is good. `retry_after`: whether it names a time to come back.

    429 is BUSY, and so are 529 (a vendor's "overloaded") and a 503 that says when to come back. A redirect is a FAULT:
    following it would send our key to an address that nobody configured.
    """
    if 200 <= status < 300:
        return None
    if status == 429:
        return Cause.THROTTLED
    if status == 529 or (status == 503 and retry_after):
        return Cause.OVERLOADED
    if status in _DENIED:
        return Cause.DENIED
    if status in _MISCONFIGURED or 300 <= status < 400:
        return Cause.MISCONFIGURED
    return Cause.INVALID if 400 <= status < 500 and status not in _TRANSIENT else Cause.TRANSIENT


class Outcome:
    """How an attempt ended: its verdict, and what the endpoint reported with it.

    `reason` is a few words without secrets. `retry_after` is in seconds, None where the endpoint named no time.
    `cause` is None unless the endpoint's own report led to the verdict. `passing` is True if the same endpoint might
    serve the same request a moment later. Treated as immutable.
    """

    __slots__ = ("cause", "passing", "reason", "retry_after", "verdict")

    def __init__(
        self,
        verdict: Verdict,
        reason: str = "",
        retry_after: float | None = None,
        cause: Cause | None = None,
        *,
        passing: bool = True,
    ) -> None:
        self.verdict, self.reason, self.retry_after, self.cause, self.passing = (
            verdict,
            reason,
            retry_after,
            cause,
            passing,
        )

    def __repr__(self) -> str:
        return f"<Outcome {self.verdict.value} {self.reason}>"


SERVED = Outcome(Verdict.SERVED)
