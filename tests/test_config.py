"""endpoints.yaml: valid files and their meaning; invalid ones with the line and message of each problem."""

import json
import math
import re
import resource
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, TypeAdapter, ValidationError

from router import config, values
from router.config import Config, ConfigError, EndpointConfig, Overrides, Params, PolicySettings, Simulate, load, parse
from router.ops import asking
from router.settings import Settings

TOP = Path(__file__).resolve().parent.parent
SHIPPED = TOP / "endpoints.yaml"
DOCS = TOP / "docs" / "endpoints.md"


def read(text: str, **environ: str) -> Config:
    return parse(dedent(text), "f.yaml", environ)


def problems(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read(text, **environ)
    assert str(refused.value) == "\n".join(refused.value.problems)
    return list(refused.value.problems)


def endpoint(lines: str = "", **environ: str) -> EndpointConfig:
    """The endpoint of a valid file, with more lines."""
    return read(around(lines), **environ).endpoints[0]


def refusal(lines: str, **environ: str) -> str:
    """The only problem of an endpoint with these lines, which begin on line 5; without file, line and endpoint."""
    (problem,) = problems(around(lines), **environ)
    place = re.fullmatch(r"f\.yaml:5: endpoints\[0\] \(a\)\.(.*)", problem)
    assert place, problem
    return place[1]


def around(lines: str) -> str:
    keys = {line.partition(":")[0] for line in dedent(lines).splitlines()}
    parts = {"models": "models: [chat]", "base_url": "base_url: http://h/v1"}
    kept = [line if key not in keys else f"# {key}" for key, line in parts.items()]
    rows = ["- name: a", *(f"  {row}" for row in (*kept, *dedent(lines).strip("\n").splitlines()))]
    return "endpoints:\n" + "\n".join(rows) + "\n"


# ---- The shipped files


def test_the_shipped_file_needs_no_environment() -> None:
    shipped = load(SHIPPED, {})
    assert [each.name for each in shipped.endpoints] == [
        "zhipu-flash", "local-vllm", "fallback", "simulated-quick", "simulated-slow",
    ]  # fmt: skip
    assert [each.name for each in shipped.enabled] == ["local-vllm", "simulated-quick", "simulated-slow"]
    assert [each.disabled for each in shipped.endpoints if each.disabled] == [
        "ZHIPU_API_KEY is not set",
        "FALLBACK_API_KEY is not set",
    ]
    assert {name for each in shipped.endpoints for name in each.models} == {"chat"}
    assert shipped.keys == ()
    assert shipped.source == str(SHIPPED)


def test_the_shipped_file_has_the_required_endpoints() -> None:
    keys = {"ZHIPU_API_KEY": "z", "FALLBACK_API_KEY": "f"}
    others = {"FALLBACK_BASE_URL": "https://o.example/v1", "VLLM_MODEL": "m"}
    zhipu, vllm, fallback, quick, slow = load(SHIPPED, keys | others).enabled
    assert (zhipu.kind, zhipu.base_url) == ("zhipu", "https://open.bigmodel.cn/api/paas/v4")
    assert (zhipu.models, zhipu.concurrency, zhipu.tier) == ({"chat": "glm-4-flash-250414"}, 30, 1)
    assert zhipu.params.default == {"temperature": 0.5, "top_p": 0.8, "max_tokens": 2000}
    assert zhipu.params.drop == ("frequency_penalty",)
    assert zhipu.api_key == SecretStr("z")
    assert (vllm.kind, vllm.base_url, vllm.api_key) == ("vllm", "http://127.0.0.1:8000/v1", None)
    assert (vllm.models, vllm.tier) == ({"chat": "m"}, 1)
    assert (fallback.base_url, fallback.models, fallback.tier) == ("https://o.example/v1", {"chat": "gpt-4o-mini"}, 2)
    assert {(each.kind, each.tier) for each in (quick, slow)} == {("simulated", 3)}
    assert quick.simulate.first_token < slow.simulate.first_token
    assert quick.simulate.rate > slow.simulate.rate


def test_the_example_in_the_docs_is_valid() -> None:
    example = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert example
    read_back = parse(example[1], environ={})
    assert [each.name for each in read_back.enabled] == ["gpu-1"]
    assert read_back.endpoints[1].policy.hedge == 2.0


def test_overrides_have_the_keys_of_a_policy_and_set_none_by_default() -> None:
    assert Overrides.model_fields.keys() == PolicySettings.model_fields.keys()
    assert set(Overrides().model_dump().values()) == {None}


# ---- Meaning


def test_the_defaults_of_an_endpoint() -> None:
    default = endpoint()
    assert default == EndpointConfig(name="a", base_url="http://h/v1", models={"chat": "chat"})
    assert (default.kind, default.tier, default.weight, default.concurrency) == ("openai", 1, 1.0, None)
    assert (default.probe.kind, default.probe.interval, default.probe.timeout) == ("auto", 10.0, 5.0)
    pool = default.pool
    assert (pool.min_idle, pool.max, pool.idle, pool.max_age, pool.keepalive) == (2, 200, "auto", 600.0, 60.0)
    assert (default.policy, default.disabled) == (Overrides(), None)


def test_the_defaults_of_a_policy() -> None:
    assert PolicySettings().model_dump() == {
        "deadline": 120.0,
        "hedge": "auto",
        "abandon": 15.0,
        "stall": 30.0,
        "hedge_budget": 0.10,
        "retry_budget": 0.20,
        "patience": 0.0,
        "resume": "auto",
        "queue": 1000,
        "queue_wait": 10.0,
        "affinity": "off",
        "affinity_margin": 0.5,
    }


def test_an_endpoints_setting_precedes_the_models_and_that_the_defaults() -> None:
    all_three = read("""
        defaults: {deadline: 1m, hedge: 3s, stall: 7}
        endpoints:
          - {name: a, base_url: http://h, models: [chat, other], hedge: off}
          - {name: b, base_url: http://h, models: [chat]}
        models:
          chat: {hedge: 1s, deadline: 30s, patience: 250ms}
          other:
    """)
    a, b = all_three.endpoints
    assert a.policy == Overrides(hedge="off")
    assert all_three.policy("chat", a) == PolicySettings(deadline=30.0, hedge="off", stall=7.0, patience=0.25)
    assert all_three.policy("chat", b) == PolicySettings(deadline=30.0, hedge=1.0, stall=7.0, patience=0.25)
    assert all_three.policy("other", a) == PolicySettings(deadline=60.0, hedge="off", stall=7.0)
    assert all_three.policy("unknown", b) == PolicySettings(deadline=60.0, hedge=3.0, stall=7.0)


def test_zero_is_a_setting_of_its_own() -> None:
    zeros = read("""
        endpoints: [{name: a, base_url: http://h, models: [chat], hedge: 0, hedge_budget: 0, retry_budget: 0}]
    """)
    policy = zeros.policy("chat", zeros.endpoints[0])
    assert (policy.hedge, policy.hedge_budget, policy.retry_budget) == (0.0, 0.0, 0.0)


def test_models_may_be_a_mapping_or_a_list_of_names() -> None:
    assert endpoint("models: {chat: glm-4, 'x:7b': y}").models == {"chat": "glm-4", "x:7b": "y"}
    assert endpoint("models: [chat, embed]").models == {"chat": "chat", "embed": "embed"}
    assert endpoint("models: chat").models == {"chat": "chat"}
    assert read(around("models: chat") + "models: {chat: {hedge: off}}").models == {"chat": Overrides(hedge="off")}


def test_a_key_without_a_value_counts_as_absent() -> None:
    empty = read("""
        defaults:
        endpoints:
          - name: a
            base_url: http://h
            api_key:
            models: [chat]
            tier:
            pool: {max: }
            headers:
            hedge:
        models:
        keys:
    """)
    assert empty.endpoints[0] == EndpointConfig(name="a", base_url="http://h", models={"chat": "chat"})
    assert (empty.defaults, empty.models, empty.keys) == (PolicySettings(), {}, ())


def test_values_are_read_by_the_rules_of_yaml_1_2() -> None:
    listed = "a: off, b: yes, c: 1:30, d: 2026-01-01, e: 1_0, f: 010, g: true, h: 1e3, i: ~"
    values = endpoint(f"params: {{default: {{{listed}}}}}")
    assert values.params.default == {
        "a": "off", "b": "yes", "c": "1:30", "d": "2026-01-01", "e": "1_0", "f": 10, "g": True, "h": 1000.0, "i": None,
    }  # fmt: skip
    assert endpoint("probe: {kind: off}").probe.kind == "off"


def test_anchors_and_merges_work_and_own_keys_win() -> None:
    merged = read("""
        endpoints:
          - &one
            name: a
            base_url: http://h
            models: &models {chat: x}
            tier: 2
          - {<<: *one, name: b, models: *models}
          - {<<: [*one, {weight: 3, tier: 7}], name: c}
    """)
    assert [(each.name, each.tier, each.weight, each.models) for each in merged.endpoints] == [
        ("a", 2, 1.0, {"chat": "x"}), ("b", 2, 1.0, {"chat": "x"}), ("c", 2, 3.0, {"chat": "x"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("HTTP://h//", "http://h"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://gpu_1:8000/a/b", "http://gpu_1:8000/a/b"),
    ],
)
def test_only_trailing_slashes_are_removed_from_a_base_url(written: str, expected: str) -> None:
    assert endpoint(f"base_url: '{written}'").base_url == expected


def test_a_simulated_endpoint_has_a_rate_and_no_address() -> None:
    simulated = read("endpoints: [{name: s, kind: simulated, models: [chat], simulate: {first_token: 20ms, rate: 5}}]")
    assert simulated.endpoints[0].simulate == Simulate(first_token=0.02, rate=5.0)
    assert simulated.endpoints[0].base_url is None


def test_authorization_can_be_a_configured_header() -> None:
    headers = endpoint("headers: {Authorization: Token abc, x-y: ' 1 '}").headers
    assert headers == {"authorization": "Token abc", "x-y": "1"}


def test_a_configured_authorization_replaces_the_key_in_probes_too() -> None:
    both = endpoint("api_key: k\nheaders: {Authorization: Token abc}")
    assert asking.headers(both)["authorization"] == "Token abc"


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + around("").encode())
    assert load(file, {}).endpoints[0].name == "a"


# ---- Durations


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("250ms", 0.25), ("5s", 5), ("2m", 120), ("1h", 3600), ("1.5s", 1.5), (".5s", 0.5), ("7", 7), ("0.25", 0.25),
     ("'3'", 3), ("2 m", 120), ("1e-3", 0.001), ("0", 0), ("0ms", 0)],
)  # fmt: skip
def test_durations_have_units_or_are_seconds(written: str, seconds: float) -> None:
    assert endpoint(f"hedge: {written}").policy.hedge == seconds


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_milliseconds_are_rounded_once(number: int) -> None:
    assert values.seconds(f"{number}ms") == number / 1000


