"""What operators read of endpoints: each change once, with its reason. Whole calls, in virtual time."""

from __future__ import annotations

import logging

import pytest

from tests.support import Player, endpoint
from tests.support.endpoints import SILENT, Script, fails_with, refuses_connection, streams

HI = streams("hi", first=0.1)


def played(caplog: pytest.LogCaptureFixture, *scripts: Script, every: float = 1.0) -> list[tuple[str, str]]:
    """A call each `every` seconds at one endpoint, which plays the scripts in turn."""
    caplog.set_level(logging.INFO, logger="router.ops.changes")
    play = Player(endpoint("a", *scripts), retry_budget=0, deadline=0.5)
    for number in range(len(scripts)):
        play.call(number * every)
    play.run()
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_of_what_is_well_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert played(caplog, HI, refuses_connection(), HI, fails_with(400), fails_with(429, retry_after=2), HI) == []


def test_a_breaker_that_opens_and_closes_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    assert played(caplog, *[refuses_connection()] * 6, HI, HI, every=30.0) == [
        ("WARNING", "endpoint a (chat): breaker closed -> open: no connection: Connection refused"),
        ("INFO", "endpoint a (chat): breaker open -> closed"),
    ]


def test_a_breaker_that_opens_because_each_race_was_lost_says_that(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.changes")
    play = Player(endpoint("a", SILENT), endpoint("b", HI, tier=2))
    for number in range(4):
        play.call(number * 10.0)
    play.run()
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint a (chat): breaker closed -> open: late each time: another attempt was first"
    ]


def test_long_busy_is_said_once_until_it_serves_again(caplog: pytest.LogCaptureFixture) -> None:
    away = fails_with(429, retry_after=30)
    assert played(caplog, HI, away, away, HI, HI, away, every=40.0) == [
        ("WARNING", "endpoint a (chat): available -> busy for 30 s: status 429"),
        ("INFO", "endpoint a (chat): busy -> available"),
        ("WARNING", "endpoint a (chat): available -> busy for 30 s: status 429"),
    ]


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (
            fails_with(401, code="invalid_api_key"),
            "OUR KEY OR ACCOUNT IS REFUSED THERE: status 401 (invalid_api_key); "
            "see its api_key, and there the bill and the plan",
        ),
        (
            fails_with(429, code="insufficient_quota"),
            "OUR KEY OR ACCOUNT IS REFUSED THERE: status 429 (insufficient_quota); "
            "see its api_key, and there the bill and the plan",
        ),
        (
            fails_with(403),
            "WHAT WE ASK FOR IS NOT THERE, OR NOT FOR US: status 403; see its models, base_url and kind",
        ),
        (
            fails_with(404, code="model_not_found"),
            "WHAT WE ASK FOR IS NOT THERE, OR NOT FOR US: status 404 (model_not_found); "
            "see its models, base_url and kind",
        ),
    ],
)
def test_what_a_person_must_put_right_is_said_loudly_and_once(
    caplog: pytest.LogCaptureFixture, refused: Script, said: str
) -> None:
    loud = ("CRITICAL", f"endpoint a (chat): {said}")
    well = ("CRITICAL", "endpoint a (chat): refused -> accepted")
    assert played(caplog, refused, refused, HI, HI, refused, every=400.0) == [loud, well, loud]


def test_one_odd_call_at_an_endpoint_that_serves_the_others_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    assert played(caplog, HI, fails_with(404), HI, every=40.0) == []
    assert played(caplog, HI, fails_with(401), HI, every=40.0) != []  # a key that is refused is refused to all


def test_an_answer_that_began_before_proves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="router.ops.changes")
    play = Player(endpoint("a", streams("slow", "ly", first=0.1, gap=5.0), fails_with(401)))
    play.call(0.0)
    play.call(1.0)
    play.run()
    assert ["OUR KEY" in record.getMessage() for record in caplog.records] == [True]
