"""The forecast of what one more call would wait at an endpoint.

The evidence: measured waits, pending attempts, the load of our own attempts, and the server's own report.

An attempt is pending while it has no first token. A pending attempt that has waited for longer than is usual is
evidence before it ends: it raises the forecast at once. An attempt that a later one has overtaken is no evidence of the
present any more, and is dropped from the pending evidence.

`Attempt` is the only writer from the request path; the server's own report comes through `report`.
"""

from __future__ import annotations

from itertools import islice, takewhile
from math import inf
from typing import Protocol

from router.core.demand import KINDS, Demand, DemandKind
from router.core.endpoint.availability import Availability
from router.core.endpoint.histogram import Curve
from router.core.endpoint.latency import Latency
from router.core.endpoint.server_load import ServerLoad

# Seconds, before anything was measured.
PRIORS: dict[DemandKind, float] = {"first_token": 1.0, "answer": 10.0, "embedding": 1.0}
# Cost multiplier of an unmeasured endpoint while its first call runs: keeps further calls away (Finagle's penalty).
FIRST_MEASUREMENT = 1e6
# Load of a stream that is being written, as a share of a pending request's: decoding is the cheap part.
STREAM_SHARE = 0.1
# Pending attempts per kind, the oldest, that count as evidence: further ones add nothing.
MAX_PENDING_EVIDENCE = 3
# An attempt is late beyond this many times the usual wait, where no distribution is known.
LATE_FACTOR = 2.0
# Seconds before which no attempt is late: users notice no less, and a scheduler's hiccup is as long.
MIN_LATE = 0.05


class Pending(Protocol):
    """An attempt without a first token, as the forecast reads it."""

    @property
    def began(self) -> float: ...
    @property
    def demand(self) -> Demand: ...