@settings(deadline=None)
@given(st.text() | st.booleans() | st.lists(st.integers()) | st.integers() | st.floats() | st.none())
def test_any_value_is_read_as_a_duration_or_refused(value: object) -> None:
    try:
        duration = TypeAdapter(values.Duration).validate_python(value)
    except ValidationError:
        return
    assert 0 <= duration < math.inf
    assert not isinstance(value, bool | list | None)


A_DURATION = "expected a duration such as 250ms, 5s, 2m or a number of seconds"


@pytest.mark.parametrize("written", ["-1", "-1s", "5 parsecs", "1m30s", "5S", "٣s", ".inf", ".nan", "true"])
def test_an_invalid_duration_is_refused(written: str) -> None:
    (refused,) = problems(around(f"hedge: {written}"))
    assert re.match(rf"f.yaml:5: .*\.hedge: given '?{re.escape(written)}'?; expected auto, off or a duration", refused)


@pytest.mark.parametrize("key", ["deadline", "abandon", "stall"])
def test_some_durations_cannot_be_zero(key: str) -> None:
    assert refusal(f"{key}: 0s") == f"{key}: given '0s'; {A_DURATION}, more than 0"


@pytest.mark.parametrize("key", ["probe.interval", "probe.timeout", "pool.max_age", "pool.keepalive"])
def test_durations_in_sections_cannot_be_zero(key: str) -> None:
    section, _, inner = key.partition(".")
    assert refusal(f"{section}: {{{inner}: 0}}") == f"{key}: given 0; {A_DURATION}, more than 0"


