"""The registers of the shaders by NVIDIA's compiler. Skipped where it is not installed: ``make .venv-cuda/.ready``."""

from pathlib import Path

import mlx.core as mx
import pytest

from metal_kernels.cuda import cubins, nvrtc
from metal_kernels.cuda.translation import translated
from metal_kernels.emulator.kernel import function_of
from metal_kernels.source import parse
from tests.metal_kernels.shaders import registers

MOST = 128
"""Registers that a thread of an Apple GPU has."""


@pytest.fixture(scope="module")
def library():
    try:
        return cubins.nvrtc_here()
    except nvrtc.Absent as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("dense", "dtype"), [("q8", mx.bfloat16), ("bf16", mx.bfloat16), ("bf16", mx.float32)])
def test_every_shader_the_published_models_launch_keeps_to_registers(dense, dtype, library):
    found = list(registers.measured(registers.launched(dense, dtype)))
    assert len({one.shader for one in found}) == 12
    assert [one for one in found if one.local_bytes] == []
    assert [one for one in found if one.registers > MOST] == []


CHOSEN = """
[[kernel]] void chosen(device float* out, uint thread_index_in_simdgroup [[thread_index_in_simdgroup]]) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; i++) v[i] = 0;
  for (uint n = thread_index_in_simdgroup; out[n] > 0; n += 7) v[n % 64] += out[n];
#pragma unroll
  for (int i = 0; i < 64; i++) out[64 * thread_index_in_simdgroup + i] = v[i];
}
"""


def test_an_array_that_a_lane_indexes_is_counted_as_memory(library):
    function = function_of(parse(Path("chosen.metal"), CHOSEN), {})
    assert nvrtc.compiled(translated(function, 32), library).local_bytes >= 256


def test_a_source_that_does_not_compile_is_told(library):
    function = function_of(parse(Path("chosen.metal"), CHOSEN.replace("float v", "flaot v")), {})
    with pytest.raises(nvrtc.CompileError, match=r"chosen.metal\(3\): error"):
        nvrtc.compiled(translated(function, 32), library)
