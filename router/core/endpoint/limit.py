"""The limit of concurrent attempts at an endpoint, learned from its refusals: down by a factor, up by ones (AIMD).

No vendor reports its limit in its answers, and some change it with the hour; so it is found as TCP finds a path's
capacity. A refusal for one attempt too many sets the limit to 0.7 of the attempts that ran, once for all attempts sent
before. It counts if it is the second in a row, of another call, or if as many attempts were refused before: one refusal
alone may be about its request. From there the limit grows by one for as many served attempts as it is high, while it is
used. One step below the number that was refused last it stays for PROBE_AFTER served attempts, because the next step
may cost a refusal. Beyond that step it grows as before.

Each upstream model has a limit of its own: accounts are limited for each. (docs.bigmodel.cn/cn/api/rate-limit)
"""

from __future__ import annotations

from math import inf

SHRINK_FACTOR = 0.7  # of the attempts that ran when one was refused
PROBE_AFTER = 30  # served attempts before a step that was refused last time: one refusal in 31, about three per cent
FORGET_AFTER = 600.0  # seconds without a refusal, after which a limit that is at most half used is removed


class Limit:
    """The learned limit, `most` attempts at once, and how many were `refused` last; inf until there is a refusal."""

    __slots__ = ("_served", "_shrunk_at", "most", "refused")

    def __init__(self) -> None:
        self.most: float = inf
        self.refused = inf
        self._served = 0  # attempts served since the last step
        self._shrunk_at = -inf  # time of the last refusal that counted

    def throttled(self, running: int, began: float, now: float) -> None:
        """Lower the limit: one of `running` attempts, itself included, was refused as one too many or too soon."""
        if began < self._shrunk_at:
            return  # sent before the last refusal was known
        self.most = float(max(1, int(SHRINK_FACTOR * min(running, self.most))))
        self.refused, self._served, self._shrunk_at = float(running), 0, now

    def served(self, running: int, now: float) -> None:
        """Count a served attempt, one of `running`, itself included. Call it only if there is a limit."""
        if 2 * running <= self.most:  # the limit holds no call back
            if now >= self._shrunk_at + FORGET_AFTER:
                self.most = self.refused = inf
            return
        self._served += 1
        step = self.most + 1
        if self._served >= (max(PROBE_AFTER, self.most) if step == self.refused else self.most):
            self.most, self._served = step, 0
