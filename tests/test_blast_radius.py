"""The blast radius of one client's request: endpoints refuse it, and all other clients are served as if it were not.

The endpoints refuse what has the marker in its body, and serve the rest. Each ordinary call must be served, and its
first token may come at most MAX_DELAY later than in the same play without the marked request. All in virtual time.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import pytest

from router.core.verdict import Verdict
from tests.support import Player, endpoint
from tests.support.client import ScriptedClient
from tests.support.endpoints import JSON, Script, answers, cuts, error_event, fails_with, opens, sends, streams
from tests.support.player import EMBEDDINGS

MARK = "refuse me"
MAX_DELAY = 0.25  # seconds

STATUSES = (401, 403, 404, 413, 429, 500, 501, 503)
RETRY_AFTERS = (None, 1, 60)
SIZES = (0, 200_000)  # bytes of the prompt
STATUS_CASES = list(product(STATUSES, RETRY_AFTERS, SIZES))


class Shape(NamedTuple):
    """The endpoints of a play by tier, when ordinary calls arrive, and when the refused request is sent."""

    tiers: tuple[int, ...]
    ordinary: tuple[float, ...]
    refused: tuple[float, ...]


def every(gap: float, begin: float, end: float) -> tuple[float, ...]:
    return tuple(begin + gap * i for i in range(round((end - begin) / gap)))


ONCE, AS_AN_SDK = (10.0,), (10.0, 10.6, 11.9)
SHAPES = {
    "two endpoints, quiet before": Shape((1, 1), every(0.5, 10.2, 15.0), ONCE),
    "two endpoints, traffic all the time": Shape((1, 1), every(0.1, 8.0, 14.0), ONCE),
    "two tiers, quiet before": Shape((1, 2), every(0.5, 10.2, 15.0), ONCE),
    "two tiers, traffic all the time": Shape((1, 2), every(0.1, 8.0, 14.0), ONCE),
    "three endpoints, a burst after it": Shape((1, 1, 2), (10.15,) * 12, ONCE),
    "two endpoints, traffic before": Shape((1, 1), (*every(0.1, 4.0, 8.0), 10.3, 11.0, 30.0), ONCE),
    "one endpoint, quiet before": Shape((1,), every(0.5, 10.2, 15.0), ONCE),
    "two endpoints, quiet, sent again": Shape((1, 1), every(0.25, 10.9, 15.0), AS_AN_SDK),
    "two tiers, quiet, sent again": Shape((1, 2), every(0.25, 12.1, 15.0), AS_AN_SDK),
    "two endpoints, traffic, sent again": Shape((1, 1), every(0.1, 8.0, 14.0), AS_AN_SDK),
    "two endpoints, a request a minute": Shape((1, 1), every(7.0, 13.0, 320.0), every(60.0, 10.0, 310.0)),
}


def refusing(play: Player, name: str, refusal: Script, serve: Script) -> None:
    """Let the endpoint refuse the marked requests, and serve the others."""
    play[name].plays_by(lambda request: refusal if MARK.encode() in bytes(request.body) else serve)


SERVES = streams("Hel", "lo", first=0.2, gap=0.2)


def prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def played(shape: Shape, refusal: Script, size: int, *, refused: bool) -> tuple[Player, list[ScriptedClient]]:
    """The play, and its ordinary calls."""
    names = "abc"[: len(shape.tiers)]
    play = Player(*(endpoint(name, streams("hi"), tier=tier) for name, tier in zip(names, shape.tiers, strict=True)))
    for name in names:
        refusing(play, name, refusal, SERVES)
    if refused:
        for number, at in enumerate(shape.refused):
            headers = [(b"x-stainless-retry-count", b"%d" % number)] if shape.refused is AS_AN_SDK else None
            play.call(at, messages=prompt(MARK + "x" * size), headers=headers)
    calls = [play.call(at, messages=prompt(f"call {number}")) for number, at in enumerate(shape.ordinary)]
    play.run()
    return play, calls


@cache
def undisturbed(shape: Shape) -> tuple[float | None, ...]:
    """The times of the ordinary calls' first tokens, without the marked request."""
    _, calls = played(shape, SERVES, 0, refused=False)
    return tuple(call.first_token_at for call in calls)


