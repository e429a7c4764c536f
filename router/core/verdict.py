"""What an attempt's end says about its endpoint: one word, felt everywhere the same way.

verdict     first-token estimate    breaker        another attempt?   the client sees
SERVED      the first token's time  success        no                 the answer
REFUSED     untouched               untouched      no                 the upstream's own refusal
BUSY        untouched               out a while    yes, now           nothing, or 429 with Retry-After
FAULT       penalised               failure        yes, until commit  nothing, or 502
ABANDONED   at least its time       inconclusive   -                  -, or 504
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    SERVED = "served"
    REFUSED = "refused"
    BUSY = "busy"
    FAULT = "fault"
    ABANDONED = "abandoned"


# Our key (401, 402, 403), our model's name or path (404, 405, 410), a server that gave up reading (408), or something
# between us and it that wants our proxy's key, another connection, a later try, another protocol (407, 421, 425, 426):
# not the client's fault, though the status is a 4xx.
OUR_FAULT = frozenset({401, 402, 403, 404, 405, 407, 408, 410, 421, 425, 426})


def of_status(status: int, *, retry_after: bool = False) -> Verdict:
    """The verdict on an answer's status alone; `retry_after` says whether it names a time to come back.

    429 is BUSY, and so are 529 (a vendor's "overloaded") and a 503 that says when to come back. A redirect is a FAULT:
    following it would send our key to an address that nobody configured.
    """
    if 200 <= status < 300:
        return Verdict.SERVED
    if status in (429, 529) or (status == 503 and retry_after):
        return Verdict.BUSY
    if 400 <= status < 500 and status not in OUR_FAULT:
        return Verdict.REFUSED
    return Verdict.FAULT
