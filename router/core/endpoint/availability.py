"""Whether an endpoint may be asked, and when again: probes, circuit breaker, cooldowns, learned limit and slots.

`Endpoint.begin` and `Attempt` are the only writers from the request path, probes write through `probed`. The counters
of attempts in flight and of used slots are written here only: an attempt and a queue entry reserve a slot and release
it.

Evidence about the endpoint itself (no connection, a timeout, a cut, a late attempt) goes to the circuit breaker, for
all operations. An outcome in doubt, which may concern one call alone, goes to the cooldown of that call's operation: a
server that refuses embeddings may serve chats.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

from router.core.demand import FIRST_TOKEN, Demand
from router.core.endpoint.breaker import Breaker, State
from router.core.endpoint.cooldown import Cooldown
from router.core.endpoint.health import Health
from router.core.endpoint.limit import Limit
from router.core.endpoint.slots import Slots
from router.core.verdict import Cause, Doubt, Outcome


class Ending(Protocol):
    """An attempt, as far as its end matters here."""

    @property
    def began(self) -> float: ...
    @property
    def demand(self) -> Demand: ...
    @property
    def trial(self) -> bool: ...
    @property
    def cooldown_trial(self) -> bool: ...
    @property
    def first_token_at(self) -> float | None: ...


class Availability:
    """`in_flight` counts the running attempts and the slots reserved for queued calls. A reload may replace `slots`.

    `cooldowns` are kept by operation, and only while something is held against the endpoint. `served_at` is when a call
    was last served. `has_opened` is True once the breaker has opened: until then there is no trial and no slow start.
    Methods that take a demand answer for its operation.
    """

    __slots__ = ("breaker", "cooldowns", "has_opened", "health", "in_flight", "limit", "served_at", "slots")

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.in_flight = 0
        self.health, self.limit, self.breaker = Health(), Limit(), Breaker()
        self.has_opened = False
        self.cooldowns: dict[str, Cooldown] = {}
        self.served_at = -inf

    # Whether it may be asked.

    def allows(self, now: float, demand: Demand = FIRST_TOKEN) -> bool:
        """True if an attempt may begin: up, not cooling down, breaker permitting, a slot free."""
        # Spelled out, because every call asks this of every endpoint; a property test compares it with its definition.
        breaker, slots, cooldowns = self.breaker, self.slots, self.cooldowns
        return (
            self.health.up
            and (breaker.retry_at is None or breaker.allows(now))
            and slots.used < slots.capacity
            and self.in_flight < self.limit.most
            and (not cooldowns or now >= self.cooling_until(demand))
        )

    def lacks_only_a_slot(self, now: float, demand: Demand = FIRST_TOKEN) -> bool:
        """True if a free slot is all that is missing: up, not cooling down, breaker permitting."""
        return self.full and self.health.up and now >= self.cooling_until(demand) and self.breaker.allows(now)

    def sound(self, now: float, demand: Demand = FIRST_TOKEN) -> bool:
        """True if nothing speaks against it: moving a failed call here cannot become a retry storm."""
        if not self.allows(now, demand) or self.breaker.failures_in_a_row or not self.closed(now):
            return False
        cooldown = self.cooldown(demand)
        return cooldown is None or not cooldown.failing

    def closed(self, now: float) -> bool:
        """True if the circuit breaker lets all traffic through."""
        return self.breaker.state(now) is State.CLOSED

    def last_resort(self, now: float, demand: Demand = FIRST_TOKEN) -> bool:
        """True if it may be asked where no endpoint is available: it has a slot, and its cooldown allows a trial."""
        if self.full:
            return False
        cooldown = self.cooldown(demand)
        return cooldown is None or cooldown.allows_trial(now)

    def recovers_at(self, now: float, demand: Demand = FIRST_TOKEN) -> float:
        """The time from which it may be asked: `now` if it may be asked now, inf if the time is unknown."""
        if not self.health.up or self.full:
            return inf
        then = max(now, self.out_until(demand))
        return then if self.breaker.allows(then) else inf  # inf: the breaker's trial is running

    def out_until(self, demand: Demand = FIRST_TOKEN) -> float:
        """The end of the cooldown or of the open breaker, whichever is later; probes are not considered."""
        return max(self.cooling_until(demand), self.breaker.retry_at or 0.0)

    def cooldown(self, demand: Demand = FIRST_TOKEN) -> Cooldown | None:
        """The standing that concerns such a demand; None if nothing is held against the endpoint."""
        cooldown = self.cooldowns.get(demand.operation)
        return cooldown if cooldown is not None and cooldown.concerns(demand) else None

    def cooling_until(self, demand: Demand = FIRST_TOKEN) -> float:
        """The end of the cooldown for such a demand; 0 if there is none."""
        cooldown = self.cooldown(demand)
        return 0.0 if cooldown is None else cooldown.until

    def trial_at(self, demand: Demand = FIRST_TOKEN) -> float:
        """The time from which it may be asked as the last resort."""
        cooldown = self.cooldown(demand)
        return 0.0 if cooldown is None else min(cooldown.until, cooldown.trial_at)

    def trial_runs(self, now: float, demand: Demand = FIRST_TOKEN) -> bool:
        """True if a trial of its cooldown is running."""
        cooldown = self.cooldown(demand)
        return cooldown is not None and cooldown.trial_runs(now)

    @property
    def longest_cooldown(self) -> tuple[str, Cooldown] | None:
        """The operation and cooldown that ends last; None if nothing is held against the endpoint."""
        return max(self.cooldowns.items(), key=lambda each: each[1].until, default=None)

    def ramp(self, now: float) -> float:
        """The share of its weight during slow start after a recovery; 1 otherwise."""
        return self.breaker.ramp(now)

    # Slots.

    @property
    def max_attempts(self) -> float:
        """Attempts at once: the configured concurrency, or the learned limit if that is lower; inf if there is none."""
        configured = self.slots.configured
        return self.limit.most if configured is None else min(float(configured), self.limit.most)

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

    # What is learned. An attempt begins with `begin`, ends with one of the others, then releases its slot.

    def begin(self, demand: Demand, now: float) -> bool:
        """An attempt begins; True if it is a trial of its cooldown. Call it only if there are cooldowns."""
        cooldown = self.cooldown(demand)
        return cooldown is not None and cooldown.begin(now)

    def accepted(self, attempt: Ending, now: float) -> None:
        """The attempt has its first token, so that its request was not refused. Call it only if there are cooldowns."""
        operation = attempt.demand.operation
        cooldown = self.cooldowns.get(operation)
        if cooldown is not None:
            self._end_trial(attempt, now)
            cooldown.served(attempt.began, now)
            if cooldown.trusted:
                del self.cooldowns[operation]

    def served(self, attempt: Ending, now: float) -> bool:
        """The attempt was served; True if this closes the breaker."""
        self.served_at = now
        self.health.observe(True)
        if self.cooldowns:
            self.accepted(attempt, now)
        if self.limit.most != inf:
            self.limit.served(self.in_flight, now)
        return self.breaker.success(now, attempt.began, trial=attempt.trial)

    def failed(self, attempt: Ending, outcome: Outcome, now: float) -> bool:
        """The attempt failed, or was refused for load; True if this counts against the endpoint.

        A request that has its first token was not refused: what ends it then concerns the endpoint.
        """
        broken = outcome.doubt is Doubt.REQUEST and attempt.first_token_at is not None
        if outcome.doubt is Doubt.NONE or broken:
            self.breaker.failure(now, attempt.began, trial=attempt.trial)
            self.has_opened = self.has_opened or self.breaker.retry_at is not None
            self._end_trial(attempt, now)
            return True
        self.breaker.inconclusive(trial=attempt.trial)
        return self._refused(attempt, outcome, now)

    def lost(self, attempt: Ending, chance: float, now: float) -> None:
        """The attempt lost its race without a token, and was late; `chance` as in `Breaker.lost`."""
        self.breaker.lost(now, attempt.began, trial=attempt.trial, chance=chance)
        self.has_opened = self.has_opened or self.breaker.retry_at is not None
        self._end_trial(attempt, now)

    def inconclusive(self, attempt: Ending, now: float) -> None:
        """The attempt ended without evidence about the endpoint."""
        self.breaker.inconclusive(trial=attempt.trial)
        self._end_trial(attempt, now)

    def _refused(self, attempt: Ending, outcome: Outcome, now: float) -> bool:
        """True if this begins a cooldown.

        A lower limit is all that a throttled endpoint needs while other attempts run there, unless it names a time.
        """
        demand = attempt.demand
        self._end_trial(attempt, now)
        cooldown = self.cooldowns.get(demand.operation)
        if cooldown is None:
            cooldown = self.cooldowns[demand.operation] = Cooldown()
        if outcome.cause is Cause.THROTTLED and self.in_flight > 1:
            # At a number that was refused before, one more refusal proves enough; else one request may be too large.
            if self.in_flight >= self.limit.refused or cooldown.doubted_by_another(demand):
                self.limit.throttled(self.in_flight, attempt.began, now)
            if outcome.retry_after is None and not attempt.cooldown_trial:
                cooldown.suspect(outcome, demand, now)
                return False
        return cooldown.refused(outcome, demand, attempt.began, now)

    def _end_trial(self, attempt: Ending, now: float) -> None:
        cooldown = self.cooldowns.get(attempt.demand.operation) if attempt.cooldown_trial else None
        if cooldown is not None:
            cooldown.end_trial(attempt.began, now)

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
