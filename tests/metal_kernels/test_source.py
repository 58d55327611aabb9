"""Shader files: the parts that are read from one, and refusals with the line."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.emulator import metal_kernel
from metal_kernels.emulator.__main__ import main
from metal_kernels.source import Array, MetalSource, SourceError, Template, parse

HELPERS = """\
#pragma once
// Shared by shaders.
METAL_FUNC float twice(float v) {
  return 2 * v;
}
"""
SHADER = """\
// Scales rows.
#include "helpers.h"

METAL_FUNC float thrice(float v) {
  return v + twice(v);
}

template <typename T = half, int N = 4, bool NEGATE = false>
[[kernel]] void scale(
    const device T* x,  // [rows, columns]
    const constant float& by,
    const constant int* x_shape,
    const device uint* order [[buffer(3)]],
    device float* out,
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  uint i = thread_position_in_grid.x;
  float v = thrice(float(x[order[i]])) * by * N;
  if (int(i) < x_shape[0])
    out[i] = NEGATE ? -v : v;
}
"""


@pytest.fixture
def shader(tmp_path):
    (tmp_path / "helpers.h").write_text(HELPERS)
    path = tmp_path / "scale.metal"
    path.write_text(SHADER)
    return path


def test_a_shader_is_taken_apart(shader):
    source = MetalSource.read(shader)
    assert source.name == "scale"
    assert source.template == (
        Template("typename", "T", "float16"),
        Template("int", "N", 4),
        Template("bool", "NEGATE", False),
    )
    assert source.inputs == (
        Array("x", "T", "device"),
        Array("by", "float", "constant", scalar=True),
        Array("order", "uint", "device"),
    )
    assert source.outputs == (Array("out", "float", "device"),)
    arguments = source.arguments()
    assert arguments["input_names"] == ["x", "by", "order"]
    assert "twice" in arguments["header"]
    assert "x_shape[0]" in arguments["source"]
    assert not arguments["atomic_outputs"]


def test_it_runs_as_mlx_would_run_it(shader):
    x = mx.arange(16).astype(mx.bfloat16)
    order = mx.arange(16)[::-1].astype(mx.uint32)
    kernel = metal_kernel(**MetalSource.read(shader).arguments())
    (out,), report = kernel(
        inputs=[x, 0.5, order], output_shapes=[(16,)], output_dtypes=[mx.float32], grid=(16, 1, 1),
        threadgroup=(16, 1, 1), template=[("T", mx.bfloat16), ("N", 2), ("NEGATE", True)],
    )  # fmt: skip
    assert not report.findings
    assert (np.array(out) == -3.0 * np.arange(16)[::-1]).all()


def test_mlx_takes_the_arguments(shader):
    # Without Metal, MLX builds the kernel and refuses only to run it.
    if mx.metal.is_available():
        pytest.skip("this machine has Metal; the kernel tests run there")
    with pytest.raises(RuntimeError, match="No Metal back-end"):
        mx.fast.metal_kernel(**MetalSource.read(shader).arguments())(
            inputs=[mx.zeros(16), 1.0, mx.zeros(16, mx.uint32)], output_shapes=[(16,)], output_dtypes=[mx.float32],
            grid=(16, 1, 1), threadgroup=(16, 1, 1), template=[("T", mx.float32), ("N", 2), ("NEGATE", True)],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "template", "message"),
    [
        ([("float32", (16,)), ("float32", ()), ("uint32", (16,))], {}, "'x' is float32, declared float16"),
        ([("float32", (16,)), ("float32", ()), ("uint32", (16,))], {"T": "bfloat16"}, "declared bfloat16"),
        ([("float16", (2, 3)), ("float32", ()), ("uint32", (16,))], {}, "'x' of 6 elements is passed in constant"),
        ([("float16", (16,)), ("float32", (1,)), ("uint32", (16,))], {}, "'by' has shape"),
        ([("float16", (16,)), ("float32", ())], {}, "2 inputs for 3 parameters"),
        ([("float16", (16,)), ("float32", ()), ("uint32", (16,))], {"M": 3}, "no template parameter named M"),
    ],
)
def test_arrays_that_do_not_fit_the_declaration_are_refused(shader, inputs, template, message):
    source = MetalSource.read(shader)
    with pytest.raises(SourceError, match=message):
        source.check(inputs, template)


def test_arrays_that_fit_are_taken(shader):
    MetalSource.read(shader).check([("float32", (4, 4)), ("float32", ()), ("uint32", (16,))], {"T": "float32"})


@pytest.mark.parametrize(
    ("right", "wrong", "line", "message"),
    [
        ("[[kernel]] void scale", "void scale", 1, "0 kernel functions"),
        ("int N = 4", "int N", 8, "a name and a default"),
        ("typename T = half", "typename T = quarter", 8, "'quarter' is no type"),
        ("const constant float& by", "constant float& by", 11, "an input is const"),
        (
            "const device uint* order",
            "const threadgroup uint* order",
            13,
            "neither an input, an output nor an attribute",
        ),
        ("device float* out", "const device float* out", 9, "no output"),
        ("device float* out", "device quad* out", 14, "quad is neither"),
        ("const constant int* x_shape", "const constant uint* x_shape", 12, "MLX declares it const constant int*"),
        ("uint3 thread_position_in_grid", "uint thread_position_in_grid", 15, "MLX declares it uint3"),
        ("uint3 thread_position_in_grid", "uint3 where", 15, "MLX names an attribute's parameter after it"),
        (
            "float v = thrice",
            "uint lane = thread_index_in_simdgroup;\n  float v = thrice",
            17,
            "is used but is not a parameter",
        ),
        ("    out[i] = NEGATE ? -v : v;\n}\n", "    out[i] = v;\n}\nint more;\n", 21, "it comes last"),
        ('#include "helpers.h"', '#include "nothing.h"', 2, "cannot read nothing.h"),
    ],
)
def test_what_breaks_the_convention_is_refused_with_its_line(shader, right, wrong, line, message):
    assert SHADER.count(right) == 1
    with pytest.raises(SourceError, match=message) as refused:
        parse(shader, SHADER.replace(right, wrong))
    assert str(refused.value).startswith(f"scale.metal:{line}: ")


def test_the_command_line_lints(shader, capsys):
    assert main([str(shader), "T=float32", "N=8"]) == 0
    assert "scale<T=float32, N=8, NEGATE=False> passes the lint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "right", "wrong", "place", "text"),
    [
        ("scale.metal", "float v = thrice", "threadgroup float v = thrice", "scale.metal:17", "threadgroup float v"),
        ("scale.metal", "return v + twice(v);", "return v + twice(w);", "scale.metal:5", "twice(w)"),
        ("helpers.h", "return 2 * v;", "return 2 * u;", "helpers.h:4", "return 2 * u;"),
        ("helpers.h", "float twice(float v)", "float twice(const device float* v)", "scale.metal:5", "twice(v)"),
    ],
)
def test_the_command_line_explains_in_terms_of_the_source_line(shader, capsys, file, right, wrong, place, text):
    broken = shader.parent / file
    assert broken.read_text().count(right) == 1
    broken.write_text(broken.read_text().replace(right, wrong))
    assert main([str(shader)]) == 1
    said = capsys.readouterr().err
    assert f"{place}:" in said
    assert text in said
    assert "^" in said


def test_the_command_line_refuses_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none.metal")]) == 1
    (tmp_path / "empty.metal").write_text("")
    assert main([str(tmp_path / "empty.metal")]) == 1
    assert main([]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
