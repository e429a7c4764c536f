"""Servers over scenario time: slots and caps are never exceeded and always freed, queues are served in order."""

from __future__ import annotations

from math import inf, isinf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.latency.arrivals import Call
from loadtest.latency.endpoints import Endpoint, Window
from loadtest.latency.laws import Given
from loadtest.latency.servers import Server, Ticket
from tests.loadtest.fleets import QUICK, constant, endpoint


def server(law: Any = QUICK, seed: int = 1, **keys: Any) -> Server:
    return Server(Endpoint.model_validate(endpoint("tested", law, **keys)), seed)


def ask(tested: Server, now: float, k: int | None = 0, generated: int = 10) -> Ticket:
    return tested.ask(k, now, 100, generated, now)


# ---- One call


def test_a_first_token_is_due_after_its_draw_and_the_end_after_its_tokens() -> None:
    ticket = ask(server(constant(0.5), rate=20), now=3.0)
    assert (ticket.due, ticket.ends) == (3.5, 4.0)


def test_a_call_has_the_same_time_whenever_and_in_whatever_order_it_asks() -> None:
    early, late = server(), server()
    for k in range(50):
        ask(late, 0.1 * k, k + 100)
    at_once = early.ask(7, 5.0, 100, 10, 5.0)
    a_rival = late.ask(7, 5.0, 100, 10, 8.0)
    assert at_once.due is not None
    assert a_rival.due == pytest.approx(at_once.due + 3)


def test_the_second_attempt_of_a_call_is_another_draw() -> None:
    tested = server()
    first, second, other = (ask(tested, 0.0, k) for k in (7, 7, 8))
    assert len({first.due, second.due, other.due}) == 3


def test_probes_have_draws_by_their_sequence() -> None:
    one, other = server(), server()
    assert [ask(one, 1.0, None).due for _ in range(3)] == [ask(other, 1.0, None).due for _ in range(3)]
    assert ask(one, 1.0, None).due != ask(one, 1.0, 1).due


def test_a_share_of_the_answers_breaks_off() -> None:
    tested = server(cuts={"share": 0.3, "after": 4})
    cuts = [ask(tested, 0.0, k).cut for k in range(2000)]
    assert set(cuts) == {None, 4}
    assert 0.25 < sum(cut == 4 for cut in cuts) / len(cuts) < 0.35


# ---- Refusals


def test_over_its_cap_an_account_refuses_with_its_vendors_error() -> None:
    caps = [{"at": 0, "most": 2}, {"at": 10, "most": 1}]
    zhipu, other = (server(constant(1), kind=kind, caps=caps) for kind in ("zhipu", "openai"))
    for tested, code in ((zhipu, "1302"), (other, None)):
        assert [ask(tested, 0.0, k).refusal is None for k in range(3)] == [True, True, False]
        assert not tested.takes(0.0)
        refusal = ask(tested, 0.0, 3).refusal
        assert refusal is not None
        assert (refusal.status, refusal.code) == (429, code)
        assert tested.takes(10.0)
        assert [ask(tested, 10.0, k).refusal is None for k in range(2)] == [True, False]


def test_in_an_error_burst_a_share_of_the_calls_fails() -> None:
    tested = server(errors=[{"start": 10, "until": 20, "share": 0.5, "status": 502, "retry_after": 3}])
    refusals = [ask(tested, 15.0, k).refusal for k in range(1000)]
    failed = [refusal for refusal in refusals if refusal]
    assert {(refusal.status, refusal.retry_after) for refusal in failed} == {(502, 3.0)}
    assert 450 < len(failed) < 550
    assert ask(tested, 20.0).refusal is None


def test_an_absent_endpoint_refuses_connections() -> None:
    tested = server(absent=[{"until": 60}])
    refusal = ask(tested, 59.9).refusal
    assert refusal is not None
    assert refusal.status == 0
    assert not tested.takes(59.9)
    assert ask(tested, 60.0).refusal is None


def test_a_silent_endpoint_holds_calls_until_their_clients_leave() -> None:
    tested = server(silent=[{"start": 5}], slots=1)
    tickets = [ask(tested, 6.0, k) for k in range(3)]
    assert [ticket.due for ticket in tickets] == [inf] * 3
    assert tested.in_flight == 3
    for ticket in tickets:
        tested.end(ticket, 9.0)
    assert tested.in_flight == 0


# ---- Slots, queues and loading


def test_a_queued_call_begins_when_an_earlier_one_ends_however_late_the_tick() -> None:
    tested = server(constant(1), slots=1, rate=10)
    first, second, third = (ask(tested, 0.0, k) for k in range(3))
    assert (first.ends, second.due, third.due) == (2.0, None, None)
    assert tested.next_at == 2.0
    assert tested.tick(1.9) == []
    assert tested.tick(5.0) == [second, third]
    assert (second.due, second.ends, third.due, third.ends) == (3.0, 4.0, 5.0, 6.0)
    assert tested.next_at == inf


