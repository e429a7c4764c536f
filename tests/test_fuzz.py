"""A slice of `scripts/fuzz`: every recording cut at every place, and some thousand mutated inputs."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from tests.fuzz import reference
from tests.fuzz.corpus import STREAMS
from tests.fuzz.mutations import cut, mutate
from tests.fuzz.runs import batches, fuzz
from tests.fuzz.targets import TARGETS, _facts, _scan

SLICE = 600  # inputs for each target


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_is_read_the_same_wherever_it_is_cut(name: str) -> None:
    stream = STREAMS[name]
    whole, forwarded = _scan([stream], 1)
    for at in range(len(stream)):
        scanner, also = _scan([stream[:at], stream[at:]], 1)
        assert _facts(scanner) == _facts(whole)
        assert reference.blocks(also) == reference.blocks(forwarded)
    scanner, also = _scan([bytes((byte,)) for byte in stream], 1)
    assert _facts(scanner) == _facts(whole)
    assert reference.blocks(also) == reference.blocks(forwarded)


@pytest.mark.parametrize("target", TARGETS)
def test_every_recording_is_handled(target: str) -> None:
    for number, data in enumerate(TARGETS[target].inputs):
        TARGETS[target].run(data, Random(number))


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_recordings_are_handled(target: str) -> None:
    assert fuzz(target, 7, range(SLICE)) == []


@pytest.mark.parametrize("target", TARGETS)
@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=400), seed=st.integers(0, 1 << 30))
def test_any_bytes_are_handled(target: str, data: bytes, seed: int) -> None:
    TARGETS[target].run(data, Random(seed))


@settings(deadline=None, max_examples=300)
@given(parts=st.lists(st.sampled_from(sorted(STREAMS.values())), min_size=1, max_size=3), seed=st.integers(0, 1 << 30))
def test_any_streams_joined_and_cut_are_handled(parts: list[bytes], seed: int) -> None:
    TARGETS["sse"].run(b"".join(parts), Random(seed))


@pytest.mark.parametrize("name", STREAMS)
def test_the_reference_reads_a_stream_as_the_sdk_does(name: str) -> None:
    """The comparison ends at [DONE], where the SDK stops, and without the byte order mark, which it does not know."""
    stream = STREAMS[name].removeprefix(b"\xef\xbb\xbf")
    try:
        theirs = [event.data.encode() for event in SSEDecoder().iter_bytes(iter([stream]))]
    except UnicodeDecodeError:
        return
    ours = [reference.payload(block) for block in reference.blocks(stream)]
    assert [text for text in theirs if text] == [text for text in ours if text]


def test_an_input_is_determined_by_its_target_seed_and_number() -> None:
    samples = TARGETS["sse"].inputs
    first, again, other = (mutate(samples[0], Random(seed), samples) for seed in (1, 1, 2))
    assert first == again != other


@given(data=st.binary(max_size=100), seed=st.integers(0, 1 << 30))
def test_the_pieces_of_a_cut_add_up_to_the_whole(data: bytes, seed: int) -> None:
    pieces = cut(data, Random(seed))
    assert b"".join(pieces) == data
    assert all(pieces)


def test_every_target_gets_its_share() -> None:
    shares = dict.fromkeys(TARGETS, 0)
    for name, numbers in batches(list(TARGETS), 12_000):
        shares[name] += len(numbers)
    assert set(shares.values()) == {-(-12_000 // len(TARGETS))}
