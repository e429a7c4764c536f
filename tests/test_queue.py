"""Timelines of queued calls, in virtual time: which is next, which is refused, and which need not wait."""

from __future__ import annotations

from router.core.endpoint.waiting_queue import SMOOTHING
from router.core.verdict import Verdict
from router.errors import Stopping
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import SILENT, Script, answers, completion, cuts, fails_with, refuses_connection, streams

SECOND = streams("Hello", first=0.5, gap=0.5)  # holds its slot for a second
EMBEDDINGS = "/v1/embeddings"


def begins(play: Player, name: str = "a") -> list[float]:
    return play[name].asked_at


def took(call: ScriptedClient) -> float:
    assert call.ended_at is not None
    return round(call.ended_at - call.arrived, 6)


def refused(call: ScriptedClient) -> tuple[int | None, str, float | None]:
    return call.status, call.error["code"], call.ended_at


# ---- First come, first served


def test_queued_calls_are_served_in_the_order_of_their_arrival() -> None:
    play = Player(endpoint("a", SECOND, concurrency=1))
    calls = [play.call(at) for at in (0.0, 0.1, 0.2, 0.3)]
    play.run()
    assert begins(play) == [0.0, 1.0, 2.0, 3.0]
    assert [call.ended_at for call in calls] == [1.0, 2.0, 3.0, 4.0]
    assert all(call.text == "Hello" and call.whole for call in calls)
    assert [call.headers["server-timing"] for call in calls[:2]] == [
        "first-token;dur=500.0",
        "queue;dur=900.0, first-token;dur=1400.0",
    ]


def test_later_calls_do_not_overtake_queued_calls() -> None:
    """The order holds even at the instant at which a slot is freed, before the queued call has taken it."""
    play = Player(endpoint("a", SECOND, concurrency=1))
    first, waits = play.call(0.0), play.call(0.5)
    comes_then: list[ScriptedClient] = []
    # This runs after the first call has ended and before the queued one is notified.
    play.at(1.0, lambda: comes_then.append(play.call()))
    play.run()
    assert (first.ended_at, waits.ended_at) == (1.0, 2.0)
    assert [call.ended_at for call in comes_then] == [3.0]


def test_a_queued_call_takes_the_first_slot_of_any_endpoint() -> None:
    play = Player(
        endpoint("a", streams("a", first=5.0), concurrency=1), endpoint("b", SECOND, concurrency=1, tier=2), hedge="off"
    )
    play.call(), play.call(0.1)
    third = play.call(0.2)
    play.run()
    assert begins(play, "b") == [0.1, 1.1]
    assert third.record.endpoint == "b"


def test_a_call_does_not_wait_behind_calls_queued_for_another_endpoint() -> None:
    play = Player(
        endpoint("a", streams("a", first=4.0), concurrency=1, models=["chat", "code"]),
        endpoint("b", SECOND, concurrency=1, models=["code"], tier=2),
        hedge="off",
    )
    play.call()
    for_a, for_any = play.call(0.1), play.call(0.2, model="code")
    play.run()
    assert (for_any.record.endpoint, for_any.record.queued) == ("b", 0.0)
    assert for_a.record.endpoint == "a"


def test_all_models_of_an_endpoint_share_one_queue() -> None:
    play = Player(endpoint("a", SECOND, concurrency=1, models=["chat", "code"]))
    calls = [play.call(i / 10, model=("chat", "code")[i % 2]) for i in range(4)]
    play.run()
    assert [call.ended_at for call in calls] == [1.0, 2.0, 3.0, 4.0]


def test_several_slots_freed_at_once_serve_as_many_queued_calls() -> None:
    play = Player(endpoint("a", SECOND, concurrency=3))
    calls = [play.call() for _ in range(8)]
    play.run()
    assert [call.ended_at for call in calls] == [1.0] * 3 + [2.0] * 3 + [3.0] * 2


