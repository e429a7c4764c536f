"""Whether an endpoint may be asked, and when again: probes, circuit breaker, cooldown, learned limit and slots.

`Endpoint.begin` and `Attempt` are the only writers from the request path, probes write through `probed`. The counters
of attempts in flight and of used slots are written here only: an attempt and a queue entry reserve a slot and release
it.

Breaker and cooldown are kept by operation, because a refusal of one operation says nothing of another. For now all
operations share the key ALL.
"""

from __future__ import annotations

from math import inf

from router.core.endpoint.breaker import Breaker, State
from router.core.endpoint.cooldown import Cooldown
from router.core.endpoint.health import Health
from router.core.endpoint.limit import Limit
from router.core.endpoint.slots import Slots
from router.core.verdict import OURS, Cause, Outcome

ALL = "all operations"


class Availability:
    """`in_flight` counts the running attempts and the slots reserved for queued calls. A reload may replace `slots`."""

    __slots__ = ("_by_operation", "breaker", "cooldown", "health", "in_flight", "limit", "slots")

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.in_flight = 0
        self.health, self.limit = Health(), Limit()
        self._by_operation: dict[str, tuple[Breaker, Cooldown]] = {ALL: (Breaker(), Cooldown())}
        self.breaker, self.cooldown = self._by_operation[ALL]

    # Whether it may be asked.

    def allows(self, now: float) -> bool:
        """True if an attempt may begin: up, not cooling down, breaker permitting, a slot free."""
        # Spelled out, because every call asks this of every endpoint; a property test compares it with its definition.
        breaker, slots = self.breaker, self.slots
        return (
            self.health.up
            and now >= self.cooldown.until
            and (breaker.retry_at is None or breaker.allows(now))
            and slots.used < slots.capacity
            and self.in_flight < self.limit.most
        )

    def lacks_only_a_slot(self, now: float) -> bool:
        """True if a free slot is all that is missing: up, not cooling down, breaker permitting."""
        return self.full and self.health.up and now >= self.cooldown.until and self.breaker.allows(now)

    def sound(self, now: float) -> bool:
        """True if nothing speaks against it: moving a failed call here cannot become a retry storm."""
        return self.allows(now) and self.breaker.failures_in_a_row == 0 and self.closed(now)

    def closed(self, now: float) -> bool:
        """True if the circuit breaker lets all traffic through."""
        return self.breaker.state(now) is State.CLOSED

    def last_resort(self, now: float) -> bool:
        """True if it may be asked where no endpoint is available: it has a slot, and its server named no later time."""
        return not self.full and now >= self.cooldown.quiet_until

    def recovers_at(self, now: float) -> float:
        """The time from which it may be asked: `now` if it may be asked now, inf if the time is unknown."""
        if not self.health.up or self.full:
            return inf
        then = max(now, self.out_until)
        return then if self.breaker.allows(then) else inf  # inf: the breaker's trial is running

    @property
    def out_until(self) -> float:
        """The end of the cooldown or of the open breaker, whichever is later; probes are not considered."""
        return max(self.cooldown.until, self.breaker.retry_at or 0.0)

    def ramp(self, now: float) -> float:
        """The share of its weight during slow start after a recovery; 1 otherwise."""
        return self.breaker.ramp(now)

    # Slots.

    @property
    def max_attempts(self) -> float:
        """Attempts at once: the configured concurrency, or the learned limit if that is lower; inf if there is none."""
        configured = self.slots.configured
        return self.limit.most if configured is None else min(configured, self.limit.most)

    @property
    def full(self) -> bool:
        """True if no further attempt may run at the same time."""
        return self.slots.full or self.in_flight >= self.limit.most

    def reserve(self) -> Slots:
        """Take one slot; the returned slots are what `release` gives it back to."""
        slots = self.slots
        self.in_flight += 1
        slots.used += 1
        return slots

    def release(self, slots: Slots) -> None:
        """Give one slot back to the slots that it was reserved from."""
        self.in_flight -= 1
        slots.used -= 1

    # What is learned. An attempt first ends with one of these, then releases its slot.

    def served(self, began: float, now: float, *, trial: bool) -> bool:
        """An attempt was served; True if this closes the breaker."""
        self.health.observe(True)
        self.cooldown.served(began, now)
        if self.limit.most != inf:
            self.limit.served(self.in_flight, now)
        return self.breaker.success(now, began, trial=trial)

    def failed(self, began: float, cause: Cause | None, now: float, *, trial: bool) -> None:
        """An attempt failed."""
        self.breaker.failure(now, began, trial=trial)
        if cause is not None and cause in OURS:
            self.cooldown.refused(cause, now)

    def lost(self, began: float, now: float, *, trial: bool) -> None:
        """An attempt lost its race without a token, and was late."""
        self.breaker.lost(now, began, trial=trial)

    def inconclusive(self, *, trial: bool) -> None:
        """An attempt ended without evidence about the endpoint."""
        self.breaker.inconclusive(trial=trial)

    def busy(self, outcome: Outcome, began: float, now: float) -> None:
        """An attempt was refused for load.

        A lower limit is all that a throttled endpoint needs while other attempts run there, unless it names a time.
        """
        throttled = outcome.cause is Cause.THROTTLED
        if throttled:
            self.limit.throttled(self.in_flight, began, now)
        if not throttled or outcome.retry_after is not None or self.in_flight == 1:
            self.cooldown.busy(now, outcome.retry_after, outcome.cause)

    def probed(self, ok: bool, now: float) -> bool:
        """A probe's result; True if it changed whether the endpoint is up.

        A probe closes no breaker: a server can answer probes while its engine is frozen. It only brings the breaker's
        trial forward after failed probes: the process that answers then is a new one.
        """
        was_missed = self.health.misses > 0
        flipped = self.health.observe(ok)
        if was_missed and ok:
            self.breaker.hint(now)
        return flipped
