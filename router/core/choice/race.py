"""When one call tries an endpoint, and who pays, up to its first token; `field` says which.

    nobody runs     the first attempt, at once; after a failure a retry, at once where another endpoint can take it
    one runs        when it is late, a hedge beside it: both stay in the race, and the first token wins
    any runs        one that is older than `abandon` makes room, where yet another endpoint can take over
    no slot is free the call is to wait in line for those that it `wanted`, and to ask again when it is called
    none can run    the call is lost

Hedges and retries are drawn from two budgets; a retry at an endpoint that nothing speaks against is free, because a
budget is there to keep a failing service from being asked more often, and moving away from it asks it less. An
endpoint is tried again in the same call only when no other is left, once, and after a pause. One hedge at a time is
enough: no policy with more does better (Kaler, He, Elnikety, SPAA 2017).

A stream that broke after its first token gets a second race, whose first attempt, the rescue, is always paid for: it
asks for a whole answer again.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from random import Random

from router.core.choice.affinity import Affinity
from router.core.choice.candidates import RECHECK, Candidates, Route
from router.core.endpoint.breaker import State
from router.core.endpoint.endpoint import MIN_HEDGE, Attempt, Endpoint, Role, Wait
from router.core.verdict import Outcome, Verdict

MAX_ATTEMPTS = 6  # of one call, its rescues included
_LOST = Outcome(Verdict.ABANDONED, "another attempt was first")
_CALL_OVER = Outcome(Verdict.ABANDONED, "the call was over")
FEWEST = 2  # attempts, however often its client has asked before: one may be bad luck


class Race:
    """Ask `give_up` and `next_attempt`, wait until `wake_at` or for news, tell it the news, and ask again."""

    __slots__ = (
        "_abandon_at",
        "_expires_at",
        "_field",
        "_hold_until",
        "_most",
        "_policies",
        "_rival_at",
        "_route",
        "_size",
        "_wait",
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
        wait: Wait,
        now: float,
        rng: Random,
        limit: float = inf,
        asked_before: int = 0,
        size: float = 0.0,
    ) -> None:
        """Its client waits for `limit` seconds. One that has asked before has had attempts of ours: it gets fewer.

        `size` is that of its prompt, in tokens.
        """
        self._route, self._policies = route, route.policies
        self._field = Candidates(route, wait, now, rng, size)
        self._wait, self._size, self.began = wait, size, now
        self.deadline = now + (route.deadline if limit > route.deadline else limit)
        self.attempts, self._most = 0, max(FEWEST, MAX_ATTEMPTS >> asked_before) if asked_before else MAX_ATTEMPTS
        self.live: list[Attempt] = []  # oldest first
        self.winner: Attempt | None = None
        self._hold_until = inf  # nobody runs; somebody will, then
        self._rival_at = self._abandon_at = self._expires_at = inf  # times of those that run
        self.wanted: Collection[Endpoint] = ()  # nobody runs, because these are full

    def stick(self, to: Affinity) -> None:
        """Let the first attempt go where the call's conversation has its cache, if it may."""
        self._field.sticky = to

    def rescue(self, before: Race, now: float) -> None:
        """Make it the race for an answer that broke after that race was won.

        Endpoints that failed there are asked again only where no other is left, once, and after a pause.
        """
        assert before.winner is not None
        self.attempts = before.attempts
        self._field.rescue(before._field, before.winner.endpoint, now)

    # What is due.

    def next_attempt(self, now: float) -> Attempt | None:
        """The attempt that is due now, begun; None when nothing is due before `wake_at`."""
        if not self.live:
            return self._alone(now) if self.winner is None else None
        if self._field.only_longer and not self._who_can_runs() and (longer := self._alone(now)) is not None:
            return longer
        return self._rival(now) if now >= self._rival_at else None

    def give_up(self, now: float) -> list[Attempt]:
        """The attempts to break off now; tell `failed` of each.

        One whose endpoint's own deadline is over, and one that is older than `abandon` where another endpoint can take
        over. Where a complete answer is awaited silence says nothing, so there an old attempt gets a rival instead.
        """
        if now >= self._expires_at:
            return [attempt for attempt in self.live if now >= self._expires(attempt)]
        if now < self._abandon_at:
            return []
        if self._can_take_over(now):
            return [self.live[0]]
        self._abandon_at = self._look_again_at(now)
        return []

    @property
    def wake_at(self) -> float:
        """When to ask again though nothing has happened."""
        return min(self._abandon_at, self._expires_at, self._rival_at) if self.live else self._hold_until

    @property
    def lost(self) -> bool:
        """Nobody runs, and nobody will."""
        return self.winner is None and not self.live and self._hold_until == inf

    @property
    def line_until(self) -> float:
        """When it has waited for long enough for those that it wanted."""
        return self._field.line_until

    # What has happened.

    def failed(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """An attempt ended without a token."""
        attempt.end(outcome, now)
        self.live.remove(attempt)
        self._field.failed(attempt.endpoint, outcome, now)
        self._reckon(now)

    def longer(self, attempt: Attempt, now: float) -> bool:
        """It refuses the call for its length: from now on only endpoints with a larger context are asked, once each,
        and free, for that is no second try of the same thing. False where there are none.
        """
        self._field.longer(attempt.endpoint)
        return self._who_can_runs() or bool(self._field.all_untried(self.live, now))

    def refused(self, attempt: Attempt) -> bool:
        """It refuses the request itself, so no more are asked. True where one runs that was asked before it: endpoints
        differ in what they know, so that one may serve it yet, if it is not `abandon` late.
        """
        self._most = 0
        return self.live[0] is not attempt

    def commit(self, attempt: Attempt, now: float) -> list[Attempt]:
        """The first token is here: this attempt is the answer. The others, ended, are returned to be broken off."""
        attempt.first_token(now)
        if attempt.role == "hedge":
            self._route.window.won(now)
        return self.settle(attempt, now)

    def settle(self, attempt: Attempt, now: float) -> list[Attempt]:
        """As `commit`, for an answer that is no token: a refusal that the client is to see."""
        self.winner = attempt
        self.live.remove(attempt)
        return self.abandon(now)

    def abandon(self, now: float) -> list[Attempt]:
        """The call needs no more attempts; those that ran, ended, are returned to be broken off."""
        losers, self.live, self._hold_until, self.wanted = self.live, [], inf, ()
        self._rival_at = self._abandon_at = self._expires_at = inf
        for loser in losers:
            loser.end(_LOST if self.winner is not None else _CALL_OVER, now)
        return losers

    # With nobody running.

    def _who_can_runs(self) -> bool:
        return any(self._field.may_take_longer(attempt.endpoint) for attempt in self.live)

    def _alone(self, now: float) -> Attempt | None:
        self._hold_until, self.wanted = inf, ()
        if now >= self.deadline or self.attempts >= self._most:
            return None
        chosen = self._field.next(self.live, now, self.deadline)
        endpoint = chosen.endpoint
        if endpoint is None:
            self._hold_until, self.wanted = chosen.then, chosen.wanted
            return None
        if self._field.only_longer:
            return self._begin(endpoint, "retry", now)
        if self._field.rescues:
            return self._begin(endpoint, "rescue", now) if self._pay(endpoint, now) else None
        if not self.attempts:
            policy = self._policies[endpoint]
            self._route.hedges.deposit(policy.hedge_budget, now)
            self._route.retries.deposit(policy.retry_budget, now)
            return self._begin(endpoint, "first", now)
        if not self._free(endpoint, now) and not self._pay(endpoint, now):
            endpoint = self._field.untried(self.live, now, lambda e: self._free(e, now))
        return self._begin(endpoint, "retry", now) if endpoint is not None else None

    def _pay(self, endpoint: Endpoint, now: float) -> bool:
        return self._policies[endpoint].retry_budget > 0.0 and self._route.retries.withdraw(now)

    def _free(self, endpoint: Endpoint, now: float) -> bool:
        return endpoint.sound(now) and self._policies[endpoint].retry_budget > 0.0

    # With one running.

    def _rival(self, now: float) -> Attempt | None:
        """A second attempt beside a late one; where there is none to be had now, we look again in a moment."""
        late = self.live[0]
        endpoint = self._field.beside(late, self.live, now) if self.attempts < self._most else None
        if endpoint is None or not (late.trial or self._pay_rival_of(late, endpoint, now)):
            self._rival_at = self._look_again_at(now)
            return None
        return self._begin(endpoint, "hedge", now)

    def _pay_rival_of(self, late: Attempt, rival: Endpoint, now: float) -> bool:
        """One that is so late that it could be given up counts as a failure, and so does one whose endpoint's breaker
        has opened meanwhile: away from that it is free to where nothing is wrong.
        """
        policy, is_out = self._policies[late.endpoint], late.endpoint.breaker.state(now) is not State.CLOSED
        if is_out and self._free(rival, now):
            return True
        if is_out or now >= late.began + policy.abandon:
            return policy.retry_budget > 0.0 and self._route.retries.withdraw(now)
        return policy.hedge_budget > 0.0 and self._route.hedges.withdraw(now)

    def _can_take_over(self, now: float) -> bool:
        """Whether another endpoint is to be had, and paid for, in the place of an attempt that is given up."""
        if self.attempts >= self._most:
            return False
        alone, policy = len(self.live) == 1, self._policies[self.live[0].endpoint]
        budget = self._route.retries if alone else self._route.hedges
        paid = (policy.retry_budget if alone else policy.hedge_budget) > 0.0 and budget.level(now) >= 1.0
        others = self._field.all_untried(self.live, now)
        return any(e.available(now) if paid else alone and self._free(e, now) for e in others)

    def _look_again_at(self, now: float) -> float:
        """When there may be one that is not to be had now; never, where all were asked."""
        more = self.attempts < self._most and self._field.all_untried(self.live, now)
        return now + RECHECK if more else inf

    def _begin(self, endpoint: Endpoint, role: Role, now: float) -> Attempt:
        attempt = endpoint.begin(now, self._wait, role, self._size)
        self._field.begun(endpoint)
        self.wanted = ()
        self.attempts += 1
        self.live.append(attempt)
        self._reckon(now)
        return attempt

    def _reckon(self, now: float) -> None:
        """Those that run have changed: when is the one that runs late, and when is the oldest too old?"""
        self._rival_at = self._abandon_at = self._expires_at = inf
        if not self.live:
            return
        oldest = self.live[0]
        policy = self._policies[oldest.endpoint]
        if self._wait == "first_token":
            self._abandon_at = oldest.began + policy.abandon
        if len(self.live) == 1:
            late = rival_after(self._route, oldest, now)
            if self._field.sticky is not None:
                late = max(
                    late, oldest.endpoint.unusual(self._wait, self._size, now)
                )  # its cache is worth a rival that is quicker
            self._rival_at = max(now, oldest.began + late)
            self._expires_at = self.began + policy.deadline if self._most else self._expires(oldest)
        else:
            self._expires_at = min(map(self._expires, self.live))

    def _expires(self, attempt: Attempt) -> float:
        policy = self._policies[attempt.endpoint]
        then = self.began + policy.deadline
        return then if self._most or self._wait != "first_token" else min(then, attempt.began + policy.abandon)


def rival_after(route: Route, attempt: Attempt, now: float) -> float:
    """Seconds after which an attempt is late; where a complete answer is awaited, by `abandon` at the latest."""
    policy = route.policies[attempt.endpoint]
    if policy.hedge == "off":
        return inf
    if policy.hedge != "auto":
        late = float(policy.hedge)
    elif attempt.trial:
        late = max(
            MIN_HEDGE, attempt.endpoint.usual(attempt.wait, attempt.size, now)
        )  # our experiment, so a rival comes soon, and free
    else:
        late = route.plan.delay(attempt.endpoint, attempt.wait, attempt.size, now)
    return late if attempt.wait == "first_token" else min(late, policy.abandon)
