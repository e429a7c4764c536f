"""The programs in C of `loadtest.cost` compile without a warning, and count whole and broken answers correctly."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "loadtest" / "cost"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc"), reason="the load tools need Linux and gcc"
)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    flags = ["-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    for name in ("endpoint", "client"):
        subprocess.run(["gcc", *flags, "-o", str(folder / name), str(SOURCES / f"{name}.c"), "-lm"], check=True)
    return folder


@pytest.fixture
def endpoint(tools: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(tools / "endpoint"), "--port", str(port), "--events", "5", "--gap-us", "20000", "--first-ms", "3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        wait_until_open(port)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def wait_until_open(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail("the endpoint does not listen")


def ask(tools: Path, port: int, **options: object) -> dict[str, Any]:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [str(tools / "client"), "--port", str(port), *words]
    answer: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, timeout=30, check=True).stdout)
    return answer


def stop(process: subprocess.Popen[str]) -> dict[str, Any]:
    process.terminate()
    counts: dict[str, Any] = json.loads(process.communicate(timeout=10)[0])
    return counts


def test_every_whole_stream_is_counted_on_both_sides(tools: Path, endpoint: tuple[subprocess.Popen[str], int]) -> None:
    process, port = endpoint
    answer = ask(tools, port, requests=30, clients=4, events=5)
    assert (answer["ok"], answer["bad"], answer["broken"]) == (30, 0, 0)
    assert answer["connects"] == 4
    assert 3 <= answer["first_token_ms"]["p50"] < answer["total_ms"]["p50"]
    assert answer["total_ms"]["p50"] >= 3 + 5 * 20
    counts = stop(process)
    assert (counts["opened"], counts["served"], counts["live"], counts["abandoned"]) == (30, 30, 0, 0)


def test_a_stream_that_lacks_an_event_is_broken(tools: Path, endpoint: tuple[subprocess.Popen[str], int]) -> None:
    answer = ask(tools, endpoint[1], requests=3, clients=1, events=6)
    assert (answer["ok"], answer["broken"], answer["incomplete"]) == (0, 3, 3)


def test_streams_that_are_cut_are_lost(tools: Path, endpoint: tuple[subprocess.Popen[str], int]) -> None:
    process, port = endpoint
    command = [str(tools / "client"), "--port", str(port), "--hold", "10", "--ramp", "0.01", "--events", "5"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE)
    time.sleep(0.06)  # a stream takes 103 ms
    process.kill()
    answer = json.loads(client.communicate(timeout=20)[0])
    assert answer["ok"] + answer["broken"] == 10
    assert answer["hold"]["lost"] == answer["broken"] > 0


def test_held_streams_are_open_together_and_none_is_lost(
    tools: Path, endpoint: tuple[subprocess.Popen[str], int]
) -> None:
    process, port = endpoint
    answer = ask(tools, port, hold=40, ramp=0.005, events=5, pids=process.pid)
    assert (answer["ok"], answer["hold"]["lost"]) == (40, 0)
    assert answer["hold"]["open_at_once"] == 40


def test_the_open_loop_sends_requests_at_its_rate(tools: Path, endpoint: tuple[subprocess.Popen[str], int]) -> None:
    answer = ask(tools, endpoint[1], rate=200, clients=64, stream=0, seconds=1, **{"warm-up": 0.1})
    assert (answer["bad"], answer["broken"], answer["unsent"]) == (0, 0, 0)
    assert 130 <= answer["ok"] <= 270  # 200 ± 5 standard deviations


def test_calibration_runs_end_to_end(tmp_path: Path) -> None:
    command = [str(ROOT / "scripts" / "bench"), "--only", "calibration", "--seconds", "0.2"]
    result = tmp_path / "result.json"
    subprocess.run([*command, "--json", str(result)], check=True, timeout=60, stdout=subprocess.DEVNULL)
    for answer in json.loads(result.read_text())["calibration"].values():
        assert answer["ok"] > 0
        assert (answer["bad"], answer["broken"]) == (0, 0)
