"""The hedge window: how many hedges may be pending at once."""

from __future__ import annotations

from router.core.choice.hedge_window import HEDGES_PER_WIN, MIN_HEDGES, TAU, HedgeWindow
from tests.core.helpers import T


def test_without_a_win_few_hedges_may_be_pending() -> None:
    assert HedgeWindow().size(T) == MIN_HEDGES


def test_each_win_widens_the_window_for_a_while() -> None:
    window = HedgeWindow()
    for _ in range(3):
        window.won(T)
    assert window.size(T) == MIN_HEDGES + 3 * HEDGES_PER_WIN
    assert MIN_HEDGES < window.size(T + 3 * TAU) < MIN_HEDGES + 1.0


def test_all_calls_at_a_frozen_endpoint_are_hedged_within_a_few_rounds() -> None:
    window, stuck, rounds = HedgeWindow(), 200.0, 0
    while stuck > 0:  # each round fills the window, and all its hedges win half a second later
        now = T + rounds * 0.5
        hedged = int(window.size(now))
        for _ in range(hedged):
            window.won(now + 0.5)
        stuck, rounds = stuck - hedged, rounds + 1
    assert rounds <= 5
