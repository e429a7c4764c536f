"""`firsttoken explain` with a running router, without one, and with servers that are not routers."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from router.cli import main
from router.core.choice.hedge_delay import BASE_PRICE
from tests.processes import HI, Router, router, run

KEY = "sesame"
CONFIG = {
    "keys": [KEY],
    "endpoints": [
        {"name": "quick", "kind": "simulated", "models": ["chat"], "simulate": {"first_token": 0.01, "rate": 1000}},
        {"name": "slow", "kind": "simulated", "models": ["chat"], "tier": 2},
    ],
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    with router(tmp_path_factory.mktemp("router"), CONFIG) as running:
        with running.sdk(api_key=KEY) as sdk:
            sdk.chat.completions.create(model="chat", messages=HI)
            for _ in sdk.chat.completions.create(model="chat", messages=HI, stream=True):
                pass
        yield running


def explain(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments], env=environment)


def refused(*arguments: str, **environment: str) -> str:
    """The error message of a command that ends with status 2."""
    result = explain(*arguments, **environment)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


def test_explain_prints_a_table_and_the_reasons(there: Router) -> None:
    result = explain("chat", "--size", "2000", "--url", there.origin, "--key", KEY)
    assert result.exit_code == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0] == "chat: a streaming call with a prompt of 2000 tokens, now"
    (quick,) = (line for line in lines if line.startswith("→"))
    assert quick.split()[:3] == ["→", "quick", "1"]
    (slow,) = (line.split() for line in lines if line.startswith("slow "))
    assert slow[:7] == ["slow", "2", "1.000", "1.000", "–", "–", "–"]
    assert "slow: simulated, not measured yet" in lines
    costs = f"An extra attempt costs {BASE_PRICE:.2f} expected waits of the hedge target; the budgets can pay for 3."
    assert any(line.startswith(costs) for line in lines)
    assert lines[-1].startswith("quick: ")
    assert " expected, the only available endpoint of its tier; slow (tier 2) costs 1.0 s; " in lines[-1]


@pytest.mark.parametrize("columns", [80, 60, 20])
def test_a_narrow_window_omits_columns_but_no_names(there: Router, columns: int) -> None:
    asked = ("chat", "--url", there.origin, "--key", KEY)
    lines = explain(*asked, FORCE_COLOR="1", COLUMNS=str(columns)).stdout.splitlines()
    assert any("→" in line and "quick" in line for line in lines)
    (headings,) = (line for line in lines if "endpoint" in line and "running" in line)
    assert "…" not in headings
    assert ("expected" in headings) == (columns == 80)


def test_json_prints_the_answer_unchanged(there: Router) -> None:
    result = explain("chat", "--json", "--url", f"{there.origin}/", "--key", KEY)
    assert json.loads(result.stdout)["picked"] == "quick"


def test_host_port_and_key_can_come_from_the_environment(there: Router, tmp_path: Path) -> None:
    settings = {"FIRSTTOKEN_PORT": str(there.address[1]), "FIRSTTOKEN_KEY": KEY}
    result = run(tmp_path, "explain", "chat", "--json", **settings)  # as a process of its own, like an operator's
    assert json.loads(result.stdout)["picked"] == "quick", result.stderr
    assert run(tmp_path, "explain", "chat", "--json", FIRSTTOKEN_HOST="0.0.0.0", **settings).returncode == 0


def test_a_missing_or_unknown_key_is_reported(there: Router) -> None:
    message = refused("chat", "--url", there.origin)
    assert "A client key is needed" in message
    assert message.endswith("Pass one with --key or FIRSTTOKEN_KEY.\n")
    assert "The client key is not one of this router's keys." in refused("chat", "--url", there.origin, "--key", "no")


@pytest.mark.parametrize("key", ["schlüssel", "a\nb"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(there: Router, key: str) -> None:
    message = refused("chat", "--url", there.origin, "--key", key)
    assert "no header can carry" in message
    assert key not in message


def test_the_address_for_clients_is_refused_with_a_hint(there: Router) -> None:
    assert "without /v1" in refused("chat", "--url", f"{there.origin}/v1", "--key", KEY)


def test_an_unknown_model_is_refused_with_the_known_ones(there: Router) -> None:
    message = refused("chta", "--url", there.origin, "--key", KEY)
    assert "The model 'chta' is not served here. Did you mean 'chat'? Served: chat." in message


@pytest.mark.parametrize(
    ("host", "there"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")]
)
def test_a_router_that_does_not_run_is_reported(host: str, there: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        message = refused("chat", FIRSTTOKEN_HOST=host, FIRSTTOKEN_PORT=str(port))
    assert message.startswith(f"No router answers at http://{there}:{port} (")
    assert message.endswith("Start it, or pass its address with --url.\n")


def test_port_zero_needs_the_url_option() -> None:
    assert (
        refused("chat", FIRSTTOKEN_PORT="0")
        == "FIRSTTOKEN_PORT is 0, which selects any free port: pass the router's address with --url.\n"
    )


@pytest.mark.parametrize("url", ["here", "ftp://here", "http://", "http://[::1", "http://a b:c"])
def test_an_invalid_address_is_reported(url: str) -> None:
    assert refused("chat", "--url", url).startswith(f"{url} is not an address such as http://127.0.0.1:8080: ")


@contextmanager
def another(status: int, body: bytes) -> Iterator[str]:
    """A server that is not a router and always answers the same."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


UNKNOWN = b'{"error":{"message":"There is nothing at /admin/explain.","type":"","param":null,"code":"unknown_url"}}'


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"<html>It works!</html>", "answers, but not with an explanation. Is that the address of firsttoken"),
        (200, b"[]", "answers, but not with an explanation. Is that the address of firsttoken"),
        (404, b"Not found", "answers with status 404 and no error message. Is that the address of firsttoken"),
        (404, UNKNOWN, "has no /admin/explain. Is that the address of firsttoken, and of this version?"),
    ],
)
def test_a_server_that_is_not_a_router_is_reported(status: int, body: bytes, message: str) -> None:
    with another(status, body) as url:
        assert refused("chat", "--url", url).startswith(f"{url} {message}")


def test_a_server_that_does_not_speak_http_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        message = refused("chat", "--url", f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert " did not answer (" in message


def test_the_help_explains_the_marks() -> None:
    result = CliRunner().invoke(main, ["explain", "--help"])
    assert all(mark in result.output for mark in ("→", "≈", "×", "FIRSTTOKEN_KEY"))
