"""Calls that wait for a slot: who is called, what is kept for him, and that nothing stays kept."""

from __future__ import annotations

from random import Random

import pytest

from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.endpoint.slots import Slots
from router.core.endpoint.waiting_queue import SMOOTHING, QueueEntry, QueueLimit, WaitingQueue, expected_wait
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import T


class Caller:
    """One call in line; `calls` are the times that it was called, and `takes` one of its endpoints if it can."""

    def __init__(self, queue: QueueLimit, *endpoints: Endpoint) -> None:
        self.endpoints, self.called, self.attempt = endpoints, 0, None
        self.place = QueueEntry(queue, self.wake, T)
        self.place.want(endpoints, T)

    attempt: Attempt | None

    def wake(self) -> None:
        self.called += 1

    def takes(self, endpoint: Endpoint, now: float = T) -> None:
        self.place.claim()
        assert not endpoint.availability.full
        self.attempt = endpoint.begin(now)
        self.place.leave(now)


def one(slots: Slots | None = None, name: str = "a") -> tuple[Endpoint, Attempt]:
    """An endpoint of one slot, which is taken."""
    endpoint = Endpoint(name, slots=slots or Slots(1))
    return endpoint, endpoint.begin(T)


def test_the_first_is_called_and_the_slot_is_kept_until_he_has_looked() -> None:
    endpoint, running = one()
    queue = QueueLimit(10, 10.0)
    first, second = Caller(queue, endpoint), Caller(queue, endpoint)
    running.end(Outcome(Verdict.SERVED), T)
    assert (first.called, second.called) == (1, 0)
    assert endpoint.availability.full
    first.takes(endpoint)
    assert endpoint.availability.full
    assert (queue.waiting, second.called) == (1, 0)
    assert first.attempt is not None
    first.attempt.end(Outcome(Verdict.FAULT), T)
    assert second.called == 1


@pytest.mark.parametrize("looks", [True, False])
def test_who_leaves_instead_hands_the_slot_on(looks: bool) -> None:
    endpoint, running = one()
    queue = QueueLimit()
    first, second = Caller(queue, endpoint), Caller(queue, endpoint)
    running.end(Outcome(Verdict.SERVED), T)
    if looks:
        first.place.claim()
    first.place.leave(T)
    assert (second.called, endpoint.availability.slots.used) == (1, 1)
    second.place.leave(T)
    second.place.leave(T)
    assert (endpoint.availability.slots.used, endpoint.availability.in_flight, queue.waiting) == (0, 0, 0)


def test_who_can_not_use_what_is_free_hands_it_on_and_goes_on_waiting_for_the_rest() -> None:
    (a, at_a), (b, _) = one(name="a"), one(name="b")
    queue = QueueLimit()
    picky, second = Caller(queue, a, b), Caller(queue, a)
    at_a.end(Outcome(Verdict.SERVED), T)
    picky.place.claim()
    picky.place.want([b], T)
    assert (picky.called, second.called) == (1, 1)
    assert list(a.availability.slots.queue.entries) == [second.place]
    assert list(b.availability.slots.queue.entries) == [picky.place]


def test_who_is_called_already_is_passed_over() -> None:
    (a, at_a), (b, at_b) = one(name="a"), one(name="b")
    queue = QueueLimit()
    first, second = Caller(queue, a, b), Caller(queue, a, b)
    at_a.end(Outcome(Verdict.SERVED), T)
    at_b.end(Outcome(Verdict.SERVED), T)
    assert (first.called, second.called) == (1, 1)


def test_models_that_share_slots_share_the_line() -> None:
    slots = Slots(1)
    (chat, running), code = one(slots, "chat"), Endpoint("code", slots=slots)
    caller = Caller(QueueLimit(), code)
    running.end(Outcome(Verdict.SERVED), T)
    assert caller.called == 1
    caller.takes(code)
    assert (chat.availability.in_flight, code.availability.in_flight, chat.availability.full) == (0, 1, True)


def test_a_limit_that_grows_calls_as_many_as_it_has_grown_by() -> None:
    endpoint = Endpoint("a")
    running = [endpoint.begin(T) for _ in range(4)]
    endpoint.begin(T).end(Outcome(Verdict.BUSY), T)
    endpoint.availability.limit.most = 4.0
    callers = [Caller(QueueLimit(), endpoint) for _ in range(5)]
    endpoint.availability.limit.most = 6.0
    running[0].end(Outcome(Verdict.SERVED), T)
    assert [caller.called for caller in callers] == [1, 1, 1, 0, 0]


