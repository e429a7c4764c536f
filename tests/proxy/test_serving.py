"""Routes of one operation: endpoints that do not serve it are no part of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router.config import parse
from router.core.choice.table import rebuild
from router.proxy.serving import Serving
from router.upstream.exchange import LIMITS
from tests.fake_endpoint import TEXT
from tests.processes import Fake, entry, router
from tests.support.clock import VirtualScheduler
from tests.support.endpoints import ScriptedPool

CONFIG = """
endpoints:
  - {name: zhipu, kind: zhipu, base_url: "http://zhipu/v1", models: {both: m, only: m}}
  - {name: openai, kind: openai, base_url: "http://openai/v1", models: {both: m}, tier: 2}
"""


def test_a_route_keeps_the_configured_number_of_each_tier() -> None:
    config = parse(CONFIG)
    pools = {each.name: ScriptedPool(each.name, VirtualScheduler(0.0), ()) for each in config.endpoints}
    serving = Serving.of(rebuild(config), pools, LIMITS)
    chat, completions = serving.route("chat/completions", "both"), serving.route("completions", "both")
    assert chat is not None
    assert completions is not None
    assert [tier.number for tier in chat.tiers] == [1, 2]
    assert [(tier.number, [e.name for e in tier.endpoints]) for tier in completions.tiers] == [(2, ["openai"])]
    assert serving.route("completions", "only") is None


@pytest.mark.usefixtures("direct")
def test_a_route_without_the_first_tier_is_explained_too(alpha: Fake, tmp_path: Path) -> None:
    """zhipu has no /v1/completions, so a completion goes to the second tier, and the debug header says so."""
    zhipu = entry(alpha, {"m": "quick"}, kind="zhipu") | {"name": "zhipu"}
    config = {"endpoints": [zhipu, entry(alpha, {"m": "quick"}, kind="openai", tier=2)]}
    body = {"model": "m", "prompt": "Hi"}
    with router(tmp_path, config) as running:
        plain = running.control.post("/v1/completions", json=body)
        assert (plain.status_code, plain.json()["choices"][0]["text"]) == (200, TEXT)
        answer = running.control.post("/v1/completions", json=body, headers={"x-router-debug": "1"})
        assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, TEXT)
        debug = json.loads(answer.headers["x-router-debug"])
        assert debug["asked"] == "alpha"
        assert [(each["endpoint"], each["tier"]) for each in debug["candidates"]] == [("alpha", 2)]
        assert debug["omitted"] == 0
