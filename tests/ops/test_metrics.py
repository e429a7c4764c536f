"""The metrics page: complete, in Prometheus's format, and with the right values."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.config import parse
from router.core.choice.table import rebuild
from router.core.endpoint.endpoint import Endpoint
from router.core.record import CallRecord
from router.core.verdict import Outcome, Verdict
from router.ops.metrics import BUCKETS, PART, Metrics
from tests.proxy.running import CHAT, STREAMING, at, get, post, running
from tests.upstream.servers import DONE, FINISH, LAST, ROLE, SSE, chunk, on_uvloop, serving, token, whole

TABLE = rebuild(
    parse(
        """
endpoints:
  - {name: one, base_url: "http://one", models: {chat: m, other: n}}
  - {name: two, base_url: "http://two", models: {chat: m}}
""",
        "endpoints.yaml",
        {},
    )
)
POOL = SimpleNamespace(idle=1, busy=2, opening=3, waiting=4, opened=5, reused=6, resent=7, retired={"age": 8})


def metrics() -> Metrics:
    return Metrics(lambda: TABLE, lambda: {"one": POOL, "two": POOL}, lambda: 9, lambda: 1000.0)


def read(page: bytes) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The samples by name and labels, as a scraper parses them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(page.decode()):
        assert family.documentation
        assert family.name.startswith("firsttoken_")
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name.removeprefix("firsttoken_"), {})
            found[sample.name.removeprefix("firsttoken_")][labels] = sample.value
    return found


def value(samples: Mapping[tuple[tuple[str, str], ...], float], **labels: str) -> float:
    return samples[tuple(sorted(labels.items()))]


def ended(**facts: Any) -> CallRecord:
    record = CallRecord("req_1", "chat/completions", 1000.0)
    for name, fact in ({"model": "chat", "status": 200, "stream": True, "endpoint": "one"} | facts).items():
        setattr(record, name, fact)
    return record


def test_all_documented_metrics_are_there_before_the_first_call() -> None:
    page = read(metrics().render())
    assert {
        "calls_in_flight",
        "attempts_in_flight",
        "attempts_waiting",
        "endpoint_up",
        "endpoint_available",
        "breaker_state",
        "expected_first_token_seconds",
        "budget_attempts",
        "pool_connections",
        "pool_events_total",
    } <= set(page)
    families = {family.name for family in text_string_to_metric_families(metrics().render().decode())}
    assert {
        "firsttoken_calls",
        "firsttoken_attempts",
        "firsttoken_hedges",
        "firsttoken_tokens",
        "firsttoken_dropped_headers",
        "firsttoken_first_token_seconds",
    } <= families
    assert value(page["calls_in_flight"]) == 9
    assert value(page["pool_connections"], endpoint="one", state="waiting") == 4
    assert value(page["pool_events_total"], endpoint="two", event="resent") == 7
    assert value(page["connections_retired_total"], endpoint="two", reason="age") == 8
    assert value(page["connections_retired_total"], endpoint="two", reason="idle") == 0
    assert value(page["lookups_total"], result="found") == 0
    assert len(page["breaker_state"]) == 3 * 3
    assert value(page["breaker_state"], endpoint="one", model="m", state="closed") == 1
    assert value(page["breaker_state"], endpoint="one", model="m", state="open") == 0
    assert value(page["budget_attempts"], kind="hedge") > 0


def test_calls_are_counted_by_their_outcome() -> None:
    counted = metrics()
    for record in (ended(), ended(), ended(status=502, error="endpoints_failed"), ended(model="", status=404)):
        counted.ended(record)
    page = read(counted.render())["calls_total"]
    labels = {"model": "chat", "operation": "chat/completions"}
    assert value(page, **labels, status="200", error="") == 2
    assert value(page, **labels, status="502", error="endpoints_failed") == 1
    assert sum(page.values()) == 4


def test_attempts_are_counted_by_verdict_and_hedges_by_outcome() -> None:
    counted, endpoints = metrics(), list(TABLE.endpoints)
    one = next(endpoint for endpoint in endpoints if (endpoint.name, endpoint.model) == ("one", "m"))
    two = next(endpoint for endpoint in endpoints if endpoint.name == "two")
    slow, hedge, lost = one.begin(0.0), two.begin(0.5, role="hedge"), one.begin(0.5, role="hedge")
    hedge.first_token(0.7)
    hedge.end(Outcome(Verdict.SERVED), 1.0)
    slow.end(Outcome(Verdict.ABANDONED), 0.7)
    lost.end(Outcome(Verdict.FAULT), 0.6)
    counted.ended(ended(attempts=[slow, hedge, lost]))
    page = read(counted.render())
    assert value(page["attempts_total"], endpoint="one", role="first", verdict="abandoned") == 1
    assert value(page["attempts_total"], endpoint="two", role="hedge", verdict="served") == 1
    assert value(page["hedges_total"], endpoint="two", outcome="won") == 1
    assert value(page["hedges_total"], endpoint="one", outcome="lost") == 1


def test_first_tokens_are_counted_into_buckets() -> None:
    counted = metrics()
    for seconds in (0.004, 0.3, 0.300001, 500.0):
        counted.ended(ended(first_token=seconds))
    counted.ended(ended(first_token=1.0, stream=False))  # an answer that is not streamed has no first token
    counted.ended(ended(first_token=None))
    page = read(counted.render())
    labels = {"model": "chat", "endpoint": "one"}
    assert value(page["first_token_seconds_count"], **labels) == 4
    assert value(page["first_token_seconds_sum"], **labels) == pytest.approx(500.604001)
    bucket = page["first_token_seconds_bucket"]
    assert len(bucket) == len(BUCKETS) + 1
    by_bound = sorted((float(dict(labels)["le"]), count) for labels, count in bucket.items())
    assert [count for _, count in by_bound] == sorted(count for _, count in by_bound)
    assert dict(by_bound)[0.005] == 1
    assert dict(by_bound)[0.3] == 2
    assert dict(by_bound)[0.4] == 3
    assert dict(by_bound)[inf] == 4


def test_reported_tokens_are_summed() -> None:
    counted = metrics()
    counted.ended(ended(prompt_tokens=10, completion_tokens=3))
    counted.ended(ended(prompt_tokens=5, completion_tokens=None))
    page = read(counted.render())["tokens_total"]
    assert (value(page, endpoint="one", kind="input"), value(page, endpoint="one", kind="output")) == (15, 3)


def test_dropped_headers_are_summed() -> None:
    counted = metrics()
    for number in (2, 0, 3):
        counted.ended(ended(endpoint="one", dropped_headers=number))
    assert value(read(counted.render())["dropped_headers_total"], endpoint="one") == 5


def test_an_open_breaker_is_on_the_page() -> None:
    table = rebuild(parse("endpoints: [{name: a, base_url: 'http://a', models: {chat: m}}]", "endpoints.yaml", {}))
    (endpoint,) = table.endpoints
    for _ in range(5):
        endpoint.begin(1000.0).end(Outcome(Verdict.FAULT), 1000.1)
    waiting = endpoint.begin(1000.2)
    page = read(Metrics(lambda: table, dict, lambda: 0, lambda: 1000.3).render())
    named = {"endpoint": "a", "model": "m"}
    assert value(page["breaker_state"], **named, state="open") == 1
    assert value(page["endpoint_available"], **named) == 0
    assert (value(page["attempts_in_flight"], **named), value(page["attempts_waiting"], **named)) == (1, 1)
    assert value(page["expected_first_token_seconds"], **named) > 1
    waiting.end(Outcome(Verdict.ABANDONED), 1000.4)


def test_names_may_contain_any_character() -> None:
    counted = metrics()
    counted.ended(ended(model='a"b\\c\nd', endpoint="ü"))
    assert value(
        read(counted.render())["calls_total"],
        model='a"b\\c\nd',
        operation="chat/completions",
        status="200",
        error="",
    )


def test_name_and_model_identify_an_endpoint() -> None:
    assert len({(endpoint.name, endpoint.model) for endpoint in TABLE.endpoints}) == len(TABLE.endpoints)
    assert isinstance(next(iter(TABLE.endpoints)), Endpoint)


@on_uvloop
async def test_the_page_counts_the_calls_of_a_running_router() -> None:
    async with serving() as server, running(at(server)) as router:
        client = await router.client()
        client.send(post(STREAMING))
        peer = await server.accept()
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
        await peer.answer(SSE, chunk(ROLE + token("a")))
        await client.head()
        page = read((await router.ask(get(b"/metrics"))).body)
        named = {"endpoint": "there-1", "model": "m"}
        assert value(page["calls_in_flight"]) == 1
        assert (value(page["attempts_in_flight"], **named), value(page["attempts_waiting"], **named)) == (1, 0)
        assert value(page["pool_connections"], endpoint="there-1", state="busy") == 1
        peer.send(chunk(FINISH + usage + DONE), LAST)
        assert b"".join([piece async for piece in client.chunks()]).endswith(DONE)
        client.send(post(CHAT))
        await peer.answer(whole())
        await client.answer()
        answer = await router.ask(get(b"/metrics"))
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        page = read(answer.body)
        calls = {"model": "chat", "operation": "chat/completions", "status": "200", "error": ""}
        assert value(page["calls_total"], **calls) == 2
        assert value(page["attempts_total"], endpoint="there-1", role="first", verdict="served") == 2
        assert value(page["first_token_seconds_count"], endpoint="there-1", model="chat") == 1
        assert value(page["tokens_total"], endpoint="there-1", kind="output") == 2
        assert value(page["pool_events_total"], endpoint="there-1", event="opened") == 1
        assert value(page["pool_events_total"], endpoint="there-1", event="reused") == 1
        assert value(page["connections_retired_total"], endpoint="there-1", reason="idle") == 0
        assert (value(page["calls_in_flight"]), value(page["attempts_in_flight"], **named)) == (0, 0)


def test_no_count_of_an_endpoint_breaks_the_page() -> None:
    """A sample that cannot be rendered is left out, and all others are there."""
    made = metrics()
    made.ended(ended(prompt_tokens=10**400, completion_tokens=5))
    made.ended(ended(prompt_tokens=10**400, completion_tokens=6))
    page = read(made.render())
    assert page["tokens_total"] == {(("endpoint", "one"), ("kind", "output")): 11.0}
    made._calls["a", "b", 10, ""] = 10**400
    assert ("model", "chat") in next(iter(read(made.render())["calls_total"]))


def test_a_page_of_a_thousand_endpoints_comes_in_small_parts_and_is_whole() -> None:
    entries = "".join(f'  - {{name: e{n}, base_url: "http://e{n}", models: {{chat: m}}}}\n' for n in range(1000))
    table = rebuild(parse(f"endpoints:\n{entries}", "endpoints.yaml", {}))
    pools = {f"e{n}": POOL for n in range(1000)}
    made = Metrics(lambda: table, lambda: pools, lambda: 0, lambda: 1000.0)
    parts = list(made.parts())
    assert max(part.count(b"\n") for part in parts) <= PART + 2
    page = read(b"".join(parts))
    assert len(page["endpoint_up"]) == 1000
    assert len(page["breaker_state"]) == 3000
    assert b"".join(parts).count(b"# TYPE firsttoken_breaker_state gauge\n") == 1


def test_the_longest_turn_the_held_bytes_and_the_lost_lines_are_on_the_page() -> None:
    made = Metrics(
        lambda: TABLE,
        dict,
        lambda: 0,
        lambda: 1000.0,
        longest_turn=lambda: 0.0125,
        body_bytes=lambda: (5, 100),
        lost_lines=lambda: {"access log": 7},
    )
    page = read(made.render())
    assert page["longest_turn_seconds"] == {(): 0.0125}
    assert page["body_bytes"] == {(("kind", "held"),): 5.0, (("kind", "limit"),): 100.0}
    assert page["lost_log_lines_total"] == {(("log", "access log"),): 7.0}
