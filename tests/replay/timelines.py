"""The calls of a replay: timelines of three kinds in turn, each determined by its number.

random     those of `tests/test_leaks.py`: every kind of failure, under random policies and tiers
traffic    calls at endpoints whose waits are learned: arrivals, prompts and waits are drawn from laws
wired      recorded requests and answers as bytes, through both HTTP parsers
"""

from __future__ import annotations

import gzip
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from math import exp
from random import Random
from typing import Any

from router.proxy.intake import Bounds
from router.upstream.exchange import Limits, Request
from tests import test_leaks
from tests.fuzz import corpus
from tests.fuzz.mutations import mutate
from tests.replay.lines import Body, Json, line, of_client, of_router
from tests.replay.wires import END, RESET, Sends, WiredPlayer
from tests.support import EndpointSpec, Player, ScriptedPool, endpoint
from tests.support.endpoints import (
    SILENT,
    Script,
    answers,
    completion,
    error_event,
    event,
    fails_with,
    opens,
    sends,
    streams,
)
from tests.support.player import CHAT, EMBEDDINGS

WALL_CLOCK = 1_795_338_000.0  # of all timelines: 2026-11-22 09:00 UTC, nine hours before the reset in the corpus
FIRST_SEED = 50_000  # beyond those of other tests
# One timeline of traffic has about as many calls as seven random or three wired ones.
KINDS = ("random", "wired", "traffic", "random", "wired", "random", "random", "wired", "random", "random")
DIALECTS = ("openai", "vllm", "sglang", "zhipu")


def replay(calls: int, *, whole: bool = False) -> Iterator[str]:
    """The lines of so many calls, and of the routers of their timelines. `whole`: with all bytes of bodies."""
    body, left = Body(whole=whole), calls
    for number in count():
        if left <= 0:
            return
        kind, seed = KINDS[number % len(KINDS)], FIRST_SEED + number
        name = f"{kind} {seed}"
        with _fixed_time(), _logged() as log:
            player = _PLAYS[kind](seed)
        if isinstance(player, WiredPlayer):
            facts = [client.facts(body) for client in player.clients]
        else:
            facts = [of_client(client, body) for client in player.calls]
        for index, each in enumerate(facts[:left]):
            yield line({"call": f"{name}, call {index}"} | each)
        left -= len(facts)
        yield line({"timeline": name, "log": log} | of_router(player, body) | _requests(player, body))


def _requests(player: Player, body: Body) -> Json:
    """The requests that the endpoints got on the wire."""
    servers = player.servers if isinstance(player, WiredPlayer) else {}
    return {
        "requests": {
            name: [(at, head.decode("latin-1"), body(data)) for at, head, data in server.requests]
            for name, server in servers.items()
        }
    }


@contextmanager
def _fixed_time() -> Iterator[None]:
    """The wall clock stands still: some errors name a date."""
    before, time.time = time.time, lambda: WALL_CLOCK
    try:
        yield
    finally:
        time.time = before


