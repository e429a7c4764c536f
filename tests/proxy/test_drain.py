"""The drain, step by step in virtual time; and on sockets, for both kinds of client."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from router.core.verdict import Verdict
from router.proxy.drain import Drain
from router.proxy.front import FRESH
from tests.proxy.running import STREAMING, at, get, post, running
from tests.support import Player, ScriptedClient, endpoint
from tests.support.endpoints import SILENT, answers, completion, opens, says, streams
from tests.upstream.servers import ROLE, SSE, chunk, on_uvloop, serving, token

LOOK = 0.125  # seconds; a power of two, so that the sum of many is exact


class Stop:
    """A drain of the player's router that begins at `at` and is polled until it is over, as a server does."""

    def __init__(self, play: Player, at: float, *, limit: float = 120.0, notice: float = 10.0, watched: bool) -> None:
        self.play = play
        self.over_at: float | None = None
        self.drain = Drain(play.handler, play.scheduler.now, limit=limit, notice=notice, watched=lambda: watched)
        play.at(at, self.drain.begin)
        play.at(at, self._look)

    def _look(self) -> None:
        if self.drain.over():
            self.over_at = self.play.scheduler.now()
            self.drain.end()
        else:
            self.play.at(self.play.scheduler.now() + LOOK, self._look)


def answer(call: ScriptedClient) -> tuple[int | None, Any]:
    return call.status, call.error.get("code")


def test_the_drain_lasts_until_the_last_open_call_has_ended() -> None:
    play = Player(endpoint("a", streams("Hel", "lo", first=2.0, gap=1.0)))
    call = play.call()
    stop = Stop(play, 1.0, watched=False)
    play.run()
    assert (call.text, call.whole, call.ended_at) == ("Hello", True, 4.0)
    assert stop.over_at == 4.0


def test_without_open_calls_and_watchers_the_drain_is_over_at_once() -> None:
    play = Player(endpoint("a", SILENT))
    stop = Stop(play, 1.0, watched=False)
    play.run()
    assert stop.over_at == 1.0


def test_calls_are_served_during_the_notice_and_refused_after_it() -> None:
    play = Player(endpoint("a", streams("a long one", first=100.0), streams("Hello")))
    long, during, after = play.call(0.0), play.call(9.0), play.call(20.0)
    stop = Stop(play, 1.0, watched=True)
    play.run()
    assert (during.text, during.whole) == ("Hello", True)
    assert answer(after) == (503, "stopping")
    assert (after.headers["x-should-retry"], after.headers["retry-after-ms"]) == ("true", "500")
    assert (long.text, long.whole, stop.over_at) == ("a long one", True, 100.125)


def test_the_limit_holds_also_if_it_is_shorter_than_the_notice() -> None:
    play = Player(endpoint("a", SILENT))
    call = play.call()
    stop = Stop(play, 1.0, limit=3.0, watched=True)
    play.run()
    assert (call.ended_at, stop.over_at) == (4.0, 4.0)


def test_at_the_limit_every_open_call_gets_its_error() -> None:
    play = Player(
        endpoint("a", SILENT, opens() + says(0.3, "Hel"), SILENT, answers(completion(), 60.0)), hedge="off", deadline=90
    )
    begun, waiting, pinged, plain = play.call(40.0), play.call(40.0), play.call(20.0), play.call(40.0, stream=False)
    Stop(play, 41.0, limit=4.0, watched=False)
    play.run()
    assert {call.ended_at for call in (begun, waiting, pinged, plain)} == {45.0}
    assert (begun.text, begun.done, answer(begun)) == ("Hel", False, (200, "stopping"))
    assert (answer(pinged), pinged.text, pinged.done) == ((200, "stopping"), "", False)
    assert answer(waiting) == answer(plain) == (503, "stopping")
    assert waiting.headers["x-should-retry"] == plain.headers["x-should-retry"] == "true"
    assert {call.record.error for call in play.calls} == {"stopping"}
    assert {line.verdict for call in play.calls for line in call.record.attempts} == {Verdict.ABANDONED}
    assert {wire.closed_at for wire in play["a"].wires} == {45.0}


def test_a_second_signal_ends_the_drain_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    play = Player(endpoint("a", SILENT))
    call = play.call()
    stop = Stop(play, 1.0, watched=True)
    play.at(2.0625, stop.drain.begin)
    play.run()
    assert (answer(call), call.ended_at) == ((503, "stopping"), 2.125)
    assert [record.message for record in caplog.records] == [
        "stopping: 1 calls open, up to 120 s; a second signal ends them now",
        "stopped: 1 calls were ended",
    ]


@pytest.mark.parametrize("http", [None, "httptools", "h11"])
@on_uvloop
async def test_both_kinds_of_client_get_the_same_answers(http: str | None) -> None:
    if http == "h11":
        pytest.importorskip("h11")
    async with serving() as server, running(at(server), http=http) as serves:
        drain = serves.router.drain
        streaming, waiting, idle = [await serves.client() for _ in range(3)]
        assert (await idle.ask(get(b"/healthz"))).headers.get("connection") is None
        streaming.send(post(STREAMING))
        await (await server.accept()).answer(SSE, chunk(ROLE + token("Hello")))
        await streaming.head()
        waiting.send(post(STREAMING))
        await (await server.accept()).request()
        drain.begin()
        if http is None:  # uvicorn's own protocols close it with the server
            serves.expire(FRESH + 1.0)
            assert await idle.left() == b""
        ready = await serves.ask(get(b"/readyz"))
        assert (ready.status, ready.json, ready.headers["connection"]) == (503, {"status": "stopping"}, "close")
        refused = await serves.ask(post(STREAMING))
        assert (refused.status, refused.error["code"], refused.headers["connection"]) == (503, "stopping", "close")
        assert not drain.over()
        drain.end()
        assert drain.over()
        for connection in list(serves.connections):  # as the server does next
            connection.shutdown()
        body = b"".join([piece async for piece in streaming.chunks()])
        assert body.startswith(ROLE + token("Hello") + b'data: {"error":')
        assert b"[DONE]" not in body
        answer = await waiting.answer()
        assert (answer.status, answer.error["code"], answer.headers["connection"]) == (503, "stopping", "close")
        assert await streaming.left() == await waiting.left() == b""
