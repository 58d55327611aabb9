"""What tests of the native library are given."""

from collections.abc import Iterator

import pytest

from metal_kernels.cpu.library import ARCHITECTURES
from tests.support.native import architectures, using
from tests.support.sanitized import Sanitized, compile_sanitized


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory) -> Sanitized:
    """The library with sanitizers."""
    return compile_sanitized(tmp_path_factory.mktemp("sanitized"))


@pytest.fixture(params=ARCHITECTURES)
def architecture(request) -> Iterator[str]:
    """An architecture that this machine has, on which operations run."""
    if request.param not in architectures():
        pytest.skip("not on this machine")
    with using(request.param):
        yield request.param
