"""A small part of `scripts/hostile`: no flood holds the router up for long, and little memory stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.attacks import endpoint, table
from tests.hostile.figures import MIB, measure
from tests.processes import router

SCALE = 0.03
SOME = ("held bodies", "chunks of two bytes", "a million keys and values", "150 fast streams", "endpoint: garbage")
LONGEST = 0.1  # seconds: ten times the limit, so that a busy machine fails no test; without budgets it was up to 4.7
STAYS = 32 * MIB

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
    pytest.mark.timeout(400),  # it mostly rests, up to 15 s after each flood
]


def test_floods_neither_hold_the_router_up_nor_stay_in_its_memory(tmp_path: Path) -> None:
    with endpoint(SCALE) as there, router(tmp_path, table(there.port, 50)) as running:
        for name in SOME:
            figures = measure(name, running.address[1], running.process.pid, SCALE, rest=15.0)
            assert figures.turn < LONGEST, figures
            assert figures.stays < STAYS, figures
    assert "Traceback" not in running.output
