"""Selection: breakers, limits, tiers and patience decide which endpoint is asked."""

from __future__ import annotations

import json

import pytest

from router.core.endpoint.breaker import State
from router.core.verdict import Verdict
from tests.flow.timelines import verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, fails_with, refuses_connection, streams
from tests.support.outcomes import outcome_of


def open_breaker(play: Player, name: str) -> None:
    """Make three calls that fail in a row, at 0, 0.01 and 0.02 s."""
    for i in range(3):
        play.call(i / 100)
    play.run_until(1.0)
    assert play.endpoint(name).availability.breaker.state(1.0) is State.OPEN


def test_an_endpoint_whose_breaker_is_open_is_not_asked() -> None:
    play = Player(endpoint("a", fails_with(502, 0.001)), endpoint("b", streams("b"), tier=2))
    open_breaker(play, "a")
    call = play.call(1.5)
    play.run()
    assert len(play["a"].wires) == 3
    assert verdicts(call) == [("b", "first", Verdict.SERVED)]


def test_while_all_endpoints_are_cooling_down_the_client_is_told_at_once_when_to_come_back() -> None:
    away = [*[fails_with(429, 0.1, retry_after=30)] * 4, streams("back")]
    play = Player(endpoint("a", *away), endpoint("b", *away))
    for at in (0.0, 0.5, 1.8, 4.1):  # the last three begin cooldowns of 1, 2 and 4 s
        play.call(at)
    refused, waits, later = play.call(5.0), play.call(6.5), play.call(9.0)
    play.run()
    assert (refused.status, refused.error["code"], refused.ended_at) == (429, "endpoints_busy", 5.0)
    assert float(refused.headers["retry-after-ms"]) == pytest.approx(3_200)
    assert refused.headers["x-router-attempts"] == "0"
    assert waits.first_token_at == pytest.approx(8.2 + 0.3)  # less than 2 s: it waits
    assert waits.text == "back"
    assert later.text == "back"


def test_a_half_open_trial_is_hedged_as_soon_as_it_is_slower_than_usual() -> None:
    play = Player(endpoint("a", *[fails_with(502, 0.001)] * 3, SILENT), endpoint("b", streams("b"), tier=2))
    open_breaker(play, "a")
    trial, beside = play.call(3.0), play.call(3.1)
    play.run()
    assert play["a"].asked_at[3:] == [3.0]  # one trial, and no other while it runs
    assert trial.first_token_at == 3.0 + 1.0 + 0.3
    assert verdicts(trial) == [("a", "first", Verdict.ABANDONED), ("b", "hedge", Verdict.SERVED)]
    assert verdicts(beside) == [("b", "first", Verdict.SERVED)]


def test_a_trial_that_serves_closes_the_breaker() -> None:
    play = Player(
        endpoint("a", *[fails_with(502, 0.001)] * 3, streams("back", first=0.02)), endpoint("b", SILENT, tier=2)
    )
    play["b"].plays(streams("b"))
    open_breaker(play, "a")
    call = play.call(3.0)
    play.run()
    assert call.text == "back"
    assert play.endpoint("a").availability.breaker.state(4.0) is State.CLOSED


def test_the_last_endpoint_is_never_ejected() -> None:
    play = Player(endpoint("a", *[fails_with(503, 0.001)] * 3, streams("back")))
    open_breaker(play, "a")
    call = play.call(1.0)
    play.run()
    assert call.text == "back"


def test_a_newcomer_gets_one_first_measurement_and_no_flood() -> None:
    play = Player(endpoint("a", streams("a", first=0.2, gap=0.01)), endpoint("b", SILENT), hedge="off", deadline=30)
    play.endpoint("a").forecast.latency("first_token").observe(0.2, 0.0)
    calls = [play.call(i / 10) for i in range(100)]
    play.run_until(10.0)
    assert len(play["b"].wires) <= 3  # the first measurement, and sometimes an exploration
    assert len(play["b"].wires) >= 1
    play.run()
    assert sum(call.text == "a" for call in calls) >= 97


