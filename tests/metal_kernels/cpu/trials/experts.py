"""Trials of the mixture of experts, among whose logits are many ties."""

from types import ModuleType

import mlx.core as mx
import numpy as np

from metal_kernels import operands, reference
from metal_kernels.cpu import operations as native
from metal_kernels.operands import Experts, Pass
from tests.metal_kernels.cpu.trials.common import COLUMNS, F32, MANY, Draw, Trial, made, results
from tests.metal_kernels.shaders import experts
from tests.metal_kernels.shaders.common import exact
from tests.metal_kernels.shaders.experts import LIMIT


def routing(draw: Draw, T: int) -> tuple[mx.array, mx.array, int]:
    """Return logits with many ties, a slot for each expert, and K."""
    E = draw.one_of(1, 2, 3, 4, 8, 32, 33, 128) if T < 90 else draw.one_of(1, 2, 3, 8)
    logits = np.array(draw.normal(T, E, scale=2))
    logits[::2] = np.round(logits[::2])
    return mx.array(logits), mx.array(draw.rng.permutation(E).astype(np.int32)), draw.whole(1, min(8, E))


def choice(logits: mx.array, slots: mx.array, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the slots of the experts that each row chooses, and their shares, [T, k]."""
    every = [experts.chosen(row, k) for row in exact(logits)]
    return np.array(slots)[np.array([ids for ids, _ in every])], np.array([share for _, share in every])


def through(rows: np.ndarray, slot: np.ndarray, layer: Experts) -> np.ndarray:
    """Multiply rows [T, k, C], or [T, 1, C], by the matrix in each slot [T, k] and add its bias, to [T, k, R]."""
    out = np.empty((*slot.shape, layer.weight.shape[1]))
    wide_rows = np.broadcast_to(rows, (*slot.shape, rows.shape[-1]))
    for one in np.unique(slot):
        out[slot == one] = wide_rows[slot == one] @ experts.values(layer, int(one)).T + exact(layer.bias[int(one)])
    return out


def expert_gate_up(draw: Draw) -> Trial:
    H = draw.one_of(*COLUMNS)
    T = draw.rows(H)
    inner = draw.one_of(32, 64, 96, 160, 352)
    logits, slots, k = routing(draw, T)
    up = draw.mixture(logits.shape[1], 2 * inner, H)
    x = draw.normal(T, H)
    handed = operands.chunk_major(x, F32)
    arguments = handed, logits, slots, up, k, LIMIT

    def natural(out: mx.array | None) -> list[np.ndarray]:
        assert out is not None
        return [experts.unchunked(out)]

    return Trial(
        f"T={T} H={H} I={inner} E={logits.shape[1]} K={k}",
        lambda: natural(native.expert_gate_up(*arguments)),
        lambda: natural(reference.expert_gate_up(*arguments)),
        [made(experts.swiglu(through(exact(x)[:, None], choice(logits, slots, k)[0], up), LIMIT))],
    )


def expert_down_residual(draw: Draw) -> Trial:
    inner = draw.one_of(*COLUMNS)
    T = draw.rows(inner)
    H = draw.one_of(32, 64, 96, 160, 352)
    logits, slots, k = routing(draw, T)
    down = draw.mixture(logits.shape[1], H, inner)
    activated = draw.normal(T, k, inner)
    residual = draw.normal(T, H, scale=5)
    arguments = operands.chunk_major(activated, F32), logits, slots, down, residual
    slot, share = choice(logits, slots, k)
    return Trial(
        f"T={T} H={H} I={inner} E={logits.shape[1]} K={k}",
        lambda: results(native.expert_down_residual(*arguments)),
        lambda: results(reference.expert_down_residual(*arguments)),
        [made(exact(residual) + (through(exact(activated), slot, down) * share[..., None]).sum(1))],
    )


def in_passes(slots: mx.array, count: int, chosen: np.ndarray | None = None) -> list[Pass]:
    """Split the experts into so many passes. ``chosen`` [T, k] are the slots that rows choose."""
    table = np.array(slots)
    passes = []
    for number in range(count):
        own = np.where(np.arange(len(table)) % count == number, table, -1).astype(np.int32)
        passes.append(Pass(mx.array(own), 0 if chosen is None else int(np.isin(chosen, own[own >= 0]).sum())))
    return passes


def expert_mlp_grouped(draw: Draw) -> Trial:
    return _mixture(draw, 1)


def expert_mlp_in_passes(draw: Draw) -> Trial:
    return _mixture(draw, draw.whole(2, 5))


def _mixture(draw: Draw, count: int) -> Trial:
    """Return a trial of both projections, whole or in so many passes."""
    H = draw.one_of(*COLUMNS[:-1])
    T = draw.one_of(*MANY) if H <= 128 and draw.chance(0.3) else draw.rows(H)
    inner = draw.one_of(32, 64, 96, 160)
    logits, slots, k = routing(draw, T)
    up = draw.mixture(logits.shape[1], 2 * inner, H)
    down = draw.mixture(logits.shape[1], H, inner)
    x = draw.normal(T, H)
    residual = draw.normal(T, H, scale=5)
    handed = operands.chunk_major(x, F32)
    slot, share = choice(logits, slots, k)
    passes = in_passes(slots, count, slot)

    def run(module: ModuleType) -> list[np.ndarray]:
        if count == 1:
            return results(module.expert_mlp_grouped(handed, logits, slots, up, down, residual, k=k, limit=LIMIT))
        return results(module.expert_mlp_in_passes(handed, logits, passes, up, down, residual, k=k, limit=LIMIT))

    activated = experts.swiglu(through(exact(x)[:, None], slot, up), LIMIT)
    each = through(activated, slot, down) * share[..., None]
    return Trial(
        f"T={T} H={H} I={inner} E={logits.shape[1]} K={k} passes={count}",
        lambda: run(native),
        lambda: run(reference),
        [made(exact(residual) + each.sum(1))],
    )