def assert_others_are_served(shape: Shape, refusal: Script, size: int = 0) -> None:
    _, calls = played(shape, refusal, size, refused=True)
    for call, usual in zip(calls, undisturbed(shape), strict=True):
        assert (call.status, call.text) == (200, "Hello"), (call.arrived, call.body)
        assert call.first_token_at is not None
        assert usual is not None
        assert call.first_token_at - usual < MAX_DELAY, call.arrived


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(("status", "retry_after", "size"), STATUS_CASES)
def test_a_refused_request_neither_fails_nor_delays_the_calls_of_others(
    status: int, retry_after: int | None, size: int, shape: Shape
) -> None:
    assert_others_are_served(shape, fails_with(status, 0.05, retry_after=retry_after), size)


OTHER_REFUSALS = {
    "402": fails_with(402, 0.05),
    "405": fails_with(405, 0.05),
    "409": fails_with(409, 0.05),
    "424": fails_with(424, 0.05),
    "429, a code": fails_with(429, 0.05, code="rate_limit_exceeded", type="tokens"),
    "429, no money": fails_with(429, 0.05, code="insufficient_quota"),
    "413, a code": fails_with(413, 0.05, code="rate_limit_exceeded", type="tokens"),
    "503": fails_with(503, 0.05, retry_after=0.3),
    "529": fails_with(529, 0.05),
    "520": fails_with(520, 0.05),
    "502": fails_with(502, 0.05),
    "504 with a time": fails_with(504, 0.05, retry_after=30),
    "a redirect": answers(b"", 0.05, status=307, headers=[(b"location", b"http://elsewhere/")]),
    "an error event": opens() + sends(0.05, error_event()),
    "an overload event": opens() + sends(0.05, error_event(type="overloaded_error")),
    "a cut": opens() + cuts(0.05),
    "an error in an answer": answers({"error": {"message": "no engine"}}, 0.05),
    "429 that is no JSON": answers(b"slow down", 0.05, status=429, headers=JSON),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("refusal", OTHER_REFUSALS.values(), ids=OTHER_REFUSALS.keys())
def test_any_refusal_of_one_request_neither_fails_nor_delays_the_calls_of_others(refusal: Script, shape: Shape) -> None:
    assert_others_are_served(shape, refusal)


# Operations: what an endpoint cannot do says nothing of what it can.


@pytest.mark.parametrize("refusal", [fails_with(404, 0.05), fails_with(501, 0.05, code="not_supported_error")])
def test_embeddings_that_a_chat_server_refuses_leave_chat_where_it_is(refusal: Script) -> None:
    play = Player(endpoint("a", SERVES), endpoint("b", SERVES, tier=2))
    for name in "ab":
        play[name].plays_by(lambda request: refusal if b"/embeddings" in request.head else SERVES)
    for number in range(20):
        play.call(number * 0.1, path=EMBEDDINGS, input=f"text {number}")
    chats = [play.call(number * 0.1 + 0.05, messages=prompt(f"call {number}")) for number in range(20)]
    play.run()
    assert {(call.text, call.record.endpoint, len(call.record.attempts)) for call in chats} == {("Hello", "a", 1)}
    assert set(play.endpoint("a").availability.cooldowns) == {"embeddings"}
    assert play.endpoint("a").availability.breaker.failures_in_a_row == 0


def test_images_that_a_text_model_refuses_leave_chat_where_it_is() -> None:
    play = Player(endpoint("a", SERVES), endpoint("b", SERVES, tier=2))
    for name in "ab":
        refusing(play, name, fails_with(500, 0.05), SERVES)
    for number in range(10):  # the client tries the same image again and again
        play.call(number * 0.4, messages=prompt(MARK))
    chats = [play.call(4.0 + number, messages=prompt(f"call {number}")) for number in range(5)]
    play.run()
    assert {(call.text, call.record.endpoint, len(call.record.attempts)) for call in chats} == {("Hello", "a", 1)}


# The other direction: an endpoint that refuses everybody is left, and comes back.


@pytest.mark.parametrize(
    ("refusal", "asked_at"),
    [
        # A second refusal, then cooldowns of 1, 2, 4, 8, 16 and 32 s; a call each half second.
        (fails_with(401, 0.05), [0.0, 0.5, 2.0, 4.5, 9.0, 17.5, 34.0]),
        (fails_with(404, 0.05), [0.0, 0.5, 2.0, 4.5, 9.0, 17.5, 34.0]),
        (fails_with(429, 0.05, retry_after=60), [0.0, 0.5, 2.0, 4.5, 9.0, 17.5, 34.0]),
        (fails_with(503, 0.05, retry_after=4), [0.0, 0.5, 2.0, 4.5, 9.0, 13.5, 18.0, 22.5, 27.0, 31.5, 36.0]),
        (fails_with(429, 0.05), [0.0, 0.5, 2.0, 4.5, 9.0, 17.5, 34.0]),
        (fails_with(500, 0.05), [0.0, 0.5, 2.0, 4.5, 9.0, 17.5, 34.0]),
        (opens() + sends(0.05, error_event()), [0.0, 0.5, 2.0, 4.5, 9.0, 17.5, 34.0]),
    ],
)
def test_an_endpoint_that_refuses_everybody_is_left_after_its_second_refusal_and_comes_back(
    refusal: Script, asked_at: list[float]
) -> None:
    play = Player(endpoint("a", refusal), endpoint("b", SERVES, tier=2))
    calls = [play.call(number / 2, messages=prompt(f"call {number}")) for number in range(80)]
    play.at(35.9, lambda: play["a"].plays(SERVES))
    later = [play.call(70.0 + number, messages=prompt(f"later {number}")) for number in range(3)]
    play.run()
    assert {call.text for call in play.calls} == {"Hello"}
    assert [at for at in play["a"].asked_at if at < 35.9] == [at for at in asked_at if at < 35.9]
    assert sum(len(call.record.attempts) > 1 for call in calls) == len([at for at in asked_at if at < 35.9])
    assert [call.record.endpoint for call in later] == ["a"] * 3


def test_a_model_with_one_endpoint_gets_trials_and_its_clients_the_time_of_the_next() -> None:
    play = Player(endpoint("a", fails_with(429, 0.05, retry_after=60)), hedge="off")
    calls = [play.call(number / 4, messages=prompt(f"call {number}")) for number in range(160)]
    play.at(30.0, lambda: play["a"].plays(SERVES))
    play.run()
    asked = play["a"].asked_at
    # A trial 1, 2, 4, 8 and 8 s after each refusal; the calls of the last 2 s before it wait for it.
    assert asked[:8] == pytest.approx([0.0, 0.25, 1.3, 3.35, 7.4, 15.45, 23.5, 31.55])
    turned_away = [call for call in calls if not call.record.attempts]
    assert turned_away
    for call in turned_away:
        assert (call.status, call.error["code"]) == (429, "endpoints_busy")
        assert call.ended_at is not None
        following = min((at for at in asked if at > call.ended_at), default=None)
        assert following is not None
        back = int(call.headers["retry-after-ms"]) / 1000
        assert back == pytest.approx(min(following - call.ended_at, 60.0), abs=0.01) or back == 1.0  # a trial runs
    assert all(call.text == "Hello" for call in calls if call.arrived >= 31.6)
    assert {line.verdict for call in calls[130:] for line in call.record.attempts} == {Verdict.SERVED}
