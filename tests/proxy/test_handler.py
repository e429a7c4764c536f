"""One client request: refused at once, or admitted and handed to its dispatch."""

from __future__ import annotations

import pytest

from router.errors import Stopping
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import SILENT, streams

COMPLETIONS = "/v1/completions"


def refusal(call: ScriptedClient) -> tuple[int | None, str]:
    return call.status, call.error["code"]


def test_an_open_call_counts_until_it_ends() -> None:
    play = Player(endpoint("a", streams("Hello", first=2.0)))
    play.call()
    play.run_until(1.0)
    assert play.handler.calls == 1
    play.run()
    assert play.handler.calls == 0


def test_a_call_that_is_refused_is_not_counted_as_open() -> None:
    play = Player(endpoint("a", SILENT))
    call = play.call(model="other")
    play.run_until(1.0)
    assert refusal(call) == (404, "model_not_found")
    assert (play.handler.calls, call.record.status) == (0, 404)


def test_a_call_too_many_learns_the_limit_and_when_to_retry() -> None:
    play = Player(endpoint("a", streams("Hello", first=2.0), streams("Hello")), max_calls=1)
    play.call(0.0)
    refused, later = play.call(1.0), play.call(3.0)
    play.run()
    assert refusal(refused) == (429, "overloaded")
    assert refused.error["message"] == "The router is at its limit of 1 concurrent calls. Retry in 0.5 s."
    assert refused.headers["retry-after-ms"] == "500"
    assert later.text == "Hello"


def test_a_model_that_no_endpoint_serves_on_a_path_is_told_apart_from_an_unknown_one() -> None:
    play = Player(endpoint("a", kind="zhipu"))  # which has no /v1/completions
    call = play.call(path=COMPLETIONS, prompt="Hi")
    play.run()
    assert refusal(call) == (404, "model_not_found")
    assert COMPLETIONS in call.error["message"]


def test_all_open_calls_are_ended_with_one_error() -> None:
    play = Player(endpoint("a", SILENT, SILENT))
    calls = [play.call(), play.call()]
    play.run_until(1.0)
    assert play.handler.end_all(Stopping("The test is over.")) == 2
    assert [refusal(call) for call in calls] == [(503, "stopping")] * 2
    assert play.handler.end_all(Stopping("The test is over.")) == 0
    play.run()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/somewhere"])
def test_a_record_has_the_operation_of_its_path(path: str) -> None:
    play = Player(endpoint("a"))
    play._arriving = ScriptedClient(play.scheduler)
    record = play.handler.record(path.encode(), 1.0)
    assert (record.operation, record.arrived) == ("chat/completions" if "chat" in path else "", 1.0)
