"""The hedge delay: after how many seconds without a first token a hedge is worth its price.

A hedge sent after d seconds makes the wait min(X, d + Y), and is sent if X exceeds d; X is the wait at the endpoint, Y
that at the hedge's target. So d is chosen to minimise

    E[min(X, d + Y)] + price * P(X > d)

over all times d at which waits end, some times beyond, and "never". (Between them a later d only costs more.) If waits
vary little no d gains anything, and "never" is the result. If some calls stall, d lies just beyond the waits of those
that do not, however few or many stall. (One hedge is enough, and its best delay follows from the two distributions:
Kaler, He, Elnikety, SPAA 2017. A fixed quantile of X stops helping once the stalls are as frequent as its tail.)

The price is in seconds of waiting for one extra attempt. It is a share of the expected wait at the target, because
extra attempts cost money and capacity, and rises as the budget is spent, so that the rest goes where most is gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from router.core.endpoint.histogram import Curve

MIN_SHARE = 0.0002  # of the waits, that must end in a bucket for its end to be tried as a delay
# Times the 99.8 % quantile of the waits: the delays that are tried beyond it, for the hedge of a frozen attempt.
TAIL_FACTORS = (1.1, 1.25, 1.5, 2.0, 3.0, 6.0, 12.0, 24.0)
SAMPLES = 10  # waits of equal probability that stand for a target's distribution
BASE_PRICE = 0.5  # expected waits of the target, where the budget is unspent
# Expected waits of the target, times p^STEEPNESS / (1 - p) where a share p of the budget is spent: nothing is added at
# half, 0.05 at 0.8, 0.42 at 0.9 and 1.6 at 0.95. A price that rose earlier would leave a part of the budget unspent.
SCARCITY_PRICE = 0.15
STEEPNESS = 12
MAX_PRICE = 3.0  # expected waits: an empty budget must not make a hedge infinitely expensive


def price(pressure: float) -> float:
    """The price of a hedge, in expected waits of its target; `pressure` is the share of the budget spent."""
    if pressure >= 1.0:
        return MAX_PRICE
    return min(MAX_PRICE, BASE_PRICE + SCARCITY_PRICE * pressure**STEEPNESS / (1.0 - pressure))


def samples(curve: Curve) -> Sequence[float]:
    """A distribution as SAMPLES waits of equal probability."""
    return [curve.quantile((i + 0.5) / SAMPLES) for i in range(SAMPLES)]


def delay(curve: Curve, target: Sequence[float], price: float, earliest: float = 0.0) -> float:
    """Seconds after which to hedge to an endpoint whose waits are `target`; inf if no hedge is worth its price.

    No delay is shorter than the quantile `earliest` of the waits.
    """
    if price == inf:
        return inf
    first, last = curve.quantile(earliest), curve.quantile(0.998)
    times = [first, *(end for end in curve.ends(MIN_SHARE) if end > first), *(last * times for times in TAIL_FACTORS)]
    least, best = min((curve.mean_hedged(d, target) + price * curve.survival(d), d) for d in times)
    return best if least < curve.mean * (1.0 - 1e-9) else inf
