"""The header x-router-debug: why an endpoint was chosen."""

from __future__ import annotations

import json
from typing import Any

from tests.flow.timelines import quick_and_slow
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import JSON, answers, completion, fails_with, streams

ASKS_WHY = [(b"x-router-debug", b"1")]


def told_why(call: ScriptedClient) -> Any:
    """What its header says, which is one line of ASCII, and what the record keeps."""
    line = call.headers["x-router-debug"]
    assert line.isascii()
    assert len(line) <= 4096
    assert call.record.why is not None
    assert bytes(call.record.why) == line.encode()
    return json.loads(line)


def test_who_asks_why_is_told_what_was_compared_when_its_first_attempt_was_chosen() -> None:
    play = Player(endpoint("a", streams("hi")), endpoint("b", streams("hi", first=1.0)), hedge="5s")
    for name, seconds in (("a", 0.3), ("b", 1.0)):
        for _ in range(20):
            play.endpoint(name).forecast.latency("first_token").observe(seconds, 0.0)
    call = play.call(headers=ASKS_WHY)
    play.run()
    told = told_why(call)
    assert told["asked"] == call.headers["x-router-endpoint"] == "a"
    assert told["why"] == "a: 0.30 s expected, the lowest; b costs 1.0 s; it would be hedged with b after 5.0 s"
    assert (told["hedge_after"], told["hedge_target"], told["omitted"]) == (5.0, "b", 0)
    assert [(each["endpoint"], each["cost"], each["waiting"]) for each in told["candidates"]] == [
        ("a", 0.3, 0),
        ("b", 1.0, 0),
    ]


def test_nobody_else_is_told_why_and_no_endpoint_hears_of_it() -> None:
    play = Player(endpoint("a", streams("hi")))
    asking, other, refusing = play.call(headers=ASKS_WHY), play.call(), play.call(headers=[(b"x-router-debug", b"0")])
    play.run()
    assert "x-router-debug" in asking.headers
    assert [call.record.why for call in (other, refusing)] == [None, None]
    assert all("x-router-debug" not in call.headers for call in (other, refusing))
    assert all("x-router-debug" not in wire.headers for wire in play["a"].wires)


def test_an_endpoints_own_word_on_that_does_not_pass() -> None:
    play = Player(endpoint("a", answers(completion(), headers=[*JSON, (b"x-router-debug", b"theirs")])))
    asking, other = play.call(stream=False, headers=ASKS_WHY), play.call(stream=False)
    play.run()
    assert told_why(asking)["asked"] == "a"
    assert "x-router-debug" not in other.headers


def test_why_is_of_the_first_attempt_whoever_answers() -> None:
    play = Player(*quick_and_slow(fails_with(500)))
    call = play.call(headers=ASKS_WHY)
    play.run()
    assert call.headers["x-router-endpoint"] == "b"
    assert told_why(call)["asked"] == "a"


def test_a_call_that_fails_and_one_that_gets_pings_are_told_why_too() -> None:
    play = Player(endpoint("a", fails_with(500)), retry_budget=0)
    failed = play.call(headers=ASKS_WHY)
    play.run()
    assert failed.status == 502
    assert told_why(failed)["asked"] == "a"
    play = Player(endpoint("a", streams("late", first=30.0)))
    late = play.call(headers=ASKS_WHY)
    play.run()
    assert late.writes[0] == (10.0, b": ping\n\n")
    assert told_why(late)["asked"] == "a"


def test_one_for_whom_nobody_could_be_asked_is_told_why() -> None:
    play = Player(endpoint("a", streams("hi")))
    play.endpoint("a").availability.cooldown.busy(0.0, 30.0)
    call = play.call(headers=ASKS_WHY)
    play.run()
    assert call.status == 429
    told = told_why(call)
    assert told["asked"] is None
    assert told["why"] == "no endpoint is available: a call would be refused; a is out: cooling down for 30 s"


def test_one_that_waited_in_line_is_told_of_the_moment_in_which_it_was_called() -> None:
    play = Player(endpoint("a", streams("hi"), concurrency=1))
    play.call()
    call = play.call(0.1, headers=ASKS_WHY)
    play.run()
    assert call.record.queued > 0.0
    told = told_why(call)
    assert (told["asked"], told["candidates"][0].get("out")) == ("a", None)


def test_what_is_told_of_very_many_endpoints_is_short() -> None:
    names = [f"{'long-' * 12}{i}" for i in range(60)]
    play = Player(*(endpoint(name, streams("hi")) for name in names), hedge="off")
    for name in names:
        play.endpoint(name).availability.cooldown.busy(0.0, 5.0)
    play.endpoint(names[33]).availability.cooldown.busy(0.0, None)
    call = play.call(6.0, headers=ASKS_WHY)
    play.run()
    told = told_why(call)
    assert told["asked"] == call.headers["x-router-endpoint"]
    assert 5 < len(told["candidates"]) < 25
    assert len(told["candidates"]) + told["omitted"] == 60


def test_a_conversation_that_is_drawn_elsewhere_is_told_so() -> None:
    play = Player(*(endpoint(name, streams("hi")) for name in "abcdef"), models={"chat": {"affinity": "header:x-who"}})
    for name in "abcdef":
        play.endpoint(name).forecast.latency("first_token").observe(0.3, 0.0)
    calls = [play.call(headers=[*ASKS_WHY, (b"x-who", b"%d" % i)]) for i in range(12)]
    play.run()
    drawn = [told for call in calls if " was asked: its conversation stays there, " in (told := told_why(call))["why"]]
    assert drawn
    assert all(told["why"].startswith(told["asked"]) for told in drawn)


def test_why_holds_no_secret() -> None:
    play = Player(endpoint("a", streams("hi"), api_key="sk-ours", headers={"x-own": "s3cr3t"}))
    call = play.call(headers=[*ASKS_WHY, (b"authorization", b"Bearer sk-theirs")])
    play.run()
    line = call.headers["x-router-debug"]
    assert not any(secret in line for secret in ("sk-", "s3cr3t", "http", "/v1"))


def test_who_may_not_read_the_state_is_not_told_why() -> None:
    play = Player(endpoint("a", streams("hi")))
    call = play.call(headers=[*ASKS_WHY, (b"host", b"evil.test")])
    other = play.call(headers=[(b"host", b"evil.test")])
    play.run()
    assert (call.status, json.loads(call.body)["error"]["code"]) == (403, "forbidden_host")
    assert other.status == 200
