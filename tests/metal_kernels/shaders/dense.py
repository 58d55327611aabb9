"""Cases for the shaders of the dense products, their definitions in float64, and the dispatches for them."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.dispatches import Dispatch
from metal_kernels.operands import Dense
from tests.metal_kernels.shaders.common import BF16, EPS, F16, F32, exact, run


@dataclass(frozen=True)
class Case:
    """The sizes and dtypes of one layer's matrices, a head, and some rows.

    ``weights`` is the dtype of the matrices, or of their scales if they are q8; ``others`` that of norms and biases.
    """

    rows: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    weights: mx.Dtype = BF16
    q8: bool = False
    others: mx.Dtype = BF16
    attended: mx.Dtype = F16
    seed: int = 0
    eps: float = EPS

    def __str__(self) -> str:
        weights, others, attended = (dispatches.name(d) for d in (self.weights, self.others, self.attended))
        sizes = f"{self.rows}x{self.hidden}-{self.heads}-{self.kv_heads}x{self.head_dim}-V{self.vocabulary}"
        return f"{sizes}-{'q8-' * self.q8}{weights}-{others}-{attended}"

    @cached_property
    def arrays(self) -> "Arrays":
        return Arrays.random(self)

    def having(self, **arrays: mx.array | Dense) -> "Case":
        """Return the case with other arrays. It has as many rows as its x."""
        own = replace(self.arrays, **arrays)
        case = replace(self, rows=len(own.x))
        case.__dict__["arrays"] = own
        return case


@dataclass(frozen=True)
class Arrays:
    """The inputs of all operations."""

    x: mx.array
    norm: mx.array
    qkv: Dense
    cos: mx.array
    sin: mx.array
    attended: mx.array
    o: Dense
    head: Dense

    @classmethod
    def random(cls, case: Case) -> "Arrays":
        rng = np.random.default_rng(case.seed)

        def normal(*shape: int, scale: float = 1.0) -> mx.array:
            return mx.array((scale * rng.standard_normal(shape)).astype(np.float32))

        def matrix(rows: int, columns: int, biased: bool = True) -> Dense:
            weight = normal(rows, columns, scale=columns**-0.5)
            bias = normal(rows, scale=0.5).astype(case.others) if biased else None
            if not case.q8:
                return Dense(weight.astype(case.weights), bias)
            codes, scales, offsets = mx.quantize(weight, group_size=64, bits=8)
            return Dense(codes, bias, scales.astype(case.weights), offsets.astype(case.weights))

        angles = 3 * normal(case.rows, case.head_dim // 2)
        return cls(
            x=normal(case.rows, case.hidden, scale=5),
            norm=(1 + normal(case.hidden, scale=0.3)).astype(case.others),
            qkv=matrix((case.heads + 2 * case.kv_heads) * case.head_dim, case.hidden),
            cos=mx.cos(angles),
            sin=mx.sin(angles),
            attended=normal(case.rows, case.heads * case.head_dim).astype(case.attended),
            o=matrix(case.hidden, case.heads * case.head_dim),
            head=_with_ties(matrix(case.vocabulary, case.hidden, biased=False)),
        )


def _with_ties(head: Dense) -> Dense:
    """Repeat four large rows every 16 tokens: the largest logits are equal in a lane, a simdgroup and beyond."""
    places = np.arange(len(head.weight))
    tied = places % 4 == 1
    head = Dense(*(array if array is None else array[mx.array(np.where(tied, places % 16, places))] for array in head))
    larger = mx.array(np.where(tied, 8, 1)[:, None])
    if head.scales is None or head.offsets is None:
        return head._replace(weight=(head.weight * larger).astype(head.dtype))
    scales, offsets = ((array * larger).astype(head.dtype) for array in (head.scales, head.offsets))
    return head._replace(scales=scales, offsets=offsets)


def of_20b(q8: bool) -> Case:
    """Return one row at the published size, with as much of the head as fits a test."""
    return Case(1, 2880, 64, 8, 64, 2048, q8=q8)


OPERATIONS = ("norm_qkv_rope", "output_residual", "norm_head", "norm_head_argmax", "norm_head_argmax_combine")
CASES = [
    (Case(1, 288, 4, 2, 16, 88, others=F32), F32),
    (Case(3, 576, 40, 4, 16, 576, q8=True), BF16),
    (Case(8, 32, 2, 1, 32, 512, weights=F32, others=F32, attended=F32), F32),
    (Case(5, 160, 34, 2, 16, 352, weights=F16, others=F16), F16),
    (Case(2, 64, 4, 1, 16, 512, weights=F32, q8=True, others=F32, attended=BF16, seed=1), F32),
]
"""Cases, and the dtype of keys and values for each. There are fewer columns than 32 lanes take and more, also for the
output projection; 1 to 8 rows; a vocabulary that leaves a threadgroup part of its share; each dtype."""


def values(layer: Dense) -> np.ndarray:
    """Return the matrix a layer stands for."""
    if layer.scales is None:
        return exact(layer.weight)
    words = np.array(layer.weight)
    codes = (words[..., None] >> (8 * np.arange(4, dtype=np.uint32))) & 255
    scales, offsets = (np.repeat(exact(array), 64, axis=1) for array in (layer.scales, layer.offsets))
    return codes.reshape(len(words), -1) * scales + offsets


def normed(case: Case) -> np.ndarray:
    x = exact(case.arrays.x)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + case.eps) * exact(case.arrays.norm)


def defined_qkv(case: Case) -> list[np.ndarray]:
    a = case.arrays
    out = normed(case) @ values(a.qkv).T + exact(a.qkv.bias)
    out = out.reshape(case.rows, -1, case.head_dim)
    turned = out[:, : -case.kv_heads]
    value = out[:, -case.kv_heads :]
    first, second = np.split(turned, 2, axis=-1)
    cos = exact(a.cos)[:, None]
    sin = exact(a.sin)[:, None]
    turned = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return [turned[:, : case.heads], np.stack([turned[:, case.heads :], value], axis=1)]


def defined_output(a: Arrays) -> np.ndarray:
    return exact(a.x) + exact(a.attended) @ values(a.o).T + exact(a.o.bias)


def defined_logits(case: Case) -> np.ndarray:
    return normed(case) @ values(case.arrays.head).T


def best(logits: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest logit along the last axis and its token, the lower of equals. Rounding alone does not make
    logits unequal."""
    largest = logits.max(-1, keepdims=True)
    equal = logits >= largest - 1e-9 * np.abs(largest)
    return largest[..., 0], np.where(equal, tokens, np.inf).min(-1)


