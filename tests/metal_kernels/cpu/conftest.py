"""What tests of the native library are given."""

import pytest

from tests.support.sanitized import Sanitized, compile_sanitized


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory) -> Sanitized:
    """The library with sanitizers."""
    return compile_sanitized(tmp_path_factory.mktemp("sanitized"))
