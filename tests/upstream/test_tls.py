"""The roots are read again when their file changes, by pools and by httpx alike."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from router.upstream.tls import Trust, unusable_roots
from tests.upstream.servers import on_each_loop


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return file


def write(authority: trustme.CA, file: Path) -> None:
    """Replace a bundle as Kubernetes and certificate managers do: by another file of the same name."""
    new = file.with_suffix(".new")
    authority.cert_pem.write_to_path(str(new))
    new.replace(file)


def remove(file: Path) -> None:
    file.unlink()


def spoil(file: Path) -> None:
    file.write_text("half a certif")


async def connects(trust: ssl.SSLContext, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="localhost")
    except ssl.SSLCertVerificationError:
        return False
    writer.transport.abort()
    return True


async def gets(client: httpx.AsyncClient, port: int) -> bool:
    try:
        await client.get(f"https://localhost:{port}/")
    except httpx.ConnectError:
        return False
    except httpx.RemoteProtocolError:
        return True  # the server closes after the handshake
    raise AssertionError


@on_each_loop
async def test_connections_follow_a_bundle_that_changes(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="router.upstream.tls")
    old, new = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    new.issue_cert("localhost").configure_cert(context)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    write(old, bundle)
    trust = Trust()
    async with httpx.AsyncClient(trust_env=False, verify=trust) as client:
        assert not await connects(trust, port)
        assert not await gets(client, port)
        remove(bundle)
        assert not await connects(trust, port)
        write(new, bundle)
        assert await connects(trust, port)
        assert await gets(client, port)
        assert caplog.text.count("changed, read again") == 1
        spoil(bundle)
        assert await connects(trust, port)  # the last good one
        assert await connects(trust, port)
        assert caplog.text.count("cannot be read") == 1
        write(old, bundle)
        assert not await connects(trust, port)  # the old root is not trusted any more
    server.close()


def test_an_unchanged_bundle_is_read_once(bundle: Path) -> None:
    write(trustme.CA(), bundle)
    trust = Trust()
    assert trust.current() is trust.current()
    before = trust.current()
    os.utime(bundle, ns=(1, 1))
    assert trust.current() is not before


def test_roots_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    good, empty = tmp_path / "good.pem", tmp_path / "empty.pem"
    trustme.CA().cert_pem.write_to_path(str(good))
    empty.touch()
    assert unusable_roots({}) is None
    assert unusable_roots({"SSL_CERT_FILE": ""}) is None
    assert unusable_roots({"SSL_CERT_FILE": str(good), "SSL_CERT_DIR": str(tmp_path)}) is None
    for name, value, words in (
        ("SSL_CERT_FILE", "/no/where.pem", "No such file"),
        ("SSL_CERT_FILE", str(tmp_path), "directory"),
        ("SSL_CERT_FILE", str(empty), "no certificates"),
        ("SSL_CERT_DIR", str(good), "not a directory"),
    ):
        problem = unusable_roots({name: value})
        assert problem is not None
        assert problem.startswith(f"{name}: {value} ")
        assert words in problem
