"""How many attempts at once an endpoint takes, learned from its refusals: down by a share, up by ones (AIMD).

No vendor says in its answers how many it takes, and some change it with the hour; so it is found out as TCP finds a
path's capacity. A refusal for being one too many takes it to 0.7 of what ran, once for all that were sent before. From
there it grows by one for as many served attempts as it is high, while it is used; one step below what was refused last
time it stays for PROBE_AFTER served attempts: the next step may cost a refusal. Past that it is quick again.

It is learned for each upstream model apart: accounts have a limit for each. (docs.bigmodel.cn/cn/api/rate-limit)
"""

from __future__ import annotations

from math import inf

SHRINK_FACTOR = 0.7
PROBE_AFTER = 30  # served attempts before a step that was refused last time: one refusal in 31, about three per cent
FORGET_AFTER = 600.0  # seconds without a refusal, after which a limit that is not half used is none


class Limit:
    """`most` is inf until there was a refusal."""

    __slots__ = ("_refused", "_served", "_shrunk_at", "most")

    def __init__(self) -> None:
        self.most: float = inf
        self._refused = inf  # so many at once were too many
        self._served = 0  # since the last step
        self._shrunk_at = -inf

    def throttled(self, running: int, began: float, now: float) -> None:
        """An attempt of `running`, itself included, was one too many, or came too soon after the others."""
        if began < self._shrunk_at:
            return  # it was sent when we did not know
        self.most = float(max(1, int(SHRINK_FACTOR * min(running, self.most))))
        self._refused, self._served, self._shrunk_at = running, 0, now

    def served(self, running: int, now: float) -> None:
        """One of `running`, itself included, was served; for those that have a limit."""
        if 2 * running <= self.most:  # it is not what holds anybody up
            if now >= self._shrunk_at + FORGET_AFTER:
                self.most = self._refused = inf
            return
        self._served += 1
        step = self.most + 1
        if self._served >= (max(PROBE_AFTER, self.most) if step == self._refused else self.most):
            self.most, self._served = step, 0
