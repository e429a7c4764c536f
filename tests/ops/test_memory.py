"""Memory is given back after a flood, and nothing is tried in vain for long."""

from __future__ import annotations

import asyncio

from router.ops.memory import AT_MOST, EVERY, WORTH, Trimmer

MIB = 1 << 20


def looks(*sizes: tuple[int, int]) -> list[tuple[bool, float]]:
    """Look once for each pair, memory before and after a trim; return whether there was one, and the pause after it."""
    now, trims = [0, 0], 0

    def trim() -> None:
        nonlocal trims
        trims += 1
        now[0] = now[1]

    trimmer = Trimmer(lambda: now[0], trim)
    found = []
    for before, after in sizes:
        now[:] = before * MIB, after * MIB
        count = trims
        asyncio.run(trimmer.look())
        found.append((trims > count, trimmer._pause))
    return found


def test_a_flood_is_followed_by_a_trim_and_a_small_growth_is_not() -> None:
    grown = 50 + WORTH // MIB
    assert looks((50, 50), (grown - 1, 50), (500, 52), (52, 52)) == [
        (False, EVERY),
        (False, EVERY),
        (True, EVERY),
        (False, EVERY),
    ]


def test_trims_that_give_nothing_back_become_rare() -> None:
    assert [pause for _, pause in looks((50, 50), *[(500, 499)] * 4)] == [EVERY, 2 * EVERY, AT_MOST, AT_MOST, AT_MOST]
