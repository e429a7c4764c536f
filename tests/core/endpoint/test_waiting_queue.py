"""The waiting queue: which entry is called, that its slot stays reserved, and that no reservation is left behind."""

from __future__ import annotations

from random import Random

import pytest

from router.core.endpoint.endpoint import Attempt, Endpoint
from router.core.endpoint.slots import Slots
from router.core.endpoint.waiting_queue import SMOOTHING, QueueEntry, QueueLimit, WaitingQueue, expected_wait
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import T


class Queued:
    """One queued call; `called` counts how often its entry was woken, `attempt` is the one that took its slot."""

    def __init__(self, queue: QueueLimit, *endpoints: Endpoint) -> None:
        self.endpoints, self.called, self.attempt = endpoints, 0, None
        self.entry = QueueEntry(queue, self.wake, T)
        self.entry.want(endpoints, T)

    attempt: Attempt | None

    def wake(self) -> None:
        self.called += 1

    def takes(self, endpoint: Endpoint, now: float = T) -> None:
        """Claim the reserved slot, and begin an attempt with it."""
        self.entry.claim()
        assert not endpoint.availability.full
        self.attempt = endpoint.begin(now)
        self.entry.leave(now)


def taken(slots: Slots | None = None, name: str = "a") -> tuple[Endpoint, Attempt]:
    """An endpoint with one slot, and the attempt that has taken it."""
    endpoint = Endpoint(name, slots=slots or Slots(1))
    return endpoint, endpoint.begin(T)


def test_the_first_entry_is_called_and_its_slot_stays_reserved_until_it_claims_it() -> None:
    endpoint, running = taken()
    queue = QueueLimit(10, 10.0)
    first, second = Queued(queue, endpoint), Queued(queue, endpoint)
    running.end(Outcome(Verdict.SERVED), T)
    assert (first.called, second.called) == (1, 0)
    assert endpoint.availability.full
    first.takes(endpoint)
    assert endpoint.availability.full
    assert (queue.waiting, second.called) == (1, 0)
    assert first.attempt is not None
    first.attempt.end(Outcome(Verdict.FAULT), T)
    assert second.called == 1


@pytest.mark.parametrize("claims", [True, False])
def test_an_entry_that_leaves_hands_its_slot_on(claims: bool) -> None:
    endpoint, running = taken()
    queue = QueueLimit()
    first, second = Queued(queue, endpoint), Queued(queue, endpoint)
    running.end(Outcome(Verdict.SERVED), T)
    if claims:
        first.entry.claim()
    first.entry.leave(T)
    assert (second.called, endpoint.availability.slots.used) == (1, 1)
    second.entry.leave(T)
    second.entry.leave(T)
    assert (endpoint.availability.slots.used, endpoint.availability.in_flight, queue.waiting) == (0, 0, 0)


def test_a_call_that_does_not_use_the_free_slot_hands_it_on_and_stays_queued_for_the_others() -> None:
    (a, at_a), (b, _) = taken(name="a"), taken(name="b")
    queue = QueueLimit()
    first, second = Queued(queue, a, b), Queued(queue, a)
    at_a.end(Outcome(Verdict.SERVED), T)
    first.entry.claim()
    first.entry.want([b], T)
    assert (first.called, second.called) == (1, 1)
    assert list(a.availability.slots.queue.entries) == [second.entry]
    assert list(b.availability.slots.queue.entries) == [first.entry]


def test_an_entry_that_has_a_slot_reserved_is_passed_over() -> None:
    (a, at_a), (b, at_b) = taken(name="a"), taken(name="b")
    queue = QueueLimit()
    first, second = Queued(queue, a, b), Queued(queue, a, b)
    at_a.end(Outcome(Verdict.SERVED), T)
    at_b.end(Outcome(Verdict.SERVED), T)
    assert (first.called, second.called) == (1, 1)


def test_models_that_share_slots_share_the_queue() -> None:
    slots = Slots(1)
    (chat, running), code = taken(slots, "chat"), Endpoint("code", slots=slots)
    call = Queued(QueueLimit(), code)
    running.end(Outcome(Verdict.SERVED), T)
    assert call.called == 1
    call.takes(code)
    assert (chat.availability.in_flight, code.availability.in_flight, chat.availability.full) == (0, 1, True)


