"""The log of endpoint transitions: each once, with its reason. Whole calls, in virtual time."""

from __future__ import annotations

import logging

import pytest

from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, Script, fails_with, refuses_connection, streams
from tests.support.player import EMBEDDINGS

HI = streams("hi", first=0.1)


def played(caplog: pytest.LogCaptureFixture, *scripts: Script, every: float = 1.0) -> list[tuple[str, str]]:
    """Levels and messages logged for a call each `every` seconds at one endpoint, which plays the scripts in turn."""
    caplog.set_level(logging.INFO, logger="router.ops.changes")
    play = Player(endpoint("a", *scripts), retry_budget=0, deadline=0.5)
    for number in range(len(scripts)):
        play.call(number * every)
    play.run()
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_single_failures_and_short_cooldowns_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert played(caplog, HI, refuses_connection(), HI, fails_with(400), fails_with(429, retry_after=2), HI) == []


def test_an_opening_and_a_closing_breaker_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    assert played(caplog, *[refuses_connection()] * 6, HI, HI, every=30.0) == [
        ("WARNING", "endpoint a (chat): breaker closed -> open: no connection: Connection refused"),
        ("INFO", "endpoint a (chat): breaker open -> closed"),
    ]


def test_a_breaker_opened_by_lost_races_is_logged_with_that_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.changes")
    play = Player(endpoint("a", SILENT), endpoint("b", HI, tier=2))
    for number in range(4):
        play.call(number * 10.0)
    play.run()
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint a (chat): breaker closed -> open: late each time: another attempt was first"
    ]


def test_a_long_cooldown_is_logged_once_until_the_endpoint_serves_again(caplog: pytest.LogCaptureFixture) -> None:
    busy = [fails_with(429, retry_after=30)] * 6  # the second begins a cooldown of 1 s, the sixth one of 16 s
    assert played(caplog, HI, *busy, HI, HI, *busy[1:], HI, *busy, busy[0], every=40.0) == [
        ("WARNING", "endpoint a (chat): available -> cooling down for 16 s: status 429"),
        ("INFO", "endpoint a (chat): cooling down -> available"),
        ("WARNING", "endpoint a (chat): available -> cooling down for 16 s: status 429"),
    ]


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (
            fails_with(401, code="invalid_api_key"),
            "accepted -> refused (API key or account): status 401 (invalid_api_key); "
            "check its api_key, and billing and plan at the provider",
        ),
        (
            fails_with(429, code="insufficient_quota"),
            "accepted -> refused (API key or account): status 429 (insufficient_quota); "
            "check its api_key, and billing and plan at the provider",
        ),
        (
            fails_with(403),
            "accepted -> refused (model, path or permission): status 403; check its models, base_url and kind",
        ),
        (
            fails_with(404, code="model_not_found"),
            "accepted -> refused (model, path or permission): status 404 (model_not_found); "
            "check its models, base_url and kind",
        ),
    ],
)
def test_a_refusal_that_an_operator_must_correct_is_logged_as_critical_and_once(
    caplog: pytest.LogCaptureFixture, refused: Script, message: str
) -> None:
    began = ("CRITICAL", f"endpoint a (chat): {message}")
    ended = ("INFO", "endpoint a (chat): refused -> accepted")
    refusals = [refused] * 3
    assert played(caplog, *refusals, HI, HI, refused, HI, *refusals, every=300.0) == [began, ended, began]


def test_a_refusal_is_logged_when_a_second_call_confirms_it_however_late_that_call_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.changes")
    play = Player(endpoint("a", fails_with(401)), endpoint("b", streams("slow", "ly", first=0.1, gap=50.0), tier=2))
    play.call(0.0)
    play.run_until(60.0)
    assert not caplog.records
    play.call(60.0)  # a cooldown of 1 s: it is over when this call ends
    play.run()
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


def test_the_refusal_of_another_operation_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.changes")
    play = Player(endpoint("a", fails_with(404), fails_with(404), HI))
    for at in (0.0, 1.0):
        play.call(at, path=EMBEDDINGS, input="hi")
    play.call(2.0)
    play.run()
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint a (chat, embeddings): accepted -> refused (model, path or permission): status 404; "
        "check its models, base_url and kind"
    ]


def test_one_refused_call_at_an_endpoint_that_serves_others_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert played(caplog, HI, fails_with(404), HI, every=40.0) == []
    assert played(caplog, HI, fails_with(401), HI, fails_with(401), HI, every=40.0) == []


def test_an_answer_that_began_before_the_refusal_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.changes")
    play = Player(endpoint("a", streams("slow", "ly", first=0.1, gap=5.0), fails_with(401)))
    for at in (0.0, 1.0, 2.0):
        play.call(at)
    play.run()
    assert ["accepted -> refused" in record.getMessage() for record in caplog.records] == [True]
