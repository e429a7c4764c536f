"""Server signals: what is read of a page of metrics, and how often one is asked for."""

from __future__ import annotations

import asyncio
import logging
import ssl
from random import Random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import EndpointConfig, parse
from router.core.choice.table import rebuild
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.server_load import ServerLoad
from router.dialects import DIALECTS
from router.ops.signals import INTERVAL, LONGEST, MAX_LINES, MAX_PAGE, STALE, Listener, listeners, load_of, read
from tests.core.helpers import properties
from tests.proxy.running import get, running
from tests.upstream.servers import Clock, on_uvloop, serving, until, whole

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it trusts nobody
VLLM, SGLANG = (DIALECTS[kind].gauges for kind in ("vllm", "sglang"))

PAGE = b"""\
# HELP python_info Python platform information
# TYPE python_info gauge
python_info{version="3.12"} 1.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/m"} 3.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="org/m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="org/m",reason="capacity"} 7.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="org/m"} 0.25
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="org/m"} 8.1e+06
"""


def vllm(page: bytes | str, model: str = "org/m") -> ServerLoad | None:
    assert VLLM is not None
    return load_of(model, read(page if isinstance(page, bytes) else page.encode(), VLLM), VLLM)


def sglang(page: str, model: str = "m") -> ServerLoad | None:
    assert SGLANG is not None
    return load_of(model, read(page.encode(), SGLANG), SGLANG)


# What a page says.


def test_vllm_tells_what_runs_what_waits_and_how_full_its_cache_is() -> None:
    assert vllm(PAGE) == ServerLoad(3.0, 1.0, 0.25)


def test_its_cache_had_another_name_and_both_together_are_one() -> None:
    old = PAGE.replace(b"kv_cache", b"gpu_cache")
    assert vllm(old) == vllm(PAGE) == vllm(old.replace(b"0.25", b"0.5") + PAGE.split(b"cache usage.")[-1])


def test_some_collectors_write_names_without_colons() -> None:
    assert vllm(PAGE.replace(b"vllm:", b"vllm_")) == vllm(PAGE)


def test_what_is_not_there_is_unknown_and_not_zero() -> None:
    assert vllm('vllm:num_requests_running{model_name="org/m"} 0\n') == ServerLoad(running=0.0)
    assert vllm('vllm:num_requests_waiting{model_name="org/m"} 2\n') == ServerLoad(waiting=2.0)
    assert vllm("python_info 1\n") is None
    assert vllm("") is None


def test_engines_add_up_and_their_caches_are_averaged() -> None:
    more = PAGE.replace(b'engine="0"', b'engine="1"').replace(b"3.0", b"5.0").replace(b"0.25", b"0.75")
    assert vllm(PAGE + more) == ServerLoad(8.0, 2.0, 0.5)


def test_ranks_that_work_on_the_same_requests_count_once() -> None:
    page = "".join(
        f'sglang:num_running_reqs{{dp_rank="{dp}",model_name="m",tp_rank="{tp}"}} {4 + dp}\n'
        f'sglang:num_queue_reqs{{dp_rank="{dp}",model_name="m",tp_rank="{tp}"}} {dp}\n'
        f'sglang:token_usage{{dp_rank="{dp}",model_name="m",tp_rank="{tp}"}} 0.{25 + 50 * dp}\n'
        for dp in range(2)
        for tp in range(4)
    )
    assert sglang(page) == ServerLoad(9.0, 1.0, 0.5)
    assert sglang('sglang:num_queue_reqs{model_name="m"} 2.0\n') == ServerLoad(waiting=2.0)


def test_a_model_has_its_own_load_where_the_page_knows_several() -> None:
    both = PAGE + PAGE.replace(b"org/m", b"other").replace(b"3.0", b"9.0")
    assert vllm(both) == ServerLoad(3.0, 1.0, 0.25)
    assert vllm(both, "other") == ServerLoad(9.0, 1.0, 0.25)
    assert vllm(both, "another") is None


def test_where_it_knows_one_that_is_the_server_whatever_else_it_is_called() -> None:
    assert vllm(PAGE, "an-adapter") == vllm(PAGE)
    assert vllm("vllm:num_requests_running 5\n") == ServerLoad(running=5.0)


