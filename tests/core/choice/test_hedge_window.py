"""How many hedges may wait at once."""

from __future__ import annotations

from router.core.choice.hedge_window import HEDGES_PER_WIN, MIN_HEDGES, TAU, HedgeWindow
from tests.core.helpers import T


def test_few_may_wait_where_none_has_won() -> None:
    assert HedgeWindow().size(T) == MIN_HEDGES


def test_each_that_wins_makes_room_for_more_and_after_a_while_for_none() -> None:
    window = HedgeWindow()
    for _ in range(3):
        window.won(T)
    assert window.size(T) == MIN_HEDGES + 3 * HEDGES_PER_WIN
    assert MIN_HEDGES < window.size(T + 3 * TAU) < MIN_HEDGES + 1.0


def test_whoever_waits_at_a_frozen_endpoint_is_elsewhere_within_some_rounds() -> None:
    window, stuck, rounds = HedgeWindow(), 200.0, 0
    while stuck > 0:  # all that may wait are asked, and win half a second later
        now = T + rounds * 0.5
        hedged = int(window.size(now))
        for _ in range(hedged):
            window.won(now + 0.5)
        stuck, rounds = stuck - hedged, rounds + 1
    assert rounds <= 5