def test_patience_and_idle_and_a_simulated_first_token_may_be_zero() -> None:
    zeros = read("""
        defaults: {patience: 0}
        endpoints: [{name: s, kind: simulated, models: [c], simulate: {first_token: 0}, pool: {idle: 0, min_idle: 0}}]
    """)
    assert zeros.endpoints[0].simulate.first_token == 0
    assert zeros.endpoints[0].pool.idle == 0


# ---- The environment


def test_references_are_replaced_in_any_text() -> None:
    read_back = endpoint(
        """
        base_url: ${HOST:-http://x}/v1
        models: {"${CLIENT}": "a-${M}-${M}"}
        headers: {x-who: "${WHO}"}
        """,
        CLIENT="chat", M="7b", WHO="me",
    )  # fmt: skip
    assert (read_back.base_url, read_back.models, read_back.headers) == (
        "http://x/v1",
        {"chat": "a-7b-7b"},
        {"x-who": "me"},
    )


def test_a_default_is_for_unset_and_for_empty_variables() -> None:
    assert [endpoint("tier: ${T:-3}", **environ).tier for environ in ({}, {"T": ""}, {"T": "4"})] == [3, 3, 4]


def test_a_doubled_dollar_escapes_a_reference() -> None:
    assert endpoint("models: {chat: '$${HOME} $$ $x'}").models == {"chat": "${HOME} $$ $x"}


@pytest.mark.parametrize(
    ("key", "value", "expected"), [("tier", "2", 2), ("weight", "0.5", 0.5), ("stall", "5m", 300.0)]
)
def test_a_reference_gets_the_type_of_its_key(key: str, value: str, expected: float) -> None:
    read_back = endpoint(f"{key}: ${{X}}", X=value)
    assert getattr(read_back.policy if key == "stall" else read_back, key) == expected


def test_a_parameter_that_is_an_unquoted_reference_gets_its_values_type() -> None:
    params = endpoint("params: {force: {a: '${N}'}}\nweight: ${W:-2}", N="5").params
    assert params.force == {"a": "5"}
    lines = "params:\n  force:\n    a: ${N}\n    b: ${B}\n    c: ${S}\n    d: x${N}\n    e: ${E}"
    block = endpoint(lines, N="5", B="true", S="[1]", E="~")
    assert block.params.force == {"a": 5, "b": True, "c": "[1]", "d": "x5", "e": None}


def test_the_value_of_a_variable_cannot_add_structure() -> None:
    hostile = "x\n    tier: 9\n  - {name: b}"
    assert endpoint("params: {default: {stop: '${S}'}}", S=hostile).params.default == {"stop": hostile}
    assert endpoint("params:\n  default:\n    stop: ${S}", S="{a: 1}").params.default == {"stop": "{a: 1}"}
    assert endpoint("params: {default: {stop: '${S}'}}", S="${HOME}").params.default == {"stop": "${HOME}"}


def test_an_endpoint_whose_key_is_not_set_is_disabled() -> None:
    assert endpoint("api_key: ${K}").disabled == "K is not set"
    assert endpoint("api_key: ${K}", K="").disabled == "K is empty"
    assert endpoint("api_key: ${K}", K=" \n").disabled == "K is empty"
    assert endpoint("api_key: a-${K}-b").disabled == "K is not set"
    assert endpoint("api_key: ${K}").api_key is None
    assert read(around("api_key: ${K}")).enabled == ()


def test_an_endpoint_with_a_key_or_an_optional_one_is_enabled() -> None:
    for key, expected in [("${K}", SecretStr("sk")), ("${L:-}", None), ("''", None), ("sk", SecretStr("sk"))]:
        read_back = endpoint(f"api_key: {key}", K="sk")
        assert (read_back.api_key, read_back.disabled) == (expected, None)


SET_IT = "set it, or write a default: ${NAME:-default}"


def test_an_unset_variable_elsewhere_is_the_only_problem_of_its_value() -> None:
    assert refusal("tier: ${T}") == f"tier: T is not set; {SET_IT}"
    assert refusal("base_url: http://${H}/") == f"base_url: H is not set; {SET_IT}"
    assert refusal("models: ['${M}']") == f"models[0]: M is not set; {SET_IT}"
    assert problems("endpoints: [{name: '${N}', base_url: http://h, models: [c]}]") == [
        f"f.yaml:1: endpoints[0].name: N is not set; {SET_IT}"
    ]
    assert problems(around("") + "'${K}': 1") == ["f.yaml:5: has a key that cannot be read: K is not set"]


@pytest.mark.parametrize("written", ["${", "${a b}", "${1}", "${A:-${B}}", "${A-b}", "${A"])
def test_a_malformed_reference_is_refused(written: str) -> None:
    assert refusal(f"models: {{chat: '{written}'}}") == (
        "models.chat: a ${ that is neither ${NAME} nor ${NAME:-default}; write $${ for a literal ${"
    )


def test_empty_client_keys_are_dropped_but_an_unset_variable_is_an_error() -> None:
    keys = around("") + "keys: ['${A:-}', '', a, '${B}']"
    assert read(keys, B="b").keys == (SecretStr("a"), SecretStr("b"))
    assert problems(keys, B="") == [f"f.yaml:5: keys[3]: B is empty; {SET_IT}"]
    assert problems(keys) == [f"f.yaml:5: keys[3]: B is not set; {SET_IT}"]


# ---- Refusals


