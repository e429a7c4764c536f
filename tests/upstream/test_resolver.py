"""Look-ups of names, at a real name server: what is remembered, and what a silent, slow or changing one does."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from router.upstream import resolver as module
from router.upstream.resolver import MAX_TTL, Dns, Found, Resolver, System, Unresolved
from tests.upstream.nameserver import Nameserver, nameserver
from tests.upstream.servers import Clock, on_each_loop, on_uvloop, until


@pytest.fixture
def names() -> Iterator[Nameserver]:
    with nameserver() as server:
        server.zone["there.test"] = ("127.0.0.1",)
        yield server


def dns_of(names: Nameserver, tmp_path: Path, *, hosts: str = "", conf: str = "") -> Dns:
    """Look-ups at the test's name server, with files of the test's own."""
    (tmp_path / "hosts").write_text(hosts)
    (tmp_path / "resolv.conf").write_text(conf)
    given = () if conf else ("127.0.0.1",)
    return Dns(given, names.port, hosts=tmp_path / "hosts", resolv_conf=tmp_path / "resolv.conf")


def resolver_at(names: Nameserver, tmp_path: Path, clock: Clock | None = None) -> Resolver:
    return Resolver(dns_of(names, tmp_path), (clock or Clock()).now)


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short times, for tests in which no answer comes."""
    monkeypatch.setattr(module, "TIMEOUT", 1.0)
    monkeypatch.setattr(module, "ASK_AGAIN", 0.1)
    monkeypatch.setattr(module, "LATE", 0.02)


# What is found, and for how long.


@on_each_loop
async def test_a_name_has_the_addresses_of_both_families(names: Nameserver, tmp_path: Path) -> None:
    names.zone["there.test"] = ("127.0.0.1", "::1", "127.0.0.2")
    assert await resolver_at(names, tmp_path).resolve("there.test") == ("::1", "127.0.0.1", "127.0.0.2")


@on_uvloop
@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.1", "127.0.0.1"), ("fe80::1%eth0", "fe80::1%eth0")],
)
async def test_an_address_is_not_looked_up(names: Nameserver, tmp_path: Path, host: str, address: str) -> None:
    assert await resolver_at(names, tmp_path).resolve(host) == (address,)
    assert names.asked == []


@on_uvloop
async def test_addresses_are_kept_for_their_ttl(names: Nameserver, tmp_path: Path) -> None:
    clock, names.ttl = Clock(), 30
    resolver = resolver_at(names, tmp_path, clock)
    await resolver.resolve("there.test")
    names.zone["there.test"] = ("127.0.0.2",)
    clock.forward(29.0)
    assert await resolver.resolve("There.test") == ("127.0.0.1",)
    assert len(names.asked) == 2
    clock.forward(1.1)
    assert await resolver.resolve("there.test") == ("127.0.0.2",)


@on_uvloop
@pytest.mark.parametrize(("ttl", "kept"), [(0, 1.0), (86_400, MAX_TTL)])
async def test_a_ttl_counts_within_bounds(names: Nameserver, tmp_path: Path, ttl: int, kept: float) -> None:
    clock, names.ttl = Clock(), ttl
    resolver = resolver_at(names, tmp_path, clock)
    await resolver.resolve("there.test")
    clock.forward(kept - 0.1)
    await resolver.resolve("there.test")
    assert len(names.asked) == 2
    clock.forward(0.2)
    await resolver.resolve("there.test")
    assert len(names.asked) == 4


@on_each_loop
async def test_one_look_up_serves_all_that_wait_for_a_name(names: Nameserver, tmp_path: Path) -> None:
    resolver = resolver_at(names, tmp_path)
    found = await asyncio.gather(*(resolver.resolve("there.test") for _ in range(50)))
    assert set(found) == {("127.0.0.1",)}
    assert sorted(names.asked) == [("there.test", "A"), ("there.test", "AAAA")]


