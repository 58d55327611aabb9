"""Cases for norm + router and the expert shaders, their definitions in float64, and the dispatches for them."""

from dataclasses import dataclass, replace
from functools import cached_property

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.dispatches import Dispatch
from metal_kernels.operands import Dense, Experts
from tests.metal_kernels.shaders.common import BF16, EPS, F16, F32, exact

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
LIMIT = 7.0


def chunks(row: np.ndarray, width: int) -> np.ndarray:
    """Return rows [..., N] chunk-major, [..., 32 / width, N / 32, width]."""
    return row.reshape(*row.shape[:-1], -1, 32 // width, width).swapaxes(-3, -2)


def unchunked(array: mx.array) -> np.ndarray:
    """Return chunk-major rows in natural order and float64."""
    return exact(array).swapaxes(-3, -2).reshape(*array.shape[:-3], -1)


@dataclass(frozen=True)
class Case:
    """The sizes of one layer's experts and of some rows, with the dtypes of activations, biases and the residual
    stream."""

    rows: int
    hidden: int
    inter: int
    experts: int
    k: int = 4
    activations: mx.Dtype = mx.float16
    biases: mx.Dtype = mx.bfloat16
    residuals: mx.Dtype = mx.float32
    slots: int | None = None  # fewer than experts to save memory: some share one, which a model's never do
    eps: float = EPS
    limit: float = LIMIT
    seed: int = 0

    def __str__(self) -> str:
        dtypes = (str(d).removeprefix("mlx.core.") for d in (self.activations, self.biases, self.residuals))
        return f"{self.rows}x{self.hidden}x{self.inter}-E{self.experts}-K{self.k}-{'-'.join(dtypes)}"

    @cached_property
    def arrays(self) -> "Arrays":
        return Arrays.random(self)

    def having(self, **arrays: mx.array) -> "Case":
        """Return the case with other arrays, which also set the number of rows and the dtype of activations."""
        own = replace(self.arrays, **arrays)
        case = replace(self, rows=len(own.x), activations=own.normed.dtype)
        case.__dict__["arrays"] = own
        return case


def published_size(experts: int) -> "Case":
    """Return one row at the size of 20b (32 experts) or 120b (128), with as many slots as fit a test. It chooses four
    experts in four slots."""
    case = Case(1, 2880, 2880, experts, slots=8)
    logits = np.random.default_rng(20).standard_normal((1, experts))
    logits[0, [20, 3, 30, 9]] += 4
    case = case.having(logits=mx.array(logits.astype(np.float32)))
    assert len({int(case.arrays.slots[e]) for e in chosen(logits[0], 4)[0]}) == 4
    return case


@dataclass(frozen=True)
class Arrays:
    """The inputs of all operations."""

    x: mx.array
    norm: mx.array
    router: Dense
    normed: mx.array  # natural order
    logits: mx.array
    slots: mx.array
    gate_up: Experts
    activated: mx.array  # natural order
    down: Experts

    @classmethod
    def random(cls, case: Case) -> "Arrays":
        rng = np.random.default_rng(case.seed)

        def normal(*shape: int, dtype: mx.Dtype, scale: float = 1.0) -> mx.array:
            return mx.array((scale * rng.standard_normal(shape)).astype(np.float32)).astype(dtype)

        slots = case.slots or case.experts + 2

        def experts(rows: int, columns: int) -> Experts:
            top = 130 - round(np.log2(columns) / 2)  # products to about 20, so that SwiGLU's clamps are met
            return Experts(
                mx.array(rng.integers(0, 1 << 32, (slots, rows, columns // 8), np.uint32)),
                mx.array(rng.integers(top - 10, top, (slots, rows, columns // 32), np.uint8)),
                normal(slots, rows, dtype=case.biases, scale=0.5),
            )

        logits = rng.standard_normal((case.rows, case.experts)) * 2
        logits[::2] = np.round(logits[::2])  # many ties
        logits[0, -1] = logits[0].max() + 0.5
        x = normal(case.rows, case.hidden, dtype=case.residuals, scale=5)
        return cls(
            x=x,
            norm=mx.array((1 + 0.3 * rng.standard_normal(case.hidden)).astype(np.float32)).astype(case.biases),
            router=Dense(
                normal(case.experts, case.hidden, dtype=case.biases, scale=0.05),
                normal(case.experts, dtype=case.biases),
            ),
            normed=normal(case.rows, case.hidden, dtype=case.activations),
            logits=mx.array(logits.astype(np.float32)),
            slots=mx.array(np.resize(rng.permutation(slots), case.experts).astype(np.int32)),
            gate_up=experts(2 * case.inter, case.hidden),
            activated=normal(case.rows, case.k, case.inter, dtype=case.activations),
            down=experts(case.hidden, case.inter),
        )


OPERATIONS = ("norm_router", "expert_gate_up", "expert_down_residual")
CASES = [
    (Case(2, 32, 32, 8, k=8, activations=F16, biases=BF16, residuals=F16), BF16),
    (Case(1, 1056, 64, 32), F32),
    (Case(8, 64, 1056, 128, activations=F32, biases=F32), F32),
    (Case(3, 160, 96, 33, k=2, activations=BF16, biases=F16, residuals=BF16), F16),
]
"""Cases, and the dtype of the rows each operation returns. There are fewer groups of 32 than lanes and more; experts
below, at and above the lanes and at no multiple; 1 to 8 rows; each dtype."""


def values(experts: Experts, slot: int) -> np.ndarray:
    """Return one expert's matrix."""
    words = np.array(experts.weight[slot])
    scales = np.array(experts.scales[slot])
    codes = (words[..., None] >> (4 * np.arange(8, dtype=np.uint32))) & 15
    return FP4[codes].reshape(len(words), -1) * np.repeat(np.ldexp(1.0, scales.astype(int) - 127), 32, axis=1)


def chosen(logits: np.ndarray, k: int) -> tuple[list[int], np.ndarray]:
    """Return the k experts of one row and their shares. Of equal logits the lower id comes first."""
    ids = sorted(range(len(logits)), key=lambda e: (-logits[e], e))[:k]
    with np.errstate(invalid="ignore"):  # infinite logits
        shares = np.exp(logits[ids] - logits[ids[0]])
    return ids, shares / shares.sum()


def defined_norm_router(a: Arrays, eps: float) -> tuple[np.ndarray, np.ndarray]:
    x = exact(a.x)
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * exact(a.norm)
    return normed, normed @ exact(a.router.weight).T + exact(a.router.bias)


def swiglu(both: np.ndarray, limit: float) -> np.ndarray:
    gate = np.minimum(both[..., 0::2], limit)
    linear = np.clip(both[..., 1::2], -limit, limit)
    return gate / (1 + np.exp(-1.702 * gate)) * (linear + 1)


def defined_gate_up(a: Arrays, k: int, limit: float) -> np.ndarray:
    out = []
    for x, logits in zip(exact(a.normed), exact(a.logits), strict=True):
        for expert in chosen(logits, k)[0]:
            slot = int(a.slots[expert])
            both = values(a.gate_up, slot) @ x + exact(a.gate_up.bias[slot])
            out.append(swiglu(both, limit))
    return np.array(out).reshape(len(a.normed), k, -1)


def defined_down(a: Arrays, k: int) -> np.ndarray:
    out = exact(a.x)
    for t, logits in enumerate(exact(a.logits)):
        for choice, (expert, share) in enumerate(zip(*chosen(logits, k), strict=True)):
            slot = int(a.slots[expert])
            out[t] += share * (values(a.down, slot) @ exact(a.activated[t, choice]) + exact(a.down.bias[slot]))
    return out


def handed(array: mx.array) -> mx.array:
    """Return rows in natural order chunk-major, by numpy."""
    width = 16 // array.dtype.size
    bits = array.view({2: mx.uint16, 4: mx.uint32}[array.dtype.size])
    return mx.array(np.ascontiguousarray(chunks(np.array(bits), width))).view(array.dtype)


def dispatch(operation: str, case: Case, handed_on: mx.Dtype = mx.float32) -> Dispatch:
    """Return the project's dispatch of an operation. Rows for the next operation are in ``handed_on``."""
    a = case.arrays
    if operation == "norm_router":
        made = dispatches.norm_router(a.x, a.norm, case.eps, a.router, handed_on)
    elif operation == "expert_gate_up":
        made = dispatches.expert_gate_up(handed(a.normed), a.logits, a.slots, a.gate_up, case.k, case.limit)
        if made is not None:  # the project has float32 rows beside float32 biases only
            width = 16 // handed_on.size
            shape = (case.rows, case.k, 32 // width, case.inter // 32, width)
            template = tuple((dict(made.template) | {"O": dispatches.name(handed_on)}).items())
            made = made._replace(template=template, output_shapes=(shape,), output_dtypes=(handed_on,))
    else:
        made = dispatches.expert_down_residual(handed(a.activated), a.logits, a.slots, a.down, a.x)
    assert made is not None, f"no shader of {operation} for {case}"
    return made


def results(operation: str, out: list[mx.array]) -> list[np.ndarray]:
    """Return outputs in natural order and float64."""
    if operation == "norm_router":
        return [unchunked(out[0]), exact(out[1])]
    return [unchunked(out[0]) if operation == "expert_gate_up" else exact(out[0])]


def defined(operation: str, case: Case) -> list[np.ndarray]:
    """Return the outputs of an operation by definition."""
    if operation == "norm_router":
        return list(defined_norm_router(case.arrays, case.eps))
    if operation == "expert_gate_up":
        return [defined_gate_up(case.arrays, case.k, case.limit)]
    return [defined_down(case.arrays, case.k)]


def edges() -> dict[str, tuple[str, Case, mx.Dtype]]:
    """Return inputs that a formula without its epsilon, limit, guard or maximum would get wrong: the operation, the
    case, and the dtype of the rows it returns."""
    near_epsilon = Case(2, 64, 64, 32, eps=3e-6)
    over_half = Case(2, 64, 64, 32)
    other_limit = Case(2, 64, 64, 32, limit=1.5)
    a = over_half.arrays
    far = {sign: over_half.having(logits=a.logits + 200 * sign) for sign in (1, -1)}
    return {
        "x near the root of the epsilon": ("norm_router", near_epsilon.having(x=near_epsilon.arrays.x * 2e-4), F32),
        "a norm that carries rows past half": ("norm_router", over_half.having(norm=a.norm * 60_000), F16),
        "another limit": ("expert_gate_up", other_limit, F32),
        "gates far below zero": ("expert_gate_up", over_half.having(normed=a.normed * 10), F32),
        "logits near 200": ("expert_down_residual", far[1], F32),
        "logits near -200": ("expert_down_residual", far[-1], F32),
    }


TILINGS = {
    "expert_gate_up": [{"ROWS": r, "BATCH": b, "SIMDGROUPS": s} for r, b, s in ((2, 2, 1), (4, 2, 4), (8, 4, 2))],
    "expert_down_residual": [{"ROWS": r, "BATCH": b} for r, b in ((1, 1), (2, 1), (8, 4))],
}
"""Other tile sizes, by operation. The simdgroups of norm_router share a sum, so it has none."""
