"""Restarts a background loop that failed, and logs the failure."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

log = logging.getLogger(__name__)


async def keep(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run `loop` until it returns or is cancelled. A failure is logged, and followed by a restart after 1, 2, 4 … 60
    seconds.
    """

    def log_failure(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.error("%s failed and will be restarted: %r", name, error, exc_info=error)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Exception), wait=wait_exponential(max=60), before_sleep=log_failure
    )
    await retrying(loop)
