"""The candidates of one call: the endpoints of its route as the call sees them, and which of them comes next.

untried       not asked for this call yet: tier by tier the cheapest, then the one that recovers first
once more     failed a moment ago: after a pause, once, and only where no other is left
queued        available but for a slot: the call waits until another attempt ends there
longer        the prompt was too long for an endpoint: those with a larger context are left, once each
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf
from random import Random

import msgspec

from router.core.choice.affinity import Affinity
from router.core.choice.pick import hedge_targets, measured_longest_ago, pick, recovers_first
from router.core.choice.route import Route
from router.core.choice.shortlist import Shortlist
from router.core.demand import Demand
from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.verdict import Outcome

PAUSE = 0.25  # seconds before an endpoint is tried again, and up to twice that, at random
HOLD = 2.0  # seconds of a server's Retry-After that a call waits out itself, rather than let its client come back
RECHECK = 0.25  # seconds between two looks for an endpoint where none is available


class Next(msgspec.Struct, frozen=True):
    """An endpoint to ask now; else when to look again (inf: never), and for whose slots to queue until then."""

    endpoint: Endpoint | None = None
    then: float = inf
    wanted: Collection[Endpoint] = ()


NONE = Next()


class Candidates:
    """Is informed of what begins and fails. `next` is for a call without a running attempt, the others for one beside.

    `live` are the call's running attempts, `queue_until` the time at which it has been queued for long enough.
    `failed_before` is given for a rescue: the endpoints that have failed, and whether each may be asked once more.
    """

    __slots__ = (
        "_affinity",
        "_again_at",
        "_began",
        "_demand",
        "_is_rescue",
        "_longer",
        "_policies",
        "_rng",
        "_route",
        "_tried",
        "queue_until",
    )

    def __init__(
        self,
        route: Route,
        demand: Demand,
        now: float,
        rng: Random,
        affinity: Affinity | None = None,
        failed_before: Mapping[Endpoint, bool] | None = None,
    ) -> None:
        self._route, self._policies, self._demand, self._began, self._rng = route, route.policies, demand, now, rng
        self._affinity = affinity  # counts for the first attempt
        self._tried: set[Endpoint] = set()
        self._again_at: dict[Endpoint, float] = {}  # of failed endpoints: when each may be tried once more
        self._longer: Collection[Endpoint] | None = (
            None  # may take a prompt that was too long elsewhere; None: it was not
        )
        self.queue_until = inf
        self._is_rescue = failed_before is not None
        if failed_before is not None:
            then = now + self._pause()
            self._again_at = {endpoint: then if once_more else inf for endpoint, once_more in failed_before.items()}
            self._tried.update(failed_before)

    @property
    def failed_endpoints(self) -> dict[Endpoint, bool]:
        """The endpoints that have failed, and whether each may be asked once more."""
        return {endpoint: at < inf for endpoint, at in self._again_at.items()}

    # What has happened.

    def begun(self, endpoint: Endpoint) -> None:
        """An attempt has begun."""
        self._tried.add(endpoint)
        self.queue_until = inf

    def failed(self, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        """An attempt ended without a token: if the failure may pass, the endpoint may be asked once more."""
        pause = outcome.retry_after or 0.0
        if outcome.passing and endpoint not in self._again_at and pause <= self._longest_hold(now):
            self._again_at[endpoint] = now + max(pause, self._pause())
        else:
            self._again_at[endpoint] = inf

    def longer(self, refusing: Endpoint) -> None:
        """The prompt is too long for an endpoint: from now on only those with a larger context are left.

        Where no context is configured, endpoints of other tiers are left: a fallback often has a larger one, and is
        seldom the same model again.
        """
        endpoints = self._route.by_preference
        alike = self._route.tier_of(refusing).endpoints
        known = any(e.context for e in endpoints)
        self._longer = [
            e
            for e in (endpoints if self._longer is None else self._longer)
            if (e.context > refusing.context if known else e not in alike and not e.simulated)
        ]

    @property
    def only_longer(self) -> bool:
        """True once only endpoints with a larger context are left."""
        return self._longer is not None

    def may_take_longer(self, endpoint: Endpoint) -> bool:
        """True if the endpoint is one of those left after `longer`."""
        return self._longer is not None and endpoint in self._longer

    # Which endpoint comes next.

    def next(self, live: Sequence[Attempt], now: float, deadline: float) -> Next:
        """Tier by tier an untried endpoint; then the one that recovers first; then a failed one, after its pause.

        A tier that is late is passed over if another is not. If all healthy endpoints are full, the call is queued for
        them rather than sent to one that is out.
        """
        if self._longer is not None:
            return self._next_longer(live, now, deadline)
        for tier in self._route.tiers:
            first = not self._tried
            affinity = self._affinity if first else None
            if tier.shortlist is None or affinity is not None:
                untried = self._untried(tier.endpoints, live, now)
                endpoint = pick(untried, self._demand, now, self._rng, affinity, first)
            else:
                endpoint = self._from_shortlist(tier.shortlist, live, now, first=first)
            if endpoint is not None:
                late = endpoint.forecast.late(now)
                quicker = self.untried(live, now, lambda e: not e.forecast.late(now)) if late else None
                return Next(quicker or endpoint)
            again_at, endpoint = self._soonest(tier.endpoints, now)
            # No patience in a rescue: its client waits in the middle of an answer.
            if again_at < self._began + self._route.patience and not self._is_rescue:
                return self._now_or_then(endpoint, again_at, now)
        queued = self._queued(lambda e: e.availability.lacks_only_a_slot(now, self._demand), now, deadline)
        if queued is not None:
            again = self._once_more(now)
            return queued if again is None else Next(again)
        return self._next_of_unavailable(live, now, deadline)

    def _next_of_unavailable(self, live: Sequence[Attempt], now: float, deadline: float) -> Next:
        endpoints = self._route.by_preference
        endpoint = recovers_first(self._untried(endpoints, live, now), self._demand, now)
        if endpoint is not None:
            return Next(endpoint)
        again_at, endpoint = self._soonest(endpoints, now, last_resort=True)
        then = self._now_or_then(endpoint, again_at, now)
        if then is not NONE:
            return then
        full = self._queued(
            lambda e: e.availability.full and now >= e.availability.trial_at(self._demand), now, deadline
        )
        return full or NONE

    def _next_longer(self, live: Sequence[Attempt], now: float, deadline: float) -> Next:
        """Endpoints with a larger context are asked once each, and waited for only in the queue."""
        endpoint = self.untried(live, now)
        if endpoint is not None:
            return Next(endpoint)
        able = self._untried(self._route.by_preference, live, now)
        queued = None
        if not live:
            queued = self._queued(
                lambda e: e in able and e.availability.lacks_only_a_slot(now, self._demand), now, deadline
            )
        return queued or Next(recovers_first(able, self._demand, now))

    def untried(
        self, live: Sequence[Attempt], now: float, suits: Callable[[Endpoint], bool] | None = None
    ) -> Endpoint | None:
        """An untried endpoint of the most preferred tier that has one that suits."""
        for tier in self._route.tiers:
            if tier.shortlist is None:
                endpoints = self._untried(tier.endpoints, live, now)
                suited = filter(suits, endpoints) if suits else endpoints
                endpoint = pick(suited, self._demand, now, self._rng, None, False)
            else:
                endpoint = self._from_shortlist(tier.shortlist, live, now, suits)
            if endpoint is not None:
                return endpoint
        return None

    def _from_shortlist(
        self,
        shortlist: Shortlist,
        live: Sequence[Attempt],
        now: float,
        suits: Callable[[Endpoint], bool] | None = None,
        *,
        first: bool = False,
    ) -> Endpoint | None:
        """An untried endpoint of a large tier that suits; `first`: for the call's first attempt."""

        def narrow(endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
            endpoints = self._untried(endpoints, live, now)
            return [e for e in endpoints if suits(e)] if suits else endpoints

        return shortlist.pick(self._demand, now, self._rng, narrow, first)

    def beside(self, late: Attempt, live: Sequence[Attempt], now: float) -> Endpoint | None:
        """The endpoint to ask beside a late attempt."""
        if self._policies[late.endpoint].hedge == "auto" and not late.trial:
            return self.hedge_target(late, live, now)
        return self.untried(live, now)

    def hedge_target(self, late: Attempt, live: Sequence[Attempt], now: float) -> Endpoint | None:
        """The endpoint to hedge a late attempt with: one that is not late itself, and expected to be faster.

        None if there is none, for example when every endpoint is slow at once.
        """
        if self._route.window.pending >= self._route.window.size(now):
            return None
        kind = self._demand.kind
        # Of a large tier those are looked at that a call would be sent to.
        looked_at = (
            tier.endpoints if tier.shortlist is None else tier.shortlist.draw(self._demand, now, self._rng)
            for tier in self._route.tiers
        )
        able = (
            [
                e
                for e in self._untried(endpoints, live, now)
                if e.forecast.settled(kind, now) and not e.forecast.late(now)
            ]
            for endpoints in looked_at
        )
        good, cost = hedge_targets(able, self._demand, now)
        return (
            measured_longest_ago(good, kind, self._rng) if cost < late.endpoint.forecast.remaining(late, now) else None
        )

    def all_untried(self, live: Sequence[Attempt], now: float) -> Sequence[Endpoint]:
        """All untried endpoints, available or not."""
        return self._untried(self._route.by_preference, live, now)

    def any_untried(self, live: Sequence[Attempt], now: float, suits: Callable[[Endpoint], bool] | None = None) -> bool:
        """True if there is an untried endpoint, available or not, that suits."""
        real = any(not attempt.endpoint.simulated for attempt in live)
        return any(
            self._may_begin(e, real, now) and (suits is None or suits(e))
            for tier in self._route.tiers
            for e in tier.endpoints
        )

    def _untried(self, endpoints: Sequence[Endpoint], live: Sequence[Attempt], now: float) -> Sequence[Endpoint]:
        """The endpoints that may still be asked for the first time.

        An endpoint may not be asked after its own deadline, nor a simulated one beside a real attempt.
        """
        if not self._tried and now < self._began + self._route.shortest_deadline:
            return endpoints
        real = any(not attempt.endpoint.simulated for attempt in live)
        return [e for e in endpoints if self._may_begin(e, real, now)]

    def _may_begin(self, endpoint: Endpoint, real: bool, now: float) -> bool:
        """True if an endpoint may still be asked for the first time; `real`: beside a real attempt."""
        if endpoint in self._tried or now >= self._began + self._policies[endpoint].deadline:
            return False
        return (self._longer is None or endpoint in self._longer) and not (real and endpoint.simulated)

    # Waiting for one.

    def _queued(self, suits: Callable[[Endpoint], bool], now: float, deadline: float) -> Next | None:
        """To be queued for the endpoints that suit; None if there are none. Others are looked at all the while."""
        queue = self._route.queue
        if not queue.most or not queue.longest:
            return None
        endpoints = self._route.by_preference
        wanted = [e for e in endpoints if suits(e) and self._may_ask(e, now)]
        if not wanted:
            return None
        if self.queue_until == inf:
            self.queue_until = min(now + queue.longest, deadline)
        if now >= self.queue_until:
            return NONE
        others = any(not e.availability.full and self._may_ask(e, now) for e in endpoints)
        return Next(None, min(self.queue_until, now + RECHECK) if others else self.queue_until, wanted)

    def _once_more(self, now: float) -> Endpoint | None:
        """A failed endpoint that is available again after its pause."""
        for endpoint in self._route.by_preference:
            paused = self._again_at.get(endpoint, inf) <= now
            if paused and endpoint.availability.allows(now, self._demand) and self._may_ask(endpoint, now):
                return endpoint
        return None

    def _may_ask(self, endpoint: Endpoint, now: float) -> bool:
        """True if the endpoint may be asked for the first time, or once more."""
        if now >= self._began + self._policies[endpoint].deadline:
            return False
        return endpoint not in self._tried or self._again_at.get(endpoint, inf) < inf

    def _soonest(
        self, endpoints: Iterable[Endpoint], now: float, *, last_resort: bool = False
    ) -> tuple[float, Endpoint | None]:
        """The endpoint that may be asked next, and when: tried ones after pause and cooldown, others on recovery.

        As the last resort an untried one may be asked earlier, as the trial of its cooldown.
        """
        times = [(self._when(e, now, last_resort), e) for e in endpoints if not e.availability.full]
        in_time = [(then, e) for then, e in times if max(now, then) < self._began + self._policies[e].deadline]
        return min(in_time, key=lambda pair: pair[0], default=(inf, None))

    def _when(self, endpoint: Endpoint, now: float, last_resort: bool) -> float:
        availability, demand = endpoint.availability, self._demand
        if endpoint in self._tried:
            return max(self._again_at.get(endpoint, inf), availability.out_until(demand))
        recovers_at = availability.recovers_at(now, demand)
        if not last_resort:
            return recovers_at
        # Beyond this its client does better to come back.
        until = self._began + max(HOLD, self._route.patience)
        trial_at = max(now, availability.trial_at(demand))
        if availability.trial_runs(now, demand) and now < until:  # of another call: wait for its end
            trial_at = min(trial_at, now + RECHECK, until)
        then = min(recovers_at, trial_at)
        return then if then <= until else inf

    def _now_or_then(self, endpoint: Endpoint | None, then: float, now: float) -> Next:
        if then <= now:
            return Next(endpoint)
        # Beyond the longest hold its client does better to come back.
        return Next(None, then) if then <= now + self._longest_hold(now) else NONE

    def _longest_hold(self, now: float) -> float:
        return max(HOLD, self._began + self._route.patience - now)

    def _pause(self) -> float:
        return PAUSE * (1.0 + self._rng.random())