def test_all_problems_are_reported_in_the_order_of_the_file() -> None:
    assert problems("""\
        defaults:
          deadline: 0
          hegde: 1s
        endpoints:
          - name: zhipu-flash
            kind: zhipuu
            tierr: 1
            base_url: ftp://h
            models: [chat]
            stall: soon
            probe:
              kind: helth
              intervall: 2s
          - name: zhipu-flash
            models: {chat: 4}
        models:
          chta: {hedge: never}
        keyz: []
    """) == [
        f"f.yaml:2: defaults.deadline: given 0; {A_DURATION}, more than 0",
        "f.yaml:3: defaults.hegde: unknown key; did you mean 'hedge'?",
        "f.yaml:6: endpoints[0] (zhipu-flash).kind: given 'zhipuu'; "
        "expected 'openai', 'zhipu', 'vllm', 'sglang' or 'simulated'",
        "f.yaml:7: endpoints[0] (zhipu-flash).tierr: unknown key; did you mean 'tier'?",
        f"f.yaml:8: endpoints[0] (zhipu-flash).base_url: {A_URL}",
        f"f.yaml:10: endpoints[0] (zhipu-flash).stall: given 'soon'; {A_DURATION}, more than 0",
        "f.yaml:12: endpoints[0] (zhipu-flash).probe.kind: given 'helth'; "
        "expected 'auto', 'health', 'models', 'chat', 'connect' or 'off'",
        "f.yaml:13: endpoints[0] (zhipu-flash).probe.intervall: unknown key; did you mean 'interval'?",
        "f.yaml:14: endpoints[1] (zhipu-flash).name: already the name of endpoints[0]",
        "f.yaml:14: endpoints[1] (zhipu-flash).base_url: missing; an endpoint of kind openai needs it, "
        "as in https://api.example.com/v1",
        "f.yaml:15: endpoints[1] (zhipu-flash).models.chat: given 4; expected text (put a number in quotes)",
        "f.yaml:17: models.chta: no endpoint serves this model; did you mean 'chat'?",
        "f.yaml:17: models.chta.hedge: given 'never'; expected auto, off or "
        + A_DURATION.removeprefix("expected ")
        + ", 0 or more",
        "f.yaml:18: keyz: unknown key; did you mean 'keys'?",
    ]


