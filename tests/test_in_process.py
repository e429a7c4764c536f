"""The in-process benchmark: calls are whole and counted, figures are printed, and a wrong checkout is refused."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from pathlib import Path

import pytest

from tests.bench.drive import EVENTS, FLIGHT, READS, TEXT, Calls, Clock, Upstream, loop_with
from tests.bench.in_process import ROOT, Failure, main, table, total

CALLS = 200


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_whole_and_counted(stream: bool) -> None:
    asked = deque[Upstream]()
    calls = Calls(stream, Clock(), asked)

    async def drive() -> None:
        await calls.start(endpoints=3)
        await calls.warm_up(endpoints=3, calls=CALLS, pause=0.0)
        await calls.checked(CALLS)
        await calls.stop()

    with asyncio.Runner(loop_factory=loop_with(asked)) as runner:
        runner.run(drive())
    read = b"".join(b"".join(client.read) for client in calls.clients)
    assert len(calls.clients) == FLIGHT["stream" if stream else "plain"]
    assert read.count(b"HTTP/1.1 200 OK\r\n") == CALLS
    assert read.count(TEXT) == CALLS * (EVENTS if stream else 1)
    assert len(calls.answer) == (READS if stream else 1)


def test_an_answer_that_is_not_whole_is_an_error() -> None:
    asked = deque[Upstream]()
    calls = Calls(False, Clock(), asked)
    calls.answer = [calls.answer[0].replace(TEXT, b"y" * len(TEXT))]

    async def drive() -> None:
        await calls.start(endpoints=1)
        try:
            with pytest.raises(RuntimeError, match="an answer is not whole"):
                await calls.checked(10)
        finally:
            await calls.stop()

    with asyncio.Runner(loop_factory=loop_with(asked)) as runner:
        runner.run(drive())


def test_two_checkouts_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--no-callgrind", "--only", "decision", "--rounds", "2", "--calls", "20"]
    assert main([*short, "--against", str(ROOT), "--json", str(tmp_path / "result.json")]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:4] == ["decision", "–", "–", "–"]
    assert all(float(figure) > 0.0 for figure in row[4:])
    results = json.loads((tmp_path / "result.json").read_text())
    assert [len(taken) for taken in results["rounds"]["decision"].values()] == [2, 2]


def test_the_table_has_instructions_and_times_with_their_ratios() -> None:
    results = {
        "trees": {"this": "/a", "against": "/b"},
        "instructions": {"plain": {"this": 300_000.0, "against": 400_000.0}},
        "microseconds": {"plain": {"this": 30.0, "against": 50.0}},
        "microseconds_ratio": {"plain": 0.61},
    }
    *_, titles, row = table(results).splitlines()
    assert titles.split() == ["this", "against", "ratio"] * 2
    assert row.split() == ["plain", "300,000", "400,000", "0.7500", "30.0", "50.0", "0.610"]
    alone = {
        "trees": {"this": "/a"},
        "instructions": {"plain": {"this": 300_000.0}},
        "microseconds": {"plain": {"this": 30.0}},
        "microseconds_ratio": {},
    }
    assert table(alone).splitlines()[-1].split() == ["plain", "300,000", "30.0"]


def test_a_profile_that_callgrind_did_not_finish_is_an_error(tmp_path: Path) -> None:
    profile = tmp_path / "17"
    profile.write_text("version: 1\nevents: Ir\n\ntotals: 1234\n")
    assert total(profile) == 1234
    profile.write_text("version: 1\n")
    with pytest.raises(Failure, match="has no total"):
        total(profile)


def test_a_directory_that_is_not_a_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--against", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"{tmp_path} is not a checkout of firsttoken: it has no router/app.py" in capsys.readouterr().err


def test_without_valgrind_only_thread_time_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main(["--only", "decision", "--rounds", "1", "--calls", "5"]) == 0
    output = capsys.readouterr()
    assert "valgrind is not installed" in output.err
    assert output.out.splitlines()[-1].split()[:2] == ["decision", "–"]


def test_a_worker_that_fails_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "__init__.py").touch()
    (tmp_path / "router" / "app.py").write_text("raise SystemExit(3)\n")
    assert main(["--against", str(tmp_path), "--no-callgrind", "--only", "decision", "--rounds", "1"]) == 1
    assert f"The worker for {tmp_path} failed with status 3" in capsys.readouterr().err
