"""Fixtures shared with the tests of proxy/: a short list of root certificates."""

from tests.proxy.conftest import _few_roots, roots

__all__ = ["_few_roots", "roots"]
