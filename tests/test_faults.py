"""The fake endpoint has its faults on the wire, the judge applies its rules, and the router passes the sixteen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from loadtest.__main__ import main
from loadtest.faults import report, run
from loadtest.faults.ailments import FAULTS
from loadtest.faults.answers import answer_to, tokens_of
from loadtest.faults.cases import CASES, FALLBACK, MODELS, PRIMARY, Case
from loadtest.faults.clients import Client, client
from loadtest.faults.fake import Entry, Fake
from loadtest.faults.judge import Observed, Outcome, Verdict
from router import config

ROOT = Path(__file__).resolve().parent.parent
SPEED = 5.0
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
WHOLE = answer_to(ASKED)
CASE = {case.name: case for case in CASES}

# ---- The endpoint's faults, byte by byte


Ask = Callable[..., Awaitable[tuple[str, str]]]


@contextlib.asynccontextmanager
async def endpoint(speed: float = 100.0, **options: Any) -> AsyncIterator[tuple[Fake, Ask]]:
    """A fake endpoint, and a function that calls it and returns the bytes received and the end of the connection."""
    async with Fake(speed=speed, **options).serving() as fake:

        async def ask(model: str, path: str = "/v1/chat/completions", **more: Any) -> tuple[str, str]:
            reader, writer = await asyncio.open_connection("127.0.0.1", fake.port)
            body = json.dumps({"model": model, "messages": ASKED, "stream": True, **more}).encode()
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path.encode(), len(body)) + body
            )
            received = bytearray()
            try:
                async with asyncio.timeout(5):
                    while not whole(received):
                        data = await reader.read(65536)
                        if not data:
                            return received.decode(), "closed"
                        received += data
            except ConnectionResetError:
                return received.decode(), "reset"
            finally:
                writer.close()
            return received.decode(), "kept"

        yield fake, ask


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # the fake's state has no event to wait for
            await asyncio.sleep(0.001)


def whole(received: bytearray) -> bool:
    head, found, rest = bytes(received).partition(b"\r\n\r\n")
    if b"chunked" in head:
        return rest.endswith(b"\r\n0\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(found) and len(rest) == int(length)


def text_of(received: str) -> str:
    """The text of a stream's events."""
    events = [line[6:] for line in received.splitlines() if line.startswith('data: {"id"') and line.endswith("}")]
    chunks = [json.loads(event) for event in events]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


ENDINGS = {  # status, number of words, presence of [DONE], end of the connection
    "healthy": (200, 60, True, "kept"),
    "busy": (429, 0, False, "kept"),
    "overloaded": (503, 0, False, "kept"),
    "reset-once": (None, 0, False, "reset"),
    "silent": (None, 0, False, "closed"),
    "late": (200, 60, True, "kept"),
    "cut": (200, 40, False, "closed"),
    "stall": (200, 20, False, "closed"),
    "garbage": (200, 60, True, "kept"),
    "no-done": (200, 60, False, "kept"),
    "too-long": (400, 0, False, "kept"),
    "policy": (400, 0, False, "kept"),
    "error-event": (200, 40, False, "kept"),
    "reset-midway": (200, 40, False, "reset"),
    "short": (200, 40, False, "kept"),
    "empty": (200, 0, False, "kept"),
}


@pytest.mark.parametrize("fault", ENDINGS)
def test_a_fault_is_on_the_wire_as_described(fault: str) -> None:
    async def story() -> None:
        async with endpoint() as (fake, ask):
            status, words, done, ending = ENDINGS[fault]
            received, ended = await ask(fault)
            assert (received.partition(" ")[2][:3] or None) == (status and str(status))
            assert (text_of(received), ended) == ("".join(tokens_of(WHOLE)[:words]), ending)
            assert ("data: [DONE]" in received) is done
            (entry,) = fake.seen(fault)
            assert entry.ended is not None
            assert entry.served is (words == 60)

    asyncio.run(story())


@pytest.mark.parametrize("fault", [name for name, fault in FAULTS.items() if fault.times])
def test_a_fault_that_occurs_once_serves_the_second_try(fault: str) -> None:
    async def story() -> None:
        async with endpoint() as (fake, ask):
            assert text_of((await ask(fault))[0]) == ""
            assert text_of((await ask(fault))[0]) == WHOLE
            assert [entry.attempt for entry in fake.seen(fault)] == [1, 2]

    asyncio.run(story())


