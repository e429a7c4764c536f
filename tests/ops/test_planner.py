"""Recomputing the hedge plans of a running router."""

from __future__ import annotations

import pytest

from router.core.demand import FIRST_TOKEN
from router.core.endpoint.forecast import LATE_FACTOR
from tests.proxy.running import running
from tests.upstream.servers import on_uvloop, until

TWO_MODELS = """
endpoints:
  - {name: a, kind: openai, base_url: 'http://127.0.0.1:1/v1', models: [one, other], probe: {kind: off}}
  - {name: b, kind: openai, base_url: 'http://127.0.0.1:2/v1', models: [one, other], probe: {kind: off}}
"""


@on_uvloop
async def test_the_plan_of_every_model_is_recomputed_regularly() -> None:
    async with running(TWO_MODELS, speed=100.0) as router:
        now, routes = router.router.scheduler.now, router.router.tables.current.table.routes.values()

        def late() -> set[float]:
            return {route.plan.delay(each, FIRST_TOKEN, now()) for route in routes for each in route.endpoints}

        assert late() == {LATE_FACTOR * 1.0}  # nothing is known yet
        for each in router.router.tables.current.table.endpoints:
            for _ in range(100):
                each.forecast.latency("first_token").observe(0.5, now())
        assert min(late()) == pytest.approx(LATE_FACTOR * 0.5, rel=0.01)  # without a plan for these observations yet
        await until(lambda: max(late()) < 0.6)  # shortly after the longest observed wait
