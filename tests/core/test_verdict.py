"""From an answer's status to a verdict."""

from __future__ import annotations

import pytest

from router.core.verdict import Verdict, of_status


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *[(status, Verdict.SERVED) for status in (200, 201, 204, 299)],
        *[(status, Verdict.FAULT) for status in (301, 302, 303, 307, 308)],  # followed, our key would go elsewhere
        *[(status, Verdict.REFUSED) for status in (400, 406, 409, 411, 413, 415, 422, 451)],
        *[(status, Verdict.FAULT) for status in (401, 402, 403, 407)],  # our key
        *[(status, Verdict.FAULT) for status in (404, 405, 410)],  # our model's name or path
        *[(status, Verdict.FAULT) for status in (408, 421, 425, 426)],  # between us and it
        (429, Verdict.BUSY),
        (529, Verdict.BUSY),
        *[(status, Verdict.FAULT) for status in (500, 501, 502, 503, 504, 599)],
        *[(status, Verdict.FAULT) for status in (0, 100, 600, 999)],  # not a status that ends a call
    ],
)
def test_a_status_says(status: int, verdict: Verdict) -> None:
    assert of_status(status) is verdict


def test_only_a_503_is_judged_by_whether_it_names_a_time_to_come_back() -> None:
    differs = [s for s in range(1000) if of_status(s, retry_after=True) is not of_status(s)]
    assert differs == [503]
    assert of_status(503, retry_after=True) is Verdict.BUSY


def test_no_status_says_that_we_gave_up() -> None:
    assert Verdict.ABANDONED not in {of_status(status) for status in range(1000)}