def test_a_retry_after_is_divided_by_the_speed_like_all_waits() -> None:
    async def story() -> None:
        async with endpoint(speed=10) as (_, ask):
            assert "\r\nretry-after: 0.2\r\n" in (await ask("busy-once"))[0]

    asyncio.run(story())


def test_an_endpoint_that_was_down_is_healthy_after_its_time_and_down_again_after_a_reset() -> None:
    async def story() -> None:
        async with endpoint(speed=300) as (fake, ask):  # down for 0.2 s
            assert " 503 " in (await ask("down"))[0]
            await asyncio.sleep(60 / 300)
            assert text_of((await ask("down"))[0]) == WHOLE
            await ask("", path="/control/reset")
            assert fake.log == []
            assert " 503 " in (await ask("down"))[0]

    asyncio.run(story())


def test_a_control_call_chooses_the_fault_and_another_reads_the_log() -> None:
    async def story() -> None:
        async with endpoint() as (_, ask):
            await ask("some-model", path="/control/fault", fault="policy")
            assert "content_policy_violation" in (await ask("a-provider/some-model"))[0]
            assert "no fault is called 'nonsense'" in (await ask("m", path="/control/fault", fault="nonsense"))[0]
            log = json.loads((await ask("", path="/control/log"))[0].partition("\r\n\r\n")[2])["log"]
            assert [(entry["model"], entry["became"]) for entry in log] == [
                ("some-model", "400 content_policy_violation")
            ]
            await ask("some-model", path="/control/fault", fault=None)
            assert text_of((await ask("some-model"))[0]) == WHOLE

    asyncio.run(story())


