"""Shaders on MLX's CUDA backend, as far as no GPU is needed: what is launched, in which order, in how many blocks."""

import os
import subprocess
import sys
from math import prod

import mlx.core as mx
import pytest

from metal_kernels import dispatches, launch, reference
from metal_kernels.cuda import kernel, nvrtc
from metal_kernels.cuda.translation import FREE_THREADS, blocks
from metal_kernels.source import MetalSource
from tests.metal_kernels.shaders import decode_attention, dense, experts, grouped, registers
from tests.metal_kernels.shaders.common import run, same
from tests.support.cli import run_cli
from tests.support.cuda_backend import stand_in


@pytest.fixture(autouse=True)
def fresh_kernels():
    launch.kernel_at.cache_clear()
    yield
    launch.kernel_at.cache_clear()


@pytest.fixture
def ran():
    with stand_in() as shaders:
        yield shaders


def cases():
    for operation in experts.OPERATIONS:
        yield operation, experts.dispatch(operation, experts.CASES[0][0])
    for operation in dense.OPERATIONS:
        for case, handed in dense.CASES[:2]:  # a grid that is no multiple of its threadgroup, and q8
            yield operation, dense.dispatch(operation, case, handed)
    for operation in grouped.OPERATIONS:
        yield operation, grouped.dispatch(operation, grouped.CASES[0])
    case = decode_attention.Case(300, 3, 2)
    yield "decode_attention", decode_attention.dispatch(case)
    parts = mx.random.normal((2, case.heads, 5, case.dim + 4))
    yield "decode_attention_combine", dispatches.decode_attention_combine(parts, case.arrays.sinks, mx.float32)


def test_every_shader_gets_its_arguments_in_its_own_order(ran):
    for shader, made in cases():
        want, _ = run(made, mode="fast")
        got = launch.run(made, "cuda")
        if shader == "decode_attention":  # rows of the tail that hold no position are not written
            got, want = got[:1], want[:1]
        assert same(got, want), shader
    assert set(ran) == {path.stem for path in dispatches.FOLDER.glob("*.metal")}


def test_arguments_in_another_order_are_noticed(ran):
    made = experts.dispatch("norm_router", experts.CASES[1][0])
    x, norm, *others = made.inputs
    exchanged = made._replace(inputs=(norm, x, *others))
    with pytest.raises(Exception, match="declared"):
        launch.run(exchanged, "cuda")


def test_the_published_launches_are_whole_blocks_and_have_one_cubin_for_all_rows():
    one_cubin: dict[tuple, set[int]] = {}
    for made in registers.launched("q8"):
        count, threads = blocks(
            MetalSource.read(dispatches.FOLDER / f"{made.shader}.metal"), made.grid, made.threadgroup
        )
        assert tuple(a * b for a, b in zip(count, threads, strict=True)) == made.grid
        assert threads == made.threadgroup
        one_cubin.setdefault((made.shader, made.template), set()).add(max(prod(threads), FREE_THREADS))
    assert all(len(bounds) == 1 for bounds in one_cubin.values())


def test_a_shader_whose_threadgroups_share_memory_is_not_launched_in_parts():
    source = MetalSource.read(dispatches.FOLDER / "norm_router.metal")
    with pytest.raises(ValueError, match="no multiple"):
        blocks(source, (160, 1, 1), (128, 1, 1))


def test_where_there_is_no_cuda_the_setting_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, "cuda")
    assert launch.where() == launch.nearest() == "cuda"
    code, _, err = run_cli("run", "--model", "tiny", "Hi")
    assert code == 2
    assert err.startswith("gptoss-mac: GPTOSS_MAC_KERNELS is 'cuda', but there is no CUDA backend here: run `make ")


def test_where_mlx_cannot_be_loaded_a_line_says_so(tmp_path):
    """As MLX's CUDA backend on a machine without NVIDIA's driver."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx/core.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    command = [sys.executable, "-m", "gptoss_mlx.cli", "doctor"]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{dispatches.FOLDER.parent}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (11, "")
    assert done.stderr == (
        "gptoss-mac: MLX cannot be loaded here: libcuda.so.1: cannot open shared object file; use another environment\n"
    )


def test_a_shader_without_a_compiler_is_done_by_plain_mlx(ran, monkeypatch):
    def absent(*_):
        raise nvrtc.Absent("no NVRTC here")

    monkeypatch.setattr(kernel.cubins, "of_shader", absent)
    monkeypatch.setenv(launch.VARIABLE, "cuda")
    case = experts.Case(1, 64, 64, 32)
    a = case.arrays
    with pytest.warns(
        RuntimeWarning, match="norm_router does not compile here, plain MLX does its work: no NVRTC here"
    ):
        got = launch.norm_router(a.x, a.norm, case.eps, a.router, mx.float32)
    assert same(got, reference.norm_router(a.x, a.norm, case.eps, a.router, mx.float32))
