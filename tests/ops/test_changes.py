"""The log of endpoint transitions: each once, with its reason. Whole calls, in virtual time."""

from __future__ import annotations

import logging

import pytest

from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, Script, fails_with, refuses_connection, streams

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
    busy = fails_with(429, retry_after=30)
    assert played(caplog, HI, busy, busy, HI, HI, busy, every=40.0) == [
        ("WARNING", "endpoint a (chat): available -> cooling down for 30 s: status 429"),
        ("INFO", "endpoint a (chat): cooling down -> available"),
        ("WARNING", "endpoint a (chat): available -> cooling down for 30 s: status 429"),
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
    assert played(caplog, refused, refused, HI, HI, refused, every=400.0) == [began, ended, began]


def test_one_refused_call_at_an_endpoint_that_serves_others_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert played(caplog, HI, fails_with(404), HI, every=40.0) == []
    assert played(caplog, HI, fails_with(401), HI, every=40.0) != []  # a rejected key fails every call


def test_an_answer_that_began_before_the_refusal_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.changes")
    play = Player(endpoint("a", streams("slow", "ly", first=0.1, gap=5.0), fails_with(401)))
    play.call(0.0)
    play.call(1.0)
    play.run()
    assert ["accepted -> refused" in record.getMessage() for record in caplog.records] == [True]
