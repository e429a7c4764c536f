"""Server signals: the load read from a page of metrics, and how often the page is requested."""

from __future__ import annotations

import asyncio
import logging
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import EndpointConfig, parse
from router.core.choice.table import rebuild
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.server_load import ServerLoad
from router.dialects import DIALECTS
from router.ops.signals import INTERVAL, MAX_LINES, MAX_PAGE_BYTES, MAX_PAUSE, STALE, Scraper, load_of, read, scrapers
from router.upstream.pool import Address, Pool
from tests.core.helpers import properties
from tests.proxy.running import get, running
from tests.upstream.servers import Clock, on_uvloop, pooling, serving, until, whole

NOWHERE = Address("127.0.0.1", 9, False, "")
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


# Reading a page.


def test_vllm_reports_running_and_waiting_requests_and_cache_use() -> None:
    assert vllm(PAGE) == ServerLoad(3.0, 1.0, 0.25)


def test_the_older_name_of_the_cache_gauge_is_read_and_both_count_once() -> None:
    old = PAGE.replace(b"kv_cache", b"gpu_cache")
    assert vllm(old) == vllm(PAGE) == vllm(old.replace(b"0.25", b"0.5") + PAGE.split(b"cache usage.")[-1])


def test_names_may_have_underscores_for_colons() -> None:
    assert vllm(PAGE.replace(b"vllm:", b"vllm_")) == vllm(PAGE)


def test_a_missing_gauge_is_unknown_and_not_zero() -> None:
    assert vllm('vllm:num_requests_running{model_name="org/m"} 0\n') == ServerLoad(running=0.0)
    assert vllm('vllm:num_requests_waiting{model_name="org/m"} 2\n') == ServerLoad(waiting=2.0)
    assert vllm("python_info 1\n") is None
    assert vllm("") is None


def test_requests_of_engines_are_summed_and_cache_use_is_averaged() -> None:
    more = PAGE.replace(b'engine="0"', b'engine="1"').replace(b"3.0", b"5.0").replace(b"0.25", b"0.75")
    assert vllm(PAGE + more) == ServerLoad(8.0, 2.0, 0.5)


def test_ranks_with_the_same_requests_count_once() -> None:
    page = "".join(
        f'sglang:num_running_reqs{{dp_rank="{dp}",model_name="m",tp_rank="{tp}"}} {4 + dp}\n'
        f'sglang:num_queue_reqs{{dp_rank="{dp}",model_name="m",tp_rank="{tp}"}} {dp}\n'
        f'sglang:token_usage{{dp_rank="{dp}",model_name="m",tp_rank="{tp}"}} 0.{25 + 50 * dp}\n'
        for dp in range(2)
        for tp in range(4)
    )
    assert sglang(page) == ServerLoad(9.0, 1.0, 0.5)
    assert sglang('sglang:num_queue_reqs{model_name="m"} 2.0\n') == ServerLoad(waiting=2.0)


def test_each_model_on_a_page_has_its_own_load() -> None:
    both = PAGE + PAGE.replace(b"org/m", b"other").replace(b"3.0", b"9.0")
    assert vllm(both) == ServerLoad(3.0, 1.0, 0.25)
    assert vllm(both, "other") == ServerLoad(9.0, 1.0, 0.25)
    assert vllm(both, "another") is None


def test_the_only_model_on_a_page_counts_for_every_name_of_the_server() -> None:
    assert vllm(PAGE, "an-adapter") == vllm(PAGE)
    assert vllm("vllm:num_requests_running 5\n") == ServerLoad(running=5.0)


def test_names_may_contain_any_character() -> None:
    name = 'a:b c{d="e"}\\n\\"'
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    assert vllm(f'vllm:num_requests_running{{model_name="{escaped}"}} 1\n', name) == ServerLoad(running=1.0)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_an_impossible_value_is_unknown(value: str) -> None:
    assert vllm(PAGE.replace(b" 3.0", f" {value}".encode())) == ServerLoad(None, 1.0, 0.25)


def test_a_cache_use_above_one_is_unknown() -> None:
    assert vllm(PAGE.replace(b"0.25", b"25.0")) == ServerLoad(3.0, 1.0, None)


def test_too_many_samples_are_refused() -> None:
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
def test_any_page_is_read_or_refused(at: int, length: int, instead: bytes) -> None:
    try:
        load = vllm(PAGE[:at] + instead + PAGE[at + length :])
    except ValueError:
        return
    for value in load or ():
        assert value is None or value >= 0.0


# Servers, and how often they are asked.


def config(url: str = "http://there/v1", kind: str = "vllm", signals: str = "auto") -> EndpointConfig:
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


def scraper(config: EndpointConfig, endpoint: Endpoint, pool: Pool, clock: Clock) -> Scraper:
    assert VLLM is not None
    return Scraper([endpoint], config, VLLM, pool, clock, Random(7))


