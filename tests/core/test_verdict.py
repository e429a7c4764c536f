"""The cause of an answer's status, and the verdict of a cause."""

from __future__ import annotations

import pytest

from router.core.verdict import OURS, REQUESTS_FAULT, Cause, Doubt, Outcome, Verdict, doubt_of, of_status


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        *[(status, None) for status in (200, 201, 204, 299)],
        *[
            (status, Cause.MISCONFIGURED) for status in (301, 302, 303, 307, 308)
        ],  # following it would send our key elsewhere
        *[(status, Cause.INVALID) for status in (400, 411, 414, 415, 416, 422, 431)],  # these blame the request
        (413, Cause.TOO_LONG),  # another endpoint may accept its size
        *[(status, Cause.DENIED) for status in (401, 402)],  # our key, our bill
        *[(status, Cause.MISCONFIGURED) for status in (403, 404, 405, 407, 410, 426)],  # our model's name or path
        *[
            (status, Cause.TRANSIENT)
            for status in (406, 408, 409, 412, 417, 418, 421, 423, 424, 425, 428, 444, 451, 499)
        ],  # of the connection or the server, not of the request
        (429, Cause.THROTTLED),
        (529, Cause.OVERLOADED),
        *[(status, Cause.TRANSIENT) for status in (500, 501, 502, 503, 504, 599)],
        *[(status, Cause.TRANSIENT) for status in (0, 100, 600, 999)],  # no final status
    ],
)
def test_the_cause_of_each_status(status: int, cause: Cause | None) -> None:
    assert of_status(status) is cause


def test_only_a_503_depends_on_whether_it_has_a_retry_after() -> None:
    differs = [s for s in range(1000) if of_status(s, retry_after=True) is not of_status(s)]
    assert differs == [503]
    assert of_status(503, retry_after=True) is Cause.OVERLOADED


def test_causes_lead_to_busy_fault_or_refused_only() -> None:
    assert {cause.verdict for cause in Cause} == {Verdict.BUSY, Verdict.FAULT, Verdict.REFUSED}
    assert {cause.verdict for cause in OURS} == {Verdict.FAULT}


def test_only_a_4xx_on_the_list_blames_the_request() -> None:
    for status in range(400, 500):
        cause = of_status(status)
        assert cause is not None
        assert (cause.verdict is Verdict.REFUSED) is (status in REQUESTS_FAULT)


@pytest.mark.parametrize(
    ("status", "cause", "retry_after", "doubt"),
    [
        *[(status, Cause.TRANSIENT, False, Doubt.NONE) for status in (502, 503, 504)],
        *[(status, Cause.TRANSIENT, True, Doubt.CALL) for status in (502, 504)],
        *[(status, Cause.DENIED, False, Doubt.CALL) for status in (200, 401, 402, 429)],
        *[(status, Cause.MISCONFIGURED, False, Doubt.CALL) for status in (307, 403, 404, 503)],
        *[(status, Cause.THROTTLED, False, Doubt.CALL) for status in (200, 429, 500)],
        *[(status, Cause.OVERLOADED, True, Doubt.CALL) for status in (503, 529)],
        *[(status, Cause.TRANSIENT, False, Doubt.CALL) for status in (408, 409, 418, 421, 425)],
        *[(status, Cause.TRANSIENT, False, Doubt.REQUEST) for status in (200, 424, 500, 501, 520)],
        (413, Cause.TOO_LONG, False, Doubt.CALL),
    ],
)
def test_the_doubt_about_a_status_and_its_cause(status: int, cause: Cause, retry_after: bool, doubt: Doubt) -> None:
    assert doubt_of(status, cause, retry_after=retry_after) is doubt


def test_without_a_status_a_fault_concerns_the_endpoint_and_a_refusal_the_call() -> None:
    assert Outcome(Verdict.FAULT, "no connection").doubt is Doubt.NONE
    assert Outcome(Verdict.FAULT, cause=Cause.TRANSIENT).doubt is Doubt.NONE
    assert Outcome(Verdict.FAULT, cause=Cause.DENIED).doubt is Doubt.CALL
    assert Outcome(Verdict.BUSY).doubt is Doubt.CALL
