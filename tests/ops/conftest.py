"""The short list of roots, as beside the tests of proxy/."""

from tests.proxy.conftest import _few_roots, roots

__all__ = ["_few_roots", "roots"]
