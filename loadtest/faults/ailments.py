"""The faults of the fake endpoint, as data, by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault; all times are seconds at speed 1. The fields that are set apply together, in the order below."""

    description: str
    times: int | None = None  # number of attempts that meet the fault; None: all
    lasts: float | None = None  # seconds since the reset in which attempts meet the fault; None: always
    reset: bool = False  # resets the connection before any byte
    silent: float = 0.0  # sends no byte for this long, then closes the connection
    status: int = 200
    code: str | None = None
    message: str = ""
    retry_after: float | None = None
    refuses_prefill: bool = False
    first_token: float = 0.0  # delay after the head
    garbage_at: int | None = None  # an event that is not JSON precedes this token
    stops_at: int | None = None  # the stream stops before this token; the fields below say how
    stalls: float = 0.0  # silence before the end
    error_event: bool = False  # sends an error event inside the stream
    ends: str = "cut"  # "cut": chunked body without its end; "reset"; "whole": proper HTTP end, without [DONE]
    done: bool = True  # sends [DONE] after a whole stream


OVERLOADED = "The engine is currently overloaded. Please try again later."
FAULTS = {
    "healthy": Fault("answers"),
    # Faults of the sixteen cases.
    "busy-once": Fault(
        "429 with Retry-After: 2, once", times=1, status=429, code="rate_limit_exceeded", retry_after=2.0
    ),
    "busy": Fault("429 without Retry-After, always", status=429, code="rate_limit_exceeded"),
    "error-once": Fault("500 once", times=1, status=500),
    "overloaded": Fault("503, always", status=503, code="overloaded", message=OVERLOADED),
    "reset-once": Fault("resets the connection before any byte, once", times=1, reset=True),
    "silent": Fault("takes the request and stays silent for 120 s", silent=120.0),
    "late": Fault("headers at once, the first token after 20 s", first_token=20.0),
    "cut": Fault("cuts the stream after 40 of 60 tokens", stops_at=40),
    "stall": Fault("20 tokens, silence for 30 s, then closes", stops_at=20, stalls=30.0),
    "garbage": Fault("the tenth event is not JSON", garbage_at=10),
    "no-done": Fault("a whole stream without [DONE]", done=False),
    "too-long": Fault(
        "400 context_length_exceeded",
        status=400,
        code="context_length_exceeded",
        message="This model's maximum context length is 8192 tokens. Please reduce the length of the messages.",
    ),
    "policy": Fault(
        "400 content_policy_violation",
        status=400,
        code="content_policy_violation",
        message="Your request was rejected by our safety system.",
    ),
    "down": Fault("503 for 60 s, then healthy", lasts=60.0, status=503, code="overloaded", message=OVERLOADED),
    "no-prefill": Fault("refuses an assistant prefill with 400", refuses_prefill=True),
    # Further faults.
    "error-event": Fault("an error event after 40 tokens", stops_at=40, error_event=True, ends="whole"),
    "reset-midway": Fault("resets the connection after 40 tokens", stops_at=40, ends="reset"),
    "short": Fault("ends the stream properly after 40 tokens, without [DONE]", stops_at=40, ends="whole"),
    "empty": Fault("a stream without a token", stops_at=0, ends="whole"),
}
HEALTHY = FAULTS["healthy"]