A_URL = (
    "expected http:// or https://, a host, optionally a port and a path, and nothing else: "
    "a key belongs in api_key or headers, and the router appends the API's paths"
)
MODELS = "expected a name, a list of names, or a mapping {name for clients: name at the endpoint}"
UP_TO_THERE = "which the router appends; write the address up to there, as in https://api.example.com/v1"
TEXT = "expected text (put a number in quotes)"
ONE_LINE = "expected one line of printable ASCII"
A_HEADER = (
    "expected a header name other than host, content-length, transfer-encoding, accept-encoding, expect, "
    "connection, keep-alive, proxy-connection, te, trailer, upgrade: the router sets those"
)
A_PARAMETER = "expected a parameter other than model, stream, messages: the endpoint or the client sets those"
CONNECTION = "belongs to one connection: the router sets its own; remove it"
A_NAME = "must be the name of a header, such as x-tenant, without a value or a wildcard"
A_CLIENTS_KEY = "holds a client's key, which no endpoint may see; set the endpoint's own in api_key or headers"
HEADERS = ["Host", "content-length", "Transfer-Encoding", "connection", "TE", "accept-encoding", "expect", "upgrade"]


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        ("policy: {}", "policy: unknown key; did you mean 'pool'?"),
        ("BASE-URL: 1", "BASE-URL: unknown key; did you mean 'base_url'?"),
        ("params: {forced: {}}", "params.forced: unknown key; did you mean 'force'?"),
        ("pool: {maximum: }", "pool.maximum: unknown key; did you mean 'max'?"),
        ("probe: {<<: {intervall: 1}}", "probe.intervall: unknown key; did you mean 'interval'?"),
        ("tier: 0", "tier: given 0; expected a number, 1 or more"),
        ("tier: 1.5", "tier: given 1.5; expected a whole number"),
        ("tier: true", "tier: given true; expected a number"),
        ("tier: one", "tier: given 'one'; expected a whole number"),
        ("tier: [1]", "tier: expected a whole number"),
        (f"tier: {'9' * 500}", "tier: not a usable number"),
        ("tier: !!int hush", "tier: not a usable number"),
        ("concurrency: 0", "concurrency: given 0; expected a number, 1 or more"),
        ("weight: 0", "weight: given 0; expected a number, more than 0"),
        ("weight: .inf", "weight: given '.inf'; expected a number"),
        ("weight: {}", "weight: expected a number"),
        ("hedge: 1e999", "hedge: not a usable number"),
        ("hedge_budget: -0.1", "hedge_budget: given -0.1; expected a number, 0 or more"),
        ("retry_budget: 20", "retry_budget: given 20; expected a number, 10 or less"),
        ("pool: {min_idle: -1}", "pool.min_idle: given -1; expected a number, 0 or more"),
        ("pool: {max: 0}", "pool.max: given 0; expected a number, 1 or more"),
        ("pool: {idle: of}", f"pool.idle: given 'of'; expected auto or {A_DURATION[9:]}, 0 or more"),
        ("pool: 3", "pool: expected a mapping"),
        ("probe: off", "probe: expected a mapping"),
        ("simulate: {rate: 1}", "simulate: only endpoints of kind simulated have it"),
        ("signals: 2s", "signals: only endpoints of kind vllm or sglang report their load"),
        ("models: {}", "models: empty; expected at least one"),
        ("models: []", "models: empty; expected at least one"),
        ("models: 3", f"models: given 3; {MODELS}"),
        ("models: [1]", f"models: {MODELS}"),
        ("models: ''", "models.: expected text that is not empty"),
        ("enabled: maybe", "enabled: given 'maybe'; expected true or false"),
        *((f"base_url: http://h/v1{path}", f"base_url: ends in '{path.lower()}', {UP_TO_THERE}") for path in (
            "/chat/completions", "/completions", "/embeddings", "/responses", "/messages", "/Chat/Completions",
        )),
        ("base_url: http://h/v1/models/", f"base_url: ends in '/v1/models', {UP_TO_THERE}"),
        ("models: {x: ''}", "models.x: given ''; expected text that is not empty"),
        ("models: {x: }", f"models.x: {TEXT}"),
        ("models: {1: x}", None),
        ("base_url: 5", f"base_url: {TEXT}"),
        *((f"base_url: '{url}'", f"base_url: {A_URL}") for url in (
            "api.example.com", "ftp://h", "http:///v1", "http://a b/", "http://h:0", "http://h:99999",
            "http://[::1", "http://[::zz]", "http://[1:2]", "http://h\\x", "https://h/?key=hush", "https://h/#f",
            "https://u:hush@h/", "http://hé/", "http://a..b/v1", "http://.", f"http://{'x' * 64}.test",
        )),
        *((f"headers: {{{name}: x}}", f"headers.{name}: {A_HEADER}") for name in HEADERS),
        ("headers: {'a b': hush}", f"headers.a…: {A_HEADER}"),
        ("headers: {'': hush}", f"headers.: {A_HEADER}"),
        (r'headers: {x: "hush\r\nx: y"}', f"headers.x: {ONE_LINE}"),
        (r'headers: {x: "hush\0"}', f"headers.x: {ONE_LINE}"),
        ("headers: {x: 3}", f"headers.x: {TEXT}"),
        ("headers: hush", "headers: expected a mapping"),
        *((f"{key}: [x-a, {name}]", f"{key}[1]: '{name.lower()}' {CONNECTION}") for name in ("TE", "host", "trailer")
          for key in ("pass_headers", "return_headers")),
        *((f"{key}: [x-router-debug]", f"{key}[0]: 'x-router-debug' is between the client and this router; remove it")
          for key in ("pass_headers", "return_headers")),
        *((f"{key}: [{name}]", f"{key}[0]: {A_NAME}") for name in ("'a b'", "''", "'x: hush'", "x-*", r'"x\r\n"', "hé")
          for key in ("pass_headers", "return_headers")),
        *((f"pass_headers: [{name}]", f"pass_headers[0]: '{name.lower()}' {A_CLIENTS_KEY}") for name in (
            "Authorization", "x-api-key", "api-key")),
        ("pass_headers: [cookie]", "pass_headers[0]: 'cookie' holds what clients keep for the router's host, "
                                   "which no endpoint may see; remove it"),
        ("pass_headers: [CDN-Loop]", "pass_headers[0]: 'cdn-loop' is how routers notice a circle: "
                                     "the router sets its own; remove it"),
        ("pass_headers: [content-type]", "pass_headers[0]: 'content-type' describes the body that the router sends: "
                                         "the router sets its own; remove it"),
        ("pass_headers: x-team", "pass_headers: expected a list"),
        ("pass_headers: [5]", f"pass_headers[0]: given 5; {TEXT}"),
        *((f"return_headers: [{name}]", f"return_headers[0]: '{name}' is set by the router itself where a client "
                                        "needs it; remove it") for name in ("x-request-id", "date", "retry-after")),
        *((f"return_headers: [{name}]", f"return_headers[0]: '{name}' reaches clients in any case where it may; "
                                        "remove it") for name in ("content-type", "server-timing", "cache-control")),
        *((f"return_headers: [{name}]", f"return_headers[0]: '{name}' speaks for a whole host, which for a client is "
                                        "the router's; remove it") for name in (
            "set-cookie", "vary", "access-control-allow-origin", "strict-transport-security")),
        ("return_headers: [authorization]", "return_headers[0]: 'authorization' may hold the endpoint's key, "
                                            "which no client may see; remove it"),
        (r'api_key: "hush\nhush"', f"api_key: {ONE_LINE}"),
        ("api_key: 12345", f"api_key: {TEXT}"),
        ("api_key: [hush]", f"api_key: {TEXT}"),
        ("params: {default: {stream: true}}", f"params.default.stream: {A_PARAMETER}"),
        ("params: {force: {model: x}}", f"params.force.model: {A_PARAMETER}"),
        ("params: {drop: [a, messages]}", f"params.drop[1]: given 'messages'; {A_PARAMETER}"),
        ("params: {drop: stop}", "params.drop: expected a list"),
        ("params: {default: [x]}", "params.default: expected a mapping"),
        ("params: {default: {x: !!binary aGk=}}", "params.default.x: has a YAML tag that is not supported"),
        ("params: {default: {x: !!set {a}}}", "params.default.x: has a YAML tag that is not supported"),
        ("params: {default: {x: 1, x: 2}}", "params.default.x: duplicate key; first on line 5"),
    ],
)  # fmt: skip
def test_an_endpoint_is_refused(lines: str, refused: str | None) -> None:
    found = problems(around(lines))
    assert "hush" not in "\n".join(found)
    if refused is not None:
        assert found == [f"f.yaml:5: endpoints[0] (a).{refused}"]


def test_keys_in_the_wrong_place_are_refused() -> None:
    known = (
        "abandon, api_key, base_url, concurrency, context, deadline, enabled, headers, hedge, hedge_budget, kind, "
        "models, name, params, pass_headers, pool, prefill, probe, retry_budget, return_headers, signals, simulate, "
        "stall, tier, weight"
    )
    assert refusal("zzz: 1") == f"zzz: unknown key; known here: {known}"
    assert refusal("disabled: 1") == "disabled: unknown key; write 'enabled: false' to take an endpoint out"
    of_a_model = "unknown key here; it belongs in 'defaults' or to a model under 'models'"
    for stray in ("affinity", "affinity_margin", "patience", "queue", "queue_wait", "resume"):
        assert refusal(f"{stray}: 1") == f"{stray}: {of_a_model}"
    of_an_endpoint = "unknown key here; it belongs to an endpoint, under 'endpoints'"
    assert problems(around("") + "resume: off\ndefaults: {prefill: off}\n") == [
        f"f.yaml:5: resume: {of_a_model}",
        f"f.yaml:6: defaults.prefill: {of_an_endpoint}",
    ]
    assert problems(around("models: {1: x}")) == [
        "f.yaml:5: endpoints[0] (a).models: has a key that is not text; put it in quotes"
    ]
    assert problems(around("params: {default: {<<: 3}}")) == [
        "f.yaml:5: endpoints[0] (a).params.default: << expects a mapping or a list of mappings"
    ]


