"""What is freed goes back to the system, so that a plan's sums are what a process holds."""

import subprocess
import sys

import mlx.core as mx
import pytest

from gptoss_mlx.memory.allocators import limit_allocators


def test_mlx_keeps_no_more_than_it_may():
    before = mx.set_cache_limit(0)
    try:
        limit_allocators(1 << 20)
        mx.clear_cache()
        arrays = [mx.zeros(1 << 18) + n for n in range(8)]
        mx.eval(arrays)
        del arrays
        assert mx.get_cache_memory() <= 1 << 20
        assert mx.set_cache_limit(0) == 1 << 20
    finally:
        mx.set_cache_limit(before)


HOLES = """
import mlx.core as mx

from gptoss_mlx import machine
from gptoss_mlx.memory.allocators import limit_allocators

limit_allocators(0)
large = mx.zeros(7 << 20) + 1
mx.eval(large)
del large  # glibc's own threshold would now be 28 MB
held = machine.own_bytes()
arrays = [mx.zeros(1 << 20) + n for n in range(16)]
mx.eval(arrays)
grown = machine.own_bytes() - held
del arrays[::2]
print(grown, machine.own_bytes() - held)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's account of a process")
def test_arrays_freed_between_others_leave_no_holes():
    """In a process of its own, because this one may have room from earlier tests."""
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    grown, left = map(int, done.stdout.split())
    assert grown > 60e6
    assert left < 0.6 * grown