def test_a_client_that_leaves_is_in_the_log() -> None:
    async def story() -> None:
        async with endpoint(speed=1) as (fake, _):
            body = json.dumps({"model": "silent", "messages": ASKED}).encode()
            _, writer = await asyncio.open_connection("127.0.0.1", fake.port)
            writer.write(b"POST /chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await until(lambda: fake.log)
            writer.close()
            await until(lambda: fake.log[0].ended is not None)
            assert fake.log[0].became == "no byte sent, and its client left"

    asyncio.run(story())


def test_the_same_prompt_has_the_same_answer_unless_the_voice_differs() -> None:
    assert len(tokens_of(WHOLE)) == 60
    assert answer_to([*ASKED, {"role": "assistant", "content": "begun"}]) == WHOLE
    assert answer_to([{"role": "user", "content": "Ho"}]) != WHOLE
    assert answer_to(ASKED, "another") != WHOLE


def test_a_prefilled_answer_is_continued_unless_prefills_are_refused() -> None:
    async def story() -> None:
        begun = "".join(tokens_of(WHOLE)[:25])
        messages = [*ASKED, {"role": "assistant", "content": begun}]
        async with endpoint() as (_, ask):
            assert begun + text_of((await ask("healthy", messages=messages))[0]) == WHOLE
            assert text_of((await ask("no-prefill"))[0]) == WHOLE
            assert "invalid_prefill" in (await ask("no-prefill", messages=messages))[0]

    asyncio.run(story())


def test_usage_is_in_a_chunk_of_its_own_if_it_was_requested() -> None:
    async def story() -> None:
        async with endpoint() as (_, ask):
            received, _ = await ask("healthy", stream_options={"include_usage": True})
            assert '"usage": {"prompt_tokens": 5, "completion_tokens": 60, "total_tokens": 65}' in received
            assert '"usage"' not in (await ask("healthy"))[0]
            assert json.loads((await ask("healthy", stream=False))[0].partition("\r\n\r\n")[2])["usage"]

    asyncio.run(story())


# ---- The judge

ANSWER = Outcome("answer", 1.0, WHOLE, model="primary/m", usage={"total_tokens": 65})
FROM_FALLBACK = replace(ANSWER, model="fallback/m")
ERROR = Outcome("error", 1.0, "", "it broke")
SHORT = replace(ANSWER, text="only four words here")


def tried(*times: float, became: str = "503", prompt: int = 9) -> list[Entry]:
    return [
        Entry(time, "x", "m", number + 1, True, False, prompt, "", became, time, became.startswith("200"))
        for number, time in enumerate(times)
    ]


def verdict(
    case: str,
    *asked: Outcome,
    primary: list[Entry] | None = None,
    fallback: list[Entry] | None = None,
    has_fallback: bool = True,
    alive: Outcome | None = ANSWER,
) -> Verdict:
    seen = Observed(
        asked or (ANSWER,),
        tried(0) if primary is None else primary,
        fallback or [],
        frozenset([WHOLE]),
        has_fallback,
        alive,
    )
    return CASE[case].judge(seen)


def test_for_every_case_nothing_within_the_limit_is_a_fail() -> None:
    for case in CASES:
        assert verdict(case.name, Outcome("hang", case.limit)).word == "fail"


def test_for_every_case_that_needs_an_answer_a_short_one_as_if_whole_is_a_fail() -> None:
    for case in CASES:
        if case.ideal == "answer":
            assert verdict(case.name, SHORT).why == "a short or changed answer as if whole (4 words)"


def test_a_case_in_which_the_primary_was_never_tried_is_a_fail() -> None:
    for case in CASES:
        assert verdict(case.name, primary=[]).word == "fail"


@pytest.mark.parametrize("case", ["S03", "S05", "S08", "S14", "S16"])
def test_a_clean_error_is_safe_and_no_more(case: str) -> None:
    assert verdict(case, ERROR).word == "safe"


def test_s01_needs_a_second_try_after_the_two_seconds() -> None:
    assert verdict("S01", primary=tried(0, 2.0)).word == "pass"
    assert verdict("S01", primary=tried(0, 0.5)).word == "partial"  # too early
    assert verdict("S01", primary=tried(0)).word == "partial"  # failed over
    assert verdict("S01", primary=tried(0, 0.5, 1.0)).word == "fail"  # a tight loop


def test_s02_allows_four_tries_in_three_seconds_and_six_in_all() -> None:
    assert verdict("S02", primary=tried(0, 1, 2, 2.9, 3, 4)).word == "pass"
    assert verdict("S02", primary=tried(0, 1, 2, 2.5, 2.9)).word == "fail"
    assert verdict("S02", primary=tried(0, 1, 2, 4, 5, 6, 7)).word == "fail"


def test_s03_needs_a_second_try_at_the_primary() -> None:
    assert verdict("S03", primary=tried(0, 1)).word == "pass"
    assert verdict("S03", primary=tried(0)).word == "partial"


@pytest.mark.parametrize("case", ["S04", "S16"])
def test_a_dead_endpoint_is_tried_at_most_six_times(case: str) -> None:
    assert verdict(case, primary=tried(*range(6))).word == "pass"
    assert verdict(case, primary=tried(*range(7))).word == "fail"


def test_s06_allows_one_try_at_the_silent_endpoint_and_100_s() -> None:
    assert verdict("S06").word == "pass"
    assert verdict("S06", primary=tried(0, 30)).word == "partial"
    assert verdict("S06", replace(ANSWER, seconds=101.0)).word == "fail"


def test_s07_needs_an_answer_within_15_s_if_there_is_a_fallback() -> None:
    slow = replace(ANSWER, seconds=21.0)
    assert verdict("S07", slow).word == "partial"
    assert verdict("S07", slow, has_fallback=False).word == "pass"


def test_s09_needs_an_end_within_45_s_and_health_afterwards() -> None:
    assert verdict("S09").word == "pass"
    assert verdict("S09", replace(ERROR, seconds=46.0)).word == "fail"
    assert verdict("S09", alive=ERROR).why == "not healthy afterwards"


def test_s10_is_safe_with_an_error_only_if_healthy_afterwards() -> None:
    assert verdict("S10", ERROR).word == "safe"
    assert verdict("S10", ERROR, alive=ERROR).word == "fail"


def test_s11_needs_an_end_within_8_s_and_the_usage() -> None:
    assert verdict("S11", replace(ANSWER, seconds=9.0)).word == "fail"
    assert verdict("S11", replace(ANSWER, usage=None)).word == "partial"


def test_s12_allows_no_second_try_with_an_equally_long_prompt() -> None:
    assert verdict("S12").word == "pass"
    assert verdict("S12", primary=tried(0, 1)).word == "fail"
    assert verdict("S12", primary=tried(0) + tried(1, prompt=5)).word == "pass"  # a client that made it shorter


def test_s13_needs_the_refusal_and_its_reason() -> None:
    refused = replace(ERROR, code="content_policy_violation")
    assert verdict("S13", refused) == Verdict("pass", "")
    assert verdict("S13", ERROR).word == "partial"
    assert verdict("S13", ANSWER).why == "the refusal was bypassed"
    assert verdict("S13", refused, primary=tried(0, 1)).word == "fail"
    assert verdict("S13", refused, fallback=tried(1)) == Verdict("pass", "", ["the fallback spared"])


def test_s14_fails_if_a_refused_prefill_ends_the_call() -> None:
    refused = tried(1, became="400 invalid_prefill")
    assert verdict("S14", ERROR, fallback=refused).word == "fail"
    assert verdict("S14", fallback=refused).word == "pass"


def row(*kinds: Outcome) -> list[Outcome]:
    return [replace(kind, sent_at=4.0 * number) for number, kind in enumerate(kinds)]


def test_s15_needs_every_request_served_and_the_primary_back_within_30_s() -> None:
    all_served, back = row(*[ANSWER] * 20), tried(0, 20, 40) + tried(70, became="200")
    assert verdict("S15", *all_served, primary=back) == Verdict("pass", "")
    assert verdict("S15", *row(ANSWER, ERROR, *[ANSWER] * 18), primary=back).word == "fail"
    assert verdict("S15", *all_served, primary=tried(0, 20, 40)).word == "fail"
    assert verdict("S15", *all_served, primary=tried(0) + tried(91, became="200")).word == "fail"
    assert verdict("S15", *row(*[ERROR] * 15, *[ANSWER] * 5), primary=back, has_fallback=False).word == "safe"
    assert verdict("S15", *all_served, primary=tried(*range(16)) + back).notes != []


def test_s16_needs_the_model_and_the_usage_of_the_answering_endpoint() -> None:
    there = tried(1, became="200")
    assert verdict("S16", FROM_FALLBACK, fallback=there).word == "pass"
    assert verdict("S16", ANSWER, fallback=there).word == "fail"
    assert verdict("S16", replace(FROM_FALLBACK, usage=None), fallback=there).word == "partial"


# ---- A run


def test_a_case_in_which_the_primary_was_not_tried_is_run_again() -> None:
    """A router may avoid the primary for a while after an earlier case."""

    class Wary:
        def __init__(self, first: Client, later: Client) -> None:
            self.first, self.later, self.asked = first, later, 0

        async def ask(self, model: str, messages: list[dict[str, Any]], *, stream: bool) -> Outcome:
            self.asked += stream
            return await (self.first if stream and self.asked == 1 else self.later).ask(model, messages, stream=stream)

    async def story() -> None:
        async with (
            Fake("primary", PRIMARY, 100).serving() as primary,
            Fake("fallback", FALLBACK, 100).serving() as fallback,
            client("raw", primary.base_url, 5) as at_primary,
            client("raw", fallback.base_url, 5) as at_fallback,
        ):
            stand = run.Stand(primary, fallback, Wary(at_fallback, at_primary), 100, has_fallback=True)
            (result,) = await run.run_cases(stand, run.Plan(cases=[CASE["S11"]], speed=100), lambda _: None)
            assert (len(result.seen.primary), len(result.seen.fallback)) == (1, 0)

    asyncio.run(story())


# ---- The router

CLIENTS = ["raw", "openai-python", "openai-node"]
NODE = shutil.which("node") is not None and (ROOT / "tests/node/node_modules/openai").is_dir()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, run.Result]]:
    """Results of all sixteen, with each client and its own router at the same time: a run is mostly waiting."""

    async def run_all() -> list[list[run.Result]]:
        plans = [
            run.Plan(client=client, command=run.firsttoken(), speed=SPEED, at_once=True)
            for client in CLIENTS
            if NODE or client != "openai-node"
        ]
        return await asyncio.gather(*(run.run(plan, tmp_path_factory.mktemp(plan.client)) for plan in plans))

    return {
        client: {result.case.name: result for result in results}
        for client, results in zip(CLIENTS, asyncio.run(run_all()), strict=False)
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("client", CLIENTS)
def test_the_router_passes(results: dict[str, dict[str, run.Result]], client: str, case: Case) -> None:
    if client not in results:
        pytest.skip("node and the Node SDK are not installed: npm --prefix tests/node ci")
    result = results[client][case.name]
    assert (result.verdict.word, result.verdict.why) == (
        "pass",
        "",
    ), (report.client_got(result), result.seen)


@pytest.mark.parametrize("client", ["raw", "openai-python"])
def test_the_router_also_rescues_from_faults_beyond_the_sixteen(tmp_path: Path, client: str) -> None:
    more = ["error-event", "reset-midway", "short", "empty"]
    cases = [Case(case.name, fault, "the whole answer", 30) for case, fault in zip(CASES, more, strict=False)]
    plan = run.Plan(client=client, command=run.firsttoken(), speed=SPEED, cases=cases)
    results = asyncio.run(run.run(plan, tmp_path))
    assert [(result.case.fault, report.client_got(result)[:16]) for result in results] == [
        (fault, "the whole answer") for fault in more
    ]


def test_a_broken_stream_ends_with_an_error_if_the_endpoints_answers_differ(tmp_path: Path) -> None:
    plan = run.Plan(
        client="openai-python",
        command=run.firsttoken(),
        speed=SPEED,
        cases=[CASE["S08"], CASE["S14"]],
        voices=("", "another"),
    )
    for result in asyncio.run(run.run(plan, tmp_path)):
        assert result.verdict.word == "safe"
        assert tokens_of(result.seen.outcome.text) == tokens_of(answer_to(run.MESSAGES))[:40]


# ---- The command


def options(command: click.Command) -> list[str]:
    return [parameter.opts[0] for parameter in command.params if isinstance(parameter, click.Option)]


def loadtest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_one_case_with_the_sdk_alone_is_a_table_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "seen.json"
    options = ["--alone", "--client", "openai-python", "--only", "S08,S13", "--speed", "10", "--json", str(file)]
    done = loadtest("faults", *options)
    assert (done.returncode, done.stderr) == (1, "")  # not all pass
    assert "40 words, then an error" in done.stdout
    assert "1 pass, 0 partial, 1 safe, 0 fail" in done.stdout
    cases = json.loads(file.read_text())["cases"]
    assert "| S13 | 400 content_policy_violation | **pass**: an error: " in loadtest("beside", f"alone={file}").stdout
    assert {case["case"]: case["verdict"] for case in cases} == {"S08": "safe", "S13": "pass"}
    assert cases[0]["primary"][0]["became"] == "200, 40 tokens, then cut"


@pytest.mark.parametrize("speed", ["1", "10"])
def test_the_printed_configuration_is_valid(tmp_path: Path, speed: str) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text(loadtest("faults", "--print-config", "--speed", speed).stdout)
    loaded = config.load(file, {})
    assert [list(each.models) for each in loaded.endpoints] == [MODELS, MODELS]
    assert [each.tier for each in loaded.endpoints] == [1, 2]


def test_a_router_without_the_models_is_an_error_that_says_what_to_configure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    done = loadtest("faults", "--target", f"http://127.0.0.1:{port}/v1", "--ports", "0,0")
    assert done.returncode == 1
    assert "does not serve the healthy model 'ok' (ConnectError" in done.stderr
    assert "s01, s02, s03" in done.stderr


@pytest.mark.parametrize(
    "wrong", [[], ["--alone", "--serve"], ["--alone", "--only", "S17"], ["--alone", "--ports", "1"]]
)
def test_a_wrong_command_line_is_an_error(wrong: list[str]) -> None:
    done = loadtest("faults", *wrong)
    assert done.returncode == 2
    assert "Error: " in done.stderr


COMMANDS = ("faults", "beside", "fake")  # the other commands are in docs/latency.md


@pytest.mark.parametrize("option", sorted({option for name in COMMANDS for option in options(main.commands[name])}))
def test_every_option_is_documented(option: str) -> None:
    assert f"`{option}" in (ROOT / "docs" / "faults.md").read_text()


def test_the_fake_endpoint_can_be_served_by_itself() -> None:
    command = [sys.executable, "-m", "loadtest", "fake", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with process.stdout as printed:
            address = printed.readline()
        assert address.startswith("primary on http://127.0.0.1:")
        port = int(address.partition("127.0.0.1:")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
            received = bytearray()
            while not whole(received):
                received += client.recv(65536)
        listed = json.loads(bytes(received).partition(b"\r\n\r\n")[2])["data"]
        assert {model["id"] for model in listed} == set(PRIMARY)
    finally:
        process.kill()
        process.wait()
