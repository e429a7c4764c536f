"""One upstream model behind one URL and credential, and the attempts by which it is measured.

`Attempt` is the only writer from the request path: it begins with `Endpoint.begin`, may see its first token, and ends
exactly once whatever way its call ends, so that every counter returns to its value from before.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

from router.core.demand import FIRST_TOKEN, Demand
from router.core.endpoint.availability import Availability
from router.core.endpoint.forecast import LATE_FACTOR, MIN_LATE, Forecast
from router.core.endpoint.slots import Slots
from router.core.verdict import Outcome, Verdict

Role = Literal["first", "hedge", "retry", "rescue"]

# Seconds that a failure counts for at least: a quick error must not look like a quick answer (linkerd's penalty).
PENALTY = 5.0


class Endpoint:
    """Identity and configuration of an endpoint, and what is learned of it: `availability` and `forecast`.

    `key` is what identifies the measured thing (address, model, credential). `simulated` endpoints answer only where no
    other can, and never beside one. `context` is the tokens that prompt and answer may have together, 0 if unknown.
    """

    __slots__ = ("availability", "context", "forecast", "key", "model", "name", "simulated")

    def __init__(
        self, name: str, model: str = "", *, key: Hashable = None, weight: float = 1.0, slots: Slots | None = None
    ) -> None:
        self.name, self.model, self.key = name, model, key if key is not None else (name, model)
        self.simulated = False
        self.context = 0
        self.availability = Availability(slots or Slots())
        self.forecast = Forecast(self.availability, weight)

    def __repr__(self) -> str:
        in_flight, pending = self.availability.in_flight, len(self.forecast.pending)
        return f"<Endpoint {self.name}/{self.model} {in_flight} in flight, {pending} pending>"

    @property
    def weight(self) -> float:
        """The configured share of the traffic, and capacity, relative to other endpoints."""
        return self.forecast.weight

    def begin(self, now: float, demand: Demand = FIRST_TOKEN, role: Role = "first") -> Attempt:
        """Begin an attempt."""
        attempt = Attempt(self, demand, role, now, load=self.forecast.load(now))
        attempt.start()
        return attempt


class Attempt:
    """One try of a call at one endpoint. `outcome` is None while it runs.

    `trial`: it is the half-open breaker's trial; `cooldown_trial`: it is the trial of a cooldown. `load` is the
    endpoint's load when it began.
    """

    __slots__ = (
        "_slots",
        "began",
        "cooldown_trial",
        "demand",
        "ended",
        "endpoint",
        "first_token_at",
        "load",
        "outcome",
        "role",
        "trial",
    )

    def __init__(
        self, endpoint: Endpoint, demand: Demand, role: Role, began: float, trial: bool = False, load: float = 0.0
    ) -> None:
        """An attempt as it would be; it counts nowhere before `start`."""
        self.endpoint, self.demand, self.role, self.began = endpoint, demand, role, began
        self.trial, self.load = trial, load
        self.cooldown_trial = False
        self._slots: Slots | None = None
        self.first_token_at: float | None = None
        self.ended: float | None = None
        self.outcome: Outcome | None = None

    def __repr__(self) -> str:
        verdict = self.verdict
        return f"<Attempt {self.role} at {self.endpoint.name} {verdict.value if verdict else 'running'}>"

    @property
    def verdict(self) -> Verdict | None:
        """The outcome's verdict; None while the attempt runs."""
        return None if self.outcome is None else self.outcome.verdict

    def start(self) -> None:
        """Take a slot, and count as pending."""
        availability = self.endpoint.availability
        self.trial = availability.breaker.begin()
        if availability.cooldowns:
            self.cooldown_trial = availability.begin(self.demand, self.began)
        self._slots = availability.reserve()
        self.endpoint.forecast.begin(self)

    def first_token(self, now: float) -> None:
        """The first token has arrived, or the complete answer where the call waits for that."""
        if self.first_token_at is None and self.ended is None:
            self.first_token_at = now
            forecast, demand = self.endpoint.forecast, self.demand
            forecast.end(self)
            forecast.overtake(self)
            availability = self.endpoint.availability
            availability.breaker.token(now)
            if availability.cooldowns:
                availability.accepted(self, now)
                self.cooldown_trial = False
            forecast.latency(demand.kind).observe(now - self.began, now, demand.size, self.load)

    def end(self, outcome: Outcome, now: float) -> None:
        """End the attempt. Only the first call counts, so that every path may make it."""
        slots = self._slots
        if self.outcome is not None or slots is None:
            return
        self.ended, self.outcome = now, outcome
        verdict, availability, forecast = outcome.verdict, self.endpoint.availability, self.endpoint.forecast
        if self.first_token_at is None:
            forecast.end(self)
        if verdict is Verdict.SERVED:
            self._served(now)
        elif verdict is Verdict.FAULT:
            if availability.failed(self, outcome, now):
                forecast.latency(self.demand.kind).penalise(max(PENALTY, self._waited(now)), now)
        elif verdict is Verdict.BUSY:
            availability.failed(self, outcome, now)
        elif verdict is Verdict.ABANDONED and self.first_token_at is None:
            self._abandoned(now)
        else:
            availability.inconclusive(self, now)
        availability.release(slots)
        queue = slots.queue
        if queue.entries:
            while queue.call_up(now) and not availability.full:  # several, if the learned limit has grown
                pass

    def _waited(self, now: float) -> float:
        return (now if self.first_token_at is None else self.first_token_at) - self.began

    def _served(self, now: float) -> None:
        """Evidence from before an outage is dropped when the breaker closes."""
        if self.endpoint.availability.served(self, now):
            latency = self.endpoint.forecast.latency(self.demand.kind)
            latency.forget()
            latency.observe(self._waited(now), now, self.demand.size, self.load)

    def _abandoned(self, now: float) -> None:
        """A wait that was broken off is a lower bound; a late one counts against the endpoint."""
        availability, forecast, demand = self.endpoint.availability, self.endpoint.forecast, self.demand
        waited = now - self.began
        # The breaker's trial must be no slower than usual, or it was no recovery.
        typical = forecast.typical(demand, self.began)
        late_after = max(MIN_LATE, typical if self.trial else LATE_FACTOR * typical)
        latency = forecast.latency(demand.kind)
        chance = latency.chance(waited, demand.size, now)
        latency.observe_at_least(waited, now, demand.size, self.load)
        if demand.kind == "first_token" and waited > late_after:
            availability.lost(self, chance, now)
        else:
            availability.inconclusive(self, now)
