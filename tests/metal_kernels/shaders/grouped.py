"""Cases for the shaders around a prompt's grouped products, their definitions in float64, and their dispatches."""

from dataclasses import dataclass, replace
from functools import cached_property

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.dispatches import Dispatch
from tests.metal_kernels.shaders.common import BF16, F16, F32, exact

OPERATIONS = ("grouped_swiglu", "grouped_sum")
EQUIVALENT = {
    "grouped_swiglu.metal: Eight a = load_eight(product + (row * OUTPUTS + n) * 2), "
    "b = load_eight(bias + (uint(slot[row]) * OUTPUTS + n) * 2);  ->  "
    "Eight a = load_eight(product + (row * OUTPUTS + n) * 2), "
    "b = load_eight(bias + (uint(row[slot]) * OUTPUTS + n) * 2);": "C++ defines a[b] as b[a]",
}
"""Mutants that compute the same."""

SLOPE = 1.702
"""Of gpt-oss's SwiGLU."""


@dataclass(frozen=True)
class Case:
    """Rows of a prompt, the experts each chooses, and the sizes and dtypes of what is around the products."""

    rows: int
    hidden: int
    inter: int
    slots: int = 5
    k: int = 4
    products: mx.Dtype = BF16
    biases: mx.Dtype = BF16
    limit: float = 7.0
    loud: float = 5.0  # the standard deviation of products: beyond the limit, if it is 7

    def __str__(self) -> str:
        dtypes = "-".join(dispatches.name(dtype) for dtype in (self.products, self.biases))
        return f"{self.rows}x{self.hidden}x{self.inter}-K{self.k}-{dtypes}"

    @cached_property
    def arrays(self) -> dict[str, mx.array]:
        rng = np.random.default_rng(self.rows)

        def normal(*shape: int, dtype: mx.Dtype, scale: float = 1.0) -> mx.array:
            return mx.array((scale * rng.standard_normal(shape)).astype(np.float32)).astype(dtype)

        pairs = self.rows * self.k
        return {
            "product": normal(pairs, 2 * self.inter, dtype=self.products, scale=self.loud),
            "slot": mx.array(np.sort(rng.integers(0, self.slots, pairs)).astype(np.int32)),
            "bias": normal(self.slots, 2 * self.inter, dtype=self.biases),
            "grouped": normal(pairs, self.hidden, dtype=self.products),
            "place": mx.array(rng.permutation(pairs).reshape(self.rows, self.k).astype(np.uint32)),
            "weights": mx.array(rng.dirichlet(np.ones(self.k), self.rows).astype(np.float32)),
            "residual": normal(self.rows, self.hidden, dtype=F32, scale=5),
        }

    def alone(self, row: int) -> "Case":
        """Return two of the rows, as much as a shader takes, with the same arrays for the rest."""
        case = replace(self, rows=2)
        of = slice(row, row + 2)
        pairs = slice(row * self.k, (row + 2) * self.k)
        a = self.arrays
        own = {name: a[name][pairs] for name in ("product", "slot")} | {"bias": a["bias"], "grouped": a["grouped"]}
        case.__dict__["arrays"] = own | {name: a[name][of] for name in ("place", "weights", "residual")}
        return case


CASES = [
    Case(9, 64, 32),
    Case(3, 264, 100, k=3, products=F32, biases=F16),
    Case(16, 8, 4, slots=40, k=8, products=F16, biases=F32),
]
"""There are more slots than rows and fewer; each dtype; widths that are no multiple of a simdgroup."""


def dispatch(operation: str, case: Case) -> Dispatch:
    """Return the project's dispatch of an operation."""
    a = case.arrays
    if operation == "grouped_swiglu":
        made = dispatches.grouped_swiglu(a["product"], a["slot"], a["bias"], case.limit)
    else:
        made = dispatches.grouped_sum(a["grouped"], a["place"], a["weights"], a["residual"])
    assert made is not None, f"no shader of {operation} for {case}"
    return made


def defined(operation: str, case: Case) -> np.ndarray:
    """Return the output of an operation by definition."""
    a = {name: exact(array) for name, array in case.arrays.items()}
    if operation == "grouped_sum":
        return a["residual"] + (a["grouped"][a["place"].astype(int)] * a["weights"][..., None]).sum(1)
    biased = a["product"] + a["bias"][a["slot"].astype(int)]
    gate = np.minimum(biased[:, 0::2], case.limit)
    linear = np.clip(biased[:, 1::2], -case.limit, case.limit)
    return gate / (1 + np.exp(-SLOPE * gate)) * (linear + 1)


def edges() -> dict[str, tuple[str, Case]]:
    """Return inputs that a SwiGLU without its limit or guard would get wrong: the operation and the case."""
    return {
        "another limit": ("grouped_swiglu", Case(9, 64, 32, products=F32, limit=1.5)),
        "gates far below zero": ("grouped_swiglu", Case(9, 64, 32, products=F32, loud=60.0)),
    }
