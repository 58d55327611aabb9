"""The sanitizers notice what they are there for, beside Python, numpy and MLX, and say nothing about our library."""

import sys

import pytest

from metal_kernels.cpu import build
from tests.metal_kernels.cpu.test_threads import PROGRAMS, program
from tests.support.sanitized import compile_sanitized

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="built on Linux only")

PLANTED = """
#include <stdint.h>
extern "C" __attribute__((visibility("default"))) float at(const float* row, int64_t index) { return row[index]; }
extern "C" __attribute__((visibility("default"))) int add(int a, int b) { return a + b; }
"""
CALL = """
import ctypes
import mlx.core as mx
import numpy as np
planted = ctypes.CDLL(str(build.find()))
planted.at.restype = ctypes.c_float
rows = {"numpy": np.arange(24, dtype=np.float32), "mlx": mx.arange(24, dtype=mx.float32)}
mx.eval(rows["mlx"])
def at(name, index):
    row = np.asarray(rows[name])
    return planted.at(ctypes.c_void_p(row.ctypes.data), ctypes.c_int64(index))
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A library with two functions that have a defect for some arguments."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "library.cpp").write_text(PLANTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "NATIVE", folder)
        return compile_sanitized(folder)


def test_no_defect_is_no_report(planted):
    done = planted.run(f"{CALL}print(at('numpy', 23), at('mlx', 23), planted.add(2, 2))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "23.0 23.0 4\n", "")


@pytest.mark.parametrize(
    ("call", "report"),
    [
        ("at('numpy', 24)", "heap-buffer-overflow"),
        ("at('mlx', 24)", "heap-buffer-overflow"),
        ("at('numpy', -1)", "heap-buffer-overflow"),
        ("planted.add(2**31 - 1, 1)", "signed integer overflow"),
        ("planted.at(ctypes.c_void_p(2), ctypes.c_int64(0))", "misaligned address"),
    ],
)
def test_a_defect_ends_the_process_with_a_report(planted, call, report):
    done = planted.run(f"{CALL}{call}")
    assert done.returncode != 0
    assert report in done.stderr
    assert "library.cpp:" in done.stderr


TRIALS = """
import metal_kernels
from tests.metal_kernels.cpu.trials import OPERATIONS, trial
from tests.support.native import architectures, using
for operation in OPERATIONS:
    for number in range(3):
        one = trial(operation, number, seed=30)
        for architecture in architectures():
            with using(architecture, 1 + number % 3):
                assert one.error(one.native()) <= 2e-6, f"{operation.__name__}, {architecture}: {one.about}"
print("done")
"""


def test_operations_read_and_write_only_what_is_theirs(sanitized):
    """The buffers of threads have not a byte to spare, and what nothing has written is NaN."""
    done = sanitized.run(TRIALS)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_threads_read_and_write_only_what_is_theirs(sanitized, name):
    done = sanitized.run(program(PROGRAMS[name]))
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_the_library_loads_without_a_report(sanitized):
    done = sanitized.run("import ctypes\nprint(ctypes.CDLL(str(build.find())).gptoss_cpu_architectures() & 1)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
