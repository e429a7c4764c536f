"""The output of `firsttoken serve`: a full disk, or a pipe that nobody reads, neither delays nor ends the router."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.processes import FIRSTTOKEN, await_that, environment, free_port

Files = dict[str, int]


@contextlib.contextmanager
def unusable(kind: str) -> Iterator[int]:
    """A file that takes no byte: a full disk, a pipe that is full, or a pipe without a reader."""
    if kind == "full disk":
        file = os.open("/dev/full", os.O_WRONLY)
        yield file
        os.close(file)
        return
    reader, writer = os.pipe()
    if kind == "full pipe":
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        yield writer
        os.close(reader)
    else:
        os.close(reader)
        yield writer
    os.close(writer)


def start(folder: Path, files: Files, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [FIRSTTOKEN, "serve", *arguments],
        cwd=folder,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        stdout=files.get("stdout", subprocess.DEVNULL),
        stderr=files.get("stderr", subprocess.DEVNULL),
    )


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


KINDS = ["full disk", "full pipe", "no reader"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["stderr", "both"])
def test_the_router_serves_and_stops_whatever_happens_to_its_output(tmp_path: Path, kind: str, which: str) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    names = ["stdout", "stderr"] if which == "both" else [which]
    with unusable(kind) as file:
        files = dict.fromkeys(names, file)
        # FIRSTTOKEN_PROT is no setting, so the start has a warning to write.
        process = start(tmp_path, files, "--example", f"--port={port}", FIRSTTOKEN_ACCESS_LOG="1", FIRSTTOKEN_PROT="1")
        try:
            await_that(lambda: process.poll() is not None or is_up(url), within=20)
            body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
            for _ in range(3):
                answer = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False)
                assert answer.status_code == 200
            if kind != "full pipe":  # of which lines are lost only once many wait
                page = httpx.get(f"{url}/metrics", trust_env=False).text
                for name, log in (("stderr", "standard error"), ("stdout", "access log")):
                    lost = re.search(rf'lost_log_lines_total{{log="{log}"}} (\S+)', page)
                    assert lost
                    assert (float(lost[1]) > 0.0) is (name in names)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0
        finally:
            process.kill()
            process.wait()


REFUSED: list[tuple[list[str], dict[str, str], int]] = [
    (["--config", "nowhere.yaml"], {}, 2),
    (["--no-such-option"], {}, 2),
    (["--example"], {"FIRSTTOKEN_PORT": "many"}, 2),
    (["--example", "--host", "203.0.113.7"], {}, 2),  # without keys
    (["--example", "--host", "203.0.113.7", "--allow-open"], {}, 3),  # not this machine's
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_start_ends_with_its_status_although_its_message_is_lost(tmp_path: Path, kind: str) -> None:
    with unusable(kind) as file, contextlib.ExitStack() as stack:
        processes = []
        for arguments, settings, _ in REFUSED:
            processes.append(start(tmp_path, {"stderr": file}, *arguments, **settings))
            stack.callback(processes[-1].kill)
        assert [process.wait(timeout=30) for process in processes] == [status for *_, status in REFUSED]


def test_a_start_with_its_output_closed_serves(tmp_path: Path) -> None:
    """The files are closed as by `2>&- >&-` in a shell."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = f'exec "{FIRSTTOKEN}" serve --example --port={port} >&- 2>&-'
    process = subprocess.Popen(
        ["sh", "-c", command], cwd=tmp_path, env=environment(FIRSTTOKEN_ACCESS_LOG="1"), stdin=subprocess.DEVNULL
    )
    try:
        await_that(lambda: process.poll() is not None or is_up(url), within=20)
        process.terminate()
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.wait()
