"""The verdict on an ended attempt, which every part of the router treats in the same way, and its cause.

verdict     first-token estimate    breaker        another attempt?   the client sees
SERVED      time to first token     success        no                 the answer
REFUSED     unchanged               unchanged      no                 the endpoint's own refusal
BUSY        unchanged               cooldown       yes, now           nothing, or 429 with Retry-After
FAULT       penalised               failure        yes, until commit  nothing, or 502
ABANDONED   at least its duration   inconclusive   -                  -, or 504

A BUSY, and a FAULT that may concern one call alone (see `Doubt`), has these effects only when a second call confirms
it; then a FAULT too begins a cooldown, and is no failure to the breaker.

Each cause belongs to one verdict. Some have an effect of their own:

BUSY     THROTTLED       too many at once, or too often     its limit of concurrent attempts shrinks
         OVERLOADED      the server's load, not ours
         QUOTA           used up until a time               cooldown until then, not even asked as the last resort
FAULT    DENIED          our key, our account, our plan     cooldown, in the end a long one, and an error in the log
         MISCONFIGURED   our model's name, path or rights   the same
         TRANSIENT       all else
REFUSED  TOO_LONG        prompt or body is too long for it  an endpoint with a larger context is asked
         POLICY          the content of the request
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

OURS = frozenset({Cause.DENIED, Cause.MISCONFIGURED})  # faults that only the operator can correct

# The statuses that blame the request, at any endpoint: its syntax, its length, its size, its media type, its content.
# A code for a rejected content (POLICY) blames the request with any status. Every other 4xx is about the endpoint, the
# path to it, or our account there: another endpoint may serve the same request.
REQUESTS_FAULT = frozenset({400, 411, 413, 414, 415, 416, 422, 431})
# 403 and 404 may also concern a single request (to a model without the requested feature, say), so they do not prove
# that the key is denied.
_DENIED = frozenset({401, 402})
_MISCONFIGURED = frozenset({403, 404, 405, 407, 410, 426})  # path, model, proxy authentication, protocol version
_LOOP_DETECTED = 508  # the endpoint's address leads back to where the request came from (RFC 5842)
_FAILED_DEPENDENCY = 424  # the status of a failure in Text Generation Inference
_OF_THE_ENDPOINT = frozenset({502, 503, 504})  # no answer from what stands behind the address, for any client


def of_status(status: int, *, retry_after: bool = False) -> Cause | None:
    """The cause that a status alone implies; None for 2xx. `retry_after` is True if the answer has a Retry-After time.

    429 is BUSY, and so are 529 (a vendor's "overloaded") and a 503 with a Retry-After. 413 is about the size of the
    request, which another endpoint may accept. A redirect is a FAULT: following it would send our key to an address
    that is not configured.
    """
    if 200 <= status < 300:
        return None
    if status == 429:
        return Cause.THROTTLED
    if status == 529 or (status == 503 and retry_after):
        return Cause.OVERLOADED
    if status in _DENIED:
        return Cause.DENIED
    if status in _MISCONFIGURED or 300 <= status < 400 or status == _LOOP_DETECTED:
        return Cause.MISCONFIGURED
    if status == 413:
        return Cause.TOO_LONG
    return Cause.INVALID if status in REQUESTS_FAULT else Cause.TRANSIENT


def doubt_of(status: int, cause: Cause, *, retry_after: bool) -> Doubt:
    """The doubt about an endpoint's answer of an unfavourable status and cause. A 200 has an error in it."""
    if cause.verdict is Verdict.BUSY or cause in OURS:
        return Doubt.CALL
    if cause is Cause.TRANSIENT and status in REQUESTS_FAULT:
        return Doubt.REQUEST  # words in a message, which may be the client's
    if status in _OF_THE_ENDPOINT:
        return Doubt.CALL if retry_after else Doubt.NONE
    return Doubt.CALL if 300 <= status < 500 and status != _FAILED_DEPENDENCY else Doubt.REQUEST


class Doubt(Enum):
    """Whether an unfavourable outcome may concern the call alone, and what confirms that it concerns the endpoint."""

    NONE = "none"  # no connection, a timeout, a cut, 502, 503, 504: about the endpoint, for every client
    CALL = "call"  # 401, 403, 404, 429, 503 with Retry-After, their codes: until a second call is refused too
    REQUEST = "request"  # 500, 501, an unknown error inside a 200: until a different request is refused too


class Outcome:
    """How an attempt ended: its verdict, and what the endpoint reported with it.

    `reason` is a few words without secrets. `retry_after` is in seconds, None where the endpoint named no time.
    `cause` is None unless the endpoint's own report led to the verdict. `passing` is True if the same endpoint might
    serve the same request a moment later. Without `doubt` a BUSY and a fault that the operator must correct may concern
    the call alone, other faults concern the endpoint. `message` is the endpoint's own error text, fit to be quoted to a
    client and in the log: bounded, escaped, without our keys. Treated as immutable.
    """

    __slots__ = ("cause", "doubt", "message", "passing", "reason", "retry_after", "verdict")

    def __init__(
        self,
        verdict: Verdict,
        reason: str = "",
        retry_after: float | None = None,
        cause: Cause | None = None,
        *,
        passing: bool = True,
        doubt: Doubt | None = None,
        message: str = "",
    ) -> None:
        self.verdict, self.reason, self.cause = verdict, reason, cause
        self.retry_after, self.passing, self.message = retry_after, passing, message
        if doubt is None:
            doubt = Doubt.CALL if verdict is Verdict.BUSY or cause in OURS else Doubt.NONE
        self.doubt = doubt

    @property
    def explained(self) -> str:
        """The reason, followed by the endpoint's own words if they say more."""
        return self.reason if self.message in self.reason else f'{self.reason}: "{self.message}"'

    def __repr__(self) -> str:
        return f"<Outcome {self.verdict.value} {self.reason}>"


SERVED = Outcome(Verdict.SERVED)
