"""A circuit breaker: stops traffic to a failing endpoint, and lets one trial through to find out if it serves again.

              3 failures in a row, or half of 10 in 30 s, or lost races that cannot be chance
    CLOSED ────────────────────────────────────────────► OPEN ◄──────────────┐
      ▲                                                    │ wait is over     │ trial failed:
      │ trial served, then a slow start after failures     ▼                  │ the wait doubles
      └──────────────────────────────────────────────── HALF_OPEN ───────────┘

Counts are exact, in buckets of time: an average would hide a short burst of failures. An attempt without a result (its
race was lost, its client left) only hands back the trial, unless the attempt was late: an endpoint that is late each
time is frozen, and hedges end its attempts before any timeout would.

A late loss may be chance: an endpoint at which 6 % of the calls stall loses three races in a row once in 4,600 rows. So
each loss adds its surprise, -ln of the share of the endpoint's waits that last as long, and the breaker opens when
losses in a row come to UNLIKELY. A first token ends the row, and an attempt that began before it does not count: an
endpoint that serves other attempts meanwhile has a queue, or stalls, but is not frozen.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from math import log

IN_A_ROW = 3  # failures that open the breaker, and the fewest lost races
# Surprise of the lost races in a row from which on they are no chance: e^-12 is one in 160,000. At an endpoint that
# stalls in 6 % of the calls a loss adds 2.8, and five in a row open the breaker.
UNLIKELY = 12.0
# Surprise of one lost race at most, -ln 0.009: no distribution is known much better than to one in a hundred. Three
# open the breaker: 3 * 4.7 = 14.1. That much adds a loss where no distribution is known.
MAX_SURPRISE = 4.7
MIN_CHANCE = 1e-3  # keeps the logarithm finite; beyond MAX_SURPRISE
WINDOW = 30.0  # seconds over which calls are counted
BUCKET = 3.0  # seconds per bucket of the window
MIN_CALLS = 10  # in the window, below which the share of failures is not judged
MAX_FAILURE_SHARE = 0.5  # of the calls in the window; the breaker opens from there on
# Seconds until the first trial, then 4, 8, 16, 20, 20 …: an endpoint that is back after a minute is tried within 20 s.
FIRST_WAIT = 2.0
MAX_WAIT = 20.0
RAMP = 30.0  # seconds of slow start after a recovery at most; no longer than the outage
MIN_RAMP = 0.1  # share of the weight at the beginning of the slow start


class State(Enum):
    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """The breaker of one endpoint.

    Protocol: `allows` before an attempt, `begin` when it begins, then one of `success`, `failure`, `lost` or
    `inconclusive` when it ends.
    """

    __slots__ = (
        "_buckets",
        "_failed",
        "_opened_at",
        "_out_since",
        "_ramp",
        "_surprise",
        "_token_at",
        "_trial",
        "_wait",
        "failures_in_a_row",
        "losses_in_a_row",
        "recovered_at",
        "retry_at",
    )

    def __init__(self) -> None:
        self.failures_in_a_row = self.losses_in_a_row = 0
        self.retry_at: float | None = None  # None: closed; else the time from which one trial is allowed
        self._opened_at = self._out_since = 0.0  # the last opening, and the first one of this outage
        self._failed = False  # an attempt has failed in this outage; else it has only lost races
        self._surprise = 0.0  # of the lost races in a row
        self._token_at = 0.0  # the last first token
        self._ramp = 0.0  # seconds of the slow start
        self.recovered_at: float | None = None  # time of the last recovery; None: never opened
        self._wait = 0.0  # seconds of the last wait for a trial
        self._trial = False  # a trial is running
        self._buckets: deque[list[float]] = deque()  # [start, successes, failures]

    def state(self, now: float) -> State:
        if self.retry_at is None:
            return State.CLOSED
        return State.OPEN if now < self.retry_at else State.HALF_OPEN

    def allows(self, now: float) -> bool:
        """True if an attempt may be sent: closed, or half-open without a trial running."""
        return self.retry_at is None or (now >= self.retry_at and not self._trial)

    def ramp(self, now: float) -> float:
        """The share of the endpoint's weight in effect now: 1, but less in the slow start after a recovery.

        The slow start is as long as the outage, RAMP at most. After an outage without a failure there is none: the
        endpoint was slow, lost races, and is not starting up.
        """
        if self.recovered_at is None or now >= self.recovered_at + self._ramp:
            return 1.0
        return max(MIN_RAMP, (now - self.recovered_at) / self._ramp)

    def trial_due(self, now: float) -> bool:
        """True if the breaker is half-open and no trial is running."""
        return self.retry_at is not None and now >= self.retry_at and not self._trial

    def begin(self) -> bool:
        """Count an attempt that begins; True if it is the trial."""
        trial = self.retry_at is not None and not self._trial
        self._trial = self._trial or trial
        return trial

    def success(self, now: float, began: float, *, trial: bool) -> bool:
        """Count a served attempt; True if it closes the breaker.

        An attempt that began before the breaker opened proves nothing about now.
        """
        self._trial = self._trial and not trial
        if self.retry_at is None:
            self.failures_in_a_row = 0
            self._bucket(now)[1] += 1
        elif began >= self._opened_at:
            self._close(now)
            return True
        return False

    def failure(self, now: float, began: float, *, trial: bool) -> bool:
        """Count a failed attempt; True if it opens the breaker."""
        self._trial = self._trial and not trial
        if self.retry_at is None:
            self.failures_in_a_row += 1
            self._bucket(now)[2] += 1
            if self.failures_in_a_row >= IN_A_ROW or self._failing():
                self._open(now, FIRST_WAIT)
                self._failed = True
                return True
        elif began >= self._opened_at:
            self._failed = True
            self._open(now, min(self._wait * 2, MAX_WAIT))
        return False

    def token(self, now: float) -> None:
        """Note that an attempt has its first token: the row of lost races is broken."""
        self._token_at = now
        if self.losses_in_a_row:
            self.losses_in_a_row, self._surprise = 0, 0.0

    def lost(self, now: float, began: float, *, trial: bool, chance: float = 0.0) -> None:
        """Count a late attempt that lost its race without a token.

        `chance` is the share of the endpoint's waits that last as long as the attempt did; 0 if that is unknown.
        """
        self._trial = self._trial and not trial
        if self.retry_at is None:
            if began < self._token_at:
                return
            self.losses_in_a_row += 1
            self._surprise += min(MAX_SURPRISE, -log(max(MIN_CHANCE, chance)))
            if self.losses_in_a_row >= IN_A_ROW and self._surprise >= UNLIKELY:
                self._open(now, FIRST_WAIT)
        elif began >= self._opened_at:
            self._open(now, min(self._wait * 2, MAX_WAIT))

    def inconclusive(self, *, trial: bool) -> None:
        """Hand back the trial: the attempt ended without a result."""
        self._trial = self._trial and not trial

    def hint(self, now: float) -> None:
        """Allow the trial from now on: a probe found the endpoint alive again."""
        if self.retry_at is not None:
            self.retry_at = min(self.retry_at, now)

    def _open(self, now: float, wait: float) -> None:
        if self.retry_at is None:
            self._out_since, self._failed = now, False
        self._opened_at, self._wait, self.retry_at = now, wait, now + wait

    def _close(self, now: float) -> None:
        self.retry_at, self.recovered_at, self.failures_in_a_row = None, now, 0
        self.losses_in_a_row, self._surprise = 0, 0.0
        self._ramp = min(RAMP, now - self._out_since) if self._failed else 0.0
        self._buckets.clear()

    def _bucket(self, now: float) -> list[float]:
        if not self._buckets or now >= self._buckets[-1][0] + BUCKET:
            self._buckets.append([now, 0.0, 0.0])
            while self._buckets[0][0] <= now - WINDOW:
                self._buckets.popleft()
        return self._buckets[-1]

    def _failing(self) -> bool:
        successes = sum((bucket[1] for bucket in self._buckets), 0.0)
        failures = sum((bucket[2] for bucket in self._buckets), 0.0)
        return successes + failures >= MIN_CALLS and failures >= MAX_FAILURE_SHARE * (successes + failures)
