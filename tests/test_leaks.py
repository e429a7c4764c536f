"""Seeded random timelines: whatever happens, nothing is left running, open or counted, and every answer is honest.

Each seed is a configuration of its own: two to four endpoints in random tiers, some of them simulated, that answer,
fail, stall, send garbage and break in random ways under a random policy, and calls at random times by clients that
wait, leave, or read slowly. `Player.assert_nothing_is_left` has what must hold afterwards. To play a seed again:
`-k seed_from_100`, or `play(123)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest

from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.server_load import ServerLoad
from router.core.stream.finish import renamed
from router.core.stream.lines import data_of, split
from router.core.stream.scanner import Scanner
from router.core.verdict import Verdict
from router.dialects import DIALECTS
from router.errors import Stopping
from router.upstream.exchange import Limits
from tests.support import EndpointSpec, Player, ScriptedClient, endpoint
from tests.support.endpoints import (
    COMMENT,
    DONE,
    JSON,
    SILENT,
    SSE,
    Script,
    answers,
    completion,
    cuts,
    ends,
    error_event,
    event,
    fails_with,
    head,
    opens,
    refuses_connection,
    says,
    sends,
    sse,
)
from tests.support.outcomes import outcome_of
from tests.support.player import CHAT, EMBEDDINGS

SEEDS, BATCH = 1000, 25
LATEST = 2000.0  # seconds within which all must end: deadline, stall and a client's timeout add up to less
CODES = ("context_length_exceeded", "content_filter", "insufficient_quota", "429", 1302, "1305", "1308", "1113", None)
TINY = Limits(event=20_000, answer=50_000)


# ---- Behaviour of endpoints


def whole_stream(rng: Random) -> Script:
    """A complete stream with tokens at a random pace, cut into random pieces."""
    first, gap, big = delay(rng), rng.choice((0.0, 0.01, 0.3, 4.0)), rng.random() < 0.3
    body = [event("", role="assistant")] if rng.random() < 0.7 else []
    for i in range(rng.randint(1, 12)):
        body += [COMMENT] * (rng.random() < 0.1)
        body += [sse(i)] * (rng.random() < 0.03)  # JSON, but not an event of the API
        body.append(event("x" * (rng.randint(5_000, 15_000) if big else 3)))
    last = event(finish="stop") * (rng.random() < 0.9) + event(usage=(3, 5)) * (rng.random() < 0.5)
    body.append(last + DONE * (rng.random() < 0.8))
    script, at = head(rng.uniform(0, first), 200, SSE), first
    for piece in cut_up(rng, body):
        script += sends(at, piece)
        at += gap
    return script + ends(at)


def cut_up(rng: Random, events: list[bytes]) -> list[bytes]:
    if rng.random() < 0.6:
        return events
    whole = b"".join(events)
    if rng.random() < 0.3:
        whole = whole.replace(b"\n", b"\r\n")
    places = sorted(rng.sample(range(1, len(whole)), min(len(whole) - 1, rng.randint(1, 12))))
    return [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]


def broken_stream(rng: Random) -> Script:
    """A stream that stops half way: cut, ended, silent, an error, an event that never ends."""
    first = delay(rng)
    script = opens(rng.uniform(0, first)) if rng.random() < 0.8 else head(0.0, 200, SSE)
    if rng.random() < 0.7:
        script += says(first, *["word "] * rng.randint(1, 5), gap=rng.choice((0.0, 0.2, 3.0)))
    at = first + rng.uniform(0, 10)
    return script + rng.choice(
        (
            SILENT,
            cuts(at),
            ends(at),
            sends(at, error_event()) + ends(at),
            sends(at, error_event(code=rng.choice(CODES))) + ends(at),
            sends(at, sse({"object": "error", "message": "no", "code": 400})) + ends(at),
            sends(at, event(finish="sensitive")) + ends(at),
            sends(at, error_event(type=rng.choice(("rate_limit_error", "invalid_request_error", "server_error")))),
            sends(at, event(finish="network_error")) + ends(at),
            sends(at, event(finish="stop")),
            sends(at, event("half")[:-9]) + rng.choice((cuts(at), ends(at), SILENT)),
            sends(at, b"data: " + b"x" * 30_000),
            sends(at, b"data: {garbage\n\n" + b"\x00\xff\n\n") + ends(at + 1),
            tuple(step for i in range(40) for step in sends(at + i, COMMENT)),
        )
    )


def failure(rng: Random) -> Script:
    at = delay(rng)
    status = rng.choice((400, 401, 403, 404, 408, 413, 422, 429, 429, 500, 502, 503, 503, 529, 301, 204, 700))
    retry_after = rng.choice((None, None, 0, 0.5, 2, 7, 100)) if status in (429, 503, 529) else None
    return rng.choice(
        (
            fails_with(status, at, retry_after=retry_after),
            fails_with(status, at, code=rng.choice(CODES), retry_after=retry_after),
            head(at, status, JSON) + rng.choice((cuts(at), ends(at + 1), SILENT, sends(at, b"<html>") + ends(at))),
            refuses_connection(at),
            cuts(at),
            SILENT,
        )
    )


def plain_answer(rng: Random) -> Script:
    at = delay(rng)
    return rng.choice(
        (
            answers(completion(), at),
            answers({"object": "list", "data": [{"embedding": [1, 2]}]}, at),
            answers({"error": {"message": "in a 200"}}, at),
            answers({"error": {"message": "in a 200", "type": "invalid_request_error"}}, at),
            answers(b"no json", at),
            answers(b"", at),
            answers([1, 2], at),
            answers(completion("x" * 60_000), at),
            answers(completion(), at, headers=[*JSON, (b"content-encoding", b"gzip")]),
            head(at, 200, JSON) + sends(at, b'{"cho') + rng.choice((cuts(at + 1), ends(at + 1), SILENT)),
        )
    )


def delay(rng: Random) -> float:
    return rng.choice((0.0, 0.05, 0.3, 1.0, 2.0, 11.0, 40.0)) * rng.uniform(0.5, 1.5)


def behaviour(rng: Random) -> Callable[[], Script]:
    """The behaviour of one endpoint: mostly good, mostly bad, or mixed."""
    kinds = (whole_stream, plain_answer, broken_stream, failure)
    weights = rng.choice(((8, 2, 1, 1), (1, 1, 4, 6), (3, 2, 3, 3), (20, 0, 0, 0), (0, 0, 0, 20)))
    return lambda: rng.choices(kinds, weights)[0](rng)


# ---- Configurations and calls


def policy(rng: Random) -> dict[str, Any]:
    return {
        "deadline": rng.choice((0.5, 5, 30, 120)),
        "hedge": rng.choice(("auto", "auto", "off", 0, 0.2, 3)),
        "abandon": rng.choice((0.1, 2, 15)),
        "stall": rng.choice((1, 5, 30)),
        "hedge_budget": rng.choice((0, 0.1, 0.1, 2)),
        "retry_budget": rng.choice((0, 0.2, 0.2, 2)),
    }


def endpoints(rng: Random) -> list[EndpointSpec]:
    specs = []
    for name in "abcd"[: rng.randint(2, 4)]:
        settings: dict[str, Any] = {"tier": rng.randint(1, 3), "weight": rng.choice((1, 1, 0.2, 3))}
        settings["context"] = rng.choice((None, 1000, "8k", "1M"))
        settings["concurrency"] = rng.choice((None, None, 1, 2, 5))
        settings["kind"] = rng.choice(("openai", "openai", "vllm", "sglang", "zhipu", "simulated"))
        if settings["kind"] == "simulated":
            settings["simulate"] = {"first_token": delay(rng), "rate": rng.choice((0.5, 20, 1000))}
        if rng.random() < 0.3:
            settings |= rng.choices(list(policy(rng).items()), k=2)
        specs.append(endpoint(name, behaviour(rng), **settings))
    return specs


def place_call(play: Player, rng: Random, start: float) -> None:
    at = start + rng.uniform(0, 20)
    times: dict[str, Any] = {}
    if rng.random() < 0.3:
        times["leaves_at"] = at + delay(rng)
    if rng.random() < 0.3:
        times["stops_reading_at"] = at
        if rng.random() < 0.5:
            times["reads_again_at"] = at + rng.choice((0.5, 20, 119, 300))
    path = rng.choice((CHAT, CHAT, CHAT, "/v1/completions", EMBEDDINGS))
    fields: dict[str, Any] = {"stream": rng.random() < 0.8}
    if rng.random() < 0.1:
        fields["n"] = 2
    if rng.random() < 0.5:
        messages = [{"role": "user", "content": rng.choice("ab")}][: rng.randint(0, 1)]
        fields |= {"temperature": 0, "messages": messages, "prompt": rng.choice(("", "a"))}
    if rng.random() < 0.05:
        fields["model"] = "unknown"
    body = json.dumps({"model": "chat"} | fields)
    if rng.random() < 0.1:
        body = f'{body[:-1]},"{rng.choice(("x", "messages", "prompt", "input"))}":1e999}}'
    play.call(at, path=path, body=body.encode(), **times)


def stop(player: Player) -> None:
    player.handler.end_all(Stopping("The end."))


def report_load(player: Player, rng: Random) -> None:
    load = ServerLoad(rng.choice((None, 0.0, 9.0)), rng.choice((None, 0.0, 2.0)), rng.choice((None, 0.5, 1.0)))
    now = player.scheduler.now()
    rng.choice(list(player.table.endpoints)).forecast.report(load, now, now + rng.choice((0.5, 5.0, 60.0)))


def play(seed: int) -> Player:
    """Play one seed to its end. The clock begins at a random time, as a machine's does."""
    rng = Random(seed)
    start = rng.choice((0.0, 1e3, 1e6)) * rng.random()
    player = Player(
        *endpoints(rng),
        models={
            "chat": {
                "resume": rng.choice(("auto", "replay", "continue", "off")),
                "patience": rng.choice((0, 0, 3, 60)),
                "queue": rng.choice((0, 1, 100)),
                "queue_wait": rng.choice((0, 0.5, 10, 200)),
                "affinity": rng.choice(("off", "prefix", "header:x-session")),
                "affinity_margin": rng.choice((0, 0.5, 5)),
            }
        },
        max_calls=rng.choice((20_000, 20_000, 3)),
        limits=rng.choice((Limits(), TINY)),
        seed=seed,
        start=start,
        **policy(rng),
    )
    for _ in range(rng.randint(2, 12)):
        place_call(player, rng, start)
    for _ in range(rng.choice((0, 0, 3))):
        player.at(start + rng.uniform(0, 20), partial(report_load, player, rng))
    if rng.random() < 0.1:
        player.at(start + rng.uniform(0, 60), partial(stop, player))
    player.run(LATEST)
    return player


