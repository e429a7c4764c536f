"""One upstream model behind one URL and credential, what we have learned of it, and the attempts that teach it.

`Attempt` is the only writer from the request path: it begins with `Endpoint.begin`, may see its first token, and ends
exactly once whatever way its call ends, so that every counter here returns to where it was.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice, takewhile
from math import inf
from typing import Literal

from router.core.endpoint.breaker import Breaker, State
from router.core.endpoint.cooldown import Cooldown
from router.core.endpoint.health import Health
from router.core.endpoint.histogram import Curve
from router.core.endpoint.latency import Latency
from router.core.endpoint.limit import Limit
from router.core.endpoint.server_load import ServerLoad
from router.core.endpoint.slots import Slots
from router.core.verdict import OURS, Cause, Outcome, Verdict

Wait = Literal["first_token", "answer", "embedding"]  # what a call waits for; each has a scale of its own
Role = Literal["first", "hedge", "retry", "rescue"]

PRIORS: dict[Wait, float] = {"first_token": 1.0, "answer": 10.0, "embedding": 1.0}  # seconds, before anything was seen
PENALTY = 5.0  # seconds that a failure counts for at least: a quick error must not look like a quick answer (linkerd's)
ON_TRIAL = 1e6  # requests, in which the one that is finding out is counted
STREAM_SHARE = 0.1  # of a waiting request's load, for a stream that is being written: decoding is the cheap part
WITNESSES = 3  # attempts that wait for too long, which is all that need be heard
LATE = 2.0  # times what is usual, where no distribution says better what is late
MIN_HEDGE = 0.05  # seconds: nobody sees less, and a scheduler's hiccup is as long


class Endpoint:
    """Told: name, weight, slots, stand_in, context. Learned: latency, breaker, health, limit, when it is out until, its
    attempts.
    """

    __slots__ = (
        "_latency",
        "_others",
        "_said",
        "_said_until",
        "_waiting_for",
        "_witnesses",
        "breaker",
        "context",
        "cooldown",
        "health",
        "hedges",
        "hot_until",
        "in_flight",
        "key",
        "limit",
        "model",
        "name",
        "simulated",
        "slots",
        "waiting",
        "weight",
    )

    def __init__(
        self, name: str, model: str = "", *, key: Hashable = None, weight: float = 1.0, slots: Slots | None = None
    ) -> None:
        self.name, self.model, self.key, self.weight = name, model, key if key is not None else (name, model), weight
        self.slots = slots or Slots()
        self.simulated = False  # it only simulates: it answers where nobody else can, and never beside somebody
        self.context = 0  # tokens that a prompt and its answer may have together; 0 is not said
        self._latency = {wait: Latency(prior) for wait, prior in PRIORS.items()}
        self.breaker, self.health, self.limit = Breaker(), Health(), Limit()
        self.cooldown = Cooldown()
        self.hedges = 0  # of those that wait
        self.in_flight = 0
        self.waiting: dict[Attempt, None] = {}  # without a first token yet, oldest first
        self._waiting_for: dict[Wait, int] = dict.fromkeys(PRIORS, 0)  # how many of these
        # Of these, by what they wait for, who was not overtaken by one that began later; the others say nothing of now.
        # Kept apart because every call looks at them: of hundreds of answers that are awaited only the oldest counts.
        self._witnesses: dict[Wait, dict[Attempt, None]] = {wait: {} for wait in PRIORS}
        self._said: ServerLoad | None = None  # by the server itself, which counts until then
        self._said_until = self.hot_until = -inf
        self._others = 0.0  # requests that it runs and that are not ours

    def __repr__(self) -> str:
        return f"<Endpoint {self.name}/{self.model} {self.in_flight} in flight, {len(self.waiting)} waiting>"

    def latency(self, wait: Wait) -> Latency:
        return self._latency[wait]

    # Whether it may be asked.

    @property
    def most(self) -> float:
        """Attempts at once: the operator's word, or less where it has refused so many."""
        told = self.slots.limit
        return self.limit.most if told is None else min(told, self.limit.most)

    @property
    def full(self) -> bool:
        return self.slots.full or self.in_flight >= self.limit.most

    def lacks_a_slot(self, now: float) -> bool:
        """And nothing else: as soon as an attempt of others ends there it may be asked."""
        return self.full and self.health.up and now >= self.cooldown.until and self.breaker.allows(now)

    def available(self, now: float) -> bool:
        breaker, slots = self.breaker, self.slots  # spelt out: this is asked of every endpoint for every call
        return (
            self.health.up
            and now >= self.cooldown.until
            and (breaker.retry_at is None or breaker.allows(now))
            and slots.used < slots.most
            and self.in_flight < self.limit.most
        )

    def sound(self, now: float) -> bool:
        """Nothing speaks against it: sending it what another endpoint failed to serve is no retry storm."""
        return self.available(now) and self.breaker.failures_in_a_row == 0 and self.breaker.state(now) is State.CLOSED

    def recovers_at(self, now: float) -> float:
        """When it can be asked again: `now` if it can, `inf` if nobody knows."""
        if not self.health.up or self.full:
            return inf
        then = max(now, self.left_alone_until)
        return then if self.breaker.allows(then) else inf  # else its trial is running

    @property
    def left_alone_until(self) -> float:
        """It said that it is busy, or its breaker is open; probes' word on it is another thing."""
        return max(self.cooldown.until, self.breaker.retry_at or 0.0)

    # What it would cost.

    def cost(self, wait: Wait, now: float, size: float = 0.0) -> float:
        """The expected wait of one more request of a size, in seconds: what we saw of it, and our own queue there.

        Attempts that have waited for longer than is usual say what the estimate will be, only sooner. While the first
        attempt at a newcomer runs it costs so much that nobody else is sent there (Finagle's penalty).
        """
        latency, waiting, witnesses = self._latency[wait], self.waiting, self._witnesses[wait]
        if latency.unknown and self._waiting_for[wait]:
            return latency.expected(size, now) * ON_TRIAL
        if witnesses and now - next(iter(witnesses)).began >= latency.late_after:
            age, lateness = self._witnessed(latency, wait, now)
            expected = latency.expected(size, now, lateness, age)
            if latency.curve is None:
                expected = max(expected, age)
        else:
            expected = latency.expected(size, now)
        # `load` and `crowding`, spelt out: this is asked of every endpoint for every call.
        load = (STREAM_SHARE * self.in_flight + (1.0 - STREAM_SHARE) * len(waiting)) / self.weight
        if now < self._said_until:
            load += STREAM_SHARE * self._others / self.weight
        if load > latency.expected_load:
            expected *= latency.load_factor(load)
        return expected

    def load(self, now: float) -> float:
        """Requests that are there, as many as a server of weight 1 would have that is as busy: what waits counts, and
        what is being written a little.
        """
        streams = self.in_flight + self._others if now < self._said_until else self.in_flight
        return (STREAM_SHARE * streams + (1.0 - STREAM_SHARE) * len(self.waiting)) / self.weight

    def trouble(self, wait: Wait, now: float) -> float:
        """How likely it is that it is in trouble, by who was served last and by who waits."""
        latency = self._latency[wait]
        return latency.trouble(now, self._witnessed(latency, wait, now)[1])

    def crowding(self, wait: Wait, now: float) -> float:
        """How many times as long one more waits, for what is there now beyond what was when its evidence was seen."""
        return self._latency[wait].load_factor(self.load(now))

    def _witnessed(self, latency: Latency, wait: Wait, now: float) -> tuple[float, float]:
        """For how long somebody has waited here, and how surprising it is that so many have for so long."""
        longest, lateness = 0.0, 0.0
        for attempt in islice(self._witnesses[wait], WITNESSES):
            age = now - attempt.began
            if age < latency.late_after:
                break
            longest = max(longest, age)
            lateness += latency.pending_surprise(age, attempt.size, now)
        return longest, lateness

    def settled(self, wait: Wait, now: float) -> bool:
        """It takes what it takes as a rule, as far as anybody knows."""
        latency = self._latency[wait]
        return latency.settled(now, self._witnessed(latency, wait, now)[1])

    def untried(self, wait: Wait) -> bool:
        """Nothing is known of it, and nobody is finding out."""
        return self._latency[wait].unknown and not self._waiting_for[wait]

    def on_trial(self, wait: Wait) -> bool:
        """Nothing is known of it, and somebody is finding out."""
        return self._latency[wait].unknown and self._waiting_for[wait] > 0

    def server_load(self, now: float) -> ServerLoad | None:
        """What its server said of itself lately; None is unknown."""
        return self._said if now < self._said_until else None

    def hot(self, now: float) -> bool:
        """Its server has more than it can begin with, by its own word: better ask another."""
        return now < self.hot_until

    def usual(self, wait: Wait, size: float, now: float) -> float:
        """Seconds that a prompt of a size takes as a rule, whatever it takes now."""
        latency = self._latency[wait]
        return max(0.0, latency.typical + latency.shift(size, now))

    def unusual(self, wait: Wait, size: float, now: float) -> float:
        """Seconds that hardly a prompt of a size takes here."""
        latency = self._latency[wait]
        if latency.curve is None:
            return max(MIN_HEDGE, LATE * latency.expected(size, now))
        return max(MIN_HEDGE, latency.late_after + latency.shift(size, now))

    def late(self, now: float) -> bool:
        """It keeps somebody waiting for his first token for much longer than it takes as a rule."""
        oldest = next(iter(self._witnesses["first_token"]), None)
        if oldest is None:
            return False
        unusual = self.unusual("first_token", oldest.size, now)
        known = self._latency["first_token"].curve is not None
        return now - oldest.began > (LATE * unusual if known else unusual)

    def remaining(self, attempt: Attempt, now: float) -> float:
        """How much longer an attempt that waits here may take, in seconds; inf where nobody knows."""
        latency, age = self._latency[attempt.wait], now - attempt.began
        if latency.curve is None:
            return inf
        return latency.curve.remaining(max(0.0, age - latency.shift(attempt.size, now)))

    def curve(self, wait: Wait, now: float) -> Curve | None:
        """Of its waits, those that have not ended yet among them; None while too little is known for one."""
        waiting = [(now - a.began, a.size) for a in self.waiting if a.wait == wait]
        return self._latency[wait].curve_with(waiting, now) if waiting else self._latency[wait].curve

    # What is learned.

    def begin(self, now: float, wait: Wait = "first_token", role: Role = "first", size: float = 0.0) -> Attempt:
        attempt = Attempt(self, self.slots, now, wait, role, self.breaker.begin(), size, self.load(now))
        self.in_flight += 1
        self.slots.used += 1
        self.waiting[attempt] = self._witnesses[wait][attempt] = None
        self._waiting_for[wait] += 1
        self.hedges += role == "hedge"
        return attempt

    def overtaken(self, by: Attempt) -> None:
        """It has what it waited for: who waits for longer for the same is a witness of now no more."""
        waiting = self._witnesses[by.wait]
        for attempt in list(takewhile(lambda attempt: attempt.began < by.began, waiting)):
            del waiting[attempt]

    def no_longer_waits(self, attempt: Attempt) -> None:
        del self.waiting[attempt]
        self._waiting_for[attempt.wait] -= 1
        self._witnesses[attempt.wait].pop(attempt, None)
        self.hedges -= attempt.role == "hedge"

    def says(self, load: ServerLoad, now: float, until: float) -> None:
        """What its server says of itself now, which counts until then; for whoever listens to it."""
        self._said, self._said_until = load, until
        self._others = max(0.0, (load.running or 0.0) - self.slots.used)
        self.hot_until = until if load.hot else now

    def probed(self, ok: bool, now: float) -> bool:
        """A probe's result; True where it changed whether the endpoint is up.

        It closes no breaker: a server can answer probes with its engine frozen. It only brings the trial forward, where
        probes saw it dead before: then the process that answers now is another.
        """
        was_missed = self.health.misses > 0
        flipped = self.health.observe(ok)
        if was_missed and ok:
            self.breaker.hint(now)
        return flipped