@on_uvloop
async def test_only_servers_that_report_load_are_scraped_unless_it_is_off() -> None:
    text = """
endpoints:
  - {name: v, kind: vllm, base_url: "http://v/v1", models: [chat]}
  - {name: s, kind: sglang, base_url: "http://s/v1", models: [chat, more], signals: 250ms}
  - {name: off, kind: vllm, base_url: "http://off/v1", models: [chat], signals: off}
  - {name: o, base_url: "http://o/v1", models: [chat]}
  - {name: z, kind: zhipu, base_url: "http://z/v1", models: [chat]}
  - {name: made-up, kind: simulated, models: [chat]}
"""
    made = list(
        scrapers(rebuild(parse(text)), dict.fromkeys("vs", Pool("there", NOWHERE, Clock())), Clock(), Random(7))
    )
    assert [repr(each) for each in made] == ["<Scraper v: chat>", "<Scraper s: chat, more>"]
    assert [each.interval for each in made] == [INTERVAL, 0.25]


@on_uvloop
async def test_a_reported_load_is_valid_until_it_is_stale() -> None:
    clock, endpoint = Clock(), Endpoint("there", "org/m")
    async with serving() as server, pooling(server) as pool:
        server.always = whole(PAGE)
        scraping = scraper(config(f"http://{server.host}:{server.port}/v1"), endpoint, pool, clock)
        scraping.note(await scraping.page())
        assert endpoint.forecast.server_load(clock.now()) == ServerLoad(3.0, 1.0, 0.25)
        assert endpoint.forecast.hot(clock.now())
        assert scraping.pause == INTERVAL
        clock.forward(STALE * INTERVAL)
        assert endpoint.forecast.server_load(clock.now()) is None
        assert not endpoint.forecast.hot(clock.now())


@on_uvloop
async def test_the_page_is_requested_beside_the_api_with_the_key() -> None:
    async with serving() as server, pooling(server) as pool:
        scraping = scraper(
            config(f"http://{server.host}:{server.port}/a/v1"), Endpoint("there", "org/m"), pool, Clock()
        )
        asked = asyncio.ensure_future(scraping.page())
        request = await (await server.accept()).answer(whole(PAGE))
        assert await asked == PAGE
        assert request.line == b"GET /a/metrics HTTP/1.1"
        assert request.headers[b"authorization"] == b"Bearer sesame"
        assert request.headers[b"accept-encoding"] == b"identity"


@on_uvloop
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (whole(b"no", 404), "status 404"),
        (whole(b"python_info 1\n"), "the page has none of its gauges"),
        (whole(PAGE.replace(b"} 3.0", b" 3.0")), "not a page of metrics: "),
        (whole(PAGE + b"# \xff"), ""),
        (whole(PAGE + b"#" * MAX_PAGE_BYTES), f"more than {MAX_PAGE_BYTES} bytes"),
        (whole(PAGE)[:-9], "the connection was closed before the answer was complete"),
    ],
    ids=["status", "another page", "nonsense", "nonsense elsewhere", "too long", "cut"],
)
async def test_an_invalid_page_reports_no_load(answer: bytes, reason: str) -> None:
    clock, endpoint = Clock(), Endpoint("there", "org/m")
    async with serving() as server, pooling(server) as pool:
        scraping = scraper(config(f"http://{server.host}:{server.port}/v1"), endpoint, pool, clock)
        asked = asyncio.ensure_future(scraping.page())
        peer = await server.accept()
        await peer.answer(answer)
        peer.finish()
        scraping.note(await asked)
        assert scraping.unknown.startswith(reason)
        assert bool(scraping.unknown) == bool(reason)
        assert (endpoint.forecast.server_load(clock.now()) is None) == bool(reason)


@on_uvloop
async def test_a_late_page_reports_no_load() -> None:
    async with serving() as server, pooling(server) as pool:
        url = f"http://{server.host}:{server.port}/v1"
        scraping = scraper(config(url, signals="2ms"), Endpoint("there", "org/m"), pool, Clock())
        assert await scraping.page() == "no answer within 0.01 s"


@on_uvloop
async def test_a_missed_page_keeps_the_load_and_lowers_the_rate_of_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock, endpoint = Clock(), Endpoint("there", "org/m")
    async with pooling(NOWHERE) as pool:
        scraping = scraper(config(), endpoint, pool, clock)
        scraping.note(PAGE)
        pauses = []
        for _ in range(8):
            scraping.note("status 503")
            pauses.append(scraping.pause)
        assert endpoint.forecast.server_load(clock.now()) == ServerLoad(3.0, 1.0, 0.25)
        assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE]
        scraping.note(PAGE)
        assert scraping.pause == INTERVAL
    assert [record.message for record in caplog.records if record.name == "router.ops.signals"] == [
        "endpoint there: server load is unknown: status 503",
        "endpoint there: server load is known",
    ]


@on_uvloop
async def test_a_running_router_shows_the_reported_load() -> None:
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
    signals: 50ms
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