def left_over(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and tokens as norm_head_argmax might leave them: unsorted, with ties, and beyond 256 more than one
    to a thread."""
    rng = np.random.default_rng(case.seed)
    shape = (case.rows, 8 + case.vocabulary)
    logits = np.round(2 * rng.standard_normal(shape)).astype(np.float32)
    if case.rows > 1:
        logits[0] = -1e38
        logits[-1, -1] = 100
    return logits, rng.permuted(np.tile(np.arange(shape[1], dtype=np.uint32), (case.rows, 1)), axis=1)


def dispatch(operation: str, case: Case, handed_on: mx.Dtype = F32) -> Dispatch:
    """Return the project's dispatch of an operation, with keys and values in ``handed_on``."""
    a = case.arrays
    made: Dispatch | None
    if operation == "norm_qkv_rope":
        made = dispatches.norm_qkv_rope(
            a.x, a.norm, case.eps, a.qkv, a.cos, a.sin, heads=case.heads, kv_heads=case.kv_heads
        )
        if made is not None:  # the project would take the dtype of the weights
            template = tuple((dict(made.template) | {"O": dispatches.name(handed_on)}).items())
            made = made._replace(template=template, output_dtypes=(F32, handed_on))
    elif operation == "output_residual":
        made = dispatches.output_residual(a.attended, a.o, a.x)
    elif operation == "norm_head":
        made = dispatches.norm_head(a.x, a.norm, case.eps, a.head)
    elif operation == "norm_head_argmax":
        made = dispatches.norm_head_argmax(a.x, a.norm, case.eps, a.head)
    else:
        made = dispatches.norm_head_argmax_combine(*map(mx.array, left_over(case)))
    assert made is not None, f"no shader of {operation} for {case}"
    return made


def defined(operation: str, case: Case) -> list[np.ndarray]:
    """Return the outputs of an operation by definition."""
    if operation == "norm_qkv_rope":
        return defined_qkv(case)
    if operation == "output_residual":
        return [defined_output(case.arrays)]
    if operation == "norm_head_argmax_combine":
        return [*best(*left_over(case))[::-1]]
    logits = defined_logits(case)
    if operation == "norm_head":
        return [logits]
    tiles = dispatch(operation, case).output_shapes[0][1]
    logits = logits.reshape(case.rows, tiles, -1)
    return list(best(logits, np.arange(case.vocabulary).reshape(tiles, -1)))


def edges() -> dict[str, tuple[str, Case, mx.Dtype]]:
    """Return inputs that a formula without its epsilon or guard would get wrong: the operation, the case, and the dtype
    of keys and values."""
    found = {}
    for q8 in (False, True):
        near_epsilon = Case(2, 64, 4, 1, 16, 512, q8=q8, eps=3e-6)
        near_epsilon = near_epsilon.having(x=near_epsilon.arrays.x * 2e-4)
        for operation in ("norm_qkv_rope", "norm_head", "norm_head_argmax"):
            found[f"x near the root of the epsilon, {operation}, {'q8' if q8 else 'bf16'}"] = (
                operation,
                near_epsilon,
                F32,
            )
    over_half = Case(2, 64, 4, 1, 16, 512)
    over_half = over_half.having(norm=over_half.arrays.norm * 60_000)
    return found | {"keys and values past half": ("norm_qkv_rope", over_half, F16)}


TILINGS: dict[str, list[dict[str, int]]] = {
    "norm_qkv_rope": [{"PAIRS": 8}],
    "output_residual": [{"PAIRS": 8}],
    "norm_head": [{"PAIRS": 8}],
    "norm_head_argmax": [{"PAIRS": 8, "SIMDGROUPS": 1}],
    "norm_head_argmax_combine": [{"SIMDGROUPS": s} for s in (1, 4)],
}
"""Other tile sizes, by operation."""


def best_of(case: Case, folder: Path) -> tuple[list[int], list[float]]:
    """Return the token and the largest logit of each row by both shaders of norm_head_argmax. Neither has a finding."""
    left, report = run(dispatch("norm_head_argmax", case), folder, mode="check")
    assert not report.findings, str(report)
    made = dispatches.norm_head_argmax_combine(*left)
    assert made is not None
    (chosen, largest), report = run(made, folder, mode="check")
    assert not report.findings, str(report)
    return chosen.tolist(), largest.tolist()
