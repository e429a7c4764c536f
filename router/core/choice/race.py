"""The race of one call's attempts up to its first token: when the next one begins, and what pays for it.

    none is running    the first attempt, at once; after a failure a retry, at once if another endpoint can take over
    one is running     when it is late, a hedge beside it: both stay in the race, and the first token wins
    any is running     an attempt older than `abandon` is given up if yet another endpoint can take over
    no slot is free    the call is queued for the endpoints in `wanted`, and asks again when its entry is called
    none can run       the call is lost

`Candidates` says which endpoint comes next. Hedges and retries are drawn from two budgets. A retry at a sound endpoint
is free: a budget keeps a failing service from being asked more often, and a call that moves away from it asks it less.
An endpoint is asked again in the same call only if no other is left, once, and after a pause. One hedge at a time is
enough: no policy with more does better (Kaler, He, Elnikety, SPAA 2017).

A stream that broke after its first token gets a second race for the rest. Its first attempt, the rescue, is always paid
for, because it asks for a whole answer again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf
from random import Random

from router.core.choice.affinity import Affinity
from router.core.choice.candidates import RECHECK, Candidates
from router.core.choice.route import Route
from router.core.demand import Demand
from router.core.endpoint.endpoint import Attempt, Endpoint, Role
from router.core.endpoint.forecast import MIN_LATE
from router.core.verdict import Outcome, Verdict

MAX_ATTEMPTS = 6  # of one call, its rescues included
# Seconds. A client that says how long it waits is to see its own timeout, not ours a moment before it: SDKs retry then.
AFTER_CLIENT = 1.0
MAX_PATIENCE = 600.0  # seconds that a complete answer may take where the client waits as long: the SDKs' own default
MIN_ATTEMPTS = 2  # allowed however often the client has sent the call before: one failure may be bad luck
LOST = Outcome(Verdict.ABANDONED, "another attempt was first")
CALL_OVER = Outcome(Verdict.ABANDONED, "the call was over")


class History:
    """The race that a rescue follows: its number of attempts, and the endpoints that failed.

    `failed` says of each endpoint whether it may be asked once more, after a pause and if no other is left.
    """

    __slots__ = ("attempts", "failed")

    def __init__(self, attempts: int, failed: Mapping[Endpoint, bool]) -> None:
        self.attempts, self.failed = attempts, failed


class Race:
    """Call `give_up` and `next_attempt`, wait until `wake_at` or for news, report the news, and call them again.

    `live` are the running attempts, oldest first. `wanted` are the endpoints to be queued for, empty unless all are
    full.
    """

    __slots__ = (
        "_abandon_at",
        "_begin_until",
        "_candidates",
        "_demand",
        "_expires_at",
        "_hedge_at",
        "_hold_until",
        "_is_rescue",
        "_max_attempts",
        "_policies",
        "_route",
        "_stays",
        "attempts",
        "began",
        "deadline",
        "live",
        "wanted",
        "winner",
    )

    def __init__(
        self,
        route: Route,
        demand: Demand,
        now: float,
        rng: Random,
        limit: float = inf,
        asked_before: int = 0,
        affinity: Affinity | None = None,
        history: History | None = None,
    ) -> None:
        """The client waits for `limit` seconds; the more often it has `asked_before`, the fewer attempts the call gets.

        A shorter `limit` than the route's deadline takes its place. A longer one lets the last attempt at a complete
        answer run on, because its work would be lost; no attempt begins after the route's deadline.

        `affinity` draws the first attempt to the endpoint of the call's conversation. `history` is given for a rescue.
        """
        self._route, self._policies, self._demand, self.began = route, route.policies, demand, now
        self._is_rescue, self._stays = history is not None, affinity is not None
        self._candidates = Candidates(route, demand, now, rng, affinity, None if history is None else history.failed)
        self._begin_until = self.deadline = now + (route.deadline if limit > route.deadline else limit + AFTER_CLIENT)
        if limit != inf and limit > route.deadline and demand.kind != "first_token":
            longest = MAX_PATIENCE if limit > MAX_PATIENCE else limit + AFTER_CLIENT
            self.deadline = max(self.deadline, now + longest)
        self.attempts = 0 if history is None else history.attempts
        self._max_attempts = max(MIN_ATTEMPTS, MAX_ATTEMPTS >> asked_before) if asked_before else MAX_ATTEMPTS
        self.live: list[Attempt] = []
        self.winner: Attempt | None = None
        self._hold_until = inf  # when an attempt may begin while none is running; inf: never
        self._hedge_at = self._abandon_at = self._expires_at = inf  # for the running attempts
        self.wanted: Collection[Endpoint] = ()

    @property
    def history(self) -> History:
        """The history for a rescue, once the winner's stream has broken."""
        assert self.winner is not None
        failed, broken = self._candidates.failed_endpoints, self.winner.endpoint
        return History(self.attempts, failed | {broken: broken not in failed})

    # What is due.

    def next_attempt(self, now: float) -> Attempt | None:
        """The attempt that is due now, begun; None if nothing is due before `wake_at`."""
        if not self.live:
            return self._first_or_retry(now) if self.winner is None else None
        if self._candidates.only_longer and not self._an_able_one_is_running():
            longer = self._first_or_retry(now)
            if longer is not None:
                return longer
        return self._hedge(now) if now >= self._hedge_at else None

    def give_up(self, now: float) -> list[Attempt]:
        """The attempts to break off now; report each by `failed`.

        These are attempts whose endpoint's own deadline is over, and one that is older than `abandon`, or whose breaker
        has opened and for whose hedge no budget pays, if another endpoint can take over. While a complete answer is
        awaited silence says nothing, so that an old attempt is hedged instead.
        """
        if now >= self._expires_at:
            return self._expired(now)
        if now < self._abandon_at:
            return []
        if self._can_take_over(now):
            return [self.live[0]]
        self._abandon_at = self._recheck_at(now)
        return []

    def _expired(self, now: float) -> list[Attempt]:
        """The attempts whose endpoint's own deadline is over.

        Of a complete answer the last attempts run on, where the client waits for longer.
        """
        expired = [attempt for attempt in self.live if now >= self._expires(attempt)]
        if self.deadline > self._begin_until and len(expired) == len(self.live) and not self._others_left(now):
            expired, self._expires_at = [], self.deadline
        elif not expired:
            self._expires_at = min(map(self._expires, self.live))
        return expired

    def _others_left(self, now: float) -> bool:
        """True if an attempt at another endpoint may still begin."""
        may_begin = now < self._begin_until and self.attempts < self._max_attempts
        return may_begin and self._candidates.any_untried(self.live, now)

    @property
    def wake_at(self) -> float:
        """The time at which to look again if no news comes before."""
        return min(self._abandon_at, self._expires_at, self._hedge_at) if self.live else self._hold_until

    @property
    def lost(self) -> bool:
        """True if no attempt is running and none will be."""
        return self.winner is None and not self.live and self._hold_until == inf

    @property
    def queue_until(self) -> float:
        """The time at which the call has been queued for long enough."""
        return self._candidates.queue_until

    # What has happened.

    def failed(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """An attempt ended without a token."""
        attempt.end(outcome, now)
        self._leaves(attempt)
        self._candidates.failed(attempt.endpoint, outcome, now)
        self._set_times(now)

    def longer(self, attempt: Attempt, now: float) -> bool:
        """The prompt is too long for the attempt's endpoint; True if an endpoint with a larger context is left.

        From now on only those are asked, once each and free, because this is no second try of the same thing.
        """
        self._candidates.longer(attempt.endpoint)
        return self._an_able_one_is_running() or self._candidates.any_untried(self.live, now)

    def refused(self, attempt: Attempt) -> bool:
        """The endpoint refuses the request itself, so that no further attempt begins.

        True if an attempt that began earlier is running: endpoints differ, so that it may yet serve the call, if it
        does before `abandon`.
        """
        self._max_attempts = 0
        return self.live[0] is not attempt

    def commit(self, attempt: Attempt, now: float) -> list[Attempt]:
        """The attempt has its first token: it is the answer. The others, ended, are returned to be broken off."""
        attempt.first_token(now)
        if attempt.role == "hedge":
            self._route.window.won(now)
        return self.settle(attempt, now)

    def settle(self, attempt: Attempt, now: float) -> list[Attempt]:
        """Do as `commit` does, for a refusal that goes to the client."""
        self.winner = attempt
        self._leaves(attempt)
        return self.abandon(now)

    def abandon(self, now: float) -> list[Attempt]:
        """The call needs no more attempts; the running ones, ended, are returned to be broken off."""
        losers, self.live, self._hold_until, self.wanted = self.live, [], inf, ()
        self._hedge_at = self._abandon_at = self._expires_at = inf
        for loser in losers:
            if loser.role == "hedge":
                self._route.window.pending -= 1
            loser.end(CALL_OVER if self.winner is None else LOST, now)
        return losers

    def _leaves(self, attempt: Attempt) -> None:
        """The attempt is no longer in the race."""
        self.live.remove(attempt)
        if attempt.role == "hedge":
            self._route.window.pending -= 1

    # While none is running.

    def _an_able_one_is_running(self) -> bool:
        return any(self._candidates.may_take_longer(attempt.endpoint) for attempt in self.live)

    def _first_or_retry(self, now: float) -> Attempt | None:
        self._hold_until, self.wanted = inf, ()
        if now >= self._begin_until or self.attempts >= self._max_attempts:
            return None
        chosen = self._candidates.next(self.live, now, self._begin_until)
        endpoint = chosen.endpoint
        if endpoint is None:
            self._hold_until, self.wanted = chosen.then, chosen.wanted
            return None
        if self._candidates.only_longer:
            return self._begin(endpoint, "retry", now)
        if self._is_rescue:
            return self._begin(endpoint, "rescue", now) if self._pay(endpoint, now) else None
        if not self.attempts:
            policy = self._policies[endpoint]
            self._route.hedges.deposit(policy.hedge_budget, now)
            self._route.retries.deposit(policy.retry_budget, now)
            return self._begin(endpoint, "first", now)
        if not self._free(endpoint, now) and not self._pay(endpoint, now):
            endpoint = self._candidates.untried(self.live, now, lambda e: self._free(e, now))
        return self._begin(endpoint, "retry", now) if endpoint is not None else None

    def _pay(self, endpoint: Endpoint, now: float) -> bool:
        return self._policies[endpoint].retry_budget > 0.0 and self._route.retries.withdraw(now)

    def _free(self, endpoint: Endpoint, now: float) -> bool:
        return endpoint.availability.sound(now, self._demand) and self._policies[endpoint].retry_budget > 0.0

    # While one is running.

    def _hedge(self, now: float) -> Attempt | None:
        """A second attempt beside a late one; if none is possible now, the race looks again in a moment.

        If the late one's breaker has opened, and no budget pays for two, the call moves away: the attempt is given up,
        and the next one is a free retry at a sound endpoint.
        """
        late, target = self.live[0], None
        if self.attempts < self._max_attempts and now < self._begin_until:
            target = self._candidates.beside(late, self.live, now)
        if target is None or not (late.trial or self._pay_hedge(late, now)):
            self._hedge_at = self._recheck_at(now)
            is_out = target is not None and not late.endpoint.availability.closed(now) and self._free(target, now)
            if is_out and self._demand.kind == "first_token":
                self._abandon_at = now
            return None
        return self._begin(target, "hedge", now)

    def _pay_hedge(self, late: Attempt, now: float) -> bool:
        """Pay for a hedge; False if no budget covers it.

        An attempt as old as `abandon`, or whose endpoint's breaker has opened, counts as failed: its hedge is paid from
        the retry budget.
        """
        policy = self._policies[late.endpoint]
        if now >= late.began + policy.abandon or not late.endpoint.availability.closed(now):
            return policy.retry_budget > 0.0 and self._route.retries.withdraw(now)
        return policy.hedge_budget > 0.0 and self._route.hedges.withdraw(now)

    def _can_take_over(self, now: float) -> bool:
        """True if another endpoint is available, and can be paid for, in place of an attempt that is given up."""
        if self.attempts >= self._max_attempts:
            return False
        alone, policy = len(self.live) == 1, self._policies[self.live[0].endpoint]
        budget = self._route.retries if alone else self._route.hedges
        paid = (policy.retry_budget if alone else policy.hedge_budget) > 0.0 and budget.level(now) >= 1.0

        def may_take_over(endpoint: Endpoint) -> bool:
            if paid:
                return endpoint.availability.allows(now, self._demand)
            return alone and self._free(endpoint, now)

        return self._candidates.any_untried(self.live, now, may_take_over)

    def _recheck_at(self, now: float) -> float:
        """The time at which another endpoint may be available; inf once all have been asked."""
        more = self.attempts < self._max_attempts and self._candidates.any_untried(self.live, now)
        return now + RECHECK if more else inf

    def _begin(self, endpoint: Endpoint, role: Role, now: float) -> Attempt:
        attempt = endpoint.begin(now, self._demand, role)
        if role == "hedge":
            self._route.window.pending += 1
        self._candidates.begun(endpoint)
        self.wanted = ()
        self.attempts += 1
        self.live.append(attempt)
        self._set_times(now)
        return attempt

    def _set_times(self, now: float) -> None:
        """Set the times after a change of the running attempts: of a hedge, of giving up, of the deadline."""
        self._hedge_at = self._abandon_at = self._expires_at = inf
        if not self.live:
            return
        oldest = self.live[0]
        policy = self._policies[oldest.endpoint]
        if self._demand.kind == "first_token":
            self._abandon_at = oldest.began + policy.abandon
        if len(self.live) == 1:
            late_after = hedge_after(self._route, oldest, now)
            if self._stays:
                # The conversation's cache is worth more than a target that is merely quicker.
                late_after = max(late_after, oldest.endpoint.forecast.late_after(self._demand, now))
            self._hedge_at = max(now, oldest.began + late_after)
            self._expires_at = self.began + policy.deadline if self._max_attempts else self._expires(oldest)
        else:
            self._expires_at = min(map(self._expires, self.live))

    def _expires(self, attempt: Attempt) -> float:
        policy = self._policies[attempt.endpoint]
        then = self.began + policy.deadline
        if policy.deadline >= self._route.deadline and self._begin_until > then:
            then = self._begin_until
        if self._max_attempts or self._demand.kind != "first_token":
            return then
        return min(then, attempt.began + policy.abandon)


def hedge_after(route: Route, attempt: Attempt, now: float) -> float:
    """Seconds after which an attempt is to be hedged, inf: never; `abandon` at the latest for a complete answer."""
    policy = route.policies[attempt.endpoint]
    if policy.hedge == "off":
        return inf
    if policy.hedge != "auto":
        late_after = float(policy.hedge)
    elif attempt.trial:
        # A breaker's trial is the router's own experiment: its hedge comes soon, and is free.
        late_after = max(MIN_LATE, attempt.endpoint.forecast.typical(attempt.demand, now))
    else:
        late_after = route.plan.delay(attempt.endpoint, attempt.demand, now)
    return late_after if attempt.demand.kind == "first_token" else min(late_after, policy.abandon)