MANY = tuple(f"127.0.1.{number}" for number in range(1, 61))  # more than 512 bytes


@on_each_loop
@pytest.mark.parametrize("addresses", [MANY, tuple(f"2001:db8::{n}" for n in range(1, 40))], ids=["A", "AAAA"])
async def test_an_answer_that_is_truncated_is_asked_for_over_tcp(tmp_path: Path, addresses: tuple[str, ...]) -> None:
    with nameserver(tcp=True) as names:
        names.zone["many.test"] = addresses
        resolver = resolver_at(names, tmp_path)
        assert sorted(await resolver.resolve("many.test")) == sorted(addresses)
        assert names.over_tcp == 1
        assert resolver.lookups == {"found": 1, "not_found": 0, "failed": 0}


@pytest.mark.usefixtures("_hurried")
@on_each_loop
async def test_a_truncated_answer_without_tcp_is_a_failure_that_says_so(names: Nameserver, tmp_path: Path) -> None:
    names.zone["many.test"] = MANY
    resolver = resolver_at(names, tmp_path)
    with pytest.raises(Unresolved, match=r"no name server|DNS has not told"):
        await resolver.resolve("many.test")
    assert await resolver.resolve("there.test") == ("127.0.0.1",)
    assert resolver.lookups == {"found": 1, "not_found": 0, "failed": 1}


@pytest.mark.usefixtures("_hurried")
@on_uvloop
async def test_a_name_server_that_is_silent_over_tcp_is_given_up(tmp_path: Path) -> None:
    wanted = "DNS has not told the address within 1 s"
    with socket.create_server(("127.0.0.1", 0)) as silent, nameserver(silent.getsockname()[1]) as names:
        names.zone["many.test"] = MANY
        with pytest.raises(Unresolved, match=wanted):
            await resolver_at(names, tmp_path).resolve("many.test")


@on_uvloop
async def test_look_ups_are_counted_by_their_result(names: Nameserver, tmp_path: Path) -> None:
    clock = Clock()
    resolver = resolver_at(names, tmp_path, clock)
    await resolver.resolve("there.test")
    await resolver.resolve("there.test")  # known
    await resolver.resolve("127.0.0.1")
    with pytest.raises(Unresolved):
        await resolver.resolve("nobody.test")
    names.failing = True
    clock.forward(MAX_TTL + 1.0)
    await asyncio.gather(*(resolver.resolve("there.test") for _ in range(5)))
    assert resolver.lookups == {"found": 1, "not_found": 1, "failed": 1}


# Files.


@on_uvloop
async def test_etc_hosts_is_read_first_and_again_when_it_changes(names: Nameserver, tmp_path: Path) -> None:
    hosts = "# comment\n127.0.0.9 there.test alias # more\n::9\tThere.Test\nnonsense alias\n"
    look_up = dns_of(names, tmp_path, hosts=hosts)
    assert (await look_up("there.test")).addresses == ("127.0.0.9", "::9")
    assert (await look_up("ALIAS.")).addresses == ("127.0.0.9",)
    assert names.asked == []
    (tmp_path / "hosts").write_text("")
    assert (await look_up("there.test")).addresses == ("127.0.0.1",)


@on_uvloop
async def test_search_domains_of_resolv_conf_are_honoured(names: Nameserver, tmp_path: Path) -> None:
    names.zone["there.a.test"] = ("127.0.0.3",)
    conf = "nameserver 127.0.0.1\nsearch b.test a.test\noptions ndots:2\n"
    look_up = dns_of(names, tmp_path, conf=conf)
    assert (await look_up("there")).addresses == ("127.0.0.3",)
    assert ("there.b.test", "A") in names.asked
    assert (await look_up("there.test.")).addresses == ("127.0.0.1",)