def test_an_endpoint_gets_no_more_attempts_at_once_than_configured() -> None:
    play = Player(endpoint("a", streams("a", first=1.0), concurrency=2), endpoint("b", streams("b", first=1.0), tier=2))
    calls = [play.call(i / 100) for i in range(4)]
    play.run()
    assert [call.text for call in calls] == ["a", "a", "b", "b"]


def test_all_endpoints_full_and_no_queue_is_a_429_that_may_be_retried() -> None:
    play = Player(
        endpoint("a", streams("a", first=1.0), concurrency=1),
        endpoint("b", SILENT, concurrency=1),
        deadline=5,
        queue=0,
    )
    calls = [play.call(i / 100) for i in range(3)]
    play.run()
    full = calls[2]
    assert full.status == 429
    assert full.error["code"] == "overloaded"
    assert full.headers["retry-after-ms"] == "1000"
    assert full.ended_at == 0.02
    assert full.record.attempts == []


def test_a_limit_counts_all_models_of_an_endpoint() -> None:
    play = Player(endpoint("a", streams("a", first=1.0), concurrency=1, models=["chat", "code"]))
    first, second = play.call(), play.call(0.1, model="code")
    play.run()
    assert (first.ended_at, play["a"].asked_at) == (1.1, [0.0, 1.1])
    assert second.whole


def test_a_later_tier_is_asked_when_the_earlier_is_out() -> None:
    play = Player(
        endpoint("a", refuses_connection(0.1)),
        endpoint("b", refuses_connection(0.1)),
        endpoint("c", streams("c"), tier=2),
    )
    call = play.call()
    play.run()
    assert [line.endpoint.name for line in call.record.attempts][2] == "c"
    assert call.first_token_at == 0.5


def test_a_later_tier_is_not_asked_while_the_earlier_is_well() -> None:
    play = Player(endpoint("a", streams("a", first=1.5)), endpoint("b", streams("b", first=0.01), tier=2))
    calls = [play.call(i * 2.0) for i in range(20)]
    play.run()
    assert all(call.text == "a" for call in calls)


def test_patience_waits_for_the_earlier_tier() -> None:
    play = Player(
        endpoint("a", fails_with(429, 0.1, retry_after=3), streams("cheap")),
        endpoint("b", streams("dear"), tier=2),
        patience=5,
    )
    call = play.call()
    play.run()
    assert play["a"].asked_at == [0.0, 3.1]
    assert call.text == "cheap"
    assert call.first_token_at == 3.4


def test_patience_is_limited() -> None:
    play = Player(
        endpoint("a", fails_with(429, 0.1, retry_after=8)), endpoint("b", streams("dear"), tier=2), patience=5
    )
    call = play.call()
    play.run()
    assert play["b"].asked_at == [0.1]
    assert call.text == "dear"


def test_calls_with_patience_do_not_join_a_running_trial() -> None:
    failing = [fails_with(504, 0.001)] * 3
    play = Player(
        endpoint("a", *failing, streams("back", first=4.0)),
        endpoint("b", streams("b"), tier=2),
        hedge="off",
        patience=1,
    )
    open_breaker(play, "a")
    trial, beside = play.call(3.0), play.call(3.1)
    play.run()
    assert (trial.text, beside.text) == ("back", "b")
    assert beside.first_token_at == 3.4


def test_the_record_lists_every_attempt() -> None:
    play = Player(endpoint("a", fails_with(500, 0.1)), endpoint("b", streams("b"), tier=2))
    call = play.call()
    play.run()
    line = call.record.attempts[0]
    assert (line.endpoint.name, line.endpoint.model, line.role, line.began, line.ended) == (
        "a",
        "chat",
        "first",
        0.0,
        0.1,
    )
    assert (line.verdict, outcome_of(line).reason) == (Verdict.FAULT, "status 500")
    assert json.loads(json.dumps(call.headers))["x-router-attempts"] == "2"