# ---- What must hold


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH), ids=lambda first: f"seed_from_{first}")
def test_nothing_is_left_and_every_answer_is_honest(first: int) -> None:
    for seed in range(first, first + BATCH):
        try:
            player = play(seed)
            for call in player.calls:
                assert_in_order(call, player)
            assert_counted_once(player)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.timeout(400)  # it plays all seeds
def test_the_timelines_cover_every_kind_of_end() -> None:
    """Every kind of end of a call and of an attempt occurs; otherwise the timelines above prove nothing."""
    calls = [call for seed in range(SEEDS) for call in play(seed).calls]
    errors = {call.record.error for call in calls}
    assert errors >= {"", "client_left", "endpoints_failed", "endpoints_busy", "overloaded", "deadline_exceeded"}
    assert errors >= {"stream_broken", "model_not_found", "stopping", "queue_full", "queue_timeout"}
    attempts = [attempt for call in calls for attempt in call.record.attempts]
    assert {attempt.verdict for attempt in attempts} == set(Verdict)
    by_simulated = {a.verdict for a in attempts if isinstance(a.endpoint, Endpoint) and a.endpoint.simulated}
    assert by_simulated >= {Verdict.SERVED, Verdict.REFUSED, Verdict.ABANDONED}
    assert {attempt.role for attempt in attempts} == {"first", "hedge", "retry", "rescue"}
    assert any(call.done for call in calls if any(attempt.role == "rescue" for attempt in call.record.attempts))
    assert any(call.aborted_at for call in calls)
    assert any(call.pinged_at and call.record.error == "" for call in calls)


