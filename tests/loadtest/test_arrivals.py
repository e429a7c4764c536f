"""Arrivals have their rate, independent of answers; a trace is replayed at another rate, and repeated if too short."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.latency.arrivals import Bursts, Call, Poisson, Replay, Sizes, TraceError, drawn, read_trace, replayed

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:47.6805900,396,1
2023-11-16 18:15:50.6805900,0,3
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE.replace("\n", "\r\n"))
    return path


@given(rate=st.floats(0.1, 50), seed=st.integers(0, 1000))
def test_poisson_arrivals_have_their_rate(rate: float, seed: int) -> None:
    calls = drawn(Poisson(rate=rate), Sizes(), 1000, seed)
    gaps = np.diff([0, *(call.at for call in calls)])
    assert (gaps > 0).all()
    assert abs(calls[-1].at * rate / 1000 - 1) < 6 / math.sqrt(1000)
    assert [call.k for call in calls] == list(range(1000))


def test_the_gaps_of_poisson_arrivals_are_exponential() -> None:
    gaps = np.sort(np.diff([call.at for call in drawn(Poisson(rate=10), Sizes(), 20_001, 1)]))
    expected = 1 - np.exp(-10 * gaps)
    assert np.abs(expected - np.arange(1, 20_001) / 20_000).max() < 0.016


def test_the_same_seed_gives_the_same_calls() -> None:
    one, again, other = (drawn(Poisson(rate=10), Sizes(), 50, seed) for seed in (1, 1, 2))
    assert one == again != other


def test_bursts_have_their_size_and_their_pauses() -> None:
    bursts = Bursts(rate=10, size=20, every=60)
    calls = drawn(bursts, Sizes(), 60, 1)
    assert [int(call.at // 60) for call in calls] == [0] * 20 + [1] * 20 + [2] * 20
    assert max(call.at % 60 for call in calls) < 10
    assert bursts.mean_rate == pytest.approx(20 / 60)


def test_sizes_have_their_median_and_stay_within_their_bounds() -> None:
    calls = drawn(Poisson(rate=1), Sizes(prompt=2000, sigma=1.2, most=16_000, generated=(3, 8)), 5000, 1)
    tokens = [call.tokens for call in calls]
    assert 1850 < np.median(tokens) < 2150
    assert 1 <= min(tokens) < 500
    assert max(tokens) == 16_000
    assert {call.generated for call in calls} == {3, 4, 5, 6, 7, 8}
    assert {call.tokens for call in drawn(Poisson(rate=1), Sizes(prompt=100, sigma=0), 9, 1)} == {100}


def test_a_share_of_the_calls_asks_for_plain_answers_and_the_calls_stay_the_same() -> None:
    streams, half, plain = (drawn(Poisson(rate=1), Sizes(), 2000, 1, share) for share in (0.0, 0.5, 1.0))
    assert [sum(call.plain for call in calls) for calls in (streams, plain)] == [0, 2000]
    assert 900 < sum(call.plain for call in half) < 1100
    assert [replace(call, plain=False) for call in half] == streams


def test_a_trace_is_replayed_at_another_rate_with_short_answers(trace: Path) -> None:
    rows = read_trace(trace)
    assert rows == [(0, 374, 44), (1, 396, 1), (4, 0, 3)]
    # Three calls in four seconds are one call in two seconds; one lap of the trace takes six.
    assert replayed(Replay(rate=0.5, most_generated=8), rows, 4) == [
        Call(0, 0, 374, 8), Call(1, 1, 396, 1), Call(2, 4, 1, 3), Call(3, 6, 374, 8),
    ]  # fmt: skip
    assert [call.at for call in replayed(Replay(rate=5), rows, 5)] == pytest.approx([0, 0.1, 0.4, 0.6, 0.7])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TIMESTAMP,ContextTokens\n", "trace.csv:1: no column GeneratedTokens"),
        (TRACE + "yesterday,1,1\n", r"trace.csv:5: .*yesterday.*; a line has the form 2023"),
        (TRACE + "2023-11-16 18:15:50.7,many,1\n", "trace.csv:5: .*many"),
        (TRACE + "2023-11-16 18:15:49.0,1,1\n", "trace.csv:5: earlier than the line before"),
        ("\n".join(TRACE.split("\n")[:2]), "needs two calls"),
    ],
)
def test_a_trace_that_cannot_be_replayed_says_where(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=expected):
        read_trace(path)
