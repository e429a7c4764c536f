"""Warnings about endpoints.yaml and the environment: each with file, line and key, and none with a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from router import advice
from router.config import load_with_places, parse_with_places
from router.settings import Settings

TOP = Path(__file__).resolve().parent.parent
KEY = "sk-0123456789abcdef"


def warn(text: str, settings: Settings | None = None, environ: Mapping[str, str] = {}, **more: str) -> list[str]:
    environ = {**environ, **more}
    config, places = parse_with_places(dedent(text), "f.yaml", environ)
    return advice.warnings(config, places, settings or Settings(), environ)


def about(lines: str, **environ: str) -> list[str]:
    """The warnings about an endpoint with these lines, which begin on line 3; without file and endpoint."""
    rows = lines.splitlines()
    if not any(row.startswith("base_url") for row in rows):
        rows.append("base_url: http://127.0.0.1:1/v1")
    if not any(row.startswith("models") for row in rows):
        rows.append("models: chat")
    found = warn("endpoints:\n- name: a\n" + "".join(f"  {row}\n" for row in rows), environ=environ)
    places = [re.match(r"f\.yaml:[3-9]: endpoints\[0\] \(a\)\.", warning) for warning in found]
    assert all(places), found
    return [warning[place.end() :] for warning, place in zip(found, places, strict=True) if place]


def one(found: list[str], key: str, *words: str) -> None:
    """Assert that there is exactly one warning: about a key, with these words."""
    assert len(found) == 1, found
    assert found[0].startswith(f"{key}: "), found
    assert all(word in found[0] for word in words), found


def test_the_shipped_file_and_the_example_of_the_docs_have_no_warnings() -> None:
    environ = {"ZHIPU_API_KEY": KEY, "FALLBACK_API_KEY": KEY, "ROUTER_KEY": KEY}
    config, places = load_with_places(TOP / "endpoints.yaml", environ)
    assert advice.warnings(config, places, Settings(), environ) == []
    text = (TOP / "docs" / "endpoints.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert warn(text, environ=environ) == []


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("$OPENAI_API_KEY", "${NAME}"),
        ("$openai_key", "${NAME}"),
        ("$(OPENAI_API_KEY)", "${NAME}"),
        ("'%OPENAI_API_KEY%'", "${NAME}"),
        ("'{{ OPENAI_API_KEY }}'", "${NAME}"),
        ("Bearer $OPENAI_API_KEY", "${NAME}"),
        ("os.environ/OPENAI_API_KEY", "${NAME}"),
        ("process.env.OPENAI_API_KEY", "${NAME}"),
        ("env:OPENAI_API_KEY", "${NAME}"),
        (f"Bearer {KEY}", "the router adds"),
        (f"bearer {KEY}", "the router adds"),
        (f"""'"{KEY}"'""", "quotes"),
        (f'''"'{KEY}'"''', "quotes"),
        (f"""'{KEY}"'""", "quotes"),
        ("sk-01 23", "blanks"),
        ("<your key>", "placeholder"),
        ("sk-xxxx", "placeholder"),
        ("your-api-key", "placeholder"),
        ("changeme", "placeholder"),
    ],
)
def test_a_key_that_is_no_key_is_noticed(written: str, words: str) -> None:
    found = about(f"api_key: {written}")
    assert found[0].startswith("api_key: ")
    assert words in found[0]
    assert KEY not in "".join(found)
    assert "OPENAI" not in "".join(found)
    if not written.lower().startswith("bearer"):
        assert (
            any("headers.X-Key" in warning for warning in about(f"headers: {{X-Key: {written}}}")) or "blanks" in words
        )
    client = warn(f"endpoints: [{{name: s, kind: simulated, models: c}}]\nkeys: [{KEY}a, {written}]")
    assert "blanks" in words or client[0].startswith("f.yaml:2: keys[1]: ")


def test_a_key_from_the_environment_is_read_like_any_other() -> None:
    one(about("api_key: ${K}", K=f'"{KEY}"'), "api_key", "quotes", "env-file")
    assert about("api_key: ${K}", K=KEY) == []
    assert about("api_key: ${K}", K=f"{KEY}\n") == []
    assert about("api_key: 'EMPTY'") == []


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("['$MODEL']", "${NAME}"),
        ("{chat: os.environ/MODEL}", "${NAME}"),
        (r'{chat: "glm\n"}', "line end"),
        ("{chat: 'glm '}", "blank"),
        ("""{chat: '"glm"'}""", "quotes"),
    ],
)
def test_a_model_name_that_is_none_is_noticed(models: str, words: str) -> None:
    found = about(f"models: {models}")
    assert len(found) == 1
    assert found[0].startswith("models")
    assert words in found[0]


def test_a_parameter_that_is_a_variable_is_noticed() -> None:
    one(about("params: {force: {user: $USER}}"), "params.force.user", "${NAME}")


@pytest.mark.parametrize(
    ("kind", "url", "words"),
    [
        ("openai", "http://gpu:8000", "http://gpu:8000/v1"),
        ("openai", "https://api.example.com/", "https://api.example.com/v1"),
        ("vllm", "http://127.0.0.1:8000", "/v1"),
        ("sglang", "http://127.0.0.1:8000", "/v1"),
        ("zhipu", "https://open.bigmodel.cn", "/api/paas/v4"),
    ],
)
def test_an_address_without_a_path_is_noticed(kind: str, url: str, words: str) -> None:
    one(about(f"kind: {kind}\nbase_url: {url}"), "base_url", "no path", words)


@pytest.mark.parametrize("host", ["api.example.com", "8.8.8.8", "[2600::1]", "openai.com."])
def test_a_key_that_goes_unencrypted_to_a_public_host_is_noticed(host: str) -> None:
    one(about(f"base_url: http://{host}/v1\napi_key: ${{K}}", K=KEY), "base_url", "unencrypted", "https://")
    one(about(f"base_url: http://{host}/v1\nheaders: {{Authorization: '${{K}}'}}", K=KEY), "base_url", "unencrypted")
    assert about(f"base_url: https://{host}/v1\napi_key: ${{K}}", K=KEY) == []
    assert about(f"base_url: http://{host}/v1") == []


@pytest.mark.parametrize(
    "host", [
        "127.0.0.1", "localhost", "gpu", "gpu.local", "10.0.0.7", "192.168.1.2", "[::1]", "[fd00::1]", "172.17.0.1",
        "vllm.models.svc.cluster.local", "vllm.models.svc", "host.docker.internal", "100.64.0.1",
    ],
)  # fmt: skip
def test_a_key_may_go_unencrypted_to_a_host_of_ones_own(host: str) -> None:
    assert about(f"base_url: http://{host}/v1\napi_key: ${{K}}", K=KEY) == []


TWICE = """
endpoints:
- {{name: a, base_url: "http://gpu:80/v1", models: {{chat: m}}, api_key: "${{A}}"}}
- {{name: b, base_url: "{url}", models: {{chat: {model}}}, api_key: "${{{key}}}", {more}}}
"""


@pytest.mark.parametrize(
    ("url", "model", "key", "more", "same"),
    [
        ("http://gpu:80/v1", "m", "A", "", True),
        ("http://GPU/v1/", "m", "A", "tier: 2", True),
        ("http://gpu/v1", "n", "A", "", False),
        ("http://gpu/v1", "m", "B", "", False),
        ("http://gpu:81/v1", "m", "A", "", False),
        ("http://gpu/v2", "m", "A", "", False),
        ("http://gpu/v1", "m", "A", "headers: {x-pool: b}", False),
        ("http://gpu/v1", "m", "A", "enabled: false", False),
    ],
)
def test_the_same_endpoint_twice_is_noticed(url: str, model: str, key: str, more: str, same: bool) -> None:
    found = warn(TWICE.format(url=url, model=model, key=key, more=more), A=KEY, B="another")
    assert len(found) == same
    assert all("f.yaml:4: endpoints[1] (b): " in w and "endpoints[0] (a)" in w for w in found)


ONE = 'endpoints: [{name: a, base_url: "http://h/v1", models: chat%s}]\n'


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (ONE % ", hedge: 500", "f.yaml:1: endpoints[0] (a).hedge: ", "500ms"),
        (ONE % "" + "defaults: {hedge: 500}", "f.yaml:2: defaults.hedge: ", "500ms"),
        (ONE % "" + "models: {chat: {hedge: 2000}}", "f.yaml:2: models.chat.hedge: ", "2000ms"),
        (ONE % "" + "defaults: {deadline: 120000}", "f.yaml:2: defaults.deadline: ", "120000ms"),
        (ONE % "" + "defaults: {stall: 30000}", "f.yaml:2: defaults.stall: ", "30000ms"),
        (ONE % ", hedge: 90s, deadline: 60s", "f.yaml:1: endpoints[0] (a).hedge: ", "never start"),
        (ONE % ", deadline: 2s" + "defaults: {hedge: 5s}", "f.yaml:1: endpoints[0] (a).deadline: ", "never start"),
        (ONE % "" + "defaults: {hedge: 5s, deadline: 5s}", "f.yaml:2: defaults.hedge: ", "never start"),
        (
            ONE % "" + "defaults: {hedge: 5s}\nmodels: {chat: {deadline: 3}}",
            "f.yaml:3: models.chat.deadline: ",
            "never",
        ),
    ],
)
def test_times_that_were_most_likely_not_meant_are_noticed(text: str, place: str, words: str) -> None:
    (found,) = warn(text)
    assert found.startswith(place)
    assert words in found


@pytest.mark.parametrize("more", [", hedge: 500ms", ", hedge: off", ", hedge: auto", ", hedge: 2, deadline: 60"])
def test_ordinary_times_are_not_noticed(more: str) -> None:
    assert warn(ONE % more) == []


def test_short_client_keys_are_noticed_with_their_place() -> None:
    text = ONE % "" + "keys: ['${NONE:-}', short, 0123456789abcdef, '${K}']"
    found = warn(text, K="secret")
    assert [warning.split(": ")[0:2] for warning in found] == [["f.yaml:2", "keys[1]"], ["f.yaml:2", "keys[3]"]]
    assert not any("short," in warning or "secret" in warning for warning in found)


def test_origins_without_keys_are_noticed() -> None:
    (found,) = warn(ONE % "" + "cors: https://app.test")
    assert found.startswith("f.yaml:2: cors: has no effect without `keys`")
    assert warn(ONE % "" + f"cors: https://app.test\nkeys: ['{KEY}']") == []
    assert warn(ONE % "" + "cors: http://localhost:3000") == []


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("FIRSTTOKEN_PROT", "1", "did you mean FIRSTTOKEN_PORT?"),
        ("FIRSTTOKEN_MAXBODY", "1", "did you mean FIRSTTOKEN_MAX_BODY?"),
        ("firsttoken_loglevel", "1", "did you mean FIRSTTOKEN_LOG_LEVEL?"),
        ("FIRSTTOKEN_ZZZ", "hush", "serve --help"),
    ],
)
def test_a_variable_that_is_no_setting_is_noticed(name: str, value: str, meant: str) -> None:
    (found,) = warn(ONE % "", environ={name: value})
    assert found.startswith(f"{name}: no such setting; ")
    assert meant in found
    assert "hush" not in found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FIRSTTOKEN_PORT", "9000"),
        ("firsttoken_port", "9000"),
        ("FIRSTTOKEN_KEY", "k"),
        ("FIRSTTOKEN_SERVICE_HOST", "10.0.0.1"),
        ("FIRSTTOKEN_SERVICE_PORT_HTTP", "8080"),
        ("FIRSTTOKEN_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("FIRSTTOKEN_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("FIRSTTOKEN_CANARY_SERVICE_HOST", "10.0.0.1"),
        ("FIRSTTOKEN_CANARY_PORT", "tcp://10.0.0.1:8080"),
        ("FIRSTTOKEN_CANARY_PORT_8080_TCP_PROTO", "tcp"),
        ("FIRST_TOKEN", "x"),
    ],
)
def test_settings_and_the_variables_of_kubernetes_are_not_noticed(name: str, value: str) -> None:
    assert warn(ONE % "", environ={name: value}) == []


def test_a_variable_that_the_file_refers_to_is_not_noticed() -> None:
    assert warn(ONE % ', api_key: "${FIRSTTOKEN_OPENAI}"', FIRSTTOKEN_OPENAI=KEY) == []


@pytest.mark.parametrize(
    ("url", "host", "itself"),
    [
        ("http://127.0.0.1:8080/v1", "127.0.0.1", True),
        ("http://localhost:8080/v1", "127.0.0.1", True),
        ("http://127.0.0.2:8080/v1", "0.0.0.0", True),
        ("http://0.0.0.0:8080/v1", "0.0.0.0", True),
        ("http://[::1]:8080/v1", "::", True),
        ("http://10.0.0.7:8080/v1", "10.0.0.7", True),
        ("http://127.0.0.1:8081/v1", "127.0.0.1", False),
        ("http://10.0.0.8:8080/v1", "10.0.0.7", False),
        ("http://127.0.0.1:8080/v1", "10.0.0.7", False),
        ("https://127.0.0.1:8080/v1", "127.0.0.1", False),
    ],
)
def test_a_router_that_points_at_itself_is_noticed(url: str, host: str, itself: bool) -> None:
    text = f'endpoints: [{{name: a, base_url: "{url}", models: chat}}]'
    found = warn(text, Settings(host=host, port=8080))
    assert ["router's own address" in warning for warning in found] == [True] * itself


def test_literal_keys_in_a_file_that_all_can_read_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.yaml"
    for text, mode, noticed in (
        (ONE % f", api_key: {KEY}", 0o666, "endpoints[0] (a).api_key: "),
        (ONE % f", api_key: {KEY}", 0o644, "endpoints[0] (a).api_key: "),
        (ONE % "" + f"keys: [{KEY}]", 0o644, "keys[0]: "),
        (ONE % f", headers: {{X-Api-Key: {KEY}}}", 0o644, "endpoints[0] (a).headers.X-Api-Key: "),
        (ONE % f", api_key: {KEY}", 0o600, ""),
        (ONE % f", api_key: {KEY}", 0o640, ""),
        (ONE % ', api_key: "${K}"' + "keys: ['${K}', '${NONE:-}']", 0o644, ""),
    ):
        file.write_text(text)
        file.chmod(mode)
        config, places = load_with_places(file, {"K": KEY})
        found = advice.warnings(config, places, Settings(), {})
        assert [noticed in warning and "every user" in warning for warning in found] == [True] * bool(noticed)
        assert KEY not in "".join(found)


def test_names_that_differ_only_in_case_are_noticed() -> None:
    found = warn("""\
        endpoints:
        - {name: gpu, base_url: "http://h/v1", models: [chat]}
        - {name: GPU, base_url: "http://i/v1", models: [Chat]}
    """)
    assert [warning.split(":")[1] for warning in found] == ["3", "3"]
    assert all("case" in warning for warning in found)


def test_two_authorizations_of_one_endpoint_are_noticed() -> None:
    one(about("api_key: ${K}\nheaders: {authorization: '${K}'}", K=KEY), "headers.authorization", "api_key")


def test_that_a_proxy_is_ignored_is_said_at_the_start_only() -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        environ = {name: "http://u:hush@proxy.test:3128"}
        config, places = parse_with_places(ONE % "", "f.yaml", environ)
        (note,) = advice.environment_notes(config, environ)
        assert note.startswith(f"{name.upper()}: ignored")
        assert "hush" not in note
        assert advice.warnings(config, places, Settings(), environ) == []
    local, _ = parse_with_places((ONE % "").replace("//h/", "//127.0.0.1/"))
    assert advice.environment_notes(local, {"HTTPS_PROXY": "x"}) == []
    assert advice.environment_notes(config, {}) == []
