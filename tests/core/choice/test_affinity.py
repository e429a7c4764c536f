"""Affinity: the key of a conversation, and the endpoint that the key draws."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.call import Operation, parse
from router.core.choice.affinity import MAX_MESSAGE, Affinity, key_of
from router.core.choice.pick import EXPLORE, pick
from router.core.demand import FIRST_TOKEN
from router.core.endpoint.endpoint import Endpoint
from tests.core.helpers import Steady, T, busy, endpoint, properties

SYSTEM = {"role": "system", "content": "You are kind."}
FIRST = {"role": "user", "content": "Hi"}
MORE = [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And now?"}]

keys = st.binary(min_size=1, max_size=16)
costs = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8)
margins = st.floats(0.0, 10.0)


def key(
    messages: object = (SYSTEM, FIRST),
    affinity: str = "prefix",
    operation: Operation = "chat/completions",
    headers: Sequence[tuple[bytes, bytes]] = (),
    **fields: Any,
) -> bytes:
    body = {"model": "chat", "messages": messages} | fields
    return key_of(affinity, parse(operation, json.dumps(body).encode()), headers)


def named(count: int) -> list[Endpoint]:
    return [endpoint(str(number)) for number in range(count)]


# The key of a conversation.


def test_a_conversation_that_grows_keeps_its_key() -> None:
    assert key([SYSTEM, FIRST]) == key([SYSTEM, FIRST, *MORE]) != b""
    assert key([FIRST]) == key([FIRST, *MORE]) != key([SYSTEM, FIRST])
    assert key([SYSTEM, FIRST], temperature=0.5, stream=True) == key([SYSTEM, FIRST])


def test_conversations_with_different_beginnings_have_different_keys() -> None:
    other = {"role": "user", "content": "Ho"}
    assert len({key([SYSTEM, FIRST]), key([SYSTEM, other]), key([FIRST]), key([other])}) == 4


def test_conversations_of_different_clients_or_models_have_different_keys() -> None:
    ours, theirs = ((b"authorization", b"Bearer " + token) for token in (b"us", b"them"))
    assert len({key(), key(headers=[ours]), key(headers=[theirs]), key(model="other")}) == 4


def test_only_the_beginning_of_a_long_message_counts() -> None:
    beginning = "x" * MAX_MESSAGE
    assert key([{"role": "user", "content": beginning + "a"}]) == key([{"role": "user", "content": beginning + "b"}])
    assert key([{"role": "user", "content": "a" + beginning}]) != key([{"role": "user", "content": "b" + beginning}])


def test_of_very_many_messages_only_the_first_are_decoded() -> None:
    body = b'{"model": "chat", "messages": [%b0]}' % (b"0," * 1_000_000)
    call = parse("chat/completions", body)
    tracemalloc.start()
    try:
        assert key_of("prefix", call, ()) == b""  # numbers are no messages
        assert tracemalloc.get_traced_memory()[1] < len(body)  # all decoded, they would take thirty times as much
    finally:
        tracemalloc.stop()


def test_a_header_may_name_the_conversation() -> None:
    session = (b"x-session-id", b"42")
    assert key(affinity="header:x-session-id", headers=[session]) == key(
        [FIRST], affinity="header:x-session-id", headers=[session, (b"x-other", b"1")]
    )
    assert key(affinity="header:x-session-id", headers=[(b"x-session-id", b"43")]) != key(
        affinity="header:x-session-id", headers=[session]
    )


def test_a_prompt_has_the_key_of_its_beginning_and_an_embedding_has_none() -> None:
    long = "x" * MAX_MESSAGE
    assert key(operation="completions", prompt=long + "a") == key(operation="completions", prompt=long + "b") != b""
    assert key(operation="embeddings", input="Hi") == b""


@pytest.mark.parametrize("messages", [None, "Hi", [], 7, ["Hi"], [{"role": 7}], [[FIRST]], {"role": "user"}])
def test_unreadable_messages_have_no_key(messages: object) -> None:
    assert key(messages) == b""
    assert key(messages, affinity="header:x-session-id") == b""


# The endpoint that the key draws.


@properties
@given(key=keys, costs=costs, margin=margins, seed=st.integers(0, 1000))
def test_a_key_draws_the_same_endpoint_each_time_and_one_within_the_margin(
    key: bytes, costs: list[float], margin: float, seed: int
) -> None:
    endpoints, affinity = named(len(costs)), Affinity(key, margin)
    chosen = affinity.choose(endpoints, costs, "first_token")
    assert costs[endpoints.index(chosen)] <= min(costs) + margin
    again = list(zip(named(len(costs)), costs, strict=True))  # after a restart, and in another order
    Random(seed).shuffle(again)
    assert affinity.choose([e for e, _ in again], [cost for _, cost in again], "first_token").name == chosen.name


@properties
@given(key=keys, costs=costs, margin=margins, gone=st.integers(0, 7))
def test_a_conversation_does_not_move_when_another_endpoint_goes(
    key: bytes, costs: list[float], margin: float, gone: int
) -> None:
    endpoints, affinity = named(len(costs)), Affinity(key, margin)
    chosen = affinity.choose(endpoints, costs, "first_token")
    left = [
        (e, cost)
        for number, (e, cost) in enumerate(zip(endpoints, costs, strict=True))
        if number != gone or e is chosen or cost == min(costs)  # without the cheapest the margin would reach further
    ]
    assert affinity.choose([e for e, _ in left], [cost for _, cost in left], "first_token") is chosen


@properties
@given(key=keys, cost=st.floats(0.01, 10.0), margin=margins)
def test_a_conversation_returns_when_its_endpoint_does(key: bytes, cost: float, margin: float) -> None:
    endpoints, affinity = named(3), Affinity(key, margin)
    own = affinity.choose(endpoints, [cost] * 3, "first_token")
    late = [cost + 2.0 * margin + 1.0 if e is own else cost for e in endpoints]
    assert affinity.choose(endpoints, late, "first_token") is not own
    assert affinity.choose(endpoints, [cost] * 3, "first_token") is own


def test_conversations_are_spread_by_weight() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    endpoints = [endpoint(name, weight=weight) for name, weight in weights.items()]
    drawn = Counter(
        Affinity(b"%d" % number, 0.5).choose(endpoints, [1.0, 1.2, 0.9], "first_token").name for number in range(20_000)
    )
    for name, weight in weights.items():
        assert drawn[name] / 20_000 == pytest.approx(weight / 8.0, abs=0.015)


def test_when_an_endpoint_goes_its_conversations_are_spread_over_the_others() -> None:
    endpoints = named(4)
    own = {n: Affinity(b"%d" % n, 0.0).choose(endpoints, [1.0] * 4, "first_token").name for n in range(8000)}
    left = [n for n, name in own.items() if name == "0"]
    drawn = Counter(Affinity(b"%d" % n, 0.0).choose(endpoints[1:], [1.0] * 3, "first_token").name for n in left)
    for name in ("1", "2", "3"):
        assert drawn[name] / len(left) == pytest.approx(1 / 3, abs=0.05)


def test_every_router_draws_the_same_endpoints() -> None:
    drawn = "".join(Affinity(b"%d" % n, 1.0).choose(named(3), [1.0] * 3, "first_token").name for n in range(12))
    assert drawn == "220000102122"


def test_a_newcomer_gets_the_conversations_whose_key_draws_it_until_its_first_call_runs() -> None:
    known, new = endpoint("known", 0.1), endpoint("new", None)
    drawn = Counter(Affinity(b"%d" % n, 0.0).choose([known, new], [0.1, 1.0], "first_token").name for n in range(1000))
    assert drawn["new"] == pytest.approx(500, abs=60)
    new.begin(T)
    costs = [each.forecast.cost(FIRST_TOKEN, T) for each in (known, new)]
    assert all(Affinity(b"%d" % n, 0.0).choose([known, new], costs, "first_token") is known for n in range(100))


# Affinity in `pick`.


def test_an_unavailable_endpoint_is_not_drawn_and_exploration_ignores_affinity() -> None:
    endpoints, rng, affinity = named(3), Random(7), Affinity(b"key", 0.5)
    own = pick(endpoints, FIRST_TOKEN, T, Steady(), affinity=affinity)
    assert own is not None
    drawn = Counter(pick(endpoints, FIRST_TOKEN, T, rng, affinity=affinity) for _ in range(20_000))
    assert 1.0 - EXPLORE <= drawn[own] / 20_000 < 1.0
    busy(own, 5.0)
    next_best = pick(endpoints, FIRST_TOKEN, T, Steady(), affinity=affinity)
    assert next_best not in (None, own)
    assert pick(endpoints, FIRST_TOKEN, T + 5.0, Steady(), affinity=affinity) is own
