"""Which endpoints one call tries, and when, up to its first token.

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

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf
from random import Random
from typing import Literal, Protocol

from router.core.balance import least_bad, pick
from router.core.budget import Budget
from router.core.endpoint import MIN_HEDGE, Attempt, Endpoint, Role, Wait
from router.core.line import Queue
from router.core.verdict import Cause, Verdict

MAX_ATTEMPTS = 6  # of one call, its rescues included
PAUSE = 0.25  # seconds before an endpoint is tried again, and up to twice that, at random
HOLD = 2.0  # seconds of a server's Retry-After that a call waits out itself, rather than tell its client to come back
FEWEST = 2  # attempts, however often its client has asked before: one may be bad luck
RECHECK = 0.25  # seconds until we look again for a rival that was not to be had


class Policy(Protocol):
    """What an operator says about one model at one endpoint; seconds, and shares of an attempt a call."""

    @property
    def deadline(self) -> float: ...
    @property
    def hedge(self) -> float | Literal["auto", "off"]: ...
    @property
    def abandon(self) -> float: ...
    @property
    def hedge_budget(self) -> float: ...
    @property
    def retry_budget(self) -> float: ...


class Route(Protocol):
    """How one model is served: its endpoints tier by tier, what is said about each, and who pays for extra attempts."""

    @property
    def tiers(self) -> Sequence[Sequence[Endpoint]]: ...
    @property
    def policies(self) -> Mapping[Endpoint, Policy]: ...
    @property
    def hedges(self) -> Budget: ...
    @property
    def retries(self) -> Budget: ...
    @property
    def deadline(self) -> float: ...
    @property
    def shortest_deadline(self) -> float: ...
    @property
    def patience(self) -> float: ...
    @property
    def queue(self) -> Queue: ...


class Race:
    """Ask `give_up` and `next_attempt`, wait until `wake_at` or for news, tell it the news, and ask again."""

    __slots__ = (
        "_abandon_at",
        "_again_at",
        "_expires_at",
        "_hold_until",
        "_longer",
        "_most",
        "_policies",
        "_rescues",
        "_rival_at",
        "_route",
        "_tried",
        "_wait",
        "attempts",
        "began",
        "deadline",
        "line_until",
        "live",
        "rng",
        "wanted",
        "winner",
    )

    def __init__(
        self, route: Route, wait: Wait, now: float, rng: Random, limit: float = inf, asked_before: int = 0
    ) -> None:
        """Its client waits for `limit` seconds. One that has asked before has had attempts of ours: it gets fewer."""
        self._route, self._policies = route, route.policies
        self._wait, self.began, self.rng = wait, now, rng
        self.deadline = now + (route.deadline if limit > route.deadline else limit)
        self.attempts, self._most = 0, max(FEWEST, MAX_ATTEMPTS >> asked_before) if asked_before else MAX_ATTEMPTS
        self._rescues = False
        self.live: list[Attempt] = []  # oldest first
        self.winner: Attempt | None = None
        self._tried: set[Endpoint] = set()
        self._again_at: dict[Endpoint, float] = {}  # tried once, and may be tried again from then on
        self._longer: Collection[Endpoint] | None = None  # who may take what was too long for others; None: it was not
        self._hold_until = inf  # nobody runs; somebody will, then
        self._rival_at = self._abandon_at = self._expires_at = inf  # times of those that run
        self.wanted: Collection[Endpoint] = ()  # nobody runs, because these are full
        self.line_until = inf  # when it has waited for them for long enough

    def rescue(self, before: Race, now: float) -> None:
        """Make it the race for an answer that broke after that race was won.

        Endpoints that failed there are asked again only where no other is left, once, and after a pause.
        """
        assert before.winner is not None
        self._rescues, self.attempts = True, before.attempts
        broken, then = before.winner.endpoint, now + PAUSE * (1.0 + self.rng.random())
        self._again_at = {e: inf if at == inf else then for e, at in before._again_at.items()}
        self._again_at[broken] = inf if broken in before._again_at else then
        self._tried.update(self._again_at)

    # What is due.

    def next_attempt(self, now: float) -> Attempt | None:
        """The attempt that is due now, begun; None when nothing is due before `wake_at`."""
        if not self.live:
            return self._alone(now) if self.winner is None else None
        if self._longer is not None and not self._who_can_runs() and (longer := self._alone(now)) is not None:
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

    # What has happened.

    def failed(
        self,
        attempt: Attempt,
        verdict: Verdict,
        now: float,
        reason: str = "",
        retry_after: float | None = None,
        *,
        passing: bool = True,
        cause: Cause | None = None,
    ) -> None:
        """It ended without a token; `passing` says whether the same endpoint might serve this call a moment later."""
        attempt.end(verdict, now, reason, retry_after, cause)
        self.live.remove(attempt)
        if passing and attempt.endpoint not in self._again_at and (retry_after or 0.0) <= self._longest_hold(now):
            self._again_at[attempt.endpoint] = now + max(retry_after or 0.0, PAUSE * (1.0 + self.rng.random()))
        else:
            self._again_at[attempt.endpoint] = inf
        self._reckon(now)

    def longer(self, attempt: Attempt, now: float) -> bool:
        """It refuses the call for its length: from now on only endpoints with a larger context are asked, once each,
        and free, for that is no second try of the same thing. False where there are none.

        Where nobody says how large his is, those of another tier are: a fallback often has more, and is seldom the
        same again.
        """
        refusing, everyone = attempt.endpoint, self._everyone
        alike = next(tier for tier in self._route.tiers if refusing in tier)
        said = any(e.context for e in everyone)
        self._longer = [
            e
            for e in (everyone if self._longer is None else self._longer)
            if (e.context > refusing.context if said else e not in alike and not e.stand_in)
        ]
        return self._who_can_runs() or any(self._not_tried(tier, now) for tier in self._route.tiers)

    def refused(self, attempt: Attempt) -> bool:
        """It refuses the request itself, so no more are asked. True where one runs that was asked before it: endpoints
        differ in what they know, so that one may serve it yet, if it is not `abandon` late.
        """
        self._most = 0
        return self.live[0] is not attempt

    def commit(self, attempt: Attempt, now: float) -> list[Attempt]:
        """The first token is here: this attempt is the answer. The others, ended, are returned to be broken off."""
        attempt.first_token(now)
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
            loser.end(Verdict.ABANDONED, now, "another was first" if self.winner is not None else "the call was over")
        return losers

    # With nobody running.

    def _who_can_runs(self) -> bool:
        return self._longer is not None and any(attempt.endpoint in self._longer for attempt in self.live)

    def _alone(self, now: float) -> Attempt | None:
        self._hold_until, self.wanted = inf, ()
        endpoint = self._choose(now) if now < self.deadline and self.attempts < self._most else None
        if endpoint is None:
            return None
        if self._longer is not None:
            return self._begin(endpoint, "retry", now)
        if self._rescues:
            return self._rescue(endpoint, now)
        if not self.attempts:
            policy = self._policies[endpoint]
            self._route.hedges.deposit(policy.hedge_budget, now)
            self._route.retries.deposit(policy.retry_budget, now)
            return self._begin(endpoint, "first", now)
        if not self._free(endpoint, now) and not self._pay(endpoint, now):
            endpoint = self._untried(now, lambda e: self._free(e, now))
        return self._begin(endpoint, "retry", now) if endpoint is not None else None

    def _rescue(self, endpoint: Endpoint, now: float) -> Attempt | None:
        return self._begin(endpoint, "rescue", now) if self._pay(endpoint, now) else None

    def _pay(self, endpoint: Endpoint, now: float) -> bool:
        return self._policies[endpoint].retry_budget > 0.0 and self._route.retries.withdraw(now)

    def _choose(self, now: float) -> Endpoint | None:
        """Tier by tier one that was not tried; then the least bad of those; then one that was, after its pause.

        A tier that keeps its callers waiting is passed over where another does not; and where all that are well are
        full one of these is waited for, rather than asking one that is out.
        """
        if self._longer is not None:
            return self._choose_longer(now)
        for tier in self._route.tiers:
            endpoint = pick(self._not_tried(tier, now), self._wait, now, self.rng)
            if endpoint is not None:
                return self._untried(now, lambda e: not e.late(now)) or endpoint if endpoint.late(now) else endpoint
            again_at, endpoint = self._soonest(tier, now)
            if again_at < self.began + self._route.patience and not self._rescues:  # its client waits within an answer
                return self._now_or_then(endpoint, again_at, now)
        if self._queues(lambda e: e.lacks_a_slot(now), now):
            return self._once_more(now)
        endpoint = least_bad(self._not_tried(self._everyone, now), now)
        if endpoint is not None:
            return endpoint
        again_at, endpoint = self._soonest(self._everyone, now)
        endpoint = self._now_or_then(endpoint, again_at, now)
        if endpoint is None and self._hold_until == inf:
            self._queues(lambda e: e.full and now >= e.quiet_until, now)
        return endpoint

    def _choose_longer(self, now: float) -> Endpoint | None:
        """Of those with a larger context none is asked twice, or waited for but in line."""
        endpoint = self._untried(now)
        if endpoint is not None:
            return endpoint
        able = self._not_tried(self._everyone, now)
        if not self.live and self._queues(lambda e: e in able and e.lacks_a_slot(now), now):
            return None
        return least_bad(able, now)

    def _queues(self, suits: Callable[[Endpoint], bool], now: float) -> bool:
        """Whether there are such to wait for; it does that until `line_until`, and looks for others all the while."""
        queue = self._route.queue
        if not queue.most or not queue.longest:
            return False
        wanted = [e for e in self._everyone if suits(e) and self._may_ask(e, now)]
        if not wanted:
            return False
        if self.line_until == inf:
            self.line_until = min(now + queue.longest, self.deadline)
        if now < self.line_until:
            self.wanted = wanted
            others = any(not e.full and self._may_ask(e, now) for e in self._everyone)
            self._hold_until = min(self.line_until, now + RECHECK) if others else self.line_until
        return True

    def _once_more(self, now: float) -> Endpoint | None:
        """One that was tried, and is well again after its pause."""
        again = (e for e in self._everyone if self._again_at.get(e, inf) <= now and e.available(now))
        return next((e for e in again if self._may_ask(e, now)), None)

    def _may_ask(self, endpoint: Endpoint, now: float) -> bool:
        """For the first time, or once more."""
        if now >= self.began + self._policies[endpoint].deadline:
            return False
        return endpoint not in self._tried or self._again_at.get(endpoint, inf) < inf

    @property
    def _everyone(self) -> list[Endpoint]:
        return [endpoint for tier in self._route.tiers for endpoint in tier]

    def _soonest(self, endpoints: Iterable[Endpoint], now: float) -> tuple[float, Endpoint | None]:
        """Who could be asked next, and when: those that were tried after their pause and not while they are left alone,
        the others when they recover.
        """
        times = [
            (max(self._again_at.get(e, inf), e.left_alone_until) if e in self._tried else e.recovers_at(now), e)
            for e in endpoints
            if not e.full
        ]
        in_time = [(then, e) for then, e in times if max(now, then) < self.began + self._policies[e].deadline]
        return min(in_time, key=lambda pair: pair[0], default=(inf, None))

    def _now_or_then(self, endpoint: Endpoint | None, then: float, now: float) -> Endpoint | None:
        if then <= now:
            return endpoint
        if then <= now + self._longest_hold(now):  # else its client does better to come back
            self._hold_until = then
        return None

    def _longest_hold(self, now: float) -> float:
        return max(HOLD, self.began + self._route.patience - now)

    # With one running.

    def _rival(self, now: float) -> Attempt | None:
        """A second attempt beside a late one; where there is none to be had now, we look again in a moment."""
        late = self.live[0]
        endpoint = self._untried(now) if self.attempts < self._most else None
        if endpoint is None or not (late.trial or self._pay_rival_of(late, now)):
            self._rival_at = self._look_again_at(now)
            return None
        return self._begin(endpoint, "hedge", now)

    def _pay_rival_of(self, late: Attempt, now: float) -> bool:
        """One that is so late that it could be given up counts as a failure."""
        policy = self._policies[late.endpoint]
        if now >= late.began + policy.abandon:
            return policy.retry_budget > 0.0 and self._route.retries.withdraw(now)
        return policy.hedge_budget > 0.0 and self._route.hedges.withdraw(now)

    def _free(self, endpoint: Endpoint, now: float) -> bool:
        return endpoint.sound(now) and self._policies[endpoint].retry_budget > 0.0

    def _untried(self, now: float, suits: Callable[[Endpoint], bool] | None = None) -> Endpoint | None:
        """One that was not tried, of the best tier that has one that suits."""
        for tier in self._route.tiers:
            endpoints = self._not_tried(tier, now)
            endpoint = pick(filter(suits, endpoints) if suits else endpoints, self._wait, now, self.rng)
            if endpoint is not None:
                return endpoint
        return None

    def _not_tried(self, endpoints: Sequence[Endpoint], now: float) -> Sequence[Endpoint]:
        """Those that may still be asked for the first time: none after a deadline of its own, and no stand-in for one
        that is at work.
        """
        tried, policies, began = self._tried, self._policies, self.began
        if not tried and now < began + self._route.shortest_deadline:
            return endpoints
        at_work = any(not attempt.endpoint.stand_in for attempt in self.live)
        in_time = [e for e in endpoints if e not in tried and now < began + policies[e].deadline]
        if self._longer is not None:
            in_time = [e for e in in_time if e in self._longer]
        return [e for e in in_time if not e.stand_in] if at_work else in_time

    def _can_take_over(self, now: float) -> bool:
        """Whether another endpoint is to be had, and paid for, in the place of an attempt that is given up."""
        if self.attempts >= self._most:
            return False
        alone, policy = len(self.live) == 1, self._policies[self.live[0].endpoint]
        budget = self._route.retries if alone else self._route.hedges
        paid = (policy.retry_budget if alone else policy.hedge_budget) > 0.0 and budget.level(now) >= 1.0
        others = [e for tier in self._route.tiers for e in self._not_tried(tier, now)]
        return any(e.available(now) if paid else alone and self._free(e, now) for e in others)

    def _look_again_at(self, now: float) -> float:
        """When there may be one that is not to be had now; never, where all were asked."""
        more = self.attempts < self._most and any(self._not_tried(tier, now) for tier in self._route.tiers)
        return now + RECHECK if more else inf

    def _begin(self, endpoint: Endpoint, role: Role, now: float) -> Attempt:
        attempt = endpoint.begin(now, self._wait, role)
        self._tried.add(endpoint)
        self.wanted, self.line_until = (), inf
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
            self._rival_at = max(now, oldest.began + self._rival_after(oldest, policy, now))
            self._expires_at = self.began + policy.deadline if self._most else self._expires(oldest)
        else:
            self._expires_at = min(map(self._expires, self.live))

    def _rival_after(self, attempt: Attempt, policy: Policy, now: float) -> float:
        """Seconds; a complete answer is never given up, so there it is by `abandon` at the latest."""
        if policy.hedge == "off":
            return inf
        if policy.hedge != "auto":
            late = float(policy.hedge)
        elif attempt.trial:
            late = max(MIN_HEDGE, attempt.endpoint.usual(self._wait))  # our experiment, so a rival comes soon, and free
        else:
            late = attempt.endpoint.hedge_after(self._wait, policy.hedge_budget, now)
        return late if self._wait == "first_token" else min(late, policy.abandon)

    def _expires(self, attempt: Attempt) -> float:
        policy = self._policies[attempt.endpoint]
        then = self.began + policy.deadline
        return then if self._most or self._wait != "first_token" else min(then, attempt.began + policy.abandon)
