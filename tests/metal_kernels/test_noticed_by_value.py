"""Shaders with a constant, a guard or a maximum of their own are noticed by their values: by the shaders' tests, and by
the comparison that doctor and a first load make."""

import shutil
from dataclasses import replace

import pytest

from metal_kernels import comparison, dispatches
from tests.metal_kernels import test_decode_attention_shaders, test_dense_shaders, test_expert_shaders
from tests.metal_kernels.shaders.common import run

EXPERTS = test_expert_shaders.test_right_where_a_formula_needs_its_epsilon_limit_guard_or_maximum
DENSE = test_dense_shaders.test_right_where_a_formula_needs_its_epsilon_or_guard
ATTENTION = test_decode_attention_shaders.test_right_where_a_softmax_needs_its_maximum_and_rows_their_guard
FLOAT32, Q8, _ = (replace(shapes, hidden=64, inter=64) for shapes in comparison.PUBLISHED)
EPSILON = "as_type<float>(EPSILON_BITS)", "1e-5f"
CLAMP = "clamp(v, -65504.0f, 65504.0f)"
PLANTED = {
    "epsilon of the router": ("norm_router.metal", EPSILON, EXPERTS, "x near the root of the epsilon", FLOAT32),
    **{
        f"epsilon of {shader}": (
            f"{shader}.metal",
            EPSILON,
            DENSE,
            f"x near the root of the epsilon, {shader}, bf16",
            FLOAT32,
        )
        for shader in ("norm_qkv_rope", "norm_head", "norm_head_argmax")
    },
    "limit": ("expert_gate_up.metal", ("as_type<float>(LIMIT_BITS)", "7.0f"), EXPERTS, "another limit", FLOAT32),
    "upper guard": ("activations.h", (CLAMP, "max(v, -65504.0f)"), EXPERTS, "a norm that carries rows past half", Q8),
    "lower guard": ("activations.h", (CLAMP, "min(v, 65504.0f)"), EXPERTS, "a norm that carries rows past half", Q8),
    "maximum of the chosen logits": (
        "expert_down_residual.metal",
        (" - values[0]", ""),
        EXPERTS,
        "logits near 200",
        FLOAT32,
    ),
    "maximum of scores": (
        "decode_attention.metal",
        (" - top)", ")"),
        ATTENTION,
        "scores near -200 without sinks",
        FLOAT32,
    ),
    "sink in the maximum": (
        "decode_attention.h",
        ("max(maximum, sink)", "maximum"),
        ATTENTION,
        "huge values under a sink 89 above the scores",
        None,  # of ordinary values it leaves zeros, with a maximum or without
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_shader_that_lacks_a_part_of_its_formula_is_noticed(planted, tmp_path):
    file, (old, new), test, edge, shapes = PLANTED[planted]
    for path in [*dispatches.FOLDER.glob("*.metal"), *dispatches.FOLDER.glob("*.h")]:
        shutil.copy(path, tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(AssertionError):
        test(edge, tmp_path)
    if shapes is not None:
        found = comparison.compare(lambda made: run(made, tmp_path, mode="fast")[0], shapes)
        assert not all(one.agrees for one in found)