def test_a_call_that_does_not_stream_is_queued_as_well() -> None:
    play = Player(endpoint("a", answers(completion(), 1.0), concurrency=1))
    calls = [play.call(stream=False) for _ in range(2)]
    play.run()
    assert [call.ended_at for call in calls] == [1.0, 2.0]


# ---- Bounds


def test_a_full_queue_refuses_the_next_call_at_once() -> None:
    play = Player(endpoint("a", SECOND, concurrency=1), queue=2)
    calls = [play.call(i / 10) for i in range(4)]
    play.run()
    assert [call.status for call in calls] == [200, 200, 200, 429]
    assert refused(calls[3]) == (429, "queue_full", 0.3)
    assert (calls[3].headers["x-should-retry"], calls[3].headers["retry-after-ms"]) == ("true", "1000")
    assert play.metric("calls_total", error="queue_full") == 1


def test_a_call_that_was_queued_for_queue_wait_gets_a_429() -> None:
    play = Player(endpoint("a", streams("long", first=60.0), concurrency=1), queue_wait=3)
    _, waits = play.call(), play.call(1.0)
    play.run()
    assert refused(waits) == (429, "queue_timeout", 4.0)
    assert waits.record.attempts == []
    assert waits.record.queued == 3.0


def test_a_deadline_shorter_than_queue_wait_holds() -> None:
    play = Player(endpoint("a", streams("long", first=60.0), concurrency=1), models={"chat": {"deadline": 100}})
    play.call()
    waits = play.call(1.0, headers=[(b"x-stainless-read-timeout", b"4")])
    play.run()
    assert refused(waits)[:2] == (429, "queue_timeout")
    assert waits.ended_at is not None
    assert waits.ended_at <= 6.0  # a second after the client's own timeout


def test_a_call_that_could_not_be_served_in_time_is_refused_at_once_with_the_expected_wait() -> None:
    """The queue's pace is known by then: one call in two seconds."""
    play = Player(endpoint("a", streams("long", first=1.5, gap=0.5), concurrency=1), queue_wait=5)
    calls = [play.call(at) for at in (0.0, 0.1, 0.2, 0.3)]
    late = play.call(4.5)  # calls are queued, and the pace is known by now
    more = [play.call(4.6), play.call(4.7)]
    play.run()
    assert [call.ended_at for call in calls[:3]] == [2.0, 4.0, 6.0]
    assert refused(calls[3]) == (429, "queue_timeout", 5.3)
    assert late.status == 200
    assert [refused(call)[:2] for call in more if call.status != 200] == [(429, "queue_timeout")]
    assert more[1].ended_at == 4.7
    assert 2000 <= int(more[1].headers["retry-after-ms"]) <= 6000


def test_a_queue_of_size_or_time_zero_refuses_at_once() -> None:
    for queue, queue_wait in ((0, 10), (100, 0)):
        play = Player(endpoint("a", SECOND, concurrency=1), queue=queue, queue_wait=queue_wait)
        _, call = play.call(), play.call(0.1)
        play.run()
        assert refused(call) == (429, "overloaded", 0.1)


def test_a_queued_call_gets_pings() -> None:
    play = Player(endpoint("a", streams("long", first=29.5, gap=0.5), concurrency=1), queue_wait=40, hedge="off")
    _, waits, in_vain = play.call(), play.call(1.0), play.call(2.0)
    play.run()
    assert waits.pinged_at[:2] == [11.0, 26.0]
    assert (waits.text, waits.whole) == ("long", True)
    assert in_vain.error["code"] == "queue_timeout"  # inside the stream that the pings began
    assert (in_vain.status, in_vain.done) == (200, False)


# ---- Clients that leave


def test_a_client_that_leaves_the_queue_makes_room_for_the_next() -> None:
    play = Player(endpoint("a", SECOND, concurrency=1), queue=2)
    play.call()
    leaves, stays = play.call(0.1, leaves_at=0.5), play.call(0.2)
    later = play.call(0.6)
    play.run()
    assert leaves.record.error == "client_left"
    assert (stays.ended_at, later.ended_at) == (2.0, 3.0)


