"""The roots that certificates of endpoints are checked against: read again when their file changes.

Python's `ssl` reads a bundle once. A router that runs for months would refuse every endpoint after the operator's CA
was replaced. `Trust` is a context like any other, for asyncio, uvloop and httpx alike; each new connection compares the
file's time and size, and uses a new context if they differ.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int] | None


class Trust(ssl.SSLContext):
    """The system's roots, or those of SSL_CERT_FILE and SSL_CERT_DIR; HTTP/1.1 only."""

    _current: ssl.SSLContext
    _seen: _Stamp

    def __new__(cls) -> Trust:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self) -> None:
        self._current, self._seen = _context(), _stamp()

    # Every TLS connection of asyncio, uvloop and anyio begins with wrap_bio; a blocking one with wrap_socket.

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self.current().wrap_bio(*args, **options)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return self.current().wrap_socket(*args, **options)

    def current(self) -> ssl.SSLContext:
        """The context with the present roots. Roots that cannot be read leave the last ones in use."""
        stamp = _stamp()
        if stamp is not None and stamp != self._seen:
            self._seen = stamp
            try:
                self._current = _context()
                log.info("CA bundle %s: changed, read again", _file())
            except (OSError, ValueError) as error:
                log.error("CA bundle %s: changed, but cannot be read (%s); the last one stays in use", _file(), error)
        return self._current


def unusable_roots(environ: dict[str, str] | os._Environ[str] = os.environ) -> str | None:
    """The problem of SSL_CERT_FILE or SSL_CERT_DIR; Python would ignore it, and then trust no server."""
    file, folder = environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")
    if file:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
        except ssl.SSLError:
            return f"SSL_CERT_FILE: {file} has no certificates in PEM form"
        except (OSError, ValueError) as error:
            reason = "it is a directory" if Path(file).is_dir() else getattr(error, "strerror", None) or str(error)
            return f"SSL_CERT_FILE: {file} cannot be read: {reason}"
    if folder and not any(Path(part).is_dir() for part in folder.split(os.pathsep)):
        return f"SSL_CERT_DIR: {folder} is not a directory"
    return None


def _context() -> ssl.SSLContext:
    file = os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context()
    if file:
        context.load_verify_locations(cafile=file)  # raises if it is gone; the default ignores that
    context.set_alpn_protocols(["http/1.1"])
    return context


def _file() -> str:
    paths = ssl.get_default_verify_paths()
    return os.environ.get(paths.openssl_cafile_env) or paths.openssl_cafile


def _stamp() -> _Stamp:
    try:
        status = os.stat(_file())  # for every connection, so no Path is built
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
