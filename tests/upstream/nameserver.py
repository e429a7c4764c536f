"""A real name server on loopback: silent, slow, failing, and with answers that change; also over TCP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from dnslib import QTYPE, RCODE, RR, DNSError, DNSRecord  # type: ignore[import-untyped]
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer  # type: ignore[import-untyped]

MAX_DATAGRAM = 512  # bytes of an answer over UDP (RFC 1035 §4.2.1)


class Nameserver(BaseResolver):  # type: ignore[misc]
    """Answers from `zone`, which maps a name to its addresses; other names do not exist."""

    def __init__(self, port: int = 0) -> None:
        self.zone: dict[str, tuple[str, ...]] = {}
        self.ttl = 60
        self.silent: set[str] = set()  # names without an answer
        self.slow = 0.0  # seconds before each answer
        self.failing = False  # answers SERVFAIL
        self.asked: list[tuple[str, str]] = []  # name and type
        self.over_tcp = 0  # questions
        self.port = port

    def resolve(self, request: Any, handler: Any) -> Any:
        name, kind = str(request.q.qname).rstrip("."), QTYPE[request.q.qtype]
        self.asked.append((name, kind))
        self.over_tcp += handler.protocol == "tcp"
        if name in self.silent:
            raise DNSError  # the server then sends nothing
        time.sleep(self.slow)
        reply = request.reply()
        if self.failing:
            reply.header.rcode = RCODE.SERVFAIL
        elif name not in self.zone:
            reply.header.rcode = RCODE.NXDOMAIN
        for address in self.zone.get(name, ()):
            if (":" in address) is (kind == "AAAA"):
                reply.add_answer(*RR.fromZone(f"{name}. {self.ttl} {kind} {address}"))
        return reply


@contextmanager
def nameserver(port: int = 0, *, tcp: bool = False) -> Iterator[Nameserver]:
    """A name server over UDP, where answers of more than 512 bytes are truncated; with `tcp` over TCP too."""
    resolver = Nameserver(port)
    servers = []
    for protocol in ("tcp", "udp") if tcp else ("udp",):  # in this order: a port that is free for TCP is so for UDP
        servers.append(_listening(resolver, tcp=protocol == "tcp"))
        resolver.port = servers[0].server.server_address[1]
    threads = [Thread(target=each.server.serve_forever, args=(0.01,), daemon=True) for each in servers]
    for thread in threads:
        thread.start()
    try:
        yield resolver
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.stop()
            server.server.server_close()
            thread.join()


class _Handler(DNSHandler):  # type: ignore[misc]
    def get_reply(self, data: bytes) -> bytes:
        """Truncate a long answer over UDP. dnslib's own way drops the question too, which no name server does."""
        reply: bytes = super().get_reply(data)
        if self.protocol == "tcp" or len(reply) <= MAX_DATAGRAM:
            return reply
        record = DNSRecord.parse(reply)
        record.rr, record.header.tc = [], 1
        truncated: bytes = record.pack()
        return truncated


def _listening(resolver: Nameserver, *, tcp: bool) -> DNSServer:
    logger = DNSLogger("-request,-reply,-error,-truncated")
    return DNSServer(resolver, address="127.0.0.1", port=resolver.port, tcp=tcp, handler=_Handler, logger=logger)
