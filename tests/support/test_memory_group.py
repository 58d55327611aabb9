"""A program in a group is measured and limited, or figures from it mean nothing."""

import os
import signal

import pytest

from tests.support.memory_group import Ran, run_limited

MIB = 1 << 20


@pytest.fixture(autouse=True)
def program(tmp_path, monkeypatch):
    """A module that takes 150 MiB and holds them a moment."""
    (tmp_path / "taking.py").write_text(
        "import sys, time\nheld = b'x' * (int(sys.argv[1]) << 20)\ntime.sleep(0.3)\nprint(len(held))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


def taken(limit: int | None) -> Ran:
    try:
        return run_limited(["taking", "150"], limit)
    except OSError as error:
        pytest.skip(f"no memory control group can be made: {error}")


def test_what_a_program_holds_is_sampled():
    ran = taken(None)
    assert (ran.output, ran.code, ran.killed) == (f"{150 * MIB}\n", 0, False)
    assert 150 * MIB < ran.anonymous < 180 * MIB
    assert ran.samples > 5


def test_a_program_that_takes_more_than_its_limit_is_killed():
    ran = taken(100 * MIB)
    assert (ran.code, ran.killed) == (-signal.SIGKILL, True)
    assert ran.anonymous <= 100 * MIB
