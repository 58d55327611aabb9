"""An operation that gets no memory says so, and computes once there is memory again."""

import subprocess
import sys

import pytest

from tests.support.native import architectures
from tests.test_imports import ROOT

pytestmark = pytest.mark.skipif(not architectures(), reason="there is no native library")

PROGRAM = """
import re, resource
from pathlib import Path
import metal_kernels
import mlx.core as mx
import numpy as np
from metal_kernels.cpu import library, operations
from metal_kernels.operands import Dense

opened = library.library()
opened.set_threads(1)
rng = np.random.default_rng(0)
few, many = (mx.array(rng.standard_normal((rows, 64), np.float32)) for rows in (3, 100_000))
head, norm = Dense(mx.array(rng.standard_normal((5, 64), np.float32))), mx.ones(64)
mx.eval(few, many, head.weight, norm)

def made(x):
    return np.array(operations.norm_head(x, norm, 1e-5, head))

want = made(few)

def allow(more):
    size = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    resource.setrlimit(resource.RLIMIT_AS, (size + more, -1))

def refused(call):
    try:
        call()
    except MemoryError as error:
        return str(error) == "no memory for norm_head"
    return False

allow(8 << 20)
for _ in range(3):
    assert refused(lambda: made(many)), "25 MB of normed rows"
    assert np.array_equal(made(few), want)
opened.set_threads(64)
try:
    assert np.array_equal(made(few), want), "as many threads as have room for a stack"
except MemoryError:
    pass  # or there is no room for their buffers
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
for threads in (64, 2):
    opened.set_threads(threads)
    assert np.array_equal(made(many)[:3], made(many[:3]))
    assert np.array_equal(made(few), want)
print("done")
"""


def test_no_memory_is_an_error_and_then_the_library_goes_on():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