def test_a_call_that_leaves_frees_its_slot_at_once() -> None:
    tested = server(constant(1), slots=1, rate=10)
    first, second, third = (ask(tested, 0.0, k) for k in range(3))
    tested.end(second, 0.2)
    tested.end(first, 0.5)
    assert tested.tick(0.5) == [third]
    assert third.due == 1.5


def test_a_call_that_leaves_before_the_tick_is_not_returned() -> None:
    tested = server(constant(1), slots=1, rate=10)
    first, second = (ask(tested, 0.0, k) for k in range(2))
    tested.end(first, 0.5)
    tested.end(second, 0.6)
    assert tested.tick(0.7) == []


def test_all_calls_wait_until_an_unloaded_model_is_loaded() -> None:
    tested = server(constant(0.3), cold={"after": 30, "load": 10}, rate=10)
    assert tested.wait(0, 100, 0.0) == 10
    assert [ask(tested, now, k).due for k, now in enumerate((0.0, 4.0, 11.0))] == [10.3, 10.3, 11.3]
    assert ask(tested, 42.0, 3).due == 42.3  # the last one ended at 12.3
    assert ask(tested, 74.0, 4).due == 84.3


def test_loading_continues_after_the_waiting_call_left() -> None:
    tested = server(constant(0.3), cold={"after": 30, "load": 10})
    tested.end(ask(tested, 0.0), 1.0)
    assert ask(tested, 12.0, 1).due == 12.3


Steps = st.lists(st.tuples(st.floats(0, 2), st.integers(0, 3)), min_size=1, max_size=80)


@given(steps=Steps, slots=st.one_of(st.none(), st.integers(1, 3)), cap=st.one_of(st.none(), st.integers(1, 5)))
def test_slots_and_caps_hold_and_all_slots_are_freed(steps: Any, slots: int | None, cap: int | None) -> None:
    caps = [] if cap is None else [{"at": 0, "most": cap}]
    tested = server(slots=slots, caps=caps, rate=5, silent=[{"start": 20, "until": 25}])
    now, tickets, begun = 0.0, [], []
    for k, (pause, what) in enumerate(steps):
        now += pause
        if what:
            ticket = ask(tested, now, k, generated=what * 3)
            tickets.append(ticket)
            begun += tested.tick(now)
            begun += [ticket] if ticket.due is not None and not isinf(ticket.due) else []
        elif tickets:
            tested.end(tickets[len(tickets) * 7 // 11], now)
        begun += tested.tick(now)
        assert len(tested.running) <= (slots or inf)
        assert tested.in_flight <= (cap or inf)
        assert not tested.queue or tested.full
    assert [ticket.k for ticket in begun] == sorted(ticket.k for ticket in begun)
    for ticket in tickets:
        tested.end(ticket, now)
        tested.end(ticket, now)
    begun += tested.tick(now)
    assert (tested.in_flight, len(tested.queue)) == (0, 0)
    assert tested.next_at == inf


@given(steps=Steps, slots=st.integers(1, 3))
def test_a_foreseen_time_is_right_if_no_call_leaves(steps: Any, slots: int) -> None:
    tested, now, expected = server(slots=slots, rate=5, cold={"after": 3, "load": 4}), 0.0, {}
    tickets = []
    for k, (pause, what) in enumerate(steps):
        now += pause
        call = Call(k, now, 100, 3 * what + 1)
        expected[k] = now + tested.foreseen(call, now)
        tickets.append(tested.ask(call.k, call.at, call.tokens, call.generated, now))
    tested.tick(now + 10_000)
    assert {ticket.k: ticket.due for ticket in tickets} == pytest.approx(expected)


def test_the_samples_of_a_law_follow_its_distribution() -> None:
    tested = server({"kind": "linear", "per_token": 0.001, "base": QUICK})
    known = tested.known(0, 1000)
    assert known.mean() == pytest.approx(tested.law.mean(0, 1000), rel=0.01)
    assert list(known) == sorted(known)
    assert tested.state(0, 1000) == tested.state(9, 1001) != tested.state(0, 2000)
    assert server().state(0, 1000) == server().state(0, 9000)
    assert tested.law == Endpoint.model_validate(tested.endpoint.model_dump()).law.bound(Given(1, "tested"))


# ---- Windows


@given(
    start=st.floats(0, 50), length=st.floats(0.5, 20), pause=st.one_of(st.none(), st.floats(0.5, 20)),
    now=st.floats(0, 200),
)  # fmt: skip
def test_a_window_holds_within_its_spans_and_nowhere_else(
    start: float, length: float, pause: float | None, now: float
) -> None:
    window = Window(start=start, until=start + length, every=None if pause is None else length + pause)
    spans = window.spans(200)
    inside = any(begin + 1e-6 < now < end - 1e-6 for begin, end in spans)
    outside = all(now < begin - 1e-6 or now > end + 1e-6 for begin, end in spans)
    if inside or (outside and now < 200):
        assert window.holds(now) == inside
