"""What the shaders of the dense products have to satisfy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.dispatches import Dispatch
from metal_kernels.emulator import Report
from metal_kernels.reference import Dense
from tests.support.kernel_checks.common import (
    BF16,
    EPS,
    F16,
    F32,
    check_in_every_order,
    check_tiling,
    exact,
    run,
)


@dataclass(frozen=True)
class Case:
    """Matrices of one layer, a head, and some rows for them. ``weights`` is the dtype of the matrices, or of their
    scales if they are q8; ``others`` that of norms and biases."""

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

    def __str__(self) -> str:
        weights, others, attended = (dispatches.name(d) for d in (self.weights, self.others, self.attended))
        sizes = f"{self.rows}x{self.hidden}-{self.heads}-{self.kv_heads}x{self.head_dim}-V{self.vocabulary}"
        return f"{sizes}-{'q8-' * self.q8}{weights}-{others}-{attended}"

    @cached_property
    def arrays(self) -> "Arrays":
        return Arrays.random(self)


@dataclass(frozen=True)
class Arrays:
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
            codes, scales, biases = mx.quantize(weight, group_size=64, bits=8)
            return Dense(codes, bias, scales.astype(case.weights), biases.astype(case.weights))

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
    """Four tokens' rows again every 16, and large: the largest logits are equal, in a lane, a simdgroup and beyond."""
    places = np.arange(len(head.weight))
    tied = places % 4 == 1
    head = Dense(*(array if array is None else array[mx.array(np.where(tied, places % 16, places))] for array in head))
    larger = mx.array(np.where(tied, 8, 1)[:, None])
    if head.scales is None or head.biases is None:
        return head._replace(weight=(head.weight * larger).astype(head.dtype))
    scales, biases = ((array * larger).astype(head.dtype) for array in (head.scales, head.biases))
    return head._replace(scales=scales, biases=biases)


def of_20b(q8: bool) -> Case:
    """One row at the published size, of the head as much as fits a test."""
    return Case(1, 2880, 64, 8, 64, 2048, q8=q8)


OPERATIONS = ("norm_qkv_rope", "output_residual", "norm_head", "norm_head_best", "best_token")
# Columns below and above what 32 lanes take, also of the output projection; 1 to 8 rows; a vocabulary of which not
# every threadgroup has its full share; each dtype; and what keys and values come in.
CASES = [
    (Case(1, 288, 4, 2, 16, 88, others=F32), F32),
    (Case(3, 576, 40, 4, 16, 576, q8=True), BF16),
    (Case(8, 32, 2, 1, 32, 512, weights=F32, others=F32, attended=F32), F32),
    (Case(5, 160, 34, 2, 16, 96, weights=F16, others=F16), F16),
    (Case(2, 64, 4, 1, 16, 512, weights=F32, q8=True, others=F32, attended=BF16, seed=1), F32),
]


# ---- definitions in float64


def values(layer: Dense) -> np.ndarray:
    """The matrix."""
    if layer.scales is None:
        return exact(layer.weight)
    words = np.array(layer.weight)
    codes = (words[..., None] >> (8 * np.arange(4, dtype=np.uint32))) & 255
    scales, biases = (np.repeat(exact(array), 64, axis=1) for array in (layer.scales, layer.biases))
    return codes.reshape(len(words), -1) * scales + biases


def normed(a: Arrays) -> np.ndarray:
    x = exact(a.x)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * exact(a.norm)


def defined_qkv(a: Arrays, case: Case) -> list[np.ndarray]:
    out = normed(a) @ values(a.qkv).T + exact(a.qkv.bias)
    out = out.reshape(case.rows, -1, case.head_dim)
    turned, value = out[:, : -case.kv_heads], out[:, -case.kv_heads :]
    first, second = np.split(turned, 2, axis=-1)
    cos, sin = exact(a.cos)[:, None], exact(a.sin)[:, None]
    turned = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return [turned[:, : case.heads], np.stack([turned[:, case.heads :], value], axis=1)]


def defined_output(a: Arrays) -> np.ndarray:
    return exact(a.x) + exact(a.attended) @ values(a.o).T + exact(a.o.bias)


def defined_logits(a: Arrays) -> np.ndarray:
    return normed(a) @ values(a.head).T