@pytest.mark.parametrize("written", ["off", "prefix", "header:X-Session-Id"])
def test_affinity_is_a_setting_of_models_and_ignores_case(written: str) -> None:
    config = read(around("") + f"models: {{chat: {{affinity: {written}, affinity_margin: 2s}}}}\n")
    policy = config.policy("chat", config.endpoints[0])
    assert (policy.affinity, policy.affinity_margin) == (written.lower(), 2.0)


@pytest.mark.parametrize("written", ["session", "'header:'", "header:a b", "'header: x'", "on"])
def test_any_other_affinity_is_refused(written: str) -> None:
    (problem,) = problems(around("") + f"defaults: {{affinity: {written}}}\n")
    assert problem.endswith("expected prefix, off or header:NAME, with the name of a header")


@pytest.mark.parametrize("name", ["a b", "a/b", "", "x" * 65, "a\tb", "é"])
def test_a_name_must_be_valid_in_a_header(name: str) -> None:
    written = json.dumps(name, ensure_ascii=False)
    (problem,) = problems(f"endpoints: [{{name: {written}, base_url: http://h, models: [c]}}]")
    assert problem.startswith("f.yaml:1: endpoints[0].name: ")
    assert problem.endswith("expected 1 to 64 letters, digits, dots, dashes or underscores")


def test_an_endpoint_needs_a_name_and_models() -> None:
    assert problems("endpoints:\n  -\n  - kind: vllm\n    base_url: http://h\n") == [
        "f.yaml:2: endpoints[0].name: missing",
        "f.yaml:2: endpoints[0].base_url: missing; an endpoint of kind openai needs it, as in https://api.example.com/v1",
        "f.yaml:2: endpoints[0].models: missing",
        "f.yaml:3: endpoints[1].name: missing",
        "f.yaml:3: endpoints[1].models: missing",
    ]


def test_a_simulated_endpoint_cannot_have_an_address_key_or_headers() -> None:
    simulated = """\
        endpoints:
          - name: s
            kind: simulated
            models: [chat]
            base_url: http://h
            api_key: hush
            headers: {x: hush}
            pass_headers: [x]
            return_headers: [x]
    """
    assert problems(simulated) == [
        f"f.yaml:{line}: endpoints[0] (s).{key}: a simulated endpoint has no {key}: it runs inside the router"
        for line, key in (
            (5, "base_url"),
            (6, "api_key"),
            (7, "headers"),
            (8, "pass_headers"),
            (9, "return_headers"),
        )
    ]


def test_a_policy_for_a_model_that_is_not_served_is_refused() -> None:
    assert problems(around("models: {chat: x, embed: y}") + "models:\n  chatt: {}\n  zzzzz: {}\n") == [
        "f.yaml:7: models.chatt: no endpoint serves this model; did you mean 'chat'?",
        "f.yaml:8: models.zzzzz: no endpoint serves this model; served: chat, embed",
    ]
    assert problems(around("") + "models:\n  chat: {tier: 2}\n  chat: 3\n") == [
        "f.yaml:6: models.chat.tier: unknown key here; it belongs to an endpoint, under 'endpoints'",
        "f.yaml:7: models.chat: duplicate key; first on line 6",
    ]


def test_the_models_of_a_disabled_endpoint_can_have_a_policy() -> None:
    assert read(around("api_key: ${K}") + "models: {chat: {hedge: off}}").models == {"chat": Overrides(hedge="off")}


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("", "1: endpoints: missing"),
        ("# nothing\n", "1: endpoints: missing"),
        ("keys: []", "1: endpoints: missing"),
        ("\nendpoints: []", "2: endpoints: empty; expected at least one"),
        ("endpoints:", "1: endpoints: missing"),
        ("endpoints: {a: b}", "1: endpoints: expected a list"),
        ("\n- a", "2: expected a mapping"),
        ("just text", "1: expected a mapping"),
        (
            "a: 1\nb: [1,\nc: 2]]",
            "3: not valid YAML: expected <block end>, but found ']' while parsing a block mapping",
        ),
        ("a: 'x\n\n", "1: not valid YAML: the quote on this line is not closed"),
        ('a: 1\nb: "x\nc: 1\n', "2: not valid YAML: the quote on this line is not closed"),
        ("a: 1\nb: [x,\n\n", "2: not valid YAML: the [ on this line is not closed"),
        ("a: 1\nb: {x: 1,\n", "2: not valid YAML: the { on this line is not closed"),
        (
            "a: [1,\nb: 2\nc: 3",
            "3: not valid YAML: expected ',' or ']', but got ':' while parsing a flow sequence that begins on line 1",
        ),
        (
            "\nkeys: [${A}]",
            "2: not valid YAML: expected ',' or ']', but got '{' while parsing a flow sequence; "
            "put quotes around ${NAME} inside {…} and […]",
        ),
        ("a:\n\tb: 1", "2: not valid YAML: a tab: YAML is indented with blanks"),
        ("a: 1\n---\nb: 2", "2: not valid YAML: but found another document expected a single document in the stream"),
        ("a: *hush", "1: not valid YAML: found undefined alias"),
        ("a: !hush!b c", "1: not valid YAML: found undefined tag handle while parsing a node"),
        ("a: 1\nb: \x07", "2: not valid YAML: contains a control character"),
        ("[" * 5000, "1: not valid YAML: nested too deeply, or an anchor that contains itself"),
        ("a: &a [*a]", "1: not valid YAML: nested too deeply, or an anchor that contains itself"),
    ],
)
def test_an_unusable_file_is_refused(text: str, refused: str) -> None:
    assert f"f.yaml:{refused}" in problems(text)