@contextmanager
def _logged() -> Iterator[list[str]]:
    """The messages that the router logs."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    log, handler = logging.getLogger("router"), Keep()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield messages
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


# ---- Traffic


def _traffic(seed: int) -> Player:
    """Many calls at endpoints that are quick, slow, or become slow; hedges follow from what was learned."""
    rng = Random(seed)
    start = rng.choice((0.0, 1e3, 1e6)) * rng.random()
    names = [f"e{number}" for number in range(60)] if rng.random() < 0.2 else "abcde"[: rng.randint(2, 5)]
    specs = [endpoint(name, SILENT, **_settings(rng, name)) for name in names]
    model = {"affinity": rng.choice(("off", "prefix", "header:x-session")), "resume": rng.choice(("auto", "replay"))}
    player = Player(*specs, models={"chat": model}, seed=seed, start=start, hedge=rng.choice(("auto", "auto", 0.8)))
    for name in names:
        player[name].plays_by(_server(rng, player[name]))
    at, rate = start, rng.choice((0.5, 2.0, 20.0))
    for _ in range(rng.choice((20, 40, 60, 150))):
        at += rng.expovariate(rate)
        _ordinary_call(player, rng, at)
    for _ in range(rng.choice((0, 4))):
        player.at(rng.uniform(start, at), partial(test_leaks.report_load, player, rng))
    player.run(test_leaks.LATEST)
    return player


def _settings(rng: Random, name: str) -> dict[str, Any]:
    params = {"default": {"temperature": 0.5}, "force": {"top_p": 0.25, "seed": 7}, "drop": ["user"]}
    return {
        "kind": rng.choice(DIALECTS),
        "tier": rng.choice((1, 1, 1, 2)),
        "weight": rng.choice((1, 1, 0.3)),
        "concurrency": rng.choice((None, None, 4)),
        "models": {"chat": rng.choice(("chat", f"org/model-of-{name}"))},
        "api_key": f"sk-key-of-{name}-0123456789",
        **rng.choice(({}, {}, {"params": params}, {"headers": {"x-team": "blue"}, "return_headers": ["x-served-by"]})),
    }


def _server(rng: Random, pool: ScriptedPool) -> Callable[[Request], Script]:
    """An endpoint with a law of waiting times, which grow with the prompt; it may become slow, or refuse a crowd."""
    median, sigma, stalls = exp(rng.uniform(-2.5, 0.5)), rng.choice((0.1, 0.4, 1.0)), rng.choice((0.0, 0.03, 0.1))
    slope, crowd, slower = rng.choice((0.0, 1e-4)), rng.choice((1000, 1000, 3)), [1.0]

    def plays(request: Request) -> Script:
        if rng.random() < 0.02:
            slower[0] = rng.choice((1.0, 8.0))
        if pool.busy >= crowd:
            return fails_with(429, 0.02, code="rate_limit_exceeded")
        wait = slower[0] * median * exp(rng.gauss(0.0, sigma)) + slope * len(request.body)
        if rng.random() < stalls:
            wait = rng.uniform(8.0, 40.0)
        what = rng.random()
        if what < 0.03:
            code = rng.choice((None, "insufficient_quota", "1308", "1302", "invalid_api_key"))
            status, retry_after = rng.choice((429, 429, 500, 503)), rng.choice((None, 1.5))
            return fails_with(status, wait, retry_after=retry_after, code=code, message="reset at 2026-11-22 18:00:00")
        if what < 0.05:
            return opens(0.0) + sends(wait, event("Half") + event(" of")) + sends(wait + 0.5, error_event())
        if b'"stream": true' not in bytes(request.body):
            return answers(_whole_answer(rng, bytes(request.body)), wait)
        texts = [f"word {number} " for number in range(rng.randint(1, 30))]
        headers = [(b"x-served-by", b"gpu-7"), (b"openai-processing-ms", b"12"), (b"x-request-id", b"their-1")]
        return streams(*texts, first=wait, gap=rng.uniform(0.0, 0.1), usage=(17, len(texts)), headers=headers)

    return plays


def _whole_answer(rng: Random, body: bytes) -> dict[str, Any]:
    """An answer that does not stream, of the operation that the body asks for; some are long."""
    if b'"input"' in body:
        return {
            "object": "list",
            "data": [{"embedding": [rng.random() for _ in range(8)]}],
            "usage": {"prompt_tokens": 9},
        }
    text = "x" * rng.choice((5, 5, 5, 5, 5, 5, 5, 30_000, 30_000, 1_100_000))
    if b'"prompt"' in body:
        return {"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": "length"}]}
    return completion(text, (17, 3))


def _ordinary_call(player: Player, rng: Random, at: float) -> None:
    kind = rng.random()
    words = "word " * int(exp(rng.uniform(0.0, 9.0)))
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": words}]}
    path, stream = CHAT, kind < 0.75
    if kind > 0.9:
        path, fields = EMBEDDINGS, {"input": [words[:2000]] * rng.randint(1, 4)}
    elif kind > 0.8:
        path, fields = "/v1/completions", {"prompt": rng.choice((words, [words[:50]] * 3, [1, 2, 3]))}
    optional = {"max_completion_tokens": 64, "temperature": rng.random(), "n": rng.choice((1, 2, 3)), "user": "u-1"}
    fields |= {key: value for key, value in optional.items() if rng.random() < 0.3}
    if stream and rng.random() < 0.3:
        fields["stream_options"] = {"include_usage": True}
    headers = [(b"user-agent", b"OpenAI/Python 2.8.1"), (b"x-router-debug", b"1"), (b"traceparent", b"00-1-2-01")]
    headers.append((b"x-session", rng.choice((b"one", b"two"))))
    times = {"leaves_at": at + rng.expovariate(1.0)} if rng.random() < 0.06 else {}
    if rng.random() < 0.06:
        times |= {"stops_reading_at": at, "reads_again_at": at + rng.choice((1.0, 30.0, 300.0))}
    body = json.dumps({"model": "chat", "stream": stream} | fields, ensure_ascii=rng.random() < 0.5).encode()
    chosen = [each for each in headers if rng.random() < 0.4]
    player.call(at, path=path, headers=chosen, body=body, took=rng.choice((0.0, 0.01)), **times)


# ---- On the wire

_ANSWERS, _REQUESTS = tuple(corpus.ANSWERS.values()), tuple(corpus.REQUESTS.values())
_GOOD_STREAMS = ("openai", "tools", "zhipu", "vllm", "deepseek", "completions")
_GOOD = (
    *(corpus.ANSWERS[f"stream of {name}"] for name in _GOOD_STREAMS),
    *(corpus.ANSWERS[name] for name in ("completion", "completion, chunked", "completion, kept alive")),
)
_PATHS = (b"/v1/chat/completions", b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings")


def _wired(seed: int) -> WiredPlayer:
    """Recorded requests to endpoints that answer with recordings, some of them changed."""
    rng = Random(seed)
    specs: dict[str, EndpointSpec] = {}
    plays = {}
    for name in "abc"[: rng.randint(2, 3)]:
        settings = _settings(rng, name) | {"kind": rng.choice((*DIALECTS, *DIALECTS, "simulated"))}
        if settings["kind"] == "simulated":
            settings = {key: settings[key] for key in ("kind", "tier", "weight", "models")}
        specs[name] = endpoint(name, **settings)
        plays[name] = _recordings(rng), partial(_likely, rng, rng.choice((1.0, 1.0, 0.7, 0.0)))
    tight = rng.random() < 0.2
    player = WiredPlayer(
        specs,
        plays,
        seed,
        bodies=rng.choice((1 << 30, 1 << 30, 300_000)),
        limits=Limits(event=2000, answer=3000) if tight else Limits(),
        deadline=rng.choice((5, 30)),
        stall=rng.choice((2, 10)),
    )
    bounds = Bounds(body=4096, header=1024) if tight else Bounds(header=8192)
    at = 0.0
    for _ in range(rng.randint(10, 20)):
        at += rng.expovariate(1.0)
        request = _request(rng)
        sent = _in_pieces(rng, request)
        if rng.random() < 0.1:
            sent = [(gap, request) for gap in (0.0, 35.0, 35.0, 1.0)]  # again, once the last one is answered
        client = player.connects(at, sent, bounds)
        if rng.random() < 0.1:
            player.at(at + rng.uniform(0.0, 3.0), client.lose)
        if rng.random() < 0.2:
            player.at(at, client.stops_reading)
            player.at(at + rng.choice((0.5, 5.0, 130.0)), client.reads_again)
    player.play()
    return player


def _likely(rng: Random, probability: float) -> bool:
    return rng.random() < probability


def _recordings(rng: Random) -> Callable[[], Sends]:
    """An endpoint that answers with recordings: good ones, any, or changed ones."""
    weights = rng.choice(((8, 2, 0), (2, 6, 1), (1, 2, 4)))

    def plays() -> Sends:
        which = rng.choices(range(3), weights)[0]
        data = rng.choice(_GOOD if which == 0 else _ANSWERS)
        if which == 2:
            data = mutate(data, rng, _ANSWERS)
        if rng.random() < 0.1:
            return _in_pieces(rng, data[: rng.randint(0, len(data))], end=rng.choice((END, RESET)))
        first = rng.choice((0.0, 0.05, 0.3, 2.0)) * rng.uniform(0.5, 1.5)
        return _in_pieces(rng, data, first, rng.choice((None, None, END, RESET)))

    return plays


def _request(rng: Random) -> bytes:
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(_REQUESTS)
    if kind < 0.25:
        return mutate(rng.choice(_REQUESTS), rng, _REQUESTS)
    body = rng.choice(tuple(corpus.BODIES.values())) if kind < 0.35 else _body(rng)
    path, more = rng.choice(_PATHS), []
    if kind > 0.85:
        coding, pack = rng.choice(((b"gzip", partial(gzip.compress, mtime=0)), (b"deflate", zlib.compress)))
        body = pack(body)
        more.append(b"content-encoding: " + coding)
    headers = [b"x-router-debug: 1", b"x-stainless-timeout: 4", b"openai-beta: a=b", b"origin: http://localhost:3000"]
    headers += [b"cdn-loop: other;v=1, firsttoken;id=0123456789abcdef", b"x-stainless-retry-count: 1"]
    more += [header for header in headers if rng.random() < 0.2]
    request = corpus.asked(body, *more, path=path)
    if rng.random() < 0.1:
        request += corpus.asked(corpus.CHAT, *more, path=path)
    return request if rng.random() < 0.1 else request.replace(b"host: there", b"host: localhost")  # which may debug


def _body(rng: Random) -> bytes:
    """A body as clients send it; one of ten is large, and one of those holds an attachment."""
    text = rng.choice(("Hi", "Grüße 🙂", "word " * 200))
    if rng.random() < 0.1:
        text *= 200_000 // len(text)
    content: Any = text
    if len(text) > 100_000 and rng.random() < 0.5:
        content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBOR" * 40_000}}]
    fields: dict[str, Any] = {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}],
        "prompt": rng.choice((text, [text[:9]] * 2)),
        "input": text,
    }
    optional = {"stream": True, "n": 2, "max_tokens": 64, "temperature": 0.1, "logit_bias": {"50256": -100}}
    fields |= {key: value for key, value in optional.items() if rng.random() < (0.7 if key == "stream" else 0.2)}
    return json.dumps({"model": "chat"} | fields, ensure_ascii=rng.random() < 0.5).encode()


def _in_pieces(rng: Random, data: bytes, first: float = 0.0, end: str | None = None) -> Sends:
    """The data in some pieces, mostly in quick succession."""
    places = sorted({rng.randrange(1, len(data)) for _ in range(rng.choice((0, 0, 1, 3, 12)))}) if len(data) > 1 else []
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    gap = rng.choice((0.0, 0.001, 0.05, 0.3, 4.0))
    sent: list[tuple[float, bytes | str]] = [(first if not i else gap, piece) for i, piece in enumerate(pieces)]
    return sent + ([(gap, end)] if end is not None else [])


_PLAYS: dict[str, Callable[[int], Player]] = {"random": test_leaks.play, "traffic": _traffic, "wired": _wired}