class Forecast:
    """`weight` is the endpoint's configured capacity relative to others, `hot_until` the time until which it is hot.

    `pending` are the attempts without a first token, oldest first.
    """

    __slots__ = (
        "_availability",
        "_evidence",
        "_latencies",
        "_others",
        "_pending_count",
        "_report",
        "_report_until",
        "hot_until",
        "pending",
        "weight",
    )

    def __init__(self, availability: Availability, weight: float = 1.0) -> None:
        self._availability, self.weight = availability, weight
        self._latencies = {kind: Latency(prior) for kind, prior in PRIORS.items()}
        self.pending: dict[Pending, None] = {}
        self._pending_count: dict[DemandKind, int] = dict.fromkeys(KINDS, 0)
        # The pending attempts that no later one has overtaken, by kind. Kept apart, because every call looks at them:
        # of hundreds of pending answers only the oldest count.
        self._evidence: dict[DemandKind, dict[Pending, None]] = {kind: {} for kind in KINDS}
        self._report: ServerLoad | None = None
        self._report_until = self.hot_until = -inf
        self._others = 0.0  # running requests in the server's report that are not ours

    def latency(self, kind: DemandKind) -> Latency:
        """The measured waits of one kind."""
        return self._latencies[kind]

    # What one more call would wait.

    def cost(self, demand: Demand, now: float) -> float:
        """The expected wait of one more call in seconds, its own queue here included.

        While the first call at an unmeasured endpoint runs, the cost is so high that no other call is sent there.
        """
        kind, size = demand.kind, demand.size
        latency, evidence = self._latencies[kind], self._evidence[kind]
        if latency.unknown and self._pending_count[kind]:
            return latency.expected(size, now) * FIRST_MEASUREMENT
        if evidence and now - next(iter(evidence)).began >= latency.late_after:
            age, surprise = self._pending_surprise(latency, kind, now)
            expected = latency.expected(size, now, surprise, age)
            if latency.curve is None:
                expected = max(expected, age)
        else:
            expected = latency.expected(size, now)
        # `load` and `crowding`, spelled out, because every call asks this of every endpoint; a property test compares
        # the two.
        load = (STREAM_SHARE * self._availability.in_flight + (1.0 - STREAM_SHARE) * len(self.pending)) / self.weight
        if now < self._report_until:
            load += STREAM_SHARE * self._others / self.weight
        if load > latency.expected_load:
            expected *= latency.load_factor(load)
        return expected

    def load(self, now: float) -> float:
        """The load of the requests here, in pending requests at a server of weight 1 that is as busy.

        A pending request counts whole, a stream that is being written STREAM_SHARE.
        """
        streams = float(self._availability.in_flight)
        if now < self._report_until:
            streams += self._others
        return (STREAM_SHARE * streams + (1.0 - STREAM_SHARE) * len(self.pending)) / self.weight

    def crowding(self, kind: DemandKind, now: float) -> float:
        """The factor by which the present load lengthens a wait, compared with the load under which it was measured."""
        return self._latencies[kind].load_factor(self.load(now))

    def trouble(self, kind: DemandKind, now: float) -> float:
        """The probability that the endpoint is in trouble, from the latest waits and the pending attempts."""
        latency = self._latencies[kind]
        return latency.trouble(now, self._pending_surprise(latency, kind, now)[1])

    def settled(self, kind: DemandKind, now: float) -> bool:
        """True if recent waits match the long-run distribution (no slowdown suspected)."""
        latency = self._latencies[kind]
        return latency.settled(now, self._pending_surprise(latency, kind, now)[1])

    def unmeasured(self, kind: DemandKind) -> bool:
        """True if nothing is known of these waits, and no call is measuring them."""
        return self._latencies[kind].unknown and not self._pending_count[kind]

    def being_measured(self, kind: DemandKind) -> bool:
        """True if nothing is known of these waits, and the first measurement is running."""
        return self._latencies[kind].unknown and self._pending_count[kind] > 0

    def worth_measuring(self, kind: DemandKind, best: float) -> bool:
        """True if it may be quicker than the `best` cost for all that is known, and no call is measuring that."""
        return not self._pending_count[kind] and self._latencies[kind].may_be_quicker(best)

    def typical(self, demand: Demand, now: float) -> float:
        """Seconds that such a call takes in the long run, whatever it takes now."""
        latency = self._latencies[demand.kind]
        return max(0.0, latency.typical + latency.shift(demand.size, now))

    def late_after(self, demand: Demand, now: float) -> float:
        """Seconds beyond which such a call has waited for unusually long here."""
        latency = self._latencies[demand.kind]
        if latency.curve is None:
            return max(MIN_LATE, LATE_FACTOR * latency.expected(demand.size, now))
        return max(MIN_LATE, latency.late_after + latency.shift(demand.size, now))

    def late(self, now: float) -> bool:
        """True if the oldest pending stream has waited for much longer than is usual."""
        oldest = next(iter(self._evidence["first_token"]), None)
        if oldest is None:
            return False
        late_after = self.late_after(oldest.demand, now)
        known = self._latencies["first_token"].curve is not None
        return now - oldest.began > (LATE_FACTOR * late_after if known else late_after)

    def remaining(self, attempt: Pending, now: float) -> float:
        """Expected further seconds of a pending attempt; inf while no distribution is known."""
        latency, age = self._latencies[attempt.demand.kind], now - attempt.began
        if latency.curve is None:
            return inf
        return latency.curve.remaining(max(0.0, age - latency.shift(attempt.demand.size, now)))

    def curve(self, kind: DemandKind, now: float) -> Curve | None:
        """The survival curve of these waits, pending ones included; None while too little is known for one."""
        pending = [(now - a.began, a.demand.size) for a in self.pending if a.demand.kind == kind]
        return self._latencies[kind].curve_with(pending, now) if pending else self._latencies[kind].curve

    def _pending_surprise(self, latency: Latency, kind: DemandKind, now: float) -> tuple[float, float]:
        """The longest unusual age of a pending attempt in seconds, and the log-likelihood of these ages together."""
        longest, surprise = 0.0, 0.0
        for attempt in islice(self._evidence[kind], MAX_PENDING_EVIDENCE):
            age = now - attempt.began
            if age < latency.late_after:
                break
            longest = max(longest, age)
            surprise += latency.pending_surprise(age, attempt.demand.size, now)
        return longest, surprise

    # What the server reports.

    def server_load(self, now: float) -> ServerLoad | None:
        """The server's latest report of its load; None if there is none or it has expired."""
        return self._report if now < self._report_until else None

    def hot(self, now: float) -> bool:
        """True if the server reports a queue or a full cache."""
        return now < self.hot_until

    def report(self, load: ServerLoad, now: float, until: float) -> None:
        """Take the server's report of its load, valid until a time."""
        self._report, self._report_until = load, until
        self._others = max(0.0, (load.running or 0.0) - self._availability.slots.used)
        self.hot_until = until if load.hot else now

    # What attempts report.

    def begin(self, attempt: Pending) -> None:
        """An attempt is pending from now on."""
        kind = attempt.demand.kind
        self.pending[attempt] = self._evidence[kind][attempt] = None
        self._pending_count[kind] += 1

    def end(self, attempt: Pending) -> None:
        """An attempt is no longer pending: it has its first token, or it has ended."""
        kind = attempt.demand.kind
        del self.pending[attempt]
        self._pending_count[kind] -= 1
        self._evidence[kind].pop(attempt, None)

    def overtake(self, by: Pending) -> None:
        """Drop older pending attempts of this kind as evidence: a later one was served first."""
        evidence = self._evidence[by.demand.kind]
        for attempt in list(takewhile(lambda attempt: attempt.began < by.began, evidence)):
            del evidence[attempt]
