"""Names of endpoints in a whole router, as a process, at a name server that does not answer for some of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_endpoint import TEXT
from tests.processes import HI, Fake, Json, fake, router
from tests.upstream.nameserver import nameserver

pytestmark = pytest.mark.usefixtures("direct")


def entry(name: str, url: str, **more: object) -> Json:
    return {"name": name, "base_url": url, "models": {"chat": "quick"}, "probe": {"interval": "1s"}} | more


@pytest.fixture(scope="module")
def endpoint() -> object:
    with fake("there") as running:
        yield running


def test_names_without_an_answer_delay_neither_the_start_nor_other_endpoints(endpoint: Fake, tmp_path: Path) -> None:
    with nameserver() as names:
        names.zone["there.test"] = ("127.0.0.1",)
        names.silent = {f"silent-{number}.test" for number in range(8)}
        silent = [entry(name[:8], f"http://{name}:9/v1", tier=2) for name in sorted(names.silent)]
        # No connection is kept, so that each call needs the name.
        there = entry("there", f"http://there.test:{endpoint.port}/v1", pool={"min_idle": 0, "max_age": "1ms"})
        setting = f"127.0.0.1:{names.port}"
        with router(tmp_path, {"endpoints": [there, *silent]}, FIRSTTOKEN_RESOLVER=setting) as running:
            # The log has no line of a look-up yet: the router listens before the first one has ended.
            assert "DNS has not told" not in running.output
            with running.sdk(max_retries=0) as sdk:
                for _ in range(12):
                    assert sdk.chat.completions.create(model="chat", messages=HI).choices[0].message.content == TEXT
            state = running.control.get("/admin/endpoints").json()["endpoints"][0]
            assert (state["name"], state["pool"]["opened"] >= 12) == ("there", True)
            assert running.control.get("/healthz").status_code == 200
            assert running.stop() == 0
            assert "never retrieved" not in running.output
            assert "Traceback" not in running.output


def test_a_name_that_moves_is_followed(endpoint: Fake, tmp_path: Path) -> None:
    """A name's first address does not exist; the second serves. Then DNS falls silent, and the last address serves."""
    with nameserver() as names:
        names.zone["there.test"], names.ttl = ("::1", "127.0.0.1"), 1
        there = entry("there", f"http://there.test:{endpoint.port}/v1", pool={"min_idle": 0, "max_age": "1ms"})
        with (
            router(tmp_path, {"endpoints": [there]}, FIRSTTOKEN_RESOLVER=f"127.0.0.1:{names.port}") as running,
            running.sdk(max_retries=0) as sdk,
        ):
            for _ in range(3):
                sdk.chat.completions.create(model="chat", messages=HI)
            names.silent = {"there.test"}
            for _ in range(3):
                sdk.chat.completions.create(model="chat", messages=HI)


def test_the_operating_systems_way_is_one_setting_away(endpoint: Fake, tmp_path: Path) -> None:
    there = entry("there", f"http://localhost:{endpoint.port}/v1")
    with (
        router(tmp_path, {"endpoints": [there]}, FIRSTTOKEN_RESOLVER="system") as running,
        running.sdk(max_retries=0) as sdk,
    ):
        assert sdk.chat.completions.create(model="chat", messages=HI).choices[0].message.content == TEXT
