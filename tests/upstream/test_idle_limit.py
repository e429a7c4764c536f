"""The idle limit: what a server tells, what its closings show, and what they do not."""

from __future__ import annotations

import pytest

from router.upstream.idle_limit import CRASH, MIN_LEARNED, MIN_TOLD, RAISE, RAISE_EVERY, IdleLimit


def test_two_moments_with_the_same_age_show_the_limit() -> None:
    limit = IdleLimit(90.0)
    limit.closed(5.0, 100.0)
    assert limit.seconds == 90.0
    limit.closed(5.2, 200.0)
    assert limit.seconds == 4.0


def test_a_moment_with_different_ages_shows_nothing_and_takes_back_what_it_seemed_to_show() -> None:
    limit = IdleLimit(90.0)
    limit.closed(5.0, 100.0)
    limit.closed(5.0, 200.0)
    limit.closed(5.0, 300.0)
    assert limit.seconds == 4.0
    limit = IdleLimit(90.0)
    limit.closed(5.0, 100.0)
    for age in (5.0, 17.0, 3.0):
        limit.closed(age, 200.0)
    assert limit.seconds == 90.0
    limit.closed(17.0, 300.0)  # compared with the moment at 100
    assert limit.seconds == 90.0


@pytest.mark.parametrize("after", [-CRASH, -0.01, 0.0, 0.3, CRASH])
def test_closings_about_a_crash_show_nothing(after: float) -> None:
    limit = IdleLimit(90.0)
    for at in (100.0, 200.0, 300.0):
        if after < 0:
            limit.crashed(at + after)
        limit.closed(5.0, at)
        if after >= 0:
            limit.crashed(at + after)
    assert limit.seconds == 90.0


def test_moments_far_apart_are_not_compared() -> None:
    limit = IdleLimit(90.0)
    for at in (0.0, 1_000.0, 2_000.0):
        limit.closed(5.0, at)
    assert limit.seconds == 90.0


def test_what_is_learned_never_falls_below_some_seconds() -> None:
    limit = IdleLimit(90.0)
    for at in range(10):
        limit.closed(0.6, float(at))
    assert limit.seconds == MIN_LEARNED


def test_a_learned_limit_is_forgotten_slowly_and_confirmed_by_one_closing() -> None:
    limit, now = IdleLimit(90.0), 200.0
    limit.closed(5.0, 100.0)
    limit.closed(5.0, 200.0)
    limit.outlived(now + 1.0)
    assert limit.seconds == 4.0
    for _ in range(3):
        now += RAISE_EVERY
        limit.outlived(now)
    assert limit.seconds == pytest.approx(4.0 * RAISE**3)  # 5.3: the server closes at 5
    limit.closed(5.0, now + 10.0)
    assert limit.seconds == 4.0
    for _ in range(60):
        now += RAISE_EVERY
        limit.outlived(now)
    assert limit.seconds == 90.0


def test_a_servers_word_counts_more_than_its_closings_and_may_change() -> None:
    limit = IdleLimit(90.0)
    limit.told(20.0)
    for at in range(5):
        limit.closed(5.0, float(at))
    assert limit.seconds == 16.0
    limit.told(0.0)
    assert limit.seconds == MIN_TOLD
    limit.told(30.0)
    assert limit.seconds == 24.0
    limit.told(3600.0)
    assert limit.seconds == 90.0


def test_a_configured_limit_and_the_kinds_are_believed() -> None:
    configured, kind = IdleLimit(60.0, heed=False, learn=False), IdleLimit(4.0, learn=False)
    for limit in (configured, kind):
        limit.told(2.5)
        for at in range(5):
            limit.closed(3.0, float(at))
            limit.outlived(1_000.0 + at)
    assert (configured.seconds, kind.seconds) == (60.0, 2.0)
