"""When a late first token deserves a rival: the delay after which one is worth its price.

A rival that is asked after d seconds makes the wait min(X, d + Y), and is asked where X lasts for longer than d. So d
is chosen to make least of

    E[min(X, d + Y)] + price * P(X > d)

over all d that waits end before, those beyond, and "never". (Where none end it only gets worse to wait.) Where waits
vary little nothing is gained by any d, and "never" is the answer; where some calls stall it lies just past those that
don't, however few or many stall. (One rival is enough, and its best delay follows from the two distributions: Kaler,
He, Elnikety, SPAA 2017. A fixed quantile of X stops helping as soon as the stalls are as frequent as that.)

The price is in seconds of waiting for one extra attempt: a share of what the rival takes, because extra attempts cost
money and take others' room, and more as the budget is spent, so that what there is goes where most is gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from router.core.endpoint.histogram import Curve

MIN_SHARE = 0.0002  # of the waits
TAIL_FACTORS = (
    1.1,
    1.25,
    1.5,
    2.0,
    3.0,
    6.0,
    12.0,
    24.0,
)  # times what all but 2 of 1,000 take: a frozen one is late at last
SAMPLES = 10  # of equal share, that a rival's waits are taken as
BASE_PRICE = 0.5  # expected waits of the rival: the price where the budget is unspent
SCARCITY_PRICE = 0.6  # and half of this is added where it is half spent: 0.25 / 0.5
MAX_PRICE = 3.0  # what is not there is not paid; who waits meanwhile is worth as much when there is some again


def price(pressure: float) -> float:
    """What an extra attempt costs, in expected waits of the rival; `pressure` is the share of the budget spent."""
    return (
        min(MAX_PRICE, BASE_PRICE + SCARCITY_PRICE * pressure * pressure / (1.0 - pressure))
        if pressure < 1.0
        else MAX_PRICE
    )


def samples(curve: Curve) -> Sequence[float]:
    """A distribution as SAMPLES waits of equal share."""
    return [curve.quantile((i + 0.5) / SAMPLES) for i in range(SAMPLES)]


def delay(curve: Curve, rival: Sequence[float], price: float, earliest: float = 0.0) -> float:
    """Seconds after which to ask a rival whose waits are `rival`; inf where it is not worth its price.

    Not before a share `earliest` of the waits is over.
    """
    if price == inf:
        return inf
    first, last = curve.quantile(earliest), curve.quantile(0.998)
    times = [first, *(end for end in curve.ends(MIN_SHARE) if end > first), *(last * times for times in TAIL_FACTORS)]
    least, best = min((curve.mean_hedged(d, rival) + price * curve.survival(d), d) for d in times)
    return best if least < curve.mean * (1.0 - 1e-9) else inf
