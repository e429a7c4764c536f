"""A minimal HTTP/1.1 server over httptools: the requests of one connection, one after another."""

from __future__ import annotations

import asyncio
import socket
import struct

import httptools


class Http(asyncio.Protocol):
    """One connection. `asked` is called with each request, and its answer is written before the next request."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.parser = httptools.HttpRequestParser(self)
        self.path, self.body = b"", b""

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self.transport.abort()
            raise
        except httptools.HttpParserError:
            self.transport.close()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def reset(self) -> None:
        """Reset the connection: the peer reads an error, not an end."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def on_message_begin(self) -> None:
        self.path, self.body = b"", b""

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.asked(self.path.partition(b"?")[0].decode(), self.body)

    def asked(self, path: str, body: bytes) -> None:
        raise NotImplementedError