def test_aliases_of_aliases_do_not_exhaust_the_memory() -> None:
    levels = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    (problem,) = problems("\n".join(levels))
    assert problem.endswith("not valid YAML: too large after its aliases are expanded")
    merges = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
    (problem,) = problems("\n".join(merges))
    assert problem.endswith("not valid YAML: too large after its aliases are expanded")


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no/such\.yaml: cannot be read: No such file or directory$"):
        load("no/such.yaml", {})
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"keys: []\n# caf\xe9\n")
    with pytest.raises(ConfigError) as error:
        load(latin, {})
    assert str(error.value) == f"{latin}:2: not UTF-8 text"


KEYS = sorted(
    config._ENDPOINT_KEYS | config._TOP_KEYS | PolicySettings.model_fields.keys() | {"default", "min_idle", "rate", "x"}
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["auto", "a", "${A}", "${B:-1}", "5s", "${"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), st.lists(VALUES, max_size=3) | VALUES)
def test_any_values_in_a_file_are_read_or_refused(top: dict[str, Any], endpoints: Any) -> None:
    text = yaml.safe_dump(top | {"endpoints": endpoints})
    found: tuple[str, ...] = ()
    try:
        parse(text, environ={"A": "2"})
    except ConfigError as refused:
        found = refused.problems
    assert all(re.match(r"<text>:\d+: ", problem) for problem in found)


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!<>|'\"${}#\n\t ,0.~%@`", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^<text>:\d+: "):
        parse(text, environ={})


# ---- Endpoints that are taken out, keys of other products, origins


@pytest.mark.parametrize("written", ["false", "off", "no", "'${X}'"])
def test_an_endpoint_that_is_not_enabled_is_disabled(written: str) -> None:
    off = endpoint(f"enabled: {written}\napi_key: x", X="false")
    assert (off.enabled, off.disabled) == (False, "enabled is false")
    assert read(around(f"enabled: {written}"), X="false").enabled == ()
    assert endpoint("enabled: true").disabled is None
    assert endpoint("enabled: true\napi_key: ${K}").disabled == "K is not set"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("api_base", "base_url"), ("apiBase", "base_url"), ("baseURL", "base_url"), ("url", "base_url"),
        ("apiKey", "api_key"), ("token", "api_key"), ("timeout", "deadline"), ("request_timeout", "stall"),
        ("priority", "tier"), ("order", "tier"), ("rpm", "concurrency"), ("max_parallel_requests", "concurrency"),
        ("num_retries", "retry_budget"), ("fallbacks", "tier"), ("model", "models"), ("litellm_params", "models"),
        ("temperature", "params"), ("extra_headers", "headers"), ("provider", "kind"), ("health_check", "probe"),
        ("max_connections", "pool"), ("ssl_verify", "SSL_CERT_FILE"), ("disable", "enabled: false"),
    ],
)  # fmt: skip
def test_a_key_of_another_product_gets_ours(key: str, meant: str) -> None:
    found = refusal(f"{key}: 1")
    assert found.startswith(f"{key}: unknown key; ")
    assert f"'{meant}" in found or meant in found


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model_list", "endpoints"),
        ("master_key", "keys"),
        ("allowed_origins", "cors"),
        ("port", "FIRSTTOKEN_PORT"),
        ("router_settings", "defaults"),
        ("fallbacks", "tier: 2"),
        ("listen", "--host"),
    ],
)
def test_a_key_of_another_product_at_the_top_gets_ours(key: str, meant: str) -> None:
    (found,) = problems(f"{key}: 1\n" + around(""))
    assert found.startswith(f"f.yaml:1: {key}: unknown key; ")
    assert meant in found


@pytest.mark.parametrize(
    ("written", "origins"),
    [
        ("'*'", ("*",)),
        ("[https://a.test, '*']", ("*",)),
        ("https://App.Test/", ("https://app.test",)),
        ("[https://a.test:443, http://b.test:8080]", ("https://a.test", "http://b.test:8080")),
        ("[http://localhost:3000, 'http://[::1]:80', app://obsidian.md]", ("http://localhost:3000", "http://[::1]", "app://obsidian.md")),
        ("[]", ()),
    ],
)  # fmt: skip
def test_origins_are_read_as_browsers_send_them(written: str, origins: tuple[str, ...]) -> None:
    assert read(around("") + f"cors: {written}\nkeys: [k]\n").cors == origins


@pytest.mark.parametrize("written", ["app.test", "https://a.test/page", "https://*.test", "null", "5", "https://a b"])
def test_any_other_origin_is_refused(written: str) -> None:
    if written == "null":
        written = "'null'"
    (found,) = problems(around("") + f"cors: [{written}]\n")
    assert found.startswith("f.yaml:5: cors[0]: ")
    assert "expected an origin" in found or "expected text" in found


# ---- Secrets


@pytest.mark.parametrize("end", ["\n", "\r\n", "\t", " \n\n"])
def test_line_ends_behind_a_secret_are_stripped(end: str) -> None:
    secrets = read(around("api_key: ${K}") + "keys: ['${K}']", K=f"sk-1{end}")
    assert secrets.endpoints[0].api_key == secrets.keys[0] == SecretStr("sk-1")


def test_no_message_contains_a_secret_wherever_it_stands() -> None:
    text = "\n".join(problems("""
        defaults: {hedge: "${SECRET}"}
        endpoints:
          - {name: a, kind: vllm, models: [c], base_url: 'ftp://u:hush@h/?k=hush', api_key:hush, apikey: hush}
          - {name: b, base_url: http://u:hu/sh@h/, models: [c], headers: {authorization:hush: x, x: "hush\\n"}}
          - {name: c, base_url: "${SECRET}", models: [c], api_key: {a: hush}, weight: "${SECRET}", authorization: hush}
          - {name: d, base_url: http://h, models: [c], api_key: "${SECRET}\\n", headers: {x: "${SECRET}\\n"}}
          - hush
        keys: hush
    """, SECRET="hush"))  # fmt: skip
    assert "hush" not in text
    assert "hu/sh" not in text
    for shown in ("given '${SECRET}'", "api_key…", "endpoints[1] (b).headers.authorization…"):
        assert shown in text


