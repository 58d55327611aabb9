"""Every compiler found gives the same results and findings, without help from the system."""

import os
import subprocess
import sys

import numpy as np
import pytest

from metal_kernels import toolchain as compilers
from metal_kernels.emulator import FindingKind, KernelFault, ToolchainError, metal_kernel, toolchain
from tests.metal_kernels.emulator.planted import ROW_SUM

ROWS = np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32)
CALL = {"inputs": [ROWS], "output_shapes": [(4,)], "output_dtypes": ["float32"]}
GRID = {"grid": (4 * 256, 1, 1), "threadgroup": (256, 1, 1)}
CANDIDATES = compilers.candidates(toolchain.SYSTEM_NAMES)
FOUND = [found for candidate in CANDIDATES if (found := toolchain.qualify(candidate))]


def name(found):
    return found.name


def test_ziglang_of_the_dev_extra_is_one_of_them():
    assert any(found.name == "ziglang" for found in FOUND)


@pytest.mark.parametrize("found", FOUND, ids=name)
@pytest.mark.parametrize("mode", ["fast", "count", "check", "cover"])
def test_results_and_counts_agree(found, mode):
    kernel = metal_kernel("agree", ["inp"], ["out"], ROW_SUM, toolchain=found, mode=mode)
    (out,), report = kernel(**CALL, **GRID)
    np.testing.assert_allclose(out, ROWS.sum(1, dtype=np.float64), atol=2e-5)
    assert not report.findings
    if mode == "count":
        assert report.buffers["inp"].bytes_issued == 16000


@pytest.mark.parametrize("found", FOUND, ids=name)
def test_races_and_divergence_are_found_at_their_lines(found):
    racy = ROW_SUM.replace("threadgroup_barrier(mem_flags::mem_threadgroup);", "")
    _, report = metal_kernel("racy", ["inp"], ["out"], racy, toolchain=found)(**CALL, **GRID)
    race = next(f for f in report.findings if f.kind is FindingKind.RACE)
    assert {race.place.line, race.other.line} == {9, 12}
    # The same call on both sides of a branch stays two places, although an optimiser could merge it.
    both = "if (lane < 16)\n  acc = total(acc);\nelse\n  acc = total(acc);\nif"
    split = ROW_SUM.replace("acc = simd_sum(acc);\nif", both)
    header = "METAL_FUNC float total(float v) {\n  return simd_sum(v);\n}"
    with pytest.raises(KernelFault, match="divergence"):
        metal_kernel("split", ["inp"], ["out"], split, header=header, toolchain=found)(**CALL, **GRID)


def test_no_compiler_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(compilers, "candidates", lambda names: iter([]))
    with pytest.raises(ToolchainError, match="pip install ziglang"):
        toolchain.find.__wrapped__()


def test_processes_that_build_the_same_kernel_at_once_do_not_meet(tmp_path):
    code = (
        "import numpy as np\nfrom metal_kernels.emulator import metal_kernel\n"
        "k = metal_kernel('once', [], ['out'], 'out[thread_position_in_grid.x] = thread_position_in_grid.x;')\n"
        "(out,), _ = k(inputs=[], output_shapes=[(8,)], output_dtypes=['int32'],\n"
        "    grid=(8, 1, 1), threadgroup=(8, 1, 1))\n"
        "assert (out == np.arange(8)).all()"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    made = next(tmp_path.rglob("emulator"))
    assert sorted(path.suffix for path in made.iterdir()) == [".json", ".linted", ".o", ".so"]


@pytest.mark.parametrize("target", ["aarch64-macos", "aarch64-linux-gnu", "x86_64-macos"])
def test_the_runtime_compiles_for_machines_that_are_not_here(target, tmp_path):
    zig = next(found for found in FOUND if found.name == "ziglang")
    flags = ["-std=c++17", "-O2", "-fno-exceptions", "-fno-rtti", "-Wall", "-Werror", "-Wno-unused-function"]
    source = toolchain.NATIVE / "runtime.cpp"
    done = zig.drive("-target", target, *flags, "-c", "-o", tmp_path / "runtime.o", source)
    assert done.returncode == 0, done.stderr
