"""Quotas, throttling and errors that name a cause: how long the endpoint
cools down, and what the client gets.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime

import pytest

from router.core.verdict import Verdict
from router.dialects.zhipu import BEIJING
from tests.flow.timelines import verdicts
from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, Script, error_event, fails_with, opens, says, sends, sse, streams


def reset_message(seconds: float) -> str:
    """Zhipu's message with the time of a reset so many seconds from now, by the wall clock."""
    return f"您的限额将在 {datetime.fromtimestamp(time.time() + seconds, BEIJING):%Y-%m-%d %H:%M:%S} 重置。"


def test_an_endpoint_with_a_used_up_quota_cools_down_until_its_reset_while_others_serve() -> None:
    used_up = fails_with(429, code="1308", message=reset_message(5 * 3600))
    play = Player(
        endpoint("a", used_up, used_up, streams("a"), kind="zhipu"),
        endpoint("b", streams("b"), tier=2),
    )
    calls = [play.call(at) for at in (0.0, 5.0, 3600.0, 4.9 * 3600.0, 5.1 * 3600.0)]
    play.run(36_000)
    assert [call.text for call in calls] == ["b", "b", "b", "b", "a"]
    assert play["a"].asked_at == [0.0, 5.0, 5.1 * 3600.0]  # out from the second refusal on
    assert play.endpoint("a").availability.breaker.failures_in_a_row == 0


def test_all_quotas_used_up_is_an_immediate_429_with_the_time_of_the_reset() -> None:
    used_up = fails_with(429, code="1310", message=reset_message(7200))
    play = Player(endpoint("a", used_up, used_up, streams("a"), kind="zhipu"), hedge="off")
    first, _, third, fourth = (play.call(at) for at in (0.0, 1.0, 3600.0, 7300.0))
    play.run(36_000)
    assert [call.status for call in play.calls] == [429, 429, 429, 200]
    # Not asked while the quota is used up, although it is the only endpoint.
    assert play["a"].asked_at == [0.0, 1.0, 7300.0]
    assert first.error["code"] == third.error["code"] == "endpoints_busy"
    assert int(first.headers["retry-after-ms"]) == pytest.approx(7_200_000, abs=3000)
    assert int(third.headers["retry-after-ms"]) == pytest.approx(3_600_000, abs=3000)
    assert fourth.text == "a"


def test_an_endpoint_that_reports_arrears_is_tried_every_five_minutes() -> None:
    arrears = opens() + sends(0.1, error_event(code="1113"))
    play = Player(endpoint("a", arrears, kind="zhipu"), endpoint("b", streams("b"), tier=2))
    calls = [play.call(i * 10.0) for i in range(100)]
    play.run()
    assert all(call.text == "b" for call in calls)
    # From the second refusal on it cools down for 1, 2, 4 … 256 s, then for five minutes.
    assert play["a"].asked_at[:8] == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 70.0, 110.0]
    assert play["a"].asked_at[8:] == [180.0, 310.0, 570.0, 880.0]


def test_the_only_endpoint_is_asked_even_after_it_refused_our_key() -> None:
    play = Player(endpoint("a", fails_with(401), streams("paid")), hedge="off")
    refused, served = play.call(0.0), play.call(10.0)
    play.run()
    assert (refused.status, len(refused.record.attempts)) == (502, 1)
    assert served.text == "paid"


def test_a_refused_key_at_one_endpoint_does_not_hide_that_another_is_busy() -> None:
    play = Player(endpoint("a", fails_with(401)), endpoint("b", fails_with(429, retry_after=7), tier=2))
    call = play.call()
    play.run()
    assert (call.status, call.error["code"], call.headers["retry-after-ms"]) == (429, "endpoints_busy", "7000")


def accepts(play: Player, name: str, capacity: int, first: float = 0.5) -> None:
    """Let the endpoint refuse, from now on, every request beyond so many at once."""

    def answer() -> Script:
        return fails_with(429, 0.01) if play[name].busy >= capacity else streams("ok", first=first)

    play[name].plays(answer)


def test_a_throttled_endpoint_gets_what_it_accepts_and_the_rest_goes_elsewhere() -> None:
    play = Player(
        endpoint("a", SILENT, concurrency=40), endpoint("b", streams("b", first=0.5), tier=2), hedge="off", seed=2
    )
    accepts(play, "a", 10)
    calls = [play.call(i / 40) for i in range(4000)]  # about 24 at once, of which 10 are accepted
    play.run_until(50.0)
    assert 7 <= play.endpoint("a").availability.max_attempts <= 11
    assert play.metric("attempts_limit", endpoint="a") == play.endpoint("a").availability.max_attempts
    play.run()
    assert all(call.status == 200 for call in calls)
    asked = [line.verdict for call in calls for line in call.record.attempts if line.endpoint.name == "a"]
    assert 0 < asked.count(Verdict.BUSY) / len(asked) < 0.04
    assert len(asked) > 100 * 10 / 0.6 * 0.8  # four fifths of its capacity
    assert play.endpoint("a").availability.breaker.failures_in_a_row == 0


def test_a_learned_limit_grows_again_when_the_endpoint_accepts_more() -> None:
    play = Player(endpoint("a", SILENT, concurrency=40), endpoint("b", streams("b", first=0.5), tier=2), hedge="off")
    accepts(play, "a", 4)
    play.at(20.0, lambda: accepts(play, "a", 100))
    for i in range(4000):
        play.call(i / 40)
    play.run_until(20.0)
    assert play.endpoint("a").availability.max_attempts <= 5
    play.run_until(99.0)
    assert play.endpoint("a").availability.max_attempts > 20
    play.run()


@pytest.mark.parametrize("names", ["a", "ab", "abcdefgh"])
def test_endpoints_that_are_always_busy_are_not_hammered(names: str) -> None:
    play = Player(*(endpoint(name, fails_with(429, 0.01), tier=tier) for tier, name in enumerate(names, 1)))
    call = play.call()
    play.run()
    began = [line.began for line in call.record.attempts]
    assert call.status == 429
    assert len(began) <= 6
    assert max(Counter(line.endpoint.name for line in call.record.attempts).values()) <= 2


@pytest.mark.parametrize(
    "wrong",
    [
        sse({"object": "error", "message": "no engine", "type": "InternalServerError", "code": 500}),
        sse({"detail": "no engine"}),
        sse({"error": "no engine", "error_type": "generation"}),
        b'event: error\ndata: {"message": "no engine"}\n\n',
        sse({"choices": [], "error": {"message": "no engine"}}),
    ],
)
def test_an_error_in_any_format_never_wins_a_race(wrong: bytes) -> None:
    play = Player(endpoint("a", opens(0.1) + sends(2.1, wrong)), endpoint("b", streams("hedge", first=1.0), tier=2))
    call = play.call()
    play.run()
    assert call.text == "hedge"
    assert call.first_token_at == 3.0
    assert verdicts(call) == [("a", "first", Verdict.FAULT), ("b", "hedge", Verdict.SERVED)]


def test_an_error_in_a_format_that_sdks_ignore_is_rewritten_to_one_that_they_raise_at() -> None:
    wrong = sse({"object": "error", "message": "no engine", "type": "InternalServerError", "code": 500})
    play = Player(endpoint("a", opens() + says(0.1, "hi") + sends(0.2, wrong)))
    call = play.call()
    play.run()
    assert call.error == {"object": "error", "message": "no engine", "type": "InternalServerError", "code": 500}
    assert not call.done