def test_no_repr_and_no_validation_error_contains_a_secret() -> None:
    secrets = read(around("api_key: hush\nheaders: {x: hush}") + "keys: [hush]")
    for shown in (repr(secrets), str(secrets), repr(secrets.endpoints[0]), str(secrets.endpoints), str(secrets.keys)):
        assert "hush" not in shown
    with pytest.raises(ValidationError) as error:
        EndpointConfig(name="a", base_url="http://h", models={"c": "c"}, api_key="hush\nx", headers={"x": "hush\nx"})  # type: ignore[arg-type]
    assert "hush" not in str(error.value)


def test_the_traceback_of_a_refusal_contains_no_secret() -> None:
    for text in ("api_key: hush\nx: [", "endpoints: hush\nkeys: hush"):
        with pytest.raises(ConfigError) as error:
            read(text)
        assert error.value.__cause__ is None
        assert error.value.__context__ is None or error.value.__suppress_context__


# ---- Configurations are immutable


def test_a_configuration_is_immutable() -> None:
    frozen = read(around("params: {default: {a: 1}}\nheaders: {x: y}") + "models: {chat: {hedge: off}}")
    one = frozen.endpoints[0]
    with pytest.raises(ValidationError):
        frozen.source = "x"
    with pytest.raises(ValidationError):
        one.tier = 2
    for mapping in (one.models, one.headers, frozen.models, one.params.default, one.params.force):
        with pytest.raises(TypeError, match="does not support item assignment"):
            mapping["new"] = 1  # type: ignore[index]


def test_a_configuration_can_be_built_without_a_file() -> None:
    built = EndpointConfig(
        name="a", base_url="http://h/", models={"c": "c"}, policy=Overrides(hedge=2.0), params=Params(drop=("x",))
    )
    whole = Config(endpoints=(built,))
    assert whole.enabled == (built,)
    assert whole.policy("c", built) == PolicySettings(hedge=2.0)
    assert built.base_url == "http://h"
    with pytest.raises(ValidationError, match="tier"):
        EndpointConfig(name="a", base_url="http://h/", models={"c": "c"}, tier=0)


# ---- The process's settings


def test_the_defaults_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FIRSTTOKEN_{name.upper()}", raising=False)
    assert Settings().model_dump() == {
        "host": "127.0.0.1", "port": 8080, "config": None, "allow_open": False,
        "max_body": 32 * 2**20, "max_header": 64 * 2**10, "max_event": 32 * 2**20, "max_answer": 64 * 2**20,
        "body_budget": None,
        "max_calls": None, "request_timeout": 60.0, "keep_alive": 75.0, "ping_after": 10.0, "ping_every": 15.0,
        "connect_timeout": 5.0, "resolver": "dns", "drain": 120.0, "notice": 10.0, "speed": 1.0, "log_level": "info",
        "access_log": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [("port", "0", 0), ("port", "tcp://10.0.0.1:8080", 8080), ("max_body", "1MiB", 2**20), ("max_header", "100", 100),
     ("drain", "2m", 120.0), ("drain", "0", 0.0), ("ping_after", "250ms", 0.25), ("keep_alive", "7.5", 7.5),
     ("resolver", "SYSTEM", "system"), ("resolver", "[::1]:5353", "[::1]:5353"),
     ("log_level", "DEBUG", "debug"), ("allow_open", "1", True),
     ("config", "/etc/e.yaml", Path("/etc/e.yaml")), ("config", "", None)],
)  # fmt: skip
def test_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, written: str, expected: object
) -> None:
    monkeypatch.setenv(f"FIRSTTOKEN_{name.upper()}", written)
    assert getattr(Settings(), name) == expected


@pytest.mark.parametrize(
    ("name", "written"),
    [("port", "70000"), ("port", "x"), ("max_body", "0"), ("max_body", "big"), ("drain", "-1"), ("drain", "inf"),
     ("keep_alive", "0"), ("keep_alive", "1.2.3s"), ("log_level", "loud"), ("max_calls", "0"),
     ("resolver", "ask-them"), ("resolver", "10.0.0.2:0"), ("resolver", "[::1"), ("resolver", "::1:x")],
)  # fmt: skip
def test_wrong_settings_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, written: str) -> None:
    monkeypatch.setenv(f"FIRSTTOKEN_{name.upper()}", written)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_an_argument_precedes_the_environment_and_every_setting_has_a_description(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIRSTTOKEN_PORT", "1")
    assert Settings(port=2).port == 2
    with pytest.raises(ValidationError):
        Settings(prot=2)  # type: ignore[call-arg]
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("files", "calls"), [(20_000, 9_750), (1_024, 262), (256, 1), (1_048_576, 20_000), (resource.RLIM_INFINITY, 20_000)]
)
def test_the_default_limit_of_calls_follows_the_limit_on_open_files(
    monkeypatch: pytest.MonkeyPatch, files: int, calls: int
) -> None:
    monkeypatch.delenv("FIRSTTOKEN_MAX_CALLS", raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert Settings().calls == calls
    assert Settings(max_calls=7).calls == 7


@pytest.mark.parametrize(
    ("written", "nameservers"),
    [
        ("dns", ((), 53)),
        ("system", ((), 53)),
        ("10.0.0.2", (("10.0.0.2",), 53)),
        ("10.0.0.2:5353", (("10.0.0.2",), 5353)),
        ("::1", (("::1",), 53)),
        ("[::1]:5353", (("::1",), 5353)),
    ],
)
def test_a_name_server_may_be_named(written: str, nameservers: object) -> None:
    assert Settings(resolver=written).nameservers == nameservers


def test_durations_are_read_as_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRSTTOKEN_DRAIN", "1.1ms")
    assert Settings().drain == values.seconds("1.1ms")
    monkeypatch.setenv("FIRSTTOKEN_DRAIN", "1e3")
    with pytest.raises(ValidationError, match="a duration such as 250ms"):
        Settings()