@on_uvloop
async def test_a_resolv_conf_that_changes_is_read_again(names: Nameserver, tmp_path: Path) -> None:
    names.zone["there.a.test"] = ("127.0.0.3",)
    look_up = dns_of(names, tmp_path, conf="nameserver 127.0.0.1\n")
    with pytest.raises(Unresolved):
        await look_up("there")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\nsearch a.test\n")
    assert (await look_up("there")).addresses == ("127.0.0.3",)


@on_uvloop
async def test_localhost_and_invalid_need_no_name_server(names: Nameserver, tmp_path: Path) -> None:
    look_up = dns_of(names, tmp_path)
    assert (await look_up("localhost")).addresses == ("127.0.0.1", "::1")
    assert (await look_up("a.localhost.")).addresses == ("127.0.0.1", "::1")
    with pytest.raises(Unresolved, match="the host name does not exist"):
        await look_up("nobody.invalid")
    assert names.asked == []


# What goes wrong.


@on_uvloop
@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("nobody.test", "the host name does not exist"),
        ("empty.test", "the host name has no address"),
        ("a..b", "the host name is not valid"),
        ("x" * 70 + ".test", "the host name is not valid"),
    ],
)
async def test_a_name_without_addresses_is_an_error(names: Nameserver, tmp_path: Path, host: str, reason: str) -> None:
    names.zone["empty.test"] = ()
    resolver = resolver_at(names, tmp_path)
    for _ in range(2):
        with pytest.raises(Unresolved, match=reason):
            await resolver.resolve(host)
    asked = [name for name, _ in names.asked]
    assert len(asked) <= 2  # an error is kept for a second


@pytest.mark.usefixtures("_hurried")
@on_each_loop
async def test_a_silent_name_delays_no_other(names: Nameserver, tmp_path: Path) -> None:
    resolver = resolver_at(names, tmp_path)
    names.silent = {f"silent-{number}.test" for number in range(10)}
    silent = [asyncio.ensure_future(resolver.resolve(name)) for name in names.silent]
    await asyncio.sleep(0)
    assert await resolver.resolve("there.test") == ("127.0.0.1",)
    assert not any(each.done() for each in silent)
    for each in silent:
        with pytest.raises(Unresolved, match="DNS has not told the address within 1 s"):
            await each


@pytest.mark.usefixtures("_hurried")
@on_uvloop
async def test_a_lost_question_is_asked_again(names: Nameserver, tmp_path: Path) -> None:
    names.silent = {"there.test"}
    asked = asyncio.ensure_future(resolver_at(names, tmp_path).resolve("there.test"))
    await until(lambda: len(names.asked) >= 2)
    names.silent = set()
    assert await asked == ("127.0.0.1",)


