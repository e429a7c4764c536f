"""GET /v1/models and /v1/models/{id}, as clients read them."""

from __future__ import annotations

from typing import Any

from tests.proxy.running import SIMULATED, get, running
from tests.upstream.servers import on_uvloop

TWO = SIMULATED.replace("{chat: m}", "{chat: m, org/other: m}")


def shown(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "firsttoken"}


@on_uvloop
async def test_all_models_are_listed_each_with_the_time_of_the_start() -> None:
    async with running(TWO) as router:
        answer = await router.ask(get(b"/v1/models"))
        created = answer.json["data"][0]["created"]
        assert created > 1_600_000_000
        assert answer.json == {"object": "list", "data": [shown("chat", created), shown("org/other", created)]}


@on_uvloop
async def test_one_model_is_found_by_its_name_also_one_with_a_slash() -> None:
    async with running(TWO) as router:
        for name in ("chat", "org/other"):
            answer = await router.ask(get(b"/v1/models/" + name.encode()))
            assert answer.json == shown(name, answer.json["created"])


@on_uvloop
async def test_an_unknown_model_and_an_empty_name_are_not_found() -> None:
    async with running(TWO) as router:
        answer = await router.ask(get(b"/v1/models/none"))
        assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
        answer = await router.ask(get(b"/v1/models/"))
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")
