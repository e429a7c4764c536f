"""A real name server on loopback: silent, slow, failing, and with answers that change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from dnslib import QTYPE, RCODE, RR, DNSError  # type: ignore[import-untyped]
from dnslib.server import BaseResolver, DNSLogger, DNSServer  # type: ignore[import-untyped]


class Nameserver(BaseResolver):  # type: ignore[misc]
    """Answers from `zone`, which maps a name to its addresses; other names do not exist."""

    def __init__(self) -> None:
        self.zone: dict[str, tuple[str, ...]] = {}
        self.ttl = 60
        self.silent: set[str] = set()  # names without an answer
        self.slow = 0.0  # seconds before each answer
        self.failing = False  # answers SERVFAIL
        self.asked: list[tuple[str, str]] = []  # name and type
        self.port = 0

    def resolve(self, request: Any, handler: Any) -> Any:
        name, kind = str(request.q.qname).rstrip("."), QTYPE[request.q.qtype]
        self.asked.append((name, kind))
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
def nameserver() -> Iterator[Nameserver]:
    resolver = Nameserver()
    server = DNSServer(resolver, address="127.0.0.1", port=0, logger=DNSLogger("-request,-reply,-error"))
    resolver.port = server.server.server_address[1]
    thread = Thread(target=server.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield resolver
    finally:
        server.stop()
        server.server.server_close()
        thread.join()
