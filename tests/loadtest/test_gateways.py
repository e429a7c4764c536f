"""The bench's gateways: both builds of the router, peers in environments of their own, and those that do not start."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from loadtest import processes
from loadtest.cost import bench, gateways, interpreter, peers
from loadtest.cost.gateways import Gateway
from loadtest.cost.peers import PEERS, Peer
from loadtest.cost.scenarios import Bench
from loadtest.cost.tools import Endpoints
from loadtest.processes import BenchError, Place, Places, Processes

ENDPOINTS = Endpoints([9001, 9002, 9003], [])
SILENT = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Bench]:
    anywhere = Place.anywhere()
    with Processes(tmp_path) as started:
        yield Bench(1, 1.0, [], 1, 1024, started, Places(anywhere, anywhere, True))


# ---- Gateways that do not start


def test_a_peer_that_ends_at_once_is_left_out_with_its_log(run: Bench) -> None:
    command = f"{shlex.quote(sys.executable)} -c 'raise SystemExit(\"no licence\")'"
    assert run.start_gateway(Gateway("peer", command, peer=True), ENDPOINTS) is None
    assert "no licence" in run.left_out["peer"]
    assert run.processes.running == []


def test_a_gateway_of_the_users_that_ends_at_once_ends_the_run(run: Bench) -> None:
    with pytest.raises(BenchError, match="does not listen"):
        run.start_gateway(Gateway("mine", f"{shlex.quote(sys.executable)} -c pass"), ENDPOINTS)


def test_a_peer_that_listens_and_serves_nothing_is_left_out_and_stopped(
    run: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways, "await_answer", lambda port, place: refuse())
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(SILENT)} {{port}}"
    assert run.start_gateway(Gateway("peer", command, peer=True), ENDPOINTS) is None
    assert run.left_out == {"peer": "serves nothing"}
    assert run.processes.running == []


def refuse() -> None:
    raise BenchError("serves nothing")


@contextmanager
def server(*statuses: str) -> Iterator[int]:
    """A server that answers one request per connection, with each status in turn and then with the last one."""
    left = list(statuses)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    status, body = left[0], b'{"choices":[{}]}'
                    if len(left) > 1:
                        del left[0]
                    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                    connection.sendall(head.encode() + body)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_gateway_is_ready_once_it_has_answered_a_request() -> None:
    with server("503 Service Unavailable", "503 Service Unavailable", "200 OK") as port:
        gateways.await_answer(port, Place.anywhere())


def test_a_gateway_that_only_refuses_requests_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "READY_WITHIN", 0.0)
    with (
        server("503 Service Unavailable") as port,
        pytest.raises(BenchError, match=f"port {port} does not answer requests: status 503"),
    ):
        gateways.await_answer(port, Place.anywhere())


# ---- Commands


def test_every_word_of_a_peers_command_is_filled_in(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/the/bench")
    monkeypatch.setattr(gateways, "await_answer", lambda port, place: None)
    started: list[list[str]] = []

    class Recorded(Processes):
        def start(self, name: str, command: list[str], place: Place, **more: object) -> object:  # type: ignore[override]
            started.append(command)
            assert isinstance(more["env"], dict)
            assert "PYTHONPATH" not in more["env"]
            return None

        def wait_ready(self, *_: object) -> None:
            pass

    for peer in PEERS:
        gateway = Gateway(peer.name, f"bin/{peer.command}", peer=True)
        gateways.start(gateway, ENDPOINTS, Recorded(run.processes.folder), Place.anywhere(), 1024)
    assert len(started) == len(PEERS)
    for command in started:
        assert not any("{" in word for word in command)
    rust = started[-1]
    assert rust[rust.index("--worker-urls") + 1 :][:3] == [f"http://127.0.0.1:{port}" for port in ENDPOINTS.ports]
    assert rust[rust.index("--port") + 1] != rust[rust.index("--prometheus-port") + 1]


def test_envoys_configuration_names_the_endpoints_and_allows_all_streams(tmp_path: Path) -> None:
    text = gateways.write_envoy_conf(tmp_path, 8123, ENDPOINTS).read_text()
    tree = yaml.safe_load(text)["static_resources"]
    (cluster,) = tree["clusters"]
    (locality,) = cluster["load_assignment"]["endpoints"]
    assert [
        one["endpoint"]["address"]["socket_address"]["port_value"] for one in locality["lb_endpoints"]
    ] == ENDPOINTS.ports
    assert tree["listeners"][0]["address"]["socket_address"]["port_value"] == 8123
    assert min(cluster["circuit_breakers"]["thresholds"][0].values()) > 9_000


# ---- The compiled build


def script(folder: Path, text: str) -> Path:
    file = folder / "compile"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "router_command", lambda: "firsttoken serve --port {port}")


@pytest.mark.usefixtures("installed")
def test_the_compiled_gateway_is_the_same_command_with_the_copy_first_on_the_path(tmp_path: Path) -> None:
    compiled = gateways.compiled(script(tmp_path, '[ "$1" = --check ] && echo "/a copy"; exit 0'))
    assert compiled.name == "compiled"
    assert shlex.split(compiled.command) == ["env", "PYTHONPATH=/a copy", *gateways.router().command.split()]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("text", "reason"),
    [("exit 3", "scripts/compile built nothing"), ('[ "$1" != --check ]', "does not fit the sources")],
)
def test_without_a_compiled_copy_the_run_ends(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BenchError, match=reason):
        gateways.compiled(script(tmp_path, text))


def test_a_checkout_that_cannot_compile_says_so(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"this checkout has no scripts/compile"):
        gateways.compiled(tmp_path / "compile")


# ---- Peers


def test_a_peer_is_installed_once_into_a_folder_of_its_own(tmp_path: Path) -> None:
    folders: list[Path] = []

    def install(peer: Peer, folder: Path) -> None:
        folder.mkdir(parents=True)
        folders.append(folder)

    left_out: dict[str, str] = {}
    first = peers.gateways(left_out, tmp_path, install)
    assert peers.gateways(left_out, tmp_path, install) == first
    assert len(set(folders)) == len(folders) == len(PEERS)
    assert [gateway.name for gateway in first] == [peer.name for peer in PEERS]
    assert all(gateway.peer for gateway in first)
    assert all(gateway.command.startswith(f"{folder}/bin/") for gateway, folder in zip(first, folders, strict=True))
    assert left_out == {}


def test_a_peer_that_cannot_be_installed_is_named_with_the_reason_and_tried_again(tmp_path: Path) -> None:
    tries: list[str] = []

    def install(peer: Peer, folder: Path) -> None:
        tries.append(peer.name)
        folder.mkdir(parents=True)
        if peer.name == "envoy":
            raise BenchError("no network")

    for _ in range(2):
        left_out: dict[str, str] = {}
        found = peers.gateways(left_out, tmp_path, install)
        assert left_out == {"envoy": "no network"}
        assert [gateway.name for gateway in found] == [peer.name for peer in PEERS if peer.name != "envoy"]
    assert tries.count("envoy") == 2
    assert len(tries) == len(PEERS) + 1


def test_a_failed_step_of_an_installation_gives_its_last_line() -> None:
    step = "print('collecting'); print('ERROR: no such package'); raise SystemExit(1)"
    with pytest.raises(BenchError, match=r"^not installed: ERROR: no such package$"):
        peers.run([sys.executable, "-c", step])


def test_peers_are_installed_outside_the_projects_environment_and_without_an_index() -> None:
    assert peers.HOME.is_relative_to(processes.ROOT / ".build")
    source = Path(peers.__file__).read_text()
    assert "index" not in source
    assert all("==" in peer.package for peer in PEERS)


# ---- Options


def test_peers_and_a_profile_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.read_options(["--peers", "--profile", "5"])
    assert "--profile loads one gateway only" in capsys.readouterr().err


def test_all_parts_run_by_default_in_their_order() -> None:
    assert bench.read_options([]).only == ("calibration", "a", "b", "c", "d", "e", "f")
    assert bench.read_options(["--only", "f,e,a"]).only == ("a", "e", "f")


# ---- The interpreter


@pytest.mark.parametrize(
    ("arguments", "mapped", "expected"),
    [
        ("'--enable-shared' '--without-ensurepip'", "/usr/lib/libpython3.11.so.1.0", (False, False, True)),
        ("'--enable-optimizations' '--with-lto' '--enable-shared'", "/usr/bin/python3.11", (True, True, False)),
        ("--enable-optimizations --with-lto=thin", "", (True, True, False)),
        ("--with-lto=no", "", (False, False, False)),
        (None, "", (False, False, False)),
    ],
)
def test_the_build_of_an_interpreter_is_read(
    arguments: str | None, mapped: str, expected: tuple[bool, bool, bool]
) -> None:
    build = interpreter.build({"CONFIG_ARGS": arguments}, mapped)
    assert (build["optimizations"], build["lto"], build["shared_library"]) == expected


def test_the_build_is_told_in_one_line() -> None:
    build = {"version": "3.11.2", "compiler": "GCC 12.2.0", "optimizations": True, "lto": True, "shared_library": False}
    assert interpreter.sentence(build) == (
        "Python 3.11.2 (GCC 12.2.0), with --enable-optimizations, with LTO, linked statically"
    )
    unoptimized = {**build, "optimizations": False, "lto": False, "shared_library": True}
    assert interpreter.sentence(unoptimized).endswith(
        "without --enable-optimizations, without LTO, as a shared library"
    )


def test_the_routers_interpreter_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "PYTHON", Path(sys.executable))
    build = interpreter.of_the_router()
    assert build is not None
    assert build["version"] == ".".join(map(str, sys.version_info[:3]))
    monkeypatch.setattr(interpreter, "PYTHON", Path(os.devnull) / "python")
    assert interpreter.of_the_router() is None
