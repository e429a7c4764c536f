"""Errors for calls that end without an answer: code, wording, and when the client may come back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from router.core.demand import FIRST_TOKEN
from router.core.endpoint.endpoint import Attempt
from router.core.record import CallRecord
from router.core.verdict import Cause, Outcome, Verdict
from router.errors import MAX_RETRY_AFTER, RouterError
from router.proxy.failures import (
    COME_BACK,
    deadline_exceeded,
    exhausted,
    queue_full,
    queue_timed_out,
    queue_too_slow,
)
from tests.core.helpers import busy, refuse
from tests.support import Player, endpoint
from tests.support.endpoints import streams

T = 100.0
FAULT = Outcome(Verdict.FAULT, "HTTP 500")


def route(*names: str) -> Player:
    return Player(*(endpoint(name, streams("hi")) for name in names), start=T)


def attempts(play: Player, *outcomes: Outcome) -> list[Attempt]:
    made = []
    for name, outcome in zip(play.pools, outcomes, strict=True):
        attempt = play.endpoint(name).begin(T)
        attempt.end(outcome, T + 1.0)
        made.append(attempt)
    return made


def record(of: Sequence[Attempt] = ()) -> CallRecord:
    kept = CallRecord("req_1", "chat/completions", T, model="chat")
    kept.attempts.extend(of)
    return kept


def error_of(play: Player, *outcomes: Outcome) -> RouterError:
    return exhausted(record(attempts(play, *outcomes)), play.table.routes["chat"], FIRST_TOKEN, T + 1.0)


def test_a_deadline_names_the_endpoints_that_were_tried() -> None:
    play = route("a", "b")
    error = deadline_exceeded(record(attempts(play, FAULT, FAULT)), T + 30.0)
    assert (error.status, error.code) == (504, "deadline_exceeded")
    assert error.message == (
        "No endpoint for model 'chat' sent a first token within 30 s (tried: a, b). "
        "Try again later, or allow more time."
    )
    assert "(tried: none)" in deadline_exceeded(record(), T + 30.0).message


@pytest.mark.parametrize(
    ("error", "code", "message", "retry_after"),
    [
        (queue_full("m", 0.0), "queue_full", "and the waiting queue is full. Try again in 1 s.", COME_BACK),
        (queue_full("m", 7.0), "queue_full", "and the waiting queue is full. Try again in 7 s.", 7.0),
        (
            queue_too_slow("m", 300.0),
            "queue_timeout",
            "and a slot is expected to be free in 300 s, which is longer than this call may wait. Try again in 60 s.",
            MAX_RETRY_AFTER,
        ),
        (
            queue_timed_out("m", 10.0),
            "queue_timeout",
            "and no slot became free within 10 s. Try again in 10 s.",
            10.0,
        ),
    ],
)
def test_a_queue_without_room_says_when_to_come_back(
    error: RouterError, code: str, message: str, retry_after: float
) -> None:
    assert (error.status, error.code, error.retry_after) == (429, code, retry_after)
    assert error.message == f"All endpoints for model 'm' are at capacity, {message}"


def test_full_endpoints_are_at_capacity() -> None:
    error = exhausted(record(), route("a").table.routes["chat"], FIRST_TOKEN, T)
    assert (error.status, error.code, error.retry_after) == (429, "overloaded", COME_BACK)
    assert error.message == "All endpoints for model 'chat' are at capacity. Try again in 1 s."


def test_endpoints_that_cool_down_say_when_the_first_is_back() -> None:
    play = route("a", "b")
    for name, seconds in (("a", 9.0), ("b", 7.0)):
        busy(play.endpoint(name), seconds, T)
    error = exhausted(record(), play.table.routes["chat"], FIRST_TOKEN, T)
    assert (error.status, error.code, error.retry_after) == (429, "endpoints_busy", 7.0)
    assert error.message == "All endpoints for model 'chat' are busy and cooling down. Try again in 7 s."


def test_a_cooldown_says_when_its_next_trial_may_begin_and_not_when_it_ends() -> None:
    play = route("a")
    refused = Outcome(Verdict.BUSY, "HTTP 429", 60.0, Cause.OVERLOADED)
    refuse(play.endpoint("a"), refused, T, calls=6)  # cools down for 1, 2, 4, 8, 16 s
    assert play.endpoint("a").availability.cooling_until() == T + 16.0
    assert exhausted(record(), play.table.routes["chat"], FIRST_TOKEN, T + 2.0).retry_after == 6.0
    play.endpoint("a").begin(T + 8.0)
    running = exhausted(record(), play.table.routes["chat"], FIRST_TOKEN, T + 8.5)
    assert (running.code, running.retry_after) == ("endpoints_busy", COME_BACK)


def test_busy_endpoints_are_quoted_with_the_shortest_pause() -> None:
    busy = [Outcome(Verdict.BUSY, "HTTP 429", pause) for pause in (5.0, 3.0)]
    error = error_of(route("a", "b"), *busy)
    assert (error.status, error.code, error.retry_after) == (429, "endpoints_busy", 3.0)
    assert error.message == "All endpoints for model 'chat' are busy (a: HTTP 429; b: HTTP 429). Try again in 3 s."


def test_an_endpoint_that_denies_the_key_does_not_make_busy_ones_a_failure() -> None:
    denied = Outcome(Verdict.FAULT, "HTTP 401", cause=Cause.DENIED)
    assert error_of(route("a", "b"), Outcome(Verdict.BUSY, "HTTP 429", 2.0), denied).code == "endpoints_busy"


def test_failed_attempts_are_quoted_with_their_reasons() -> None:
    error = error_of(route("a", "b"), FAULT, Outcome(Verdict.BUSY, "HTTP 429", 2.0))
    assert (error.status, error.code, error.retry_after) == (502, "endpoints_failed", None)
    assert error.message == "All attempts for model 'chat' have failed (a: HTTP 500; b: HTTP 429)."
