"""Checks of every shader file that run none."""

from pathlib import Path

import pytest

import metal_kernels
from metal_kernels import dispatches
from metal_kernels import toolchain as toolchains
from metal_kernels.emulator import LintError, toolchain
from metal_kernels.emulator.build import build
from metal_kernels.emulator.kernel import function_of
from metal_kernels.emulator.lint import lint
from metal_kernels.source import MetalSource, parse
from tests.support import mlx_headers
from tests.support.launches import MODELS, published

SHADERS = sorted(Path(metal_kernels.__file__).parent.glob("*.metal"))


@pytest.mark.parametrize("path", SHADERS, ids=lambda path: path.name)
def test_it_passes_the_lint_and_defines_no_name_of_mlx(path):
    function = function_of(MetalSource.read(path), {})
    lint(function)
    build(mlx_headers.after_utilities(function), "fast", linted=False)


CANDIDATES = toolchains.candidates(toolchain.SYSTEM_NAMES)
FOUND = [found for candidate in CANDIDATES if (found := toolchain.qualify(candidate))]


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.name)
def test_no_compiler_leaves_private_arrays_of_the_published_models_shaders_in_memory(found):
    for dense in ("q8", "bf16"):
        for experts in MODELS.values():
            for made in published(dense, experts, most_rows=1):
                source = MetalSource.read(dispatches.FOLDER / f"{made.shader}.metal")
                lint(function_of(source, dict(made.template)), found)


@pytest.mark.parametrize("name", ["WorkPerThread", "WorkPerLane"])
def test_a_name_of_mlx_is_noticed(name):
    text = f"""struct {name} {{ int n; }};
    [[kernel]] void clash(device float* out, uint3 thread_position_in_grid [[thread_position_in_grid]]) {{
      out[thread_position_in_grid.x] = 1;
    }}
    """
    function = function_of(parse(Path("clash.metal"), text), {})
    lint(function)
    whole = mlx_headers.after_utilities(function)
    if name == "WorkPerThread":
        with pytest.raises(LintError, match=r"clash.metal:1: .*WorkPerThread"):
            build(whole, "fast", linted=False)
    else:
        build(whole, "fast", linted=False)