def test_names_may_hold_anything() -> None:
    name = 'a:b c{d="e"}\\n\\"'
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    assert vllm(f'vllm:num_requests_running{{model_name="{escaped}"}} 1\n', name) == ServerLoad(running=1.0)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_a_value_that_none_can_have_is_unknown(value: str) -> None:
    assert vllm(PAGE.replace(b" 3.0", f" {value}".encode())) == ServerLoad(None, 1.0, 0.25)


def test_a_use_of_more_than_all_is_no_share() -> None:
    assert vllm(PAGE.replace(b"0.25", b"25.0")) == ServerLoad(3.0, 1.0, None)


def test_more_samples_than_any_server_has_are_not_read() -> None:
    line = 'vllm:num_requests_running{engine="%d"} 1\n'
    assert vllm("".join(line % n for n in range(MAX_LINES))) == ServerLoad(running=MAX_LINES)
    with pytest.raises(ValueError, match="more than"):
        vllm("".join(line % n for n in range(MAX_LINES + 1)))


@properties
@given(
    at=st.integers(0, len(PAGE)),
    length=st.integers(0, 20),
    instead=st.binary(max_size=5) | st.sampled_from([b'"', b"{", b"}", b"\\", b"\n", b"=", b",", b"e", b"#"]),
)
def test_whatever_a_page_holds_it_is_read_or_refused(at: int, length: int, instead: bytes) -> None:
    try:
        load = vllm(PAGE[:at] + instead + PAGE[at + length :])
    except ValueError:
        return
    for value in load or ():
        assert value is None or value >= 0.0


# Who is asked, and how often.


def told(url: str = "http://there/v1", kind: str = "vllm", signals: str = "auto") -> EndpointConfig:
    text = f"""
endpoints:
  - name: there
    kind: {kind}
    base_url: {url}
    api_key: sesame
    models: {{chat: org/m}}
    signals: {signals}
"""
    return parse(text, "endpoints.yaml", {}).endpoints[0]


def listener(told: EndpointConfig, endpoint: Endpoint, client: httpx.AsyncClient, clock: Clock) -> Listener:
    assert VLLM is not None
    return Listener([endpoint], told, VLLM, client, clock, Random(7))


@on_uvloop
async def test_only_kinds_that_tell_their_load_are_asked_and_not_where_it_is_off() -> None:
    text = """
endpoints:
  - {name: v, kind: vllm, base_url: "http://v/v1", models: [chat]}
  - {name: s, kind: sglang, base_url: "http://s/v1", models: [chat, more], signals: 250ms}
  - {name: off, kind: vllm, base_url: "http://off/v1", models: [chat], signals: off}
  - {name: o, base_url: "http://o/v1", models: [chat]}
  - {name: z, kind: zhipu, base_url: "http://z/v1", models: [chat]}
  - {name: made-up, kind: simulated, models: [chat]}
"""
    made = list(listeners(rebuild(parse(text)), httpx.AsyncClient(verify=TLS), Clock(), Random(7)))
    assert [repr(each) for each in made] == ["<Listener v: chat>", "<Listener s: chat, more>"]
    assert [each.interval for each in made] == [INTERVAL, 0.25]


@on_uvloop
async def test_what_a_server_says_is_known_until_it_is_stale() -> None:
    clock, endpoint = Clock(), Endpoint("there", "org/m")
    async with serving() as server, httpx.AsyncClient(trust_env=False, verify=TLS) as client:
        server.always = whole(PAGE)
        listening = listener(told(f"http://{server.host}:{server.port}/v1"), endpoint, client, clock)
        listening.note(await listening.page())
        assert endpoint.forecast.server_load(clock.now()) == ServerLoad(3.0, 1.0, 0.25)
        assert endpoint.forecast.hot(clock.now())
        assert listening.pause == INTERVAL
        clock.forward(STALE * INTERVAL)
        assert endpoint.forecast.server_load(clock.now()) is None
        assert not endpoint.forecast.hot(clock.now())


@on_uvloop
async def test_it_is_asked_beside_the_api_with_our_key() -> None:
    async with serving() as server, httpx.AsyncClient(trust_env=False, verify=TLS) as client:
        listening = listener(
            told(f"http://{server.host}:{server.port}/a/v1"), Endpoint("there", "org/m"), client, Clock()
        )
        asked = asyncio.ensure_future(listening.page())
        request = await (await server.accept()).answer(whole(PAGE))
        assert await asked == PAGE
        assert request.line == b"GET /a/metrics HTTP/1.1"
        assert request.headers[b"authorization"] == b"Bearer sesame"
        assert request.headers[b"accept-encoding"] == b"identity"