def best(logits: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest along the last axis and its token, the lower among equals; what differs by rounding only is equal."""
    largest = logits.max(-1, keepdims=True)
    equal = logits >= largest - 1e-9 * np.abs(largest)
    return largest[..., 0], np.where(equal, tokens, np.inf).min(-1)


def left_over(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Logits and tokens as norm_head_best might leave them, with ties and nothing sorted. Above 256, more than one to a
    thread."""
    rng = np.random.default_rng(case.seed)
    shape = (case.rows, 8 + case.vocabulary)
    logits = np.round(2 * rng.standard_normal(shape)).astype(np.float32)
    if case.rows > 1:
        logits[0], logits[-1, -1] = -1e38, 100
    return logits, rng.permuted(np.tile(np.arange(shape[1], dtype=np.uint32), (case.rows, 1)), axis=1)


# ---- running


def dispatch(operation: str, case: Case, handed_on: mx.Dtype = F32) -> Dispatch:
    """What the project launches for an operation, with keys and values in the dtype given."""
    a = case.arrays
    made: Dispatch | None
    if operation == "norm_qkv_rope":
        made = dispatches.norm_qkv_rope(a.x, a.norm, EPS, a.qkv, a.cos, a.sin, case.heads, case.kv_heads)
        if made is not None:  # the project takes that of the weights
            template = tuple((dict(made.template) | {"O": dispatches.name(handed_on)}).items())
            made = made._replace(template=template, output_dtypes=(F32, handed_on))
    elif operation == "output_residual":
        made = dispatches.output_residual(a.attended, a.o, a.x)
    elif operation == "norm_head":
        made = dispatches.norm_head(a.x, a.norm, EPS, a.head)
    elif operation == "norm_head_best":
        made = dispatches.norm_head_best(a.x, a.norm, EPS, a.head)
    else:
        made = dispatches.best_token(*map(mx.array, left_over(case)))
    assert made is not None, f"no shader of {operation} for {case}"
    return made


def defined(operation: str, case: Case) -> list[np.ndarray]:
    if operation == "norm_qkv_rope":
        return defined_qkv(case.arrays, case)
    if operation == "output_residual":
        return [defined_output(case.arrays)]
    if operation == "best_token":
        return [*best(*left_over(case))[::-1]]
    logits = defined_logits(case.arrays)
    if operation == "norm_head":
        return [logits]
    tiles = dispatch(operation, case).output_shapes[0][1]
    logits = logits.reshape(case.rows, tiles, -1)
    return list(best(logits, np.arange(case.vocabulary).reshape(tiles, -1)))


# ---- what has to hold


def check(operation: str, case: Case, folder: Path = dispatches.FOLDER, handed_on: mx.Dtype = F32) -> Report:
    made = dispatch(operation, case, handed_on)
    return check_in_every_order(made, defined(operation, case), lambda out: [exact(array) for array in out], folder)


TILINGS: dict[str, list[dict[str, int]]] = {
    "norm_qkv_rope": [{"PAIRS": 8}],
    "output_residual": [{"PAIRS": 8}],
    "norm_head": [{"PAIRS": 8}],
    "norm_head_best": [{"PAIRS": 8, "SIMDGROUPS": 1}],
    "best_token": [{"SIMDGROUPS": s} for s in (1, 4)],
}


def check_tilings(operation: str, folder: Path = dispatches.FOLDER) -> None:
    """The same bits however the work is divided."""
    for case, _ in (CASES[1], CASES[3]):
        made = dispatch(operation, case)
        if operation != "norm_head_best" or dict(made.template)["SIMDGROUPS"] == 2:  # shares stay what they are
            check_tiling(made, TILINGS[operation], folder)


def check_alone(operation: str, folder: Path = dispatches.FOLDER) -> None:
    """A row comes out the same without the rows beside it."""
    for case, handed_on in (CASES[1], CASES[2]):
        row = case.rows - 1
        made = dispatch(operation, case, handed_on)
        together, _ = run(made, folder, mode="fast")
        single = replace(case, rows=1)
        a = case.arrays
        rows = {name: getattr(a, name)[row:] for name in ("x", "cos", "sin", "attended")}
        single.__dict__["arrays"] = replace(a, **rows)
        made_alone = dispatch(operation, single, handed_on)
        if operation == "norm_head_best":  # alone, a threadgroup would take a larger share
            made_alone = made_alone._replace(output_shapes=tuple((1, *shape[1:]) for shape in made.output_shapes))
            made_alone = made_alone.retiled(SIMDGROUPS=dict(made.template)["SIMDGROUPS"])
        alone, _ = run(made_alone, folder, mode="fast")
        for all_rows, one in zip(together, alone, strict=True):
            assert mx.array_equal(all_rows[row:], one)


def check_not_finite(folder: Path = dispatches.FOLDER) -> None:
    """Where a logit is not finite, the row's largest is infinite and its token one of the vocabulary; another row's are
    what they are."""
    case = Case(2, 64, 4, 1, 16, 512)
    x, head = np.array(case.arrays.x), np.array(case.arrays.head.weight.astype(F32))
    logits = np.round(defined_logits(case.arrays), 9)
    for value in (np.nan, np.inf):
        bad = x.copy()
        bad[0, 5] = value
        chosen, largest = _best_of(case, bad, head, folder)
        assert chosen[0] < 512
        assert largest[0] == np.inf
        assert chosen[1] == logits[1].argmax()
        assert np.isclose(largest[1], logits[1].max())
    for token, value in ((0, np.nan), (300, np.nan), (7, np.inf), (511, -np.inf)):
        bad = head.copy()
        bad[token, 5] = value
        chosen, largest = _best_of(case, x, bad, folder)
        assert max(chosen) < 512
        assert largest == [np.inf, np.inf]


def _best_of(case: Case, x: np.ndarray, head: np.ndarray, folder: Path) -> tuple[list[int], list[float]]:
    other = replace(case)
    other.__dict__["arrays"] = replace(case.arrays, x=mx.array(x), head=Dense(mx.array(head)))
    left, report = run(dispatch("norm_head_best", other), folder, mode="check")
    assert not report.findings, str(report)
    made = dispatches.best_token(*left)
    assert made is not None
    (chosen, largest), report = run(made, folder, mode="check")
    assert not report.findings, str(report)
    return chosen.tolist(), largest.tolist()


def check_all(operations: Sequence[str], folder: Path) -> None:
    """Every check of some of the operations, quick ones first."""
    for operation in operations:
        for case, handed_on in CASES:
            check(operation, case, folder, handed_on)
    for operation in operations:
        check_tilings(operation, folder)
        if operation != "best_token":
            check_alone(operation, folder)
    if {"norm_head_best", "best_token"} & set(operations):
        check_not_finite(folder)
