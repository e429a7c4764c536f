"""Fixtures of the tests of the whole program: no proxy in front of the router, and a fake endpoint."""

from collections.abc import Iterator

import pytest

from tests.processes import Fake, fake


@pytest.fixture(scope="module")
def direct() -> Iterator[None]:
    """Keep the SDKs from using a proxy that the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture(scope="module")
def alpha() -> Iterator[Fake]:
    with fake("alpha") as endpoint:
        yield endpoint