@on_uvloop
@pytest.mark.parametrize(
    ("answer", "silence"),
    [
        (whole(b"no", 404), "status 404"),
        (whole(b"python_info 1\n"), "none of its gauges is there"),
        (whole(PAGE.replace(b"} 3.0", b" 3.0")), "no page of metrics: "),
        (whole(PAGE + b"# \xff"), ""),
        (whole(PAGE + b"#" * MAX_PAGE), f"more than {MAX_PAGE} bytes"),
        (whole(PAGE)[:-9], "RemoteProtocolError: "),
    ],
    ids=["status", "another page", "nonsense", "nonsense elsewhere", "too long", "cut"],
)
async def test_what_is_no_page_says_nothing(answer: bytes, silence: str) -> None:
    clock, endpoint = Clock(), Endpoint("there", "org/m")
    async with serving() as server, httpx.AsyncClient(trust_env=False, verify=TLS) as client:
        listening = listener(told(f"http://{server.host}:{server.port}/v1"), endpoint, client, clock)
        asked = asyncio.ensure_future(listening.page())
        peer = await server.accept()
        await peer.answer(answer)
        peer.finish()
        listening.note(await asked)
        assert listening.silence.startswith(silence)
        assert bool(listening.silence) == bool(silence)
        assert (endpoint.forecast.server_load(clock.now()) is None) == bool(silence)


@on_uvloop
async def test_one_that_takes_too_long_says_nothing() -> None:
    async with serving() as server, httpx.AsyncClient(trust_env=False, verify=TLS) as client:
        url = f"http://{server.host}:{server.port}/v1"
        listening = listener(told(url, signals="2ms"), Endpoint("there", "org/m"), client, Clock())
        assert await listening.page() == "no answer within 0.01 s"


@on_uvloop
async def test_one_page_missed_changes_nothing_and_one_that_says_nothing_is_asked_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock, endpoint = Clock(), Endpoint("there", "org/m")
    async with httpx.AsyncClient(verify=TLS) as client:
        listening = listener(told(), endpoint, client, clock)
        listening.note(PAGE)
        pauses = []
        for _ in range(8):
            listening.note("status 503")
            pauses.append(listening.pause)
        assert endpoint.forecast.server_load(clock.now()) == ServerLoad(3.0, 1.0, 0.25)
        assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, LONGEST, LONGEST, LONGEST]
        listening.note(PAGE)
        assert listening.pause == INTERVAL
    assert [record.message for record in caplog.records if record.name == "router.ops.signals"] == [
        "endpoint there: its load is unknown: status 503",
        "endpoint there: its load is known",
    ]


@on_uvloop
async def test_a_running_router_knows_the_load_and_tells_it() -> None:
    async with serving() as server:
        server.always = whole(PAGE)
        text = f"""
endpoints:
  - name: there
    kind: vllm
    base_url: http://{server.host}:{server.port}/v1
    models: {{chat: org/m}}
    probe: {{kind: off}}
    pool: {{min_idle: 0}}
    signals: 10ms
"""
        async with running(text) as router:
            (endpoint,) = router.router.tables.current.table.endpoints
            now = router.router.scheduler.now
            await until(lambda: endpoint.forecast.server_load(now()))
            (state,) = (await router.ask(get(b"/admin/endpoints"))).json["endpoints"]
            assert state["server"] == {"running": 3.0, "waiting": 1.0, "kv": 0.25, "hot": True}
            assert router.counted("server_requests", endpoint="there", model="org/m", state="running") == 3.0
            assert router.counted("server_requests", state="waiting") == 1.0
            assert router.counted("server_kv_usage", endpoint="there") == 0.25
            assert router.counted("server_hot") == 1.0
            server.always = b""
            await until(lambda: endpoint.forecast.server_load(now()) is None)
            (state,) = (await router.ask(get(b"/admin/endpoints"))).json["endpoints"]
            assert state["server"] is None
            assert list(router.samples("server_requests")) == []
