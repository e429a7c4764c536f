"""The driver sends each call at its time and measures from it; its client distinguishes whole and broken answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from loadtest.latency.client import Answer, Client, Connection, Target
from loadtest.latency.driver import Drive, Driven, Row, drive, prompt
from loadtest.latency.routers import Router
from loadtest.latency.run import Order, outcome
from loadtest.processes import free_ports
from tests.loadtest import fleets
from tests.loadtest.stands import SPEED, calls, endpoint, run_story, standing, url

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunked(*events: bytes) -> bytes:
    body = b"".join(events)
    return STREAM + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def plain(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


# ---- The driver


def rows(count: int) -> list[Row]:
    return [(call.k, call.at, call.tokens, call.generated, call.plain) for call in calls(count)]


async def driven(fakes_url: str, epoch: float, count: int = 20, limit: float = 120.0) -> list[Driven]:
    return await drive(Drive(fakes_url, epoch, SPEED, rows(count), limit))


def test_every_call_is_answered_and_measured_from_its_scheduled_arrival() -> None:
    async def story() -> None:
        async with standing(endpoint()) as fakes:
            assert fakes.clock.epoch is not None
            answers = await driven(url(fakes), fakes.clock.epoch)
            assert [answer.k for answer in answers] == list(range(20))
            for answer in answers:
                assert (answer.status, answer.error, answer.text) == (200, None, "alpha")
                assert answer.first_token is not None
                assert 0 <= answer.late <= answer.first_token - 0.5
                assert answer.ended > answer.first_token
            assert sorted((each["k"], each["became"]) for each in fakes.log()) == [(k, "served") for k in range(20)]

    run_story(story)


def test_of_a_plain_answer_the_time_of_its_first_token_is_reported() -> None:
    async def story() -> None:
        async with standing(endpoint(first_token=5)) as fakes:
            assert fakes.clock.epoch is not None
            (row,) = rows(1)
            plan = Drive(url(fakes), fakes.clock.epoch, SPEED, [(*row[:4], True)])
            (answer,) = await drive(plan)
            assert answer.error is None
            order = Order(fleets.fleet(fleets.endpoint("alpha")), [], 1, SPEED, Router())
            call = replace(calls(1)[0], plain=True)
            whole, reported = answer.first_token, outcome(order, call, answer)
            assert whole is not None
            assert reported.endpoint == "alpha"
            assert reported.first_token == pytest.approx(whole - call.generated / 40)
            assert (reported.first_token or 0.0) >= 5

    run_story(story)


def test_a_late_driver_reports_its_lateness_and_the_times_include_it() -> None:
    async def story() -> None:
        async with standing(endpoint()) as fakes:
            answers = await driven(url(fakes), fakes.clock.loop.time() - 10 / SPEED, count=1)
            assert answers[0].late >= 10
            assert answers[0].first_token is not None
            assert answers[0].first_token >= 10.5

    run_story(story)


def test_a_slow_answer_delays_no_later_call() -> None:
    async def story() -> None:
        async with standing(endpoint(slots=1, first_token=5)) as fakes:
            assert fakes.clock.epoch is not None
            await driven(url(fakes), fakes.clock.epoch, count=4)
            assert [each["at"] < 5 for each in fakes.log()] == [True] * 4

    run_story(story)


def test_an_answer_that_is_not_whole_within_the_limit_is_an_error() -> None:
    async def story() -> None:
        async with standing(endpoint(silent=[{}])) as fakes:
            (answer,) = await driven(url(fakes), fakes.clock.loop.time(), count=1, limit=2)
            assert (answer.first_token, answer.error) == (None, "no end within 0.04 s")

    run_story(story)


def test_a_server_that_does_not_listen_is_an_error() -> None:
    async def story() -> None:
        (port,) = free_ports(1)
        (answer,) = await driven(f"http://127.0.0.1:{port}/v1", asyncio.get_running_loop().time(), count=1)
        assert answer.error is not None
        assert answer.error.startswith("no connection")

    run_story(story)


@pytest.mark.parametrize("tokens", [1, 10, 1000])
def test_a_prompt_has_about_four_bytes_per_token(tokens: int) -> None:
    assert prompt(17, tokens).startswith("call 17 ")
    assert abs(len(prompt(17, tokens)) - 4 * tokens) <= 8


# ---- Answers, as the driver's client reads them


async def answered(*answers: bytes, cut: bool = False, pieces: int = 1 << 16) -> list[Answer]:
    """Send one question per answer; the server sends the answers in pieces of `pieces` bytes, and with `cut` no end."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            received = left.pop(0)
            for start in range(0, len(received), pieces):
                writer.write(received[start : start + pieces])
                await asyncio.sleep(0)
            if cut:
                break
        await reader.read() if not cut else None
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        client = Client(Target.of(f"127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        got = [await one(client) for _ in answers]
        assert client.opened == 1
        client.close()
    return got


async def one(client: Client) -> Answer:
    over: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    client.ask(client.target.request({"model": "m"}), 5.0, over.set_result)
    return await over


@pytest.mark.parametrize("pieces", [1, 7, 1 << 16])
def test_the_first_token_is_the_first_event_with_content_however_it_is_cut(pieces: int) -> None:
    async def story() -> None:
        (answer,) = await answered(chunked(b": wait\n\n", ROLE, TOKEN, TOKEN, DONE), pieces=pieces)
        assert (answer.ok, answer.text, answer.tokens, answer.status) == (True, "Hi", 2, 200)
        assert answer.first is not None

    run_story(story)


def test_a_connection_is_kept_for_the_next_question() -> None:
    async def story() -> None:
        whole = b'{"choices":[{"message":{"content":"Hi"}}]}'
        answers = await answered(chunked(TOKEN, DONE), plain(whole), chunked(TOKEN, DONE))
        assert [(answer.ok, answer.text) for answer in answers] == [(True, "Hi")] * 3

    run_story(story)


def test_an_idle_connection_is_closed_and_the_next_question_opens_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.latency.client.IDLE_FOR", (0.0, 0.01))
    lost = Connection.connection_lost

    async def story() -> None:
        closed = asyncio.Event()

        def lost_and_noted(connection: Connection, exc: Exception | None) -> None:
            lost(connection, exc)
            closed.set()

        monkeypatch.setattr(Connection, "connection_lost", lost_and_noted)
        async with standing(endpoint()) as fakes:
            client = Client(Target.of(url(fakes)))
            for opened in (1, 2):
                assert (await one(client)).ok
                assert client.opened == opened
                await closed.wait()
                closed.clear()
                assert not client.connections

    run_story(story)


@pytest.mark.parametrize(
    ("received", "error"),
    [
        (chunked(TOKEN), "the stream ended without [DONE]"),
        (chunked(TOKEN, b'data: {"error":{"message":"it broke"}}\n\n'), "it broke"),
        (plain(b'{"error":{"message":"too many"}}', 429), "429: too many"),
        (plain(b"<html>", 502), "502: <html>"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(received: bytes, error: str) -> None:
    async def story() -> None:
        (answer,) = await answered(received)
        assert (answer.ok, answer.error) == (False, error)

    run_story(story)


def test_a_connection_that_breaks_is_an_error() -> None:
    async def story() -> None:
        (answer,) = await answered(STREAM + b"5\r\n", cut=True)
        assert (answer.ok, answer.error) == (False, "the connection broke: closed")

    run_story(story)


@pytest.mark.parametrize("url", ["https://127.0.0.1", "http://", "ftp://x"])
def test_only_plain_http_is_supported(url: str) -> None:
    with pytest.raises(ValueError, match="not an http:// URL"):
        Target.of(url)
