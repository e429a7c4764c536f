"""Traffic moves away from slow, frozen and hot endpoints; a long prompt goes to the endpoint that reads it sooner."""

from __future__ import annotations

import pytest

from router.core.choice.budget import RESERVE
from router.core.endpoint.server_load import ServerLoad
from router.core.verdict import Verdict
from tests.flow.timelines import text_of_call, verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, streams

# ---- Many calls


def test_traffic_moves_away_from_the_slow_endpoint_of_three() -> None:
    quick, slow = streams("hi", first=0.2, gap=0.02), streams("hi", first=3.0, gap=0.02)
    play = Player(endpoint("a", quick), endpoint("b", slow), endpoint("c", quick))
    calls = [play.call(i / 10) for i in range(600)]
    play.run()
    assert all(call.text == "hi" for call in calls)
    first_tokens = sorted(call.record.first_token or 0 for call in calls)
    assert first_tokens[300] == pytest.approx(0.2)
    assert first_tokens[-12] == pytest.approx(0.2)  # all but 2 %
    asked_first = [call.record.attempts[0].endpoint.name for call in calls]
    assert asked_first.count("b") <= 0.02 * 600 + 3
    extra = sum(len(call.record.attempts) - 1 for call in calls)
    assert extra <= 0.1 * 600 + RESERVE
    assert play.metric("hedges_total", outcome="won") > 0


def test_an_endpoint_that_becomes_slow_is_avoided_before_its_calls_have_ended() -> None:
    play = Player(endpoint("a", streams("a", first=0.2)), endpoint("b", streams("b", first=1.0)), hedge="off")
    calls = [play.call(i / 10) for i in range(400)]
    play.at(20.0, lambda: play["a"].plays(streams("a", first=8.0)))
    play.run()
    asked = [call.record.attempts[0].endpoint.name for call in calls]
    assert asked[100:200].count("a") >= 90
    assert asked[220:280].count("a") <= 2  # its oldest pending attempt is evidence, long before the first one ends


def test_a_frozen_endpoint_costs_the_calls_in_flight_a_hedge_and_later_ones_nothing() -> None:
    frozen = [*[streams("a", first=0.2)] * 30, SILENT]
    play = Player(endpoint("a", *frozen), endpoint("b", streams("b", first=0.3)), seed=3)
    calls = [play.call(i / 2) for i in range(120)]
    play.run()
    assert all(call.status == 200 for call in calls)
    hit = [call for call in calls if any(line.verdict is Verdict.ABANDONED for line in call.record.attempts)]
    assert 1 <= len(hit) <= 8
    assert max(call.record.first_token or 0 for call in calls) < 1.5
    assert sum(len(call.record.attempts) - 1 for call in calls) <= 0.1 * 120 + RESERVE


def test_a_call_that_was_resent_on_a_new_connection_is_only_later() -> None:
    """The pool sends the request again on a new connection; the call sees a late success at the same endpoint."""
    play = Player(endpoint("a", streams("hi", first=0.8)), endpoint("b", SILENT, tier=2))
    call = play.call()
    play.run()
    assert call.first_token_at == 0.8
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]
    assert play["b"].wires == []


# ---- Servers that report their load


def two_of_one_kind() -> Player:
    """Two endpoints with measurements in one tier; `a` is the quicker one."""
    play = Player(endpoint("a", streams("a"), kind="vllm"), endpoint("b", streams("b", first=0.9), kind="sglang"))
    for _ in range(6):
        play.call()
        play.run()
    return play


def test_a_hot_server_is_avoided_until_its_queue_is_empty_or_its_report_expires() -> None:
    play = two_of_one_kind()
    now = play.scheduler.now()
    play.endpoint("a").forecast.report(ServerLoad(running=4.0, waiting=1.0), now, now + 5.0)
    calls = [play.call(now + at) for at in (0.0, 4.9, 5.0)]
    play.run()
    assert [call.text for call in calls] == ["b", "b", "a"]
    now = play.scheduler.now()
    play.endpoint("a").forecast.report(ServerLoad(running=4.0, waiting=1.0), now, now + 5.0)
    play.endpoint("b").forecast.report(ServerLoad(running=4.0, waiting=1.0), now, now + 5.0)
    call = play.call(now)
    play.run()
    assert call.text == "a"


def test_a_tier_whose_servers_are_all_hot_still_serves() -> None:
    play = Player(endpoint("a", streams("a"), kind="vllm"), endpoint("b", streams("b"), tier=2))
    play.endpoint("a").forecast.report(ServerLoad(running=40.0, waiting=9.0, kv=1.0), 0.0, 5.0)
    call = play.call()
    play.run()
    assert verdicts(call) == [("a", "first", Verdict.SERVED)]


def test_a_hedge_target_is_chosen_among_servers_that_are_not_hot() -> None:
    play = Player(
        endpoint("a", streams("a", first=9.0)),
        endpoint("hot", streams("hot"), kind="vllm", tier=2),
        endpoint("cold", streams("cold"), kind="vllm", tier=2),
        hedge="1s",
    )
    play.endpoint("hot").forecast.report(ServerLoad(waiting=1.0), 0.0, 5.0)
    call = play.call()
    play.run()
    assert verdicts(call) == [("a", "first", Verdict.ABANDONED), ("cold", "hedge", Verdict.SERVED)]


# ---- The length of the prompt


def test_a_long_prompt_goes_to_the_endpoint_that_reads_it_sooner() -> None:
    play = Player(endpoint("local", streams("local")), endpoint("hosted", streams("hosted")))
    for size in range(0, 6000, 100):
        play.endpoint("local").forecast.latency("first_token").observe(0.1 + 3e-4 * size, 0.0, size)
        play.endpoint("hosted").forecast.latency("first_token").observe(0.8, 0.0, size)
    short, long = ([{"role": "user", "content": "word " * words}] for words in (100, 8000))
    assert [text_of_call(play, messages=each) for each in (short, long, short, long)] == ["local", "hosted"] * 2