def test_a_client_that_leaves_when_its_slot_is_reserved_passes_the_slot_on() -> None:
    play = Player(endpoint("a", SECOND, concurrency=1))
    play.call()
    leaves, next_one = play.call(0.1), play.call(0.2)
    play.at(1.0, leaves.leaves)  # a slot is reserved, and the call has not taken it yet
    play.run()
    assert leaves.left_at == 1.0
    assert begins(play) == [0.0, 1.0]
    assert next_one.ended_at == 2.0


def test_a_stop_ends_queued_calls_too() -> None:
    play = Player(endpoint("a", SECOND, concurrency=1))
    _, waits = play.call(), play.call(0.1)
    play.run_until(0.5)
    play.handler.end_all(Stopping("The end."))
    play.run()
    assert refused(waits) == (503, "stopping", 0.5)


# ---- Failures and recoveries


def test_a_slot_freed_by_a_failure_is_for_the_next_and_the_failed_call_queues_again() -> None:
    play = Player(endpoint("a", fails_with(500, 1.0), SECOND, concurrency=1))
    fails, waits = play.call(), play.call(0.1)
    play.run()
    assert begins(play) == [0.0, 1.0, 2.0]
    assert waits.ended_at == 2.0
    assert (fails.ended_at, fails.whole) == (3.0, True)
    assert [line.role for line in fails.record.attempts] == ["first", "retry"]


def test_calls_queue_for_a_full_endpoint_if_the_other_is_out() -> None:
    play = Player(
        endpoint("a", SECOND, concurrency=1), endpoint("b", refuses_connection(0.0), tier=2), hedge="off", queue_wait=60
    )
    play.call(0.0)
    for i in range(20):  # these open the breaker of b
        play.call(0.1 + i / 100)
    play.run()
    assert {call.status for call in play.calls} == {200}
    assert len(play["b"].wires) < 8


def test_queued_calls_find_an_endpoint_that_recovers() -> None:
    play = Player(
        endpoint("a", streams("long", first=9.0), concurrency=1),
        endpoint("b", fails_with(429, 0.0), SECOND, tier=2),
        hedge="off",
    )
    play.call()
    waits = play.call(0.1)
    play.run()
    assert begins(play, "b") == [0.1, 0.6]  # one refusal begins no cooldown: once more, after a pause
    assert waits.ended_at == 1.6


def test_calls_do_not_queue_for_an_endpoint_that_reported_a_retry_after() -> None:
    play = Player(endpoint("a", fails_with(429, 1.0, retry_after=30), concurrency=1), queue_wait=5)
    first, second, third = play.call(), play.call(0.1), play.call(0.2)
    late = play.call(3.5)
    play.run()
    assert begins(play) == [0.0, 1.0, 3.5]  # the second refusal begins a cooldown of a second
    for call, at, back in ((first, 1.0, "30000"), (second, 2.0, "30000"), (third, 2.0, "1000"), (late, 4.5, "30000")):
        assert refused(call) == (429, "endpoints_busy", at)
        assert call.headers["retry-after-ms"] == back


def test_no_hedge_takes_a_slot_that_a_queued_call_waits_for() -> None:
    play = Player(
        endpoint("a", streams("slow", first=2.0), concurrency=1),
        endpoint("b", SECOND, concurrency=1, tier=2),
        hedge=0.2,
        hedge_budget=1,
    )
    slow, takes_b = play.call(0.0), play.call(0.1)
    waits = play.call(0.15)
    play.run()
    assert [line.role for line in slow.record.attempts] == ["first"]
    assert takes_b.ended_at == 1.1
    assert (waits.record.endpoint, waits.ended_at) == ("b", 2.1)


def test_calls_queue_for_a_learned_limit_as_for_a_configured_one() -> None:
    """The endpoint accepts two attempts at once. The learned limit makes calls wait; none is refused for it."""
    refusals: list[float] = []

    def takes_two() -> Script:
        if play["a"].busy >= 2:
            refusals.append(play.scheduler.now())
            return fails_with(429, 0.0)
        return SECOND

    play = Player(endpoint("a", takes_two), retry_budget=2, queue_wait=60)
    calls = [play.call(i / 100) for i in range(12)]
    play.run()
    assert all(call.whole for call in calls)
    assert len(refusals) <= 3


