"""The load that a server reports, and its effect on the endpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.demand import FIRST_TOKEN
from router.core.endpoint.forecast import STREAM_SHARE
from router.core.endpoint.latency import BATCH
from router.core.endpoint.server_load import HOT_KV, ServerLoad
from router.core.verdict import Outcome, Verdict
from tests.core.helpers import T, endpoint, properties

counts = st.none() | st.integers(0, 1000).map(float)
shares = st.none() | st.floats(0.0, 1.0)
loads = st.builds(ServerLoad, counts, counts, shares)


@pytest.mark.parametrize(
    ("load", "hot"),
    [
        (ServerLoad(100.0, 0.0, 0.5), False),
        (ServerLoad(100.0, 1.0, 0.5), True),
        (ServerLoad(1.0, 0.0, HOT_KV), True),
        (ServerLoad(None, 3.0, None), True),
        (ServerLoad(100.0, None, None), False),
        (ServerLoad(), False),
    ],
)
def test_a_server_with_a_queue_or_a_full_cache_is_hot(load: ServerLoad, hot: bool) -> None:
    assert load.hot is hot


def test_a_report_is_unknown_before_it_comes_and_after_it_expires() -> None:
    a = endpoint()
    assert (a.forecast.server_load(T), a.forecast.hot(T)) == (None, False)
    a.forecast.report(ServerLoad(2.0, 1.0, 0.1), T, T + 5.0)
    assert (a.forecast.server_load(T + 4.9), a.forecast.hot(T + 4.9)) == (ServerLoad(2.0, 1.0, 0.1), True)
    assert (a.forecast.server_load(T + 5.0), a.forecast.hot(T + 5.0)) == (None, False)


def test_the_last_report_counts() -> None:
    a = endpoint()
    a.forecast.report(ServerLoad(2.0, 1.0), T, T + 5.0)
    a.forecast.report(ServerLoad(2.0, 0.0), T + 1.0, T + 6.0)
    assert not a.forecast.hot(T + 1.0)


def test_requests_of_other_clients_cost_as_much_as_our_own_streams() -> None:
    ours, theirs = endpoint("ours"), endpoint("theirs")
    alone = ours.forecast.cost(FIRST_TOKEN, T)
    for _ in range(6):
        ours.begin(T).first_token(T)
    theirs.forecast.report(ServerLoad(running=6.0), T, T + 5.0)
    assert theirs.forecast.cost(FIRST_TOKEN, T) == pytest.approx(alone * (1.0 + STREAM_SHARE * 6 / BATCH))
    theirs.forecast.report(ServerLoad(waiting=0.0), T, T + 5.0)
    assert theirs.forecast.cost(FIRST_TOKEN, T) == alone


def test_our_own_requests_are_not_counted_twice() -> None:
    a = endpoint()
    attempts = [a.begin(T) for _ in range(6)]
    for attempt in attempts:
        attempt.first_token(T)
    before = a.forecast.cost(FIRST_TOKEN, T)
    a.forecast.report(ServerLoad(running=6.0), T, T + 5.0)
    assert a.forecast.cost(FIRST_TOKEN, T) == before
    a.forecast.report(ServerLoad(running=4.0), T, T + 5.0)  # two of them have not reached the server yet
    assert a.forecast.cost(FIRST_TOKEN, T) == before
    for attempt in attempts:
        attempt.end(Outcome(Verdict.SERVED), T)


@properties
@given(load=loads)
def test_a_report_never_makes_an_endpoint_unavailable_or_cheaper(load: ServerLoad) -> None:
    a = endpoint()
    before = a.forecast.cost(FIRST_TOKEN, T)
    a.forecast.report(load, T, T + 5.0)
    assert a.availability.allows(T)
    assert a.forecast.cost(FIRST_TOKEN, T) >= before
    assert a.forecast.cost(FIRST_TOKEN, T + 5.0) == pytest.approx(endpoint().forecast.cost(FIRST_TOKEN, T + 5.0))
