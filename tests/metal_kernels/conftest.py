"""What tests of shaders are given."""

from pathlib import Path

import pytest

from metal_kernels import dispatches


@pytest.fixture
def folder() -> Path:
    """The folder of the shaders under test. The mutation suite calls the same tests with another one."""
    return dispatches.FOLDER