def test_a_learned_limit_that_has_grown_by_some_calls_as_many_entries_more() -> None:
    endpoint = Endpoint("a")
    running = [endpoint.begin(T) for _ in range(4)]
    endpoint.begin(T).end(Outcome(Verdict.BUSY), T)
    endpoint.availability.limit.most = 4.0
    calls = [Queued(QueueLimit(), endpoint) for _ in range(5)]
    endpoint.availability.limit.most = 6.0
    running[0].end(Outcome(Verdict.SERVED), T)
    assert [call.called for call in calls] == [1, 1, 1, 0, 0]


def test_the_expected_wait_follows_from_the_pace_of_all_queues_together() -> None:
    (a, at_a), (b, at_b) = taken(name="a"), taken(name="b")
    queue = QueueLimit()
    assert expected_wait([a, b]) == 0.0
    calls = [Queued(queue, a, b) for _ in range(9)]
    attempts: list[Attempt] = [at_a, at_b]
    for step, endpoint in enumerate((a, b, a, b, a, b)):
        attempts[step].end(Outcome(Verdict.SERVED), T + step)
        calls[step].takes(endpoint, T + step)
        attempt = calls[step].attempt
        assert attempt is not None
        attempts.append(attempt)
    assert (a.availability.slots.queue.pace, b.availability.slots.queue.pace) == (2.0, 2.0)
    assert expected_wait([a, b]) == 3.0  # three entries, and one is called each second
    assert expected_wait([a]) == 6.0


def test_the_pace_is_measured_only_while_the_queue_is_not_empty() -> None:
    endpoint, running = taken()
    for idle, took in ((0.0, 3.0), (1000.0, 5.0)):
        began = running.began + idle
        calls = [Queued(QueueLimit(), endpoint) for _ in range(2)]
        for at, call in zip((began, began + took), calls, strict=True):
            running.end(Outcome(Verdict.SERVED), at)
            call.takes(endpoint, at)
            assert call.attempt is not None
            running = call.attempt
    assert endpoint.availability.slots.queue.pace == pytest.approx(3.0 + SMOOTHING * 2.0)


def test_after_random_events_no_slot_stays_reserved() -> None:
    for seed in range(300):
        rng = Random(seed)
        slots = [Slots(rng.choice([1, 2, None])) for _ in range(3)]
        endpoints = [Endpoint(str(i), slots=rng.choice(slots)) for i in range(5)]
        for endpoint in endpoints:
            endpoint.availability.limit.most = rng.choice([1.0, 2.0, 3.0])
        queue, calls, running = QueueLimit(), list[Queued](), list[Attempt]()
        for _ in range(200):
            event, endpoint = rng.randrange(5), rng.choice(endpoints)
            if event == 0 and not endpoint.availability.full:
                running.append(endpoint.begin(T))
            elif event == 1 and running:
                running.pop(rng.randrange(len(running))).end(Outcome(rng.choice(list(Verdict))), T)
            elif event == 2 and (full := [e for e in endpoints if e.availability.full]):
                calls.append(Queued(queue, *rng.sample(full, rng.randint(1, len(full)))))
            elif event == 3 and calls:
                calls.pop(rng.randrange(len(calls))).entry.leave(T)
            elif calls:
                call = rng.choice(calls)
                call.entry.claim()
                free = [e for e in call.endpoints if not e.availability.full]
                if free and rng.random() < 0.8:
                    running.append(rng.choice(free).begin(T))
                    call.entry.leave(T)
                    calls.remove(call)
                else:
                    call.entry.want([e for e in call.endpoints if e.availability.full], T)
            assert queue.waiting == len(calls)
            assert all(s.configured is None or s.used <= s.configured for s in slots)
            reserved = sum(s.used for s in slots) - len(running)
            assert reserved == sum(e.availability.in_flight for e in endpoints) - len(running) >= 0
        for call in calls:
            call.entry.leave(T)
        for attempt in running:
            attempt.end(Outcome(Verdict.ABANDONED), T)
        assert queue.waiting == 0
        assert [s.used for s in slots] == [0, 0, 0]
        assert [e.availability.in_flight for e in endpoints] == [0] * 5
        assert not any(s.queue.entries for s in slots)


def test_all_entries_are_woken_when_the_endpoint_is_reconfigured() -> None:
    endpoint, _ = taken()
    calls = [Queued(QueueLimit(), endpoint) for _ in range(3)]
    endpoint.availability.slots.queue.wake_all()
    assert [call.called for call in calls] == [1, 1, 1]
    assert isinstance(endpoint.availability.slots.queue, WaitingQueue)
