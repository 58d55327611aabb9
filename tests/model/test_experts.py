"""Few rows and many take two ways through the experts to one answer; routing breaks ties as the reference does."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import launch, operands, reference
from metal_kernels.operands import Experts

E = 6
H = 64
INTER = 96
K = 3
LIMIT = 7.0


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(5)

    def experts(rows, columns):
        return Experts(
            mx.array(rng.integers(0, 1 << 32, (E, rows, columns // 8), np.uint32)),
            mx.array(rng.integers(122, 127, (E, rows, columns // 32), np.uint8)),
            mx.array(rng.standard_normal((E, rows), np.float32)),
        )

    return experts(2 * INTER, H), experts(H, INTER)


def decoded(experts: Experts) -> np.ndarray:
    return np.array(
        mx.dequantize(experts.weight, experts.scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32), np.float64
    )


def by_definition(x, logits, slots, gate_up, down):
    """Return the mixture in float64, row by row, from the paper's formulas."""
    up = decoded(gate_up)
    low = decoded(down)
    out = np.zeros_like(x, np.float64)
    for t, row in enumerate(x.astype(np.float64)):
        chosen = sorted(range(E), key=lambda e: (-logits[t, e], e))[:K]
        weights = np.exp([logits[t, e] for e in chosen])
        for e, weight in zip(chosen, weights / weights.sum(), strict=True):
            s = slots[e]
            if s < 0:
                continue
            h = up[s] @ row + np.array(gate_up.bias, np.float64)[s]
            gate = np.minimum(h[0::2], LIMIT)
            linear = np.clip(h[1::2], -LIMIT, LIMIT)
            h = gate / (1 + np.exp(-1.702 * gate)) * (linear + 1)
            out[t] += weight * (low[s] @ h + np.array(down.bias, np.float64)[s])
    return out


def test_rows_are_grouped_beyond_what_shaders_take():
    assert launch.each_row_for_itself(launch.FEW_ROWS)
    assert not launch.each_row_for_itself(launch.FEW_ROWS + 1)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_both_ways_agree_with_the_definition_and_honour_the_slot_table(layer, rows):
    gate_up, down = layer
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, H), np.float32)
    logits = rng.standard_normal((rows, E), np.float32)
    slots = rng.permutation(E).astype(np.int32)
    want = by_definition(x, logits, slots, gate_up, down)
    args = operands.chunk_major(mx.array(x), mx.float32), mx.array(logits), mx.array(slots)
    residual = mx.zeros((rows, H))
    activated = launch.expert_gate_up(*args, gate_up, K, LIMIT)
    few = launch.expert_down_residual(activated, args[1], args[2], down, residual)
    many = launch.expert_mlp_grouped(*args, gate_up, down, residual, k=K, limit=LIMIT)
    for got in (few, many):
        np.testing.assert_allclose(np.array(got), want, rtol=0, atol=3e-6 * np.abs(want).max())


@pytest.mark.parametrize("kernels", ["", "off"])
@pytest.mark.parametrize("rows", [1, 8])
def test_an_absent_expert_adds_nothing_and_leaves_the_others_their_shares(layer, rows, kernels, monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, kernels)
    gate_up, down = layer
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, H), np.float32)
    logits = rng.standard_normal((rows, E), np.float32)
    slots = rng.permutation(E).astype(np.int32)
    best = int(logits[0].argmax())
    slots[[best, (best + 2) % E]] = -1
    want = by_definition(x, logits, slots, gate_up, down)
    args = operands.chunk_major(mx.array(x), mx.float32), mx.array(logits), mx.array(slots)
    activated = launch.expert_gate_up(*args, gate_up, K, LIMIT)
    got = launch.expert_down_residual(activated, args[1], args[2], down, mx.zeros((rows, H)))
    np.testing.assert_allclose(np.array(got), want, rtol=0, atol=3e-6 * np.abs(want).max())


@pytest.mark.parametrize("kernels", ["", "off"])
def test_passes_over_experts_have_the_bits_of_one_pass_over_all(layer, kernels, monkeypatch):
    """Each pass is computed before the next is asked for: here the next one gives the same slots to other experts."""
    monkeypatch.setenv(launch.VARIABLE, kernels)
    gate_up, down = layer
    rng = np.random.default_rng(1)
    rows = 40
    x = mx.array(rng.standard_normal((rows, H), np.float32))
    logits = mx.array(rng.standard_normal((rows, E), np.float32))
    handed = operands.chunk_major(x, mx.float32)
    whole = launch.expert_mlp_grouped(handed, logits, mx.arange(E, dtype=mx.int32), gate_up, down, x, k=K, limit=LIMIT)
    chosen = np.array(reference.top_experts(logits, K)[0])
    held = [[mx.array(np.array(part[:2])) for part in both] for both in (gate_up, down)]

    def passes():
        for first in range(0, E, 2):
            mx.synchronize()
            for both, arrays in zip((gate_up, down), held, strict=True):
                for part, array in zip(both, arrays, strict=True):
                    np.array(array, copy=False)[:] = np.array(part[first : first + 2])
            table = np.full(E, -1, np.int32)
            table[first : first + 2] = (0, 1)
            yield operands.Pass(mx.array(table), int(((chosen >= first) & (chosen < first + 2)).sum()))

    few = [Experts(*arrays) for arrays in held]
    got = launch.expert_mlp_in_passes(handed, logits, passes(), *few, x, k=K, limit=LIMIT)
    assert np.array_equal(np.array(got), np.array(whole))


def test_equal_router_logits_go_to_the_lower_expert():
    chosen, weights = reference.top_experts(mx.array([[1.0, 2.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]]), 2)
    assert chosen.tolist() == [[1, 2], [0, 1]]
    np.testing.assert_allclose(np.array(weights), 0.5, rtol=1e-6)


def test_on_metal_mlx_s_sorted_product_is_kept_from_rows_it_gets_wrong(layer, monkeypatch):
    """On M5 it reads past rows that end within 64 columns. Those of the second projection do: they have 96."""
    gather = mx.gather_qmm
    seen = []

    def recorded(x, *arguments, sorted_indices, **options):
        seen.append((x.shape[-1], sorted_indices))
        return gather(x, *arguments, sorted_indices=sorted_indices, **options)

    monkeypatch.setattr(mx, "gather_qmm", recorded)
    x = mx.random.normal((20, H))
    slots = mx.arange(E, dtype=mx.int32)
    rows = operands.chunk_major(x, mx.float32)
    reference.expert_mlp_grouped(rows, mx.random.normal((20, E)), slots, *layer, x, k=K, limit=LIMIT)
    assert seen == [(H, True), (INTER, False)]