@pytest.mark.usefixtures("_hurried")
@on_uvloop
async def test_the_next_name_server_is_asked_when_the_first_is_silent(names: Nameserver, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.2", names.port))
        look_up = dns_of(names, tmp_path, conf="nameserver 127.0.0.2\nnameserver 127.0.0.1\n")
        assert (await look_up("there.test")).addresses == ("127.0.0.1",)


@pytest.mark.usefixtures("_hurried")
@on_uvloop
async def test_the_last_addresses_are_used_while_a_new_answer_is_late(names: Nameserver, tmp_path: Path) -> None:
    clock = Clock()
    resolver = resolver_at(names, tmp_path, clock)
    await resolver.resolve("there.test")
    names.silent, names.zone["there.test"] = {"there.test"}, ("127.0.0.2",)
    clock.forward(MAX_TTL + 1.0)
    assert await resolver.resolve("there.test") == ("127.0.0.1",)
    names.silent = set()  # the look-up goes on, and asks again
    await until(lambda: resolver._names["there.test"].task is None)
    assert await resolver.resolve("there.test") == ("127.0.0.2",)


@pytest.mark.usefixtures("_hurried")
@on_uvloop
@pytest.mark.parametrize("how", ["silent", "failing"])
async def test_the_last_addresses_are_used_while_dns_fails_and_the_log_says_so_once(
    names: Nameserver, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO, logger="router.upstream.resolver")
    clock = Clock()
    resolver = resolver_at(names, tmp_path, clock)
    await resolver.resolve("there.test")
    names.silent, names.failing = {"there.test"} if how == "silent" else set(), how == "failing"
    for _ in range(3):
        clock.forward(MAX_TTL + 1.0)
        assert await resolver.resolve("there.test") == ("127.0.0.1",)
        await until(lambda: resolver._names["there.test"].task is None)
    names.silent, names.failing, names.zone["there.test"] = set(), False, ("127.0.0.2",)
    clock.forward(MAX_TTL + 1.0)
    await resolver.resolve("there.test")
    await until(lambda: resolver._names["there.test"].task is None)
    assert await resolver.resolve("there.test") == ("127.0.0.2",)
    warned, again = (record.message for record in caplog.records)
    assert warned.endswith("; its last known addresses are used")
    assert again == "host name there.test: resolved again"


@on_uvloop
async def test_a_name_that_exists_no_more_has_no_last_addresses(names: Nameserver, tmp_path: Path) -> None:
    clock = Clock()
    resolver = resolver_at(names, tmp_path, clock)
    await resolver.resolve("there.test")
    del names.zone["there.test"]
    clock.forward(MAX_TTL + 1.0)
    with pytest.raises(Unresolved, match="does not exist"):
        await resolver.resolve("there.test")


@on_each_loop
async def test_a_look_up_outlives_whoever_waits_for_it(names: Nameserver, tmp_path: Path) -> None:
    """An exception that no waiter takes is not left behind: `on_each_loop` fails a test that leaves one."""
    resolver = resolver_at(names, tmp_path)
    for host in ("there.test", "nobody.test"):
        waiter = asyncio.ensure_future(resolver.resolve(host))
        await asyncio.sleep(0)
        waiter.cancel()
    await until(lambda: all(name.task is None for name in resolver._names.values()))
    assert resolver._names["there.test"].addresses == ("127.0.0.1",)


@on_each_loop
async def test_a_closed_resolver_leaves_no_look_up(names: Nameserver, tmp_path: Path) -> None:
    names.silent = {"there.test"}
    resolver = resolver_at(names, tmp_path)
    waiter = asyncio.ensure_future(resolver.resolve("there.test"))
    await until(lambda: names.asked)
    resolver.close()
    with pytest.raises(Unresolved):
        await waiter


@on_uvloop
async def test_a_mistake_in_a_look_up_is_logged_and_fails_it(caplog: pytest.LogCaptureFixture) -> None:
    async def wrong(host: str) -> Found:
        raise ZeroDivisionError

    with pytest.raises(Unresolved, match="the look-up of the host name failed"):
        await Resolver(wrong, Clock().now).resolve("there.test")
    assert "ZeroDivisionError" in caplog.text


# The operating system's way.


@on_each_loop
async def test_the_system_knows_localhost_and_refuses_nonsense() -> None:
    resolver = Resolver(System(), Clock().now)
    assert "127.0.0.1" in await resolver.resolve("localhost")
    for host in ("a..b", "nobody.invalid"):
        with pytest.raises(Unresolved, match="the host name "):
            await resolver.resolve(host)


@on_each_loop
async def test_slow_look_ups_of_the_system_delay_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    over, asked = Event(), socket.getaddrinfo

    def slow(host: str, *args: object, **options: object) -> object:
        if host.startswith("slow"):
            over.wait(10.0)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return asked(host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    resolver = Resolver(System(), time.monotonic)
    waiting = [asyncio.ensure_future(resolver.resolve(f"slow-{number}")) for number in range(20)]
    assert await resolver.resolve("localhost")
    assert not any(each.done() for each in waiting)
    over.set()
    for each in waiting:
        with pytest.raises(Unresolved, match="try again"):
            await each
