"""What tests of shaders and of compilers are given."""

from pathlib import Path

import pytest

from metal_kernels import dispatches


@pytest.fixture
def folder() -> Path:
    """The folder of the shaders under test. The mutation suite calls the same tests with another one."""
    return dispatches.FOLDER


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A function that puts a shell script of this name on the PATH, which has nothing else."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", str(place))

    def put(name, script="exit 0"):
        path = place / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return put