def test_what_is_expected_is_the_pace_of_all_lines_together() -> None:
    (a, at_a), (b, at_b) = one(name="a"), one(name="b")
    queue = QueueLimit()
    assert expected_wait([a, b]) == 0.0
    callers = [Caller(queue, a, b) for _ in range(9)]
    attempts: list[Attempt] = [at_a, at_b]
    for step, endpoint in enumerate((a, b, a, b, a, b)):
        attempts[step].end(Outcome(Verdict.SERVED), T + step)
        callers[step].takes(endpoint, T + step)
        attempt = callers[step].attempt
        assert attempt is not None
        attempts.append(attempt)
    assert (a.availability.slots.queue.pace, b.availability.slots.queue.pace) == (2.0, 2.0)
    assert expected_wait([a, b]) == 3.0  # three in line, and one is called a second
    assert expected_wait([a]) == 6.0


def test_a_pace_follows_what_happens_and_not_the_time_that_nobody_was_in_line() -> None:
    endpoint, running = one()
    for idle, took in ((0.0, 3.0), (1000.0, 5.0)):
        began = running.began + idle
        callers = [Caller(QueueLimit(), endpoint) for _ in range(2)]
        for at, caller in zip((began, began + took), callers, strict=True):
            running.end(Outcome(Verdict.SERVED), at)
            caller.takes(endpoint, at)
            assert caller.attempt is not None
            running = caller.attempt
    assert endpoint.availability.slots.queue.pace == pytest.approx(3.0 + SMOOTHING * 2.0)


def test_whatever_happens_nothing_stays_kept() -> None:
    for seed in range(300):
        rng = Random(seed)
        slots = [Slots(rng.choice([1, 2, None])) for _ in range(3)]
        endpoints = [Endpoint(str(i), slots=rng.choice(slots)) for i in range(5)]
        for endpoint in endpoints:
            endpoint.availability.limit.most = rng.choice([1.0, 2.0, 3.0])
        queue, callers, running = QueueLimit(), list[Caller](), list[Attempt]()
        for _ in range(200):
            what, endpoint = rng.randrange(5), rng.choice(endpoints)
            if what == 0 and not endpoint.availability.full:
                running.append(endpoint.begin(T))
            elif what == 1 and running:
                running.pop(rng.randrange(len(running))).end(Outcome(rng.choice(list(Verdict))), T)
            elif what == 2 and (full := [e for e in endpoints if e.availability.full]):
                callers.append(Caller(queue, *rng.sample(full, rng.randint(1, len(full)))))
            elif what == 3 and callers:
                callers.pop(rng.randrange(len(callers))).place.leave(T)
            elif callers:
                caller = rng.choice(callers)
                caller.place.claim()
                free = [e for e in caller.endpoints if not e.availability.full]
                if free and rng.random() < 0.8:
                    running.append(rng.choice(free).begin(T))
                    caller.place.leave(T)
                    callers.remove(caller)
                else:
                    caller.place.want([e for e in caller.endpoints if e.availability.full], T)
            assert queue.waiting == len(callers)
            assert all(s.configured is None or s.used <= s.configured for s in slots)
            kept = sum(s.used for s in slots) - len(running)
            assert kept == sum(e.availability.in_flight for e in endpoints) - len(running) >= 0
        for caller in callers:
            caller.place.leave(T)
        for attempt in running:
            attempt.end(Outcome(Verdict.ABANDONED), T)
        assert queue.waiting == 0
        assert [s.used for s in slots] == [0, 0, 0]
        assert [e.availability.in_flight for e in endpoints] == [0] * 5
        assert not any(s.queue.entries for s in slots)


def test_all_are_woken_when_an_endpoint_becomes_another() -> None:
    endpoint, _ = one()
    callers = [Caller(QueueLimit(), endpoint) for _ in range(3)]
    endpoint.availability.slots.queue.wake_all()
    assert [caller.called for caller in callers] == [1, 1, 1]
    assert isinstance(endpoint.availability.slots.queue, WaitingQueue)
