"""Cooldown: how long an endpoint is not asked for one operation after refusals that may concern a single request.

               a later call is refused too
    SUSPECTED ────────────────────────────► COOLING DOWN ──its time is over──► PROBATION
      ▲     │                                     ▲                               │    │
      │     │ a call is served                    └── refused again: twice as ────┘    │ a call is served
      │     ▼                                         long, up to what was asked for   ▼
      └── TRUSTED ◄────────────────────────────────────────────────────────────────────┘
      refused

One client's request must not take a model away from all others: a 429, a 401 or a 500 may be about that request alone.
So the first refusal only makes the endpoint suspected. The cooldown begins when a call that began after that refusal is
refused too, with no call served in between. Where the request itself is likely at fault, the two must differ. If one
request was refused twice (an SDK sends it again), the cooldown holds for that request alone, until another is refused.

    busy, with a time        1, 2, 4 … seconds, at most the time that the server asked for, and at most MAX_RETRY_AFTER
    busy, without a time     1, 2, 4, 8, 16 seconds
    a quota                  until the time that the server named
    denied, misconfigured    1, 2, 4 … OPERATOR_WAIT seconds: the operator must correct it
    other faults             1, 2, 4, 8, 16 seconds

Where no endpoint of a model is available for such refusals, one call at a time is the cooldown's trial, after 1, 2, 4,
8, 8 … seconds; never before the time that a quota named. The first call of a probation is a trial as well, if it comes
within the length of the cooldown: others follow when it has a first token, or after a second.
"""

from __future__ import annotations

from math import inf

from router.core.demand import ANY_REQUEST, Demand
from router.core.verdict import OURS, Cause, Doubt, Outcome, Verdict

FIRST_COOLDOWN = 1.0  # seconds; doubled with each cooldown until a call is served
MAX_BACKOFF = 16.0  # seconds without a time from the server: an endpoint that is back after a minute is asked soon
MAX_RETRY_AFTER = 60.0  # seconds that a server's Retry-After is believed for, except a quota's; then it is asked again
OPERATOR_WAIT = 300.0  # seconds between two tries while the operator must correct a key, a bill or a name
MAX_TRIAL_WAIT = 8.0  # seconds until the trial of a cooldown, doubled from FIRST_COOLDOWN; and until one beside a trial
MAX_DOUBLINGS = 16  # more change nothing


class Cooldown:
    """The standing of one endpoint for one operation; `until` and `trial_at` are times.

    Before `until` the endpoint is asked only as the last resort, and before `trial_at` not even then. `confirmed` is
    True from the first cooldown on, until a call is served. `failing`: the last refusal was a fault, not a BUSY.
    """

    __slots__ = (
        "_count",
        "_doubt",
        "_ends",
        "_fingerprint",
        "_first",
        "_length",
        "_only",
        "_since",
        "_suspected_at",
        "_trials",
        "cause",
        "failing",
        "trial_at",
        "until",
    )

    def __init__(self) -> None:
        self.until = self.trial_at = 0.0
        self.cause: Cause | None = None  # of the last cooldown
        self.failing = False
        self._first: Demand | None = None  # the first call that was refused; None: not suspected
        self._fingerprint = ANY_REQUEST  # of that call
        self._doubt = Doubt.CALL  # of that refusal
        self._suspected_at = -inf  # when that refusal came
        self._only: int | None = None  # the fingerprint, if all refused calls were one request
        self._count = 0  # cooldowns since a call was served
        self._since = self._ends = -inf  # when the last cooldown began, and when it ends
        self._length = 0.0  # seconds of it
        self._trials = 0  # that are running

    @property
    def trusted(self) -> bool:
        """True if nothing is held against the endpoint."""
        return self._first is None and not self._count

    @property
    def suspected(self) -> bool:
        """True after a refusal that nothing has confirmed."""
        return not self._count and self._first is not None

    @property
    def confirmed(self) -> bool:
        return self._count > 0

    def concerns(self, demand: Demand) -> bool:
        """False if only another request was refused."""
        return self._only is None or demand.fingerprint in (self._only, ANY_REQUEST)

    def allows_trial(self, now: float) -> bool:
        """True if the endpoint may be asked as the last resort."""
        return now >= min(self.until, self.trial_at)

    def trial_runs(self, now: float) -> bool:
        """True if a trial is running, which the next one waits for."""
        return self._trials > 0 and now < self.until

    def doubted_by_another(self, demand: Demand) -> bool:
        """True if another call than this one was refused, and none was served since."""
        return self._count > 0 or (self._first is not None and self._first is not demand)

    # What has happened.

    def begin(self, now: float) -> bool:
        """An attempt begins; True if it is a trial, and other calls are to wait until its first token.

        A trial that stays silent must not be the only one for long.
        """
        if now < self.until:
            self.trial_at = min(self.until, now + MAX_TRIAL_WAIT)
        elif self._count and now < self._ends + self._length:
            self.until = self.trial_at = now + FIRST_COOLDOWN
        else:
            return False
        self._trials += 1
        return True

    def suspect(self, outcome: Outcome, demand: Demand, now: float) -> None:
        """A call was refused, which begins no cooldown."""
        self.failing = outcome.verdict is Verdict.FAULT
        if self._first is None:
            self._first, self._fingerprint = demand, demand.fingerprint
            self._suspected_at, self._doubt = now, outcome.doubt

    def refused(self, outcome: Outcome, demand: Demand, began: float, now: float) -> bool:
        """A call that began at `began` was refused; True if this begins a cooldown."""
        first, since = self._first, self._since if self._count else self._suspected_at
        self.suspect(outcome, demand, now)
        # Refused before: by an attempt that began earlier, or by another attempt of this call.
        if first is None or began < since or (first is demand and not self._count):
            return False
        same = self._fingerprint == demand.fingerprint
        if not self._count:
            if same and Doubt.REQUEST in (self._doubt, outcome.doubt):
                return False
            self._only = demand.fingerprint if same and demand.fingerprint != ANY_REQUEST else None
        elif self._only is not None and not same:
            self._only, self._count = None, 0  # the first cooldown for all requests
        self._cool_down(outcome, now)
        return True

    def served(self, began: float, now: float) -> None:
        """A call that began at `began` has its first token: nothing is held against the endpoint from before it.

        A call from before the cooldown does not end that.
        """
        if began >= self._since:
            self.until, self.trial_at = min(self.until, now), min(self.trial_at, now)
            self._count, self._only, self._first = 0, None, None
        if not self._count:
            self._first = None
        self.failing = False

    def end_trial(self, began: float, now: float) -> None:
        """A trial that began at `began` has ended; if it decided nothing, the next one may begin."""
        self._trials = max(0, self._trials - 1)
        if began >= self._since:
            self.trial_at = min(self.trial_at, now)
            self.until = max(self._ends, min(self.until, now))

    def _cool_down(self, outcome: Outcome, now: float) -> None:
        cause, asked = outcome.cause, outcome.retry_after
        doubled = FIRST_COOLDOWN * 2.0 ** min(self._count, MAX_DOUBLINGS)
        if cause is Cause.QUOTA and asked is not None:
            length = trial_wait = asked
        else:
            longest = OPERATOR_WAIT if cause in OURS else MAX_BACKOFF if asked is None else min(asked, MAX_RETRY_AFTER)
            length, trial_wait = min(doubled, longest), min(doubled, longest, MAX_TRIAL_WAIT)
        self._count += 1
        self._since, self._length, self.cause = now, length, cause
        self.until, self.trial_at = now + length, now + trial_wait
        self._ends = self.until
