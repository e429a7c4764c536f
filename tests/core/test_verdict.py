"""From an answer's status to a cause, and from that to a verdict."""

from __future__ import annotations

import pytest

from router.core.verdict import OUR_FAULT, OURS, Cause, Verdict, of_status


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        *[(status, None) for status in (200, 201, 204, 299)],
        *[(status, Cause.MISCONFIGURED) for status in (301, 302, 303, 307, 308)],  # our key would go elsewhere
        *[(status, Cause.INVALID) for status in (400, 406, 409, 411, 413, 415, 422, 451)],
        *[(status, Cause.DENIED) for status in (401, 402)],  # our key, our bill
        *[(status, Cause.MISCONFIGURED) for status in (403, 404, 405, 407, 410, 426)],  # our model's name or path
        *[(status, Cause.TRANSIENT) for status in (408, 421, 424, 425)],  # between us and it
        (429, Cause.THROTTLED),
        (529, Cause.OVERLOADED),
        *[(status, Cause.TRANSIENT) for status in (500, 501, 502, 503, 504, 599)],
        *[(status, Cause.TRANSIENT) for status in (0, 100, 600, 999)],  # not a status that ends a call
    ],
)
def test_a_status_says(status: int, cause: Cause | None) -> None:
    assert of_status(status) is cause


def test_only_a_503_is_judged_by_whether_it_names_a_time_to_come_back() -> None:
    differs = [s for s in range(1000) if of_status(s, retry_after=True) is not of_status(s)]
    assert differs == [503]
    assert of_status(503, retry_after=True) is Cause.OVERLOADED


def test_each_cause_has_one_verdict_that_an_endpoint_can_bring_upon_itself() -> None:
    assert {cause.verdict for cause in Cause} == {Verdict.BUSY, Verdict.FAULT, Verdict.REFUSED}
    assert {cause.verdict for cause in OURS} == {Verdict.FAULT}


def test_a_4xx_that_is_our_fault_is_a_fault() -> None:
    for status in OUR_FAULT:
        cause = of_status(status)
        assert cause is not None
        assert cause.verdict is Verdict.FAULT
