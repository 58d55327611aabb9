"""Private arrays that leave the registers are reported at the line where they are declared, by every compiler found."""

from pathlib import Path

import pytest

from metal_kernels import toolchain as compilers
from metal_kernels.emulator import LintError, toolchain
from metal_kernels.emulator.kernel import function_of
from metal_kernels.emulator.lint import lint
from metal_kernels.emulator.source_edit import chosen_elements
from metal_kernels.source import parse

CANDIDATES = compilers.candidates(toolchain.SYSTEM_NAMES)
FOUND = [found for candidate in CANDIDATES if (found := toolchain.qualify(candidate))]
KERNEL = """
METAL_FUNC float total(const thread float* v, uint lane) {{
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 16; i++) sum += {element};
  return sum;
}}
[[kernel]] void sums(const device float* x, device float* out,
                         uint3 thread_position_in_grid [[thread_position_in_grid]]) {{
  uint n = thread_position_in_grid.x;
  float held[16];
#pragma unroll
  for (int i = 0; i < 16; i++) held[i] = x[16 * n + i];
  out[n] = total(held, n) + (n > 3 ? x[0] : x[1]);
}}
"""


def linted(element, found):
    lint(function_of(parse(Path("sums.metal"), KERNEL.format(element=element)), {}), found)


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.name)
def test_an_array_indexed_by_constants_is_none_and_one_indexed_by_a_thread_is(found):
    linted("v[i]", found)
    with pytest.raises(LintError) as caught:
        linted("v[(i + lane) % 16]", found)
    (finding,) = caught.value.findings
    assert (finding.place.file, finding.place.line) == ("sums.metal", 11)
    assert finding.message.startswith(f"held stays in memory with {found.version}")


def test_a_choice_between_two_elements_is_reported_whatever_the_compiler_makes_of_it():
    chosen = "(lane > 3 ? v[i] : v[15 - i])"
    (finding,) = chosen_elements(KERNEL.format(element=chosen), "sums.metal")  # that of x is in device memory
    assert finding.place.line == 5
    assert "elements of v" in finding.message
    assert chosen_elements(KERNEL.format(element="v[i]"), "sums.metal") == []
