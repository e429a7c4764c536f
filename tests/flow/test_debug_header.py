"""The header x-router-debug: why an endpoint was chosen."""

from __future__ import annotations

import json
from typing import Any

from tests.core.helpers import busy
from tests.flow.timelines import quick_and_slow
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import JSON, answers, completion, fails_with, streams

ASKS_WHY = [(b"x-router-debug", b"1")]


def explanation_of(call: ScriptedClient) -> Any:
    """The parsed debug header: one line of ASCII, equal to what the record keeps."""
    line = call.headers["x-router-debug"]
    assert line.isascii()
    assert len(line) <= 4096
    assert call.record.why is not None
    assert bytes(call.record.why) == line.encode()
    return json.loads(line)


def test_the_debug_header_shows_what_was_compared_for_the_first_attempt() -> None:
    play = Player(endpoint("a", streams("hi")), endpoint("b", streams("hi", first=1.0)), hedge="5s")
    for name, seconds in (("a", 0.3), ("b", 1.0)):
        for _ in range(20):
            play.endpoint(name).forecast.latency("first_token").observe(seconds, 0.0)
    call = play.call(headers=ASKS_WHY)
    play.run()
    explained = explanation_of(call)
    assert explained["asked"] == call.headers["x-router-endpoint"] == "a"
    assert explained["why"] == "a: 0.30 s expected, the lowest; b costs 1.0 s; it would be hedged with b after 5.0 s"
    assert (explained["hedge_after"], explained["hedge_target"], explained["omitted"]) == (5.0, "b", 0)
    assert [(each["endpoint"], each["cost"], each["waiting"]) for each in explained["candidates"]] == [
        ("a", 0.3, 0),
        ("b", 1.0, 0),
    ]


def test_only_a_client_that_asks_gets_the_debug_header_and_endpoints_never_do() -> None:
    play = Player(endpoint("a", streams("hi")))
    asking, other, refusing = play.call(headers=ASKS_WHY), play.call(), play.call(headers=[(b"x-router-debug", b"0")])
    play.run()
    assert "x-router-debug" in asking.headers
    assert [call.record.why for call in (other, refusing)] == [None, None]
    assert all("x-router-debug" not in call.headers for call in (other, refusing))
    assert all("x-router-debug" not in wire.headers for wire in play["a"].wires)


def test_an_endpoints_own_debug_header_is_not_passed_on() -> None:
    play = Player(endpoint("a", answers(completion(), headers=[*JSON, (b"x-router-debug", b"theirs")])))
    asking, other = play.call(stream=False, headers=ASKS_WHY), play.call(stream=False)
    play.run()
    assert explanation_of(asking)["asked"] == "a"
    assert "x-router-debug" not in other.headers


def test_the_explanation_is_of_the_first_attempt_whichever_endpoint_answers() -> None:
    play = Player(*quick_and_slow(fails_with(500)))
    call = play.call(headers=ASKS_WHY)
    play.run()
    assert call.headers["x-router-endpoint"] == "b"
    assert explanation_of(call)["asked"] == "a"


def test_failed_calls_and_calls_with_pings_get_the_explanation_too() -> None:
    play = Player(endpoint("a", fails_with(500)), retry_budget=0)
    failed = play.call(headers=ASKS_WHY)
    play.run()
    assert failed.status == 502
    assert explanation_of(failed)["asked"] == "a"
    play = Player(endpoint("a", streams("late", first=30.0)))
    late = play.call(headers=ASKS_WHY)
    play.run()
    assert late.writes[0] == (10.0, b": ping\n\n")
    assert explanation_of(late)["asked"] == "a"


def test_a_call_without_an_available_endpoint_gets_the_explanation() -> None:
    play = Player(endpoint("a", streams("hi")))
    busy(play.endpoint("a"), 30.0, 0.0)
    call = play.call(headers=ASKS_WHY)
    play.run()
    assert call.status == 429
    explained = explanation_of(call)
    assert explained["asked"] is None
    assert (
        explained["why"]
        == "no endpoint is available: a call would be refused; a is out: cooling down for 30 s, it reported: quota"
    )


def test_a_queued_call_is_explained_as_of_the_moment_it_got_its_slot() -> None:
    play = Player(endpoint("a", streams("hi"), concurrency=1))
    play.call()
    call = play.call(0.1, headers=ASKS_WHY)
    play.run()
    assert call.record.queued > 0.0
    explained = explanation_of(call)
    assert (explained["asked"], explained["candidates"][0].get("out")) == ("a", None)


def test_the_explanation_of_very_many_endpoints_is_short() -> None:
    names = [f"{'long-' * 12}{i}" for i in range(60)]
    play = Player(*(endpoint(name, streams("hi")) for name in names), hedge="off")
    for name in names:
        busy(play.endpoint(name), 5.0, 0.0)
    call = play.call(6.0, headers=ASKS_WHY)
    play.run()
    explained = explanation_of(call)
    assert explained["asked"] == call.headers["x-router-endpoint"]
    assert 5 < len(explained["candidates"]) < 25
    assert len(explained["candidates"]) + explained["omitted"] == 60


def test_affinity_is_named_as_the_reason() -> None:
    play = Player(*(endpoint(name, streams("hi")) for name in "abcdef"), models={"chat": {"affinity": "header:x-who"}})
    for name in "abcdef":
        play.endpoint(name).forecast.latency("first_token").observe(0.3, 0.0)
    calls = [play.call(headers=[*ASKS_WHY, (b"x-who", b"%d" % i)]) for i in range(12)]
    play.run()
    drawn = [
        explained
        for call in calls
        if " was asked: its conversation stays there, " in (explained := explanation_of(call))["why"]
    ]
    assert drawn
    assert all(explained["why"].startswith(explained["asked"]) for explained in drawn)


def test_the_explanation_contains_no_secrets() -> None:
    play = Player(endpoint("a", streams("hi"), api_key="sk-ours", headers={"x-own": "s3cr3t"}))
    call = play.call(headers=[*ASKS_WHY, (b"authorization", b"Bearer sk-theirs")])
    play.run()
    line = call.headers["x-router-debug"]
    assert not any(secret in line for secret in ("sk-", "s3cr3t", "http", "/v1"))


def test_a_client_that_may_not_read_the_state_gets_no_explanation() -> None:
    play = Player(endpoint("a", streams("hi")))
    call = play.call(headers=[*ASKS_WHY, (b"host", b"evil.test")])
    other = play.call(headers=[(b"host", b"evil.test")])
    play.run()
    assert (call.status, json.loads(call.body)["error"]["code"]) == (403, "forbidden_host")
    assert other.status == 200