class Attempt:
    """One try of a call at one endpoint. `outcome` is None while it runs.

    `slots` are those that it took one of (a reload may give the endpoint others), `size` are the tokens of its prompt,
    `load` is the endpoint's load when it began.
    """

    __slots__ = (
        "began",
        "ended",
        "endpoint",
        "first_token_at",
        "load",
        "outcome",
        "role",
        "size",
        "slots",
        "trial",
        "wait",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        slots: Slots,
        began: float,
        wait: Wait,
        role: Role,
        trial: bool,
        size: float = 0.0,
        load: float = 0.0,
    ) -> None:
        self.endpoint, self.slots, self.began, self.wait, self.role = endpoint, slots, began, wait, role
        self.trial, self.size, self.load = trial, size, load
        self.first_token_at: float | None = None
        self.ended: float | None = None
        self.outcome: Outcome | None = None

    def __repr__(self) -> str:
        verdict = self.verdict
        return f"<Attempt {self.role} at {self.endpoint.name} {verdict.value if verdict else 'running'}>"

    @property
    def verdict(self) -> Verdict | None:
        """The outcome's verdict; None while it runs."""
        return None if self.outcome is None else self.outcome.verdict

    def first_token(self, now: float) -> None:
        """The first token (or the complete answer, where that is what the call waits for) is here."""
        if self.first_token_at is None and self.ended is None:
            self.first_token_at = now
            self.endpoint.no_longer_waits(self)
            self.endpoint.overtaken(self)
            self.endpoint.breaker.token()
            self.endpoint.latency(self.wait).observe(now - self.began, now, self.size, self.load)

    def end(self, outcome: Outcome, now: float) -> None:
        """End the attempt. Only the first call counts, so every path may make it."""
        if self.outcome is not None:
            return
        self.ended, self.outcome = now, outcome
        verdict = outcome.verdict
        endpoint = self.endpoint
        endpoint.in_flight -= 1
        self.slots.used -= 1
        if self.first_token_at is None:
            endpoint.no_longer_waits(self)
        if verdict is Verdict.SERVED:
            self._served(now)
        elif verdict is Verdict.FAULT:
            endpoint.latency(self.wait).penalise(max(PENALTY, self._waited(now)), now)
            endpoint.breaker.failure(now, self.began, trial=self.trial)
            if outcome.cause in OURS:
                endpoint.cooldown.refused(outcome.cause, now)
        else:
            self._inconclusive(outcome, now)
        line = self.slots.line
        if line.places:
            while line.call_up(now) and not endpoint.full:  # for more than one, where its own limit has grown
                pass

    def _waited(self, now: float) -> float:
        return (now if self.first_token_at is None else self.first_token_at) - self.began

    def _served(self, now: float) -> None:
        endpoint = self.endpoint
        endpoint.health.observe(True)
        endpoint.cooldown.served(self.began, now)
        if endpoint.limit.most != inf:
            endpoint.limit.served(endpoint.in_flight + 1, now)
        if endpoint.breaker.success(now, self.began, trial=self.trial):
            latency = endpoint.latency(self.wait)
            latency.forget()
            latency.observe(self._waited(now), now, self.size, self.load)

    def _inconclusive(self, outcome: Outcome, now: float) -> None:
        endpoint, waited, verdict = self.endpoint, now - self.began, outcome.verdict
        late = verdict is Verdict.ABANDONED and self.first_token_at is None
        if late:
            # A trial that is not better than usual was no recovery.
            usual = endpoint.usual(self.wait, self.size, self.began)
            late = self.wait == "first_token" and waited > max(MIN_HEDGE, usual if self.trial else LATE * usual)
            endpoint.latency(self.wait).observe_at_least(waited, now, self.size, self.load)
        if late:
            endpoint.breaker.lost(now, self.began, trial=self.trial)
        else:
            endpoint.breaker.inconclusive(trial=self.trial)
        if verdict is Verdict.BUSY:
            self._busy(outcome, now)

    def _busy(self, outcome: Outcome, now: float) -> None:
        """Where others run there a smaller limit is all that a throttled endpoint needs, unless it names a time."""
        endpoint = self.endpoint
        if outcome.cause is Cause.THROTTLED:
            endpoint.limit.throttled(endpoint.in_flight + 1, self.began, now)
        if outcome.cause is not Cause.THROTTLED or outcome.retry_after is not None or not endpoint.in_flight:
            endpoint.cooldown.busy(now, outcome.retry_after, outcome.cause)