# ---- A dead endpoint does not slow other calls


def test_a_frozen_endpoint_with_hundreds_of_calls_slows_no_calls_to_others() -> None:
    play = Player(
        endpoint("frozen", SILENT, models=["stuck", "both"], weight=1000),
        endpoint("well", SECOND, models=["both"]),
        endpoint("other", SECOND, models=["other"]),
        hedge_budget=1,
        retry_budget=1,
        deadline=600,
        max_calls=5000,
    )
    for _ in range(500):
        play.call(0.0, model="stuck")
    others = [play.call(1.0 + i / 10, model="other") for i in range(100)]
    both = [play.call(30.0 + i / 10, model="both") for i in range(100)]
    play.run()
    assert {took(call) for call in others} == {1.0}
    assert all(call.whole for call in both)
    assert all(line.verdict is not Verdict.FAULT for call in both for line in call.record.attempts)
    assert {round(call.record.first_token or 0.0, 6) for call in both} == {0.5}


def test_a_full_frozen_endpoint_keeps_only_its_own_calls_waiting() -> None:
    play = Player(
        endpoint("frozen", SILENT, models=["stuck", "both"], concurrency=5),
        endpoint("well", SECOND, models=["both"], tier=2),
        deadline=600,
        queue=100,
    )
    stuck = [play.call(0.0, model="stuck") for _ in range(300)]
    both = [play.call(1.0 + i / 10, model="both") for i in range(100)]
    play.run()
    assert {took(call) for call in both} == {1.0}
    codes = [call.record.error for call in stuck]
    assert (codes.count("queue_full"), codes.count("queue_timeout")) == (195, 100), codes


def test_the_pace_follows_the_latest_intervals() -> None:
    play = Player(endpoint("a", streams("x", first=0.5, gap=0.5), streams("x", first=3.5, gap=0.5), concurrency=1))
    for _ in range(4):
        play.call()
    play.run()
    assert play.endpoint("a").availability.slots.queue.pace == 4.0 * SMOOTHING + 4.0 * (1.0 - SMOOTHING)


def test_queued_calls_are_counted() -> None:
    play = Player(endpoint("a", SECOND, cuts(0.1), concurrency=1))
    for _ in range(3):
        play.call()
    play.run_until(0.5)
    assert play.metric("calls_waiting", model="chat") == 2
    play.run()
    assert play.metric("calls_waiting", model="chat") == 0


# ---- Shedding as the router itself fills


def crowd(calls: int, *a: Script, b: Script) -> Player:
    """A router with room for twenty calls; so many of them are calls to another model."""
    play = Player(
        endpoint("a", *a),
        endpoint("b", b, tier=2),
        endpoint("busy", SILENT, models=["other"]),
        models={"chat": {"deadline": 10}},
        max_calls=20,
        hedge=1,
    )
    for _ in range(calls):
        play.call(model="other")
    return play


def test_hedges_are_shed_first_as_the_router_fills() -> None:
    for others, roles in ((16, ["first", "hedge"]), (17, ["first"])):
        play = crowd(others, SILENT, b=SECOND)
        call = play.call(0.5)
        play.run()
        assert [line.role for line in call.record.attempts] == roles


def test_retries_that_need_the_budget_are_shed_second() -> None:
    """A retry at a healthy endpoint needs no budget."""
    for others, roles in ((18, ["first", "retry", "retry"]), (19, ["first", "retry"])):
        play = crowd(others, fails_with(500, 0.1), SECOND, b=fails_with(500, 0.1))
        call = play.call(0.5)
        play.run()
        assert [line.role for line in call.record.attempts] == roles


def test_calls_are_shed_last() -> None:
    play = crowd(20, SECOND, b=SECOND)
    call = play.call(0.5)
    play.run()
    assert refused(call) == (429, "overloaded", 0.5)