def assert_in_order(call: ScriptedClient, player: Player) -> None:
    """Assert that the record of a call is possible, and agrees with its wires."""
    record = call.record
    roles = [attempt.role for attempt in record.attempts]
    assert "first" not in roles[1:]
    assert roles[:1] in ([], ["first"])
    assert len(roles) <= 6
    assert sum(attempt.verdict is Verdict.SERVED for attempt in record.attempts) <= 1
    for attempt in record.attempts:
        assert attempt.ended is not None
        assert outcome_of(attempt).reason != "no first token in time" or attempt.ended > attempt.began, (
            "abandoned before it ran"
        )
    had_tokens = [attempt.endpoint.name for attempt in record.attempts if attempt.first_token_at is not None]
    rescued = "rescue" in roles
    assert had_tokens[-1:] == ([record.endpoint] if record.first_token is not None else [])
    assert rescued or len(had_tokens) <= 1
    if record.endpoint not in player.scripted:
        return
    if rescued and call.ended_at is not None and not record.error and player.route().resume != "continue":
        assert call.text in [text_of(wire.sent) for wire in player[record.endpoint].wires]
    elif call.ended_at is not None and call.status == 200 and not record.error and not call.pinged_at:
        sent = [wire.sent for wire in player[record.endpoint].wires]
        sent += [renamed(data, DIALECTS["zhipu"].finishes) for data in sent]
        assert any(data.startswith(call.body.rstrip()) or b"{garbage" in data for data in sent)


def text_of(sent: bytes) -> str:
    """The text of an endpoint's stream."""
    scanner = Scanner(limit=len(sent))
    stream = scanner.feed(sent) + scanner.finish()
    shapes = [json.loads(data) for event in split(stream) if (data := data_of(event)) and data != b"[DONE]"]
    choices = [choice for shape in shapes if isinstance(shape, dict) for choice in shape.get("choices") or ()]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def assert_counted_once(player: Player) -> None:
    assert player.metric("calls_total") == len(player.calls)
    assert player.metric("attempts_total") == sum(len(call.record.attempts) for call in player.calls)
    assert player.metric("calls_in_flight") == 0
    assert player.metric("attempts_in_flight") == 0
    assert player.metric("attempts_waiting") == 0
