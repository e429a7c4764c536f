"""Whom one call may ask: the endpoints of its route as it sees them, and which of them comes next.

untried       not asked for this call yet: tier by tier the cheapest, then the least bad
once more     it failed a moment ago: after a pause, once, and where no other is left
in line       it is well, and full: the call waits until an attempt of others ends there
longer        the call was too long for somebody: those with more room are left, once each
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf
from random import Random
from typing import Literal, Protocol

import msgspec

from router.core.choice.affinity import Affinity
from router.core.choice.budget import Budget
from router.core.choice.hedge_plan import HedgePlan
from router.core.choice.hedge_window import HedgeWindow
from router.core.choice.pick import least_bad, least_known, pick, rivals
from router.core.endpoint.endpoint import Attempt, Endpoint, Wait
from router.core.endpoint.waiting_queue import QueueLimit
from router.core.verdict import Outcome

PAUSE = 0.25  # seconds before an endpoint is tried again, and up to twice that, at random
HOLD = 2.0  # seconds of a server's Retry-After that a call waits out itself, rather than tell its client to come back
RECHECK = 0.25  # seconds until we look again for one that was not to be had


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
    def numbers(self) -> Sequence[int]: ...
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
    def queue(self) -> QueueLimit: ...
    @property
    def plan(self) -> HedgePlan: ...
    @property
    def window(self) -> HedgeWindow: ...


class Next(msgspec.Struct, frozen=True):
    """An endpoint to ask now; or when to look again (inf: never), and in whose lines to wait until then."""

    endpoint: Endpoint | None = None
    then: float = inf
    wanted: Collection[Endpoint] = ()


NOBODY = Next()


class Candidates:
    """Told what begins and fails; asked for `next` where nobody runs, and for someone `untried` beside one who does.

    `live` are the attempts that run; `line_until` is when the call has waited in line for long enough.
    """

    __slots__ = (
        "_again_at",
        "_began",
        "_longer",
        "_policies",
        "_rng",
        "_route",
        "_size",
        "_tried",
        "_wait",
        "line_until",
        "rescues",
        "sticky",
    )

    def __init__(self, route: Route, wait: Wait, now: float, rng: Random, size: float = 0.0) -> None:
        self._route, self._policies, self._wait, self._began, self._rng = route, route.policies, wait, now, rng
        self._size = size
        self._tried: set[Endpoint] = set()
        self._again_at: dict[Endpoint, float] = {}  # of those that failed: when they may be tried once more
        self._longer: Collection[Endpoint] | None = None  # who may take what was too long for others; None: it was not
        self.rescues = False
        self.sticky: Affinity | None = None  # where the first attempt would rather go
        self.line_until = inf

    def rescue(self, before: Candidates, broken: Endpoint, now: float) -> None:
        """Make it the field for an answer that broke: those that failed then are tried again only as the last."""
        self.rescues = True
        then = now + self._pause()
        self._again_at = {e: inf if at == inf else then for e, at in before._again_at.items()}
        self._again_at[broken] = inf if broken in before._again_at else then
        self._tried.update(self._again_at)

    # What has happened.

    def begun(self, endpoint: Endpoint) -> None:
        self._tried.add(endpoint)
        self.line_until = inf

    def failed(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        """An attempt there ended without a token: it may be tried once more after a pause, if the failure may pass."""
        pause = outcome.retry_after or 0.0
        if outcome.passing and endpoint not in self._again_at and pause <= self._longest_hold(now):
            self._again_at[endpoint] = now + max(pause, self._pause())
        else:
            self._again_at[endpoint] = inf

    def longer(self, refusing: Endpoint) -> None:
        """It refuses the call for its length: from now on only endpoints with a larger context are left.

        Where nobody says how large his is, those of another tier are: a fallback often has more, and is seldom the
        same again.
        """
        everyone = self.everyone
        alike = next(tier for tier in self._route.tiers if refusing in tier)
        said = any(e.context for e in everyone)
        self._longer = [
            e
            for e in (everyone if self._longer is None else self._longer)
            if (e.context > refusing.context if said else e not in alike and not e.simulated)
        ]

    @property
    def only_longer(self) -> bool:
        return self._longer is not None

    def may_take_longer(self, endpoint: Endpoint) -> bool:
        return self._longer is not None and endpoint in self._longer

    # Who comes next.

    def next(self, live: Sequence[Attempt], now: float, deadline: float) -> Next:
        """Tier by tier one that was not tried; then the least bad of those; then one that was, after its pause.

        A tier that keeps its callers waiting is passed over where another does not; and where all that are well are
        full one of these is waited for, rather than asking one that is out.
        """
        if self._longer is not None:
            return self._next_longer(live, now, deadline)
        for tier in self._route.tiers:
            sticky = self.sticky if not self._tried else None
            endpoint = pick(self._not_tried(tier, live, now), self._wait, now, self._rng, self._size, sticky)
            if endpoint is not None:
                quicker = self.untried(live, now, lambda e: not e.late(now)) if endpoint.late(now) else None
                return Next(quicker or endpoint)
            again_at, endpoint = self._soonest(tier, now)
            if again_at < self._began + self._route.patience and not self.rescues:  # its client waits within an answer
                return self._now_or_then(endpoint, again_at, now)
        in_line = self._in_line(lambda e: e.lacks_a_slot(now), now, deadline)
        if in_line is not None:
            again = self._once_more(now)
            return in_line if again is None else Next(again)
        return self._next_of_those_out(live, now, deadline)

    def _next_of_those_out(self, live: Sequence[Attempt], now: float, deadline: float) -> Next:
        endpoint = least_bad(self._not_tried(self.everyone, live, now), now)
        if endpoint is not None:
            return Next(endpoint)
        again_at, endpoint = self._soonest(self.everyone, now)
        then = self._now_or_then(endpoint, again_at, now)
        if then is not NOBODY:
            return then
        return self._in_line(lambda e: e.full and now >= e.cooldown.quiet_until, now, deadline) or NOBODY

    def _next_longer(self, live: Sequence[Attempt], now: float, deadline: float) -> Next:
        """Of those with a larger context none is asked twice, or waited for but in line."""
        endpoint = self.untried(live, now)
        if endpoint is not None:
            return Next(endpoint)
        able = self._not_tried(self.everyone, live, now)
        in_line = None if live else self._in_line(lambda e: e in able and e.lacks_a_slot(now), now, deadline)
        return in_line or Next(least_bad(able, now))

    def untried(
        self, live: Sequence[Attempt], now: float, suits: Callable[[Endpoint], bool] | None = None
    ) -> Endpoint | None:
        """One that was not tried, of the best tier that has one that suits."""
        for tier in self._route.tiers:
            endpoints = self._not_tried(tier, live, now)
            endpoint = pick(filter(suits, endpoints) if suits else endpoints, self._wait, now, self._rng, self._size)
            if endpoint is not None:
                return endpoint
        return None

    def beside(self, late: Attempt, live: Sequence[Attempt], now: float) -> Endpoint | None:
        """Whom to ask beside one that has waited for so long."""
        if self._policies[late.endpoint].hedge == "auto" and not late.trial:
            return self.rival(late, live, now)
        return self.untried(live, now)

    def rival(self, late: Attempt, live: Sequence[Attempt], now: float) -> Endpoint | None:
        """Whom to ask beside an attempt that is late: one that keeps nobody waiting as this one does, and from which
        more is to be hoped for. When everything is slow at once there is none.
        """
        everyone = self.everyone
        if sum(e.hedges for e in everyone) >= self._route.window.size(now):
            return None
        able = (
            [e for e in self._not_tried(tier, live, now) if e.settled(self._wait, now) and not e.late(now)]
            for tier in self._route.tiers
        )
        good, cost = rivals(able, self._wait, now, self._size)
        return least_known(good, self._wait, self._rng) if cost < late.endpoint.remaining(late, now) else None

    def all_untried(self, live: Sequence[Attempt], now: float) -> Sequence[Endpoint]:
        """Available or not."""
        return self._not_tried(self.everyone, live, now)

    @property
    def everyone(self) -> list[Endpoint]:
        return [endpoint for tier in self._route.tiers for endpoint in tier]

    def _not_tried(self, endpoints: Sequence[Endpoint], live: Sequence[Attempt], now: float) -> Sequence[Endpoint]:
        """Those that may still be asked for the first time: none after a deadline of its own, and no stand-in for one
        that is at work.
        """
        tried, policies, began = self._tried, self._policies, self._began
        if not tried and now < began + self._route.shortest_deadline:
            return endpoints
        at_work = any(not attempt.endpoint.simulated for attempt in live)
        in_time = [e for e in endpoints if e not in tried and now < began + policies[e].deadline]
        if self._longer is not None:
            in_time = [e for e in in_time if e in self._longer]
        return [e for e in in_time if not e.simulated] if at_work else in_time

    # Waiting for one.

    def _in_line(self, suits: Callable[[Endpoint], bool], now: float, deadline: float) -> Next | None:
        """None where there are none such to wait for; the others are looked at all the while."""
        queue = self._route.queue
        if not queue.most or not queue.longest:
            return None
        wanted = [e for e in self.everyone if suits(e) and self._may_ask(e, now)]
        if not wanted:
            return None
        if self.line_until == inf:
            self.line_until = min(now + queue.longest, deadline)
        if now >= self.line_until:
            return NOBODY
        others = any(not e.full and self._may_ask(e, now) for e in self.everyone)
        return Next(None, min(self.line_until, now + RECHECK) if others else self.line_until, wanted)

    def _once_more(self, now: float) -> Endpoint | None:
        """One that was tried, and is well again after its pause."""
        again = (e for e in self.everyone if self._again_at.get(e, inf) <= now and e.available(now))
        return next((e for e in again if self._may_ask(e, now)), None)

    def _may_ask(self, endpoint: Endpoint, now: float) -> bool:
        """For the first time, or once more."""
        if now >= self._began + self._policies[endpoint].deadline:
            return False
        return endpoint not in self._tried or self._again_at.get(endpoint, inf) < inf

    def _soonest(self, endpoints: Iterable[Endpoint], now: float) -> tuple[float, Endpoint | None]:
        """Who could be asked next, and when: those that were tried after their pause and not while they are left alone,
        the others when they recover.
        """
        times = [
            (max(self._again_at.get(e, inf), e.left_alone_until) if e in self._tried else e.recovers_at(now), e)
            for e in endpoints
            if not e.full
        ]
        in_time = [(then, e) for then, e in times if max(now, then) < self._began + self._policies[e].deadline]
        return min(in_time, key=lambda pair: pair[0], default=(inf, None))

    def _now_or_then(self, endpoint: Endpoint | None, then: float, now: float) -> Next:
        if then <= now:
            return Next(endpoint)
        return (
            Next(None, then) if then <= now + self._longest_hold(now) else NOBODY
        )  # its client does better to come back

    def _longest_hold(self, now: float) -> float:
        return max(HOLD, self._began + self._route.patience - now)

    def _pause(self) -> float:
        return PAUSE * (1.0 + self._rng.random())
