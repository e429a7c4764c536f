"""A circuit breaker: stops traffic to a failing endpoint, and lets one trial through to find out if it serves again.

              3 failures in a row, or half of 10 in 30 s, or 3 races lost in a row without a token
    CLOSED ────────────────────────────────────────────► OPEN ◄──────────────┐
      ▲                                                    │ wait is over     │ trial failed:
      │ trial served, then a slow start                    ▼                  │ the wait doubles
      └──────────────────────────────────────────────── HALF_OPEN ───────────┘

Counts are exact, in buckets of time: an average would hide a short burst of failures. An attempt without a result (its
race was lost, its client left) only hands back the trial, unless the attempt was late: one such loss may be chance, but
an endpoint that is late each time is frozen or overloaded, and hedges end its attempts before any timeout would.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

IN_A_ROW = 3  # failures, or races lost late, that open the breaker
WINDOW = 30.0  # seconds over which calls are counted
BUCKET = 3.0  # seconds per bucket of the window
MIN_CALLS = 10  # in the window, below which the share of failures is not judged
MAX_FAILURE_SHARE = 0.5  # of the calls in the window; the breaker opens from there on
# Seconds until the first trial, then 4, 8, 16, 20, 20 …: an endpoint that is back after a minute is tried within 20 s.
FIRST_WAIT = 2.0
MAX_WAIT = 20.0
RAMP = 30.0  # seconds of slow start after a recovery
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
        "_opened_at",
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
        self._opened_at = 0.0
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
        """The share of the endpoint's weight in effect now: 1, but less for RAMP seconds after a recovery."""
        if self.recovered_at is None or now >= self.recovered_at + RAMP:
            return 1.0
        return max(MIN_RAMP, (now - self.recovered_at) / RAMP)

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
                return True
        elif began >= self._opened_at:
            self._open(now, min(self._wait * 2, MAX_WAIT))
        return False

    def token(self) -> None:
        """Note that an attempt has its first token: the row of lost races is broken."""
        self.losses_in_a_row = 0

    def lost(self, now: float, began: float, *, trial: bool) -> None:
        """Count a late attempt that lost its race without a token."""
        self._trial = self._trial and not trial
        if self.retry_at is None:
            self.losses_in_a_row += 1
            if self.losses_in_a_row >= IN_A_ROW:
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
        self._opened_at, self._wait, self.retry_at = now, wait, now + wait

    def _close(self, now: float) -> None:
        self.retry_at, self.recovered_at, self.failures_in_a_row = None, now, 0
        self.losses_in_a_row = 0
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
